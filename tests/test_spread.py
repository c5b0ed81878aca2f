"""Images and voxels on workers: the bits of one thread here, whatever happens to a worker, and all that they say."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cli_case
import numpy as np
import pytest
from fit_case import emulated, phases, starts, voxels
from test_cluster_command import wait_for_the_end, workers
from test_cluster_scheduler import small
from test_matching import KINDS, Freeze, dictionary, numbers
from test_pipeline import head, scan, silent, write_basis

from crbsvd_plugin import equations, group, mrd, pipeline, run, threads
from crbsvd_plugin.cluster import Pool, connect
from crbsvd_plugin.config import Config
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit import fitter, matching, nlls, search
from crbsvd_plugin.fit.matching import match
from crbsvd_plugin.fit.result import Maps
from crbsvd_plugin.group import Reconstruction
from crbsvd_plugin.pipeline import reconstruct_stream
from crbsvd_plugin.readouts import Group

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # Dask needs it
SLICES = 4
MAPS = ("maps", "raw.h5", "basis_0.5", "--iterations", "500", "--no-std", "--no-misfit")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with connect(workers=2, scheduler=None) as pool:
        yield pool


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With more of them NUFFTs add in another order in every run."""
    with threads.limit(1):
        yield


@pytest.fixture
def name(rng: np.random.Generator, tmp_path: Path) -> str:
    """Write a complex basis with its dictionary, and return its name."""
    return write_basis(rng, tmp_path)


def here(items: list[Any], config: Config, **options: Any) -> list[Reconstruction]:
    return list(reconstruct_stream(head(SLICES), items, config, **options))


