"""Products when the process is killed at any step or interrupted at any line, and when the disk is full."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from test_files import NAMES, state, write

from crbsvd_plugin import files
from crbsvd_plugin.errors import UserError

ROOT = Path(__file__).parents[1]
KILLED = """
import os, signal, sys
from pathlib import Path
from crbsvd_plugin import files
folder, step = Path(sys.argv[1]), int(sys.argv[2])
def point(*_):
    global step
    step -= 1
    if step < 0:
        os.kill(os.getpid(), signal.SIGKILL)
rename = os.replace
def replace(source, target):
    point()
    rename(source, target)
os.replace = replace
names = ["p_0.5.cfl", "p_0.5.hdr"]
with files.product(folder / "p_0.5.json", names, force=True, kind="test/1") as product:
    point()
    for name in names:
        product.path(name).write_text(f"new {name}")
        point()
    product.commit({"text": "new"})
    point()
print("survived")
"""
# points: in the staging folder, two members, mark, two renames of members, rename of the mark, before the sweep
N_POINTS = 8


def child(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("old", [False, True])
def test_after_a_kill_at_any_step_the_next_run_finishes_or_sweeps(tmp_path: Path, old: bool) -> None:
    before = "old" if old else "nothing"
    seen = []
    for step in range(N_POINTS):
        folder = tmp_path / str(step)
        folder.mkdir()
        if old:
            write(folder, "old")
        done = child(KILLED, folder, step)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert any(path.name.startswith(".p_0.5.json") for path in folder.iterdir())
        # whatever is there: either it verifies, or it is told apart
        if (folder / "p_0.5.json").exists():
            content = files.read_json(folder / "p_0.5.json", "product")
            try:
                files.verify(folder / "p_0.5.json", content, "product")
            except UserError as error:
                assert "does not match" in str(error)  # noqa: PT017
        files.check_free(
            folder / "other.json", [], force=False, kind="test/1"
        )  # that of another product touches nothing
        assert any(path.name.startswith(".p_0.5.json") for path in folder.iterdir())
        try:
            files.check_free(folder / "p_0.5.json", NAMES, force=False, kind="test/1")
        except UserError as error:
            assert "exists already" in str(error)  # noqa: PT017
        seen.append(state(folder))
    assert seen == [before] * 4 + ["new"] * 4
    assert child(KILLED, tmp_path / "last", N_POINTS).stdout == "survived\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_what_another_user_left_is_not_swept(tmp_path: Path) -> None:
    """In a folder that all may write to, a sweep would give its files their names there."""
    staging = tmp_path / ".p.json.crbsvd-tmp-01234567"
    staging.mkdir()
    for name in ("p.json", "notes.txt"):
        (staging / name).write_text("theirs")
    (tmp_path / "notes.txt").write_text("ours")
    os.chown(staging, 12345, 12345)
    files.check_free(tmp_path / "p.json", [], force=False, kind="test/1")
    assert (tmp_path / "notes.txt").read_text() == "ours"
    os.chown(staging, 0, 0)
    with pytest.raises(UserError, match="exists already"):
        files.check_free(tmp_path / "p.json", [], force=False, kind="test/1")


FULL = """
import resource, sys
from pathlib import Path
from crbsvd_plugin import files
from crbsvd_plugin.errors import UserError
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    with files.product(folder / "p_0.5.json", ["p_0.5.cfl", "p_0.5.hdr"], force=True, kind="test/1") as product:
        product.path("p_0.5.hdr").write_text("new p_0.5.hdr")
        product.path("p_0.5.cfl").write_bytes(bytes(int(sys.argv[3])))
        product.commit({"text": "x" * int(sys.argv[4])})
except UserError as error:
    print(error)
"""


def _full_disk_leaves(folder: Path, before: str, message: str, *arguments: int) -> None:
    done = child(FULL, folder, *arguments)
    assert done.returncode == 0
    assert not done.stderr
    assert done.stdout == f"cannot write {folder / 'p_0.5'}: {message}; free some or choose another place\n"
    assert state(folder) == before


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("sizes", [(10_000, 1), (10, 10_000)], ids=["member", "sidecar"])
def test_a_file_that_would_be_too_large_leaves_what_was_there(
    tmp_path: Path, old: bool, sizes: tuple[int, int]
) -> None:
    if old:
        write(tmp_path, "old")
    _full_disk_leaves(
        tmp_path, "old" if old else "nothing", "the file would be larger than allowed there", 5000, *sizes
    )


@pytest.mark.parametrize("sizes", [(200_000, 1), (10, 200_000)], ids=["member", "sidecar"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, sizes: tuple[int, int]) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        write(tmp_path, "old")
        _full_disk_leaves(tmp_path, "old", "no space is left there", 0, *sizes)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


WRITERS = ("files", "staging", "interrupt", "contextlib", "shutil")


def interrupted(at: int, work: Callable[[], None]) -> bool:
    """Run something, with SIGINT before line number `at` of what it runs of the modules that write files."""
    n_lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal n_lines
        if Path(frame.f_code.co_filename).name not in (
            "files.py",
            "staging.py",
            "interrupt.py",
            "contextlib.py",
            "shutil.py",
        ):
            return None
        n_lines += event == "line"
        if n_lines == at + 1:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.slow
def test_an_interrupt_at_any_line_leaves_a_file_whole_and_alone(tmp_path: Path) -> None:
    def work() -> None:
        with files.single(tmp_path / "run.ckpt", force=True) as part:
            part.write_text("new")

    seen = []
    (tmp_path / "run.ckpt").write_text("old")
    while interrupted(len(seen), work):
        gc.collect()  # a context that was not quite entered ends with its generator
        assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"], f"interrupted before line {len(seen)}"
        seen.append((tmp_path / "run.ckpt").read_text())
    n_old = seen.count("old")
    assert n_old > 20
    assert seen == ["old"] * n_old + ["new"] * (len(seen) - n_old)
    assert "new" in seen


@pytest.mark.slow
# an interrupt between opening a file to read it and the block that closes it leaves that to Python
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_line_leaves_a_product_whole_and_alone(tmp_path: Path) -> None:
    seen = []
    while True:
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        write(folder, "old")
        if not interrupted(len(seen), lambda folder=folder: write(folder, "new", force=True)):
            break
        gc.collect()
        assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, "p_0.5.json"])
        seen.append(state(folder))
    n_old = seen.count("old")
    assert n_old > 50
    assert seen == ["old"] * n_old + ["new"] * (len(seen) - n_old)
    assert "new" in seen
