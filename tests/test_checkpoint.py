"""The file of a long run: what goes in comes out, bit for bit; what is there is always whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crbsvd_plugin.checkpoint import Checkpoint
from crbsvd_plugin.errors import UserError

ROOT = Path(__file__).parents[1]
KEY = {"model": {"name": "fisp", "angles": [10.0, 20.0]}, "rank": 5, "numpy": "2.4.6"}
DTYPES = st.sampled_from(["<f8", "<f4", ">f8", "<c16", "<c8", "<i8", "|u1", "|b1", "<f2"])
NUMBERS = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5).flatmap(
    lambda shape: DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, shape))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    arrays=st.dictionaries(st.text(max_size=5), st.tuples(NUMBERS, st.booleans()), max_size=4),
    state=st.dictionaries(st.text(), JSON, max_size=4),
)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], state: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("c") / "run"
    given = {name: np.asfortranarray(array) if turned else array for name, (array, turned) in arrays.items()}
    for array in given.values():
        array.setflags(write=False)
    Checkpoint(path, KEY).save(state, given)
    found = Checkpoint(path, KEY).load()
    assert found is not None
    assert found[0] == state
    assert list(found[1]) == list(given)
    for name, array in found[1].items():
        assert same(array, given[name])
        assert array.flags.c_contiguous == given[name].flags.c_contiguous
        assert array.flags.f_contiguous == given[name].flags.f_contiguous
        assert array.flags.writeable
        assert array.flags.aligned


def test_numbers_that_are_hard_to_write_and_views(tmp_path: Path) -> None:
    whole = np.arange(30.0).reshape(5, 6) * (1 + 1j)
    arrays = {"step": whole[::2, ::-3], "nan": np.array([np.nan, -0.0, np.inf, 5e-324])}
    Checkpoint(tmp_path / "run", KEY).save({"x": math.nan, "y": 0.1 + 0.2, "n": 2**70}, arrays)
    state, found = Checkpoint(tmp_path / "run", KEY).load() or ({}, {})
    assert math.isnan(state["x"])
    assert (state["y"], state["n"]) == (0.1 + 0.2, 2**70)
    for name, array in arrays.items():
        assert same(found[name], array)


def test_no_file_yet_and_a_folder_that_is_made(tmp_path: Path) -> None:
    run = Checkpoint(tmp_path / "deep" / "run_0.5", KEY)
    assert run.load() is None
    assert not (tmp_path / "deep").exists()
    run.save({}, {})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run_0.5"]
    assert run.load() == ({}, {})


def test_two_names_in_one_folder(tmp_path: Path) -> None:
    names = ["run", "run.b", "run_0.5", "run_0.6", "r*n"]
    for name in names:
        Checkpoint(tmp_path / name, {"is": name}).save({"of": name}, {"a": np.array([len(name)])})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        assert (Checkpoint(tmp_path / name, {"is": name}).load() or ({},))[0] == {"of": name}


def test_it_is_due_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    run = Checkpoint(tmp_path / "run", KEY, every=60)
    assert not run.due()
    now += 60
    assert run.due()
    run.save({}, {})
    assert not run.due()
    assert Checkpoint(tmp_path / "run", KEY, every=0).due()


@pytest.mark.parametrize("every", [-1, math.nan])
def test_a_time_that_is_none(tmp_path: Path, every: float) -> None:
    with pytest.raises(UserError, match=rf"time between saves is {every} s, expected 0 or more"):
        Checkpoint(tmp_path / "run", KEY, every=every)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ({**KEY, "rank": 6}, r"rank is 5 in it and 6 now"),
        ({**KEY, "rank": 5.0}, r"rank is 5 in it and 5.0 now"),
        ({**KEY, "more": True}, r"more is absent in it and true now"),
        ({"model": KEY["model"], "rank": 5}, r'numpy is "2.4.6" in it and absent now'),
        ({**KEY, "model": {"name": "fisp", "angles": [10.0, 21.0]}, "rank": 1}, r"model.angles\[1\] is 20.0 in it"),
        ({**KEY, "model": {"name": "fisp", "angles": [0.125] * 99}}, r"model.angles is .* and \[0.125, .* \.\.\. .*\]"),
    ],
)  # fmt: skip
def test_a_file_of_another_run_is_refused_and_stays(tmp_path: Path, key: dict[str, Any], text: str) -> None:
    path = tmp_path / "run"
    Checkpoint(path, KEY).save({"done": 3}, {})
    before = path.read_bytes()
    for act in (lambda run: run.load(), lambda run: run.save({}, {})):
        with pytest.raises(
            UserError, match=rf"of another run: {text}.*; give another file or remove this one$"
        ) as info:
            act(Checkpoint(path, key))
        assert "\n" not in str(info.value)
        assert len(str(info.value)) < 300 + len(str(path))
    assert path.read_bytes() == before


def test_nan_in_a_key_is_the_same_run(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "run", {"low": (-math.inf, math.nan)}).save({"done": 1}, {})
    assert Checkpoint(tmp_path / "run", {"low": [-math.inf, math.nan]}).load() == ({"done": 1}, {})


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Checkpoint(path, KEY).save({"done": 3}, {"a": np.arange(3), "b": np.ones((2, 1), complex)})
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(UserError, match=r"is truncated|is no checkpoint" if n == 0 else "is truncated"):
            Checkpoint(path, KEY).load()
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 0x10]) + whole[n + 1 :])
        with pytest.raises(UserError, match=r"is damaged|is truncated|is no checkpoint|is of format"):
            Checkpoint(path, KEY).load()
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match="is damaged"):
        Checkpoint(path, KEY).load()


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "raw.h5"
    for content in (
        b"",
        b"\x89HDF\r\n\x1a\n" + bytes(500),
        b"crbsvd-checkpoint",
        b"crbsvd-checkpoint of the other kind",
    ):
        path.write_bytes(content)
        for act in (lambda run: run.load(), lambda run: run.save({}, {})):
            with pytest.raises(UserError, match=r"raw.h5 is (no checkpoint|truncated)"):
                act(Checkpoint(path, KEY))
        assert path.read_bytes() == content


def test_another_format_version(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "run", KEY).save({}, {})
    content = (tmp_path / "run").read_bytes()
    (tmp_path / "run").write_bytes(content.replace(b"crbsvd-checkpoint 1\n", b"crbsvd-checkpoint 12\n"))
    with pytest.raises(UserError, match=r"run is of format '12', expected '1'; give another file"):
        Checkpoint(tmp_path / "run", KEY).load()


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """A header that promises 2^60 bytes, its hash correct."""
    header = json.dumps({"key": KEY, "state": {}, "arrays": {"a": ["<f8", [2**57], "C"]}}).encode()
    start = b"crbsvd-checkpoint 1\n" + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest()
    (tmp_path / "run").write_bytes(start + header + bytes(32))
    with pytest.raises(UserError, match=rf"truncated .* expected {len(start + header) + 2**60 + 32}\)"):
        Checkpoint(tmp_path / "run", KEY).load()
    (tmp_path / "run").write_bytes(start[:20] + b"\xff" * 8 + start[28:] + header + bytes(32))
    with pytest.raises(UserError, match="is truncated"):
        Checkpoint(tmp_path / "run", KEY).load()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a plain file; give another name"):
        Checkpoint(tmp_path, KEY).load()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be read .Not a directory."):
        Checkpoint(tmp_path / "file" / "run", KEY).load()


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    run = Checkpoint(tmp_path / "run", KEY)
    for array in (np.array([None]), np.array(["text"]), np.zeros(2, "i4,f8")):
        with pytest.raises(TypeError, match=r"array 'a' is of .*, expected booleans or numbers"):
            run.save({}, {"a": array})
    with pytest.raises(TypeError, match="3 is the name of an entry, expected text"):
        run.save({"deep": [{3: 1}]}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_would_be_too_large_leaves_the_former(tmp_path: Path) -> None:
    run = Checkpoint(tmp_path / "run", KEY)
    run.save({"done": 1}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(UserError, match="the file would be larger than allowed there"):
            run.save({"done": 2}, {"a": np.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert run.load() == ({"done": 1}, {})


def test_a_full_disk_leaves_the_former(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        run = Checkpoint(disk / "run", KEY)
        run.save({"done": 1}, {})
        with pytest.raises(UserError, match=r"cannot write .*: no space is left there"):
            run.save({"done": 2}, {"a": np.zeros(100_000)})
        assert [path.name for path in disk.iterdir()] == ["run"]
        assert run.load() == ({"done": 1}, {})
    finally:
        subprocess.run(["umount", str(disk)], check=True)


WRITER = """
import sys
import numpy as np
from crbsvd_plugin.checkpoint import Checkpoint
run = Checkpoint(sys.argv[1], {"run": 1})
i = (run.load() or ({"i": 0},))[0]["i"]
print("ready", flush=True)
while True:
    i += 1
    run.save({"i": i}, {"a": np.full(10_000 * (1 + i % 7), i + 0.5j), "b": np.full((3, 1), i)})
"""


def test_killed_at_random_moments_it_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    moments = random.Random(20261122)
    last, left_over = 0, 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0.005, 0.1))
            writer.send_signal(signal.SIGKILL)
        left_over += len(list(tmp_path.iterdir())) > 1
        found = Checkpoint(path, {"run": 1}).load()
        if found is None:
            assert last == 0
            continue
        (i, arrays) = found[0]["i"], found[1]
        assert i >= last
        last = i
        assert same(arrays["a"], np.full(10_000 * (1 + i % 7), i + 0.5j))
        assert same(arrays["b"], np.full((3, 1), i))
    # they were killed while they wrote, or this would say nothing; and the next one sweeps
    assert last > 12
    assert left_over > 0
    Checkpoint(path, {"run": 1}).save({}, {})
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