def there(
    items: list[Any], config: Config, pool: Pool, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[Reconstruction]:
    """On workers; they load what this process is kept from calling."""
    with monkeypatch.context() as patch:
        for module, name in ((group, "finished"), (equations, "solve"), (fitter, "match")):
            patch.delattr(module, name)
        return list(reconstruct_stream(head(SLICES), items, config, pool=pool, **options))


def check_same(found: list[Reconstruction], expected: list[Reconstruction]) -> None:
    """Every bit."""
    assert [one.key for one in found] == [one.key for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.coeff.any()
        assert one.coeff.dtype == other.coeff.dtype
        assert one.coeff.tobytes() == other.coeff.tobytes()
        assert (one.geometry, one.sigma, one.digest) == (other.geometry, other.sigma, other.digest)
        assert one.calibration == other.calibration
        if other.maps is None:
            assert one.maps is None
        else:
            check_maps(one.maps, other.maps)


def check_maps(one: Maps | None, other: Maps) -> None:
    assert one is not None
    assert one.parameters == other.parameters
    assert other.mask.any()
    for name in ("theta", "m0", "edge", "mask"):
        found, expected = getattr(one, name), getattr(other, name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fit": False, "coils": 2, "gradient_delays": "estimate", "fov_shift": "header"},
        {"regulariser": "llr", "lam": 0.3, "block": 3},
        {"regulariser": "wavelet", "solver": "admm", "rank": 1},
        pytest.param({"backend": "bart", "regulariser": "llr"}, marks=pytest.mark.bart),
    ],
    ids=["plain", "calibrated", "llr", "wavelet", "bart"],
)
def test_workers_give_the_bits_of_one_thread(
    rng: np.random.Generator,
    name: str,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    items, config = scan(rng, n_slices=SLICES), run.config(basis=name, **{"lam": 0.5, "iterations": 6, **settings})
    expected = here(items, config)
    assert len(expected) == SLICES
    check_same(there(items, config, pool, monkeypatch), expected)


def test_workers_share_kernels(
    rng: np.random.Generator,
    name: str,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """All slices have one trajectory, and two workers write its kernel at the same time, or nearly."""
    items, plain = scan(rng, n_slices=SLICES), run.config(basis=name, iterations=4, fit=False)
    config = run.config(basis=name, iterations=4, fit=False, kernel_cache=str(tmp_path / "kernels"))
    check_same(there(items, config, pool, monkeypatch), here(items, plain))
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".kernel"]


def test_what_workers_say_and_how_far_they_are(
    rng: np.random.Generator,
    name: str,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    items, config = scan(rng, noise=False, n_slices=SLICES), Config(basis=name, iterations=3, coils=2)

    def heard() -> list[tuple[str, int, str]]:
        """Return what the package logged: Dask does too."""
        return [entry for entry in caplog.record_tuples if entry[0].startswith("crbsvd_plugin")]

    said: list[list[tuple[str, int, str]]] = []
    stages: list[tuple[str, int, int]] = []
    report = {"report": lambda *step: stages.append(step)}
    with caplog.at_level(logging.INFO, "crbsvd_plugin"):
        for one in (here, partial(there, pool=pool, monkeypatch=monkeypatch, **report)):
            caplog.clear()
            one(items, config)
            said.append(heard())
    # the noise scan, and of every slice its positions, its virtual coils and its size
    assert len(said[0]) == 1 + 3 * SLICES
    # workers say of an image what they do once all have come, and positions are found as they come
    assert sorted(said[1]) == sorted(said[0])
    assert stages == [("readouts", 0, 0), *(("images", done, SLICES) for done in range(SLICES + 1))]
    # who has not asked for it (-v) is not told
    caplog.clear()
    with caplog.at_level(logging.WARNING, "crbsvd_plugin"):
        there(items, config, pool, monkeypatch)
    assert [entry[1] for entry in heard()] == [logging.WARNING]
    assert capfd.readouterr() == ("", "")


def test_a_single_image_is_not_spread_and_says_so(
    rng: np.random.Generator,
    name: str,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    items, config = scan(rng, n_slices=1), Config(basis=name, iterations=3)
    expected = here(items, config)
    assert "one image" not in caplog.text
    check_same(there(items, config, pool, monkeypatch), expected)
    assert "raw data hold one image, which one worker reconstructs with one thread" in caplog.text


def test_an_error_on_a_worker_is_that_of_one_thread(
    rng: np.random.Generator,
    name: str,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items, config = scan(rng), Config(basis=name, coils=9)
    with pytest.raises(UserError) as alone:
        here(items, config)
    with pytest.raises(UserError) as spread:
        there(items, config, pool, monkeypatch)
    assert str(spread.value) == str(alone.value)
    # and the pool goes on
    assert list(pool.map(str, [1])) == ["1"]


def killed_once(folder: Path, function: Callable[[Any], Any], box: list[Group]) -> Any:
    """Die a moment after the work on the second slice, which uses its readouts up, has begun: the first time."""
    if box[0].key["slice"] == 1 and not (folder / "begun").exists():
        (folder / "begun").touch()
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
        function(box)
        time.sleep(60)  # a machine may be as quick as that
    return function(box)


class Dangerous(Pool):
    """A pool of which a worker is killed."""

    def __init__(self, pool: Pool, folder: Path):
        self.pool, self.folder = pool, folder

    def map(self, function: Any, items: Iterable[Any], *, progress: Any = None) -> Iterator[Any]:
        if function is not pipeline._check_programs:
            function = partial(killed_once, self.folder, function)
        return self.pool.map(function, items, progress=progress)


def test_a_worker_killed_in_the_middle_of_a_slice_is_made_up_for(
    rng: np.random.Generator,
    name: str,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    items, config = scan(rng, n_slices=SLICES), Config(basis=name, iterations=6)
    found = there(items, config, Dangerous(pool, tmp_path), monkeypatch)
    assert (tmp_path / "begun").exists()
    check_same(found, here(items, config))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_on_workers_find_the_same_atoms(
    rng: np.random.Generator, frozen: Freeze, pool: Pool, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """In a volume of several blocks, the last one shorter; voxels that are empty or broken are in none."""
    atoms = dictionary(rng, 4999, 3, kind, frozen)
    coeff = numbers(rng, 3, 17, 21, 23)
    coeff[:, :2], coeff[0, 5, 5, 5] = 0, np.nan
    done: list[int] = []
    expected = match(frozen(coeff), atoms)  # in one block
    monkeypatch.setattr(matching, "_VOXELS", 2048)
    with monkeypatch.context() as patch:
        patch.setattr(search, "_search", None)  # what is done here
        found = match(frozen(coeff), atoms, pool=pool, progress=done.append)
    check_maps(found, expected)
    assert done == [2048] * (expected.mask.sum() // 2048) + [expected.mask.sum() % 2048]
    assert len(done) > 3
    # nothing to fit, nothing to spread
    assert not match(np.zeros((3, 4, 5), np.complex64), atoms, pool=pool).mask.any()


def test_voxels_on_workers_have_the_same_least_squares(
    rng: np.random.Generator, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, n = emulated(), 500
    truth = rng.uniform(-0.8, 0.8, (n, 2))
    coeff = voxels(forward, truth, phases(rng, n), 0.02, rng).T.reshape(-1, 20, 25)
    start = starts(forward, np.zeros((20, 25, 2)))
    others = np.moveaxis(forward.box.theta(rng.uniform(-1, 1, (1, 20, 25, 2))), -1, 1)
    expected = nlls.fit(coeff, forward, start, others=others)
    monkeypatch.setattr(nlls, "_VOXELS", 64)
    with monkeypatch.context() as patch:
        patch.setattr(nlls, "minimise", None)  # what is done here
        found = nlls.fit(coeff, forward, start, others=others, pool=pool)
    check_maps(found, expected)
    assert found.residual is not None
    assert expected.residual is not None
    assert found.residual.tobytes() == expected.residual.tobytes()


def test_a_running_scheduler_does_all_three_verbs(
    rng: np.random.Generator,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its workers' folder is another one: a kernel cache with a short name means ours."""
    mrd.write_raw(tmp_path / "raw.h5", head(SLICES), scan(rng, n_slices=3))
    config = run.config(basis=name, iterations=5, kernel_cache="kernels")
    raw, options = str(tmp_path / "raw.h5"), {"force": False, "report": silent}
    with small(2) as (address, _):
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")
        for folder, spread in (("one", {}), ("many", {"scheduler": address})):
            run.recon(raw, config, f"{folder}/coeff", **options, **spread)
            run.maps(raw, config, f"{folder}/maps", **options, **spread)
            run.fit(f"{folder}/coeff", name, f"{folder}/fit", like=None, mask_level=0.05, **options, **spread)
    assert len(list(Path("kernels").iterdir())) == 1
    one, many = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (Path("one"), Path("many")))
    assert len(one) > 20
    assert many == one


def begun(folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start `maps` in a folder, wait until a slice is being reconstructed, and return the command and its workers."""
    process = subprocess.Popen(
        [*cli_case.COMMAND, *MAPS, "-o", "maps", "--workers", "2", "--kernel-cache", "kernels"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    # the kernel is made, the iterations begin
    while not list(folder.glob("kernels/*.kernel")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process, workers(process.pid)


@pytest.fixture
def folder(rng: np.random.Generator, name: str, tmp_path: Path) -> Path:
    mrd.write_raw(tmp_path / "raw.h5", head(SLICES), scan(rng, n_slices=SLICES))
    assert Path(name).name == "basis_0.5"
    return tmp_path


@pytest.mark.slow
def test_the_command_with_a_worker_killed_writes_what_one_thread_writes(folder: Path) -> None:
    process, (victim, _) = begun(folder)
    victim.kill()
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    alone = cli_case.run(*MAPS, "-o", "alone", "--threads", "1", cwd=folder)
    assert (alone.returncode, alone.stdout.replace("alone", "maps")) == (0, out)
    found, expected = ({path.name: path.read_bytes() for path in (folder / one).iterdir()} for one in ("maps", "alone"))
    assert "T1map.nii.gz" in found
    assert found == expected


def test_ctrl_c_ends_the_workers_and_leaves_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    process, below = begun(folder)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "crbsvd: interrupted")
    wait_for_the_end(below)
    assert sorted(folder.iterdir()) == sorted([*before, folder / "kernels"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--coils", "9"), "coils is 9, "),
        (("--workers", "0"), "--workers is 0, expected at least 1"),
        (("--scheduler", "tcp://127.0.0.1:1"), "--workers and --scheduler are both given; give only one of them"),
    ],
)
def test_what_cannot_be_done_on_workers_is_said_in_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, str],
    text: str,
) -> None:
    monkeypatch.chdir(folder)
    refuse = next(cli_case.refuser(folder, capsys))
    assert text in refuse(*MAPS, "-o", "maps", "--workers", "2", *options)


@pytest.mark.bart
def test_only_the_workers_need_bart(
    rng: np.random.Generator, name: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, config = scan(rng, n_slices=2), run.config(basis=name, backend="bart", iterations=2)
    expected = here(items, config)
    monkeypatch.setenv("PATH", "")
    check_same(there(items, config, pool, monkeypatch), expected)
    with pytest.raises(UserError, match="BART is needed here"):
        here([], config)
