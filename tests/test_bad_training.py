"""Training that the user can mend: exit status 2, one line that says what to do, and nothing lost or written."""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cli_case
import numpy as np
import pytest

from crbsvd_plugin import batches, training
from crbsvd_plugin.checkpoint import Checkpoint
from crbsvd_plugin.cli import main
from crbsvd_plugin.cluster import session
from crbsvd_plugin.models.fisp import MrfFisp

BASIS = ("basis", "spec.toml", "-o", "out", "--train", "100", "--atoms", "none", "--rank", "3", "--threads", "1")
SWEEP = ("sweep", "spec.toml", "-o", "out", "--train", "150", "--rank", "3", "--crb-weights", "0,0.4", "--threads", "1")
KEPT = ("--checkpoint", "run.ckpt")
# two tissues of one atom each: two signals and four derivatives
FEW = "".join(
    f'[[prior.tissues]]\nlabel = "{label}"\nn = 1\nT2 = 0.1\n'
    f'T1 = {{ kind = "uniform", low = {low}, high = {low + 0.1} }}\n'
    for label, low in (("one", 0.8), ("other", 1.6))
)


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the command in this process, and return the one line that it says."""
    yield from cli_case.refuser(folder, capsys)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that have been simulated for training."""
    sizes: list[int] = []
    simulate = training.simulate

    def counting(model: Any, piece: Any) -> Any:
        sizes.append(len(piece.theta))
        return simulate(model, piece)

    monkeypatch.setattr(training, "simulate", counting)
    return sizes


def test_a_checkpoint_of_another_run(
    refused: Callable[..., str], simulated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*BASIS, *KEPT]) == 0
    del simulated[:]
    other = (*BASIS[:3], "other", *BASIS[4:], *KEPT)  # the output is not there yet
    end = "; give another file or remove this one\n"
    for options, text in {
        ("--set", "te=6 ms"): "run.ckpt is of another run: model.te is 0.005 in it and 0.006 now" + end,
        ("--train", "50"): "run.ckpt is of another run: fingerprints is ",
        ("--fisher", "complex"): 'fisher is "real" in it and "complex" now' + end,
        ("--conjugate",): "conjugate is false in it and true now" + end,
    }.items():
        assert text in refused(*other, *options)
    assert "fingerprints is " in refused(*SWEEP[:3], "other", *SWEEP[4:], *KEPT)
    with monkeypatch.context() as patch:
        patch.setattr(training, "__version__", "99.1")
        assert 'in it and "crbsvd-plugin 99.1" now' + end in refused(*other)
    with monkeypatch.context() as patch:
        patch.setattr(np, "__version__", "9.8")
        assert 'in it and "9.8" now' + end in refused(*other)
    # all of these were refused before any work, and what does not change the fingerprints needs none
    assert main([*other, "--rank", "4", "--crb-weight", "0.7", "--weighting", "loss", "--class-weight", "csf=3"]) == 0
    assert simulated == []


@pytest.mark.parametrize("verb", [BASIS, SWEEP], ids=["basis", "sweep"])
def test_a_checkpoint_that_cannot_be_one(
    refused: Callable[..., str], folder: Path, simulated: list[int], verb: tuple[str, ...]
) -> None:
    file = folder / "run.ckpt"
    assert main([*verb[:3], "first", *verb[4:], *KEPT]) == 0
    content = file.read_bytes()
    del simulated[:]
    for found, text in {
        content[:-1]: "is truncated",
        content[:500]: "is truncated",
        content[:7]: "is truncated",
        content[:-50] + b"?" + content[-49:]: "is damaged",
        content.replace(b"checkpoint 1\n", b"checkpoint 2\n"): "is of format '2', expected '1'",
        b"": "is no checkpoint; give another file, it is left as it is",
        b"mine": "is no checkpoint; give another file, it is left as it is",
    }.items():
        file.write_bytes(found)
        assert f"checkpoint: run.ckpt {text}" in refused(*verb, *KEPT)
    (folder / "folder").mkdir()
    assert "folder is not a plain file; give another name" in refused(*verb, "--checkpoint", "folder")
    assert "spec.toml is no checkpoint" in refused(*verb, "--checkpoint", "spec.toml")
    assert "cannot be read (Not a directory)" in refused(*verb, "--checkpoint", "spec.toml/x")
    assert "name" in refused(*verb, "--checkpoint", "")
    assert "too long" in refused(*verb, "--checkpoint", "x" * 300)
    assert simulated == []


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(folder: Path) -> None:
    # without its capability to write anywhere (CAP_DAC_OVERRIDE), root is a user like any other
    drop = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    refuse = "from crbsvd_plugin import cli, training; training.simulate = None; raise SystemExit(cli.main())"
    (folder / "closed").mkdir()
    (folder / "closed").chmod(0o555)
    before = cli_case.listing(folder)
    command = [sys.executable, "-c", drop, sys.executable, "-c", refuse]
    done = cli_case.run(*BASIS, "--checkpoint", "closed/run", cwd=folder, command=command)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "cannot write closed/run: writing there is not permitted" in done.stderr
    assert cli_case.listing(folder) == before


def test_no_space_left_for_a_later_state(folder: Path) -> None:
    """The first one, of a few dimensions, finds room, and is there afterwards, whole; the others do not."""
    # 40 frames: 40 x 48 numbers, and 9 Gram matrices of up to 40 x 40
    small = (
        "from crbsvd_plugin import batches, checkpoint; batches.BATCH = 16\n"
        'checkpoint.Checkpoint.__init__.__kwdefaults__["every"] = 0.0\n' + cli_case.LIMITED
    )
    before = set(cli_case.listing(folder))
    done = cli_case.run(*BASIS, *KEPT, cwd=folder, command=[sys.executable, "-c", small, "60000"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "cannot write run.ckpt: the file would be larger than allowed there" in done.stderr
    assert set(cli_case.listing(folder)) == before | {"run.ckpt"}
    done = cli_case.run(*BASIS, *KEPT, "-v", cwd=folder, command=[sys.executable, "-c", small, "999999"])
    assert done.returncode == 0
    assert re.search(r"run.ckpt: going on after [1-7] of 8 batches", done.stderr)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--workers", "0"), "--workers is 0, expected at least 1"),
        (("--workers", "-1"), "--workers is -1, expected at least 1"),
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), "--workers and --scheduler are both given; give only"),
        (("--scheduler", "nonsense"), "--scheduler: 'nonsense' is no address of a scheduler"),
        (("--scheduler", ""), "--scheduler: '' is no address of a scheduler"),
    ],
)
def test_no_cluster(refused: Callable[..., str], options: tuple[str, ...], text: str) -> None:
    pytest.importorskip("distributed")
    for verb in (BASIS, SWEEP):
        assert text in refused(*verb, *KEPT, *options)


def test_a_scheduler_that_does_not_answer(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    connect = session.connect
    monkeypatch.setattr(session, "connect", lambda *, workers, scheduler: connect(
        workers=workers, scheduler=scheduler, timeout=1.0
    ))  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        text = refused(*BASIS, *KEPT, "--scheduler", address)
    assert f"--scheduler: {address} does not answer within 1 s; check the address" in text


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_within_the_real_time(folder: Path) -> None:
    pytest.importorskip("distributed")
    before = cli_case.listing(folder)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        done = cli_case.run(*SWEEP, *KEPT, "--scheduler", f"tcp://127.0.0.1:{silent.getsockname()[1]}", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "does not answer within 10 s" in done.stderr
    # loading takes a few seconds, or more on a busy machine
    assert time.monotonic() - start < 30
    assert cli_case.listing(folder) == before


@pytest.mark.parametrize("what", ["signals", "derivatives"])
@pytest.mark.parametrize("verb", [BASIS, SWEEP], ids=["basis", "sweep"])
def test_what_is_not_finite_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, what: str, verb: tuple[str, ...]
) -> None:
    simulate = MrfFisp.signal_and_jacobian
    worst: list[np.ndarray] = []

    def broken(self: MrfFisp, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        signal, jac = simulate(self, theta)
        at = int(np.argmax(theta[:, 0]))
        if theta[at, 0] > 3:  # only CSF
            worst.append(theta[at])
            (signal if what == "signals" else jac[:, 1])[at, 7] = np.nan if what == "signals" else np.inf
        return signal, jac

    monkeypatch.setattr(MrfFisp, "signal_and_jacobian", broken)
    text = refused(*verb, *KEPT)
    (t1, t2) = worst[0][:2]
    assert f"the {what} of 1 of " in text
    assert " atoms of 'csf' are not finite, the first at " in text
    assert f"T1 = {t1:.6g} s, T2 = {t2:.6g} s" in text
    assert text.endswith("; narrow the prior to where the model is defined\n")


def test_a_rank_above_what_the_fingerprints_support_keeps_what_was_simulated(
    refused: Callable[..., str], folder: Path, simulated: list[int]
) -> None:
    with (folder / "spec.toml").open("a") as spec:
        spec.write(FEW)
    few = ("basis", "spec.toml", "-o", "out", "--atoms", "none", "--train", "grid", "--threads", "1", *KEPT)
    text = refused(*few, "--rank", "9", changes=True)
    assert "rank is 9, but the fingerprints support only 6 columns" in text
    assert "; take a smaller rank or a wider prior" in text
    assert sorted(path.name for path in folder.iterdir()) == ["run.ckpt", "spec.toml"]
    assert simulated == [1, 1]
    # the same line again, and then a basis, without any simulation
    assert "only 6 columns" in refused(*few, "--rank", "7")
    assert main([*few, "--rank", "6"]) == 0
    assert simulated == [1, 1]


def test_of_a_sweep_the_rank_is_refused_before_the_held_out_part_and_nothing_is_lost(
    refused: Callable[..., str], folder: Path, simulated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 64)
    with (folder / "spec.toml").open("a") as spec:
        spec.write(FEW.replace("n = 1", "n = 3"))
    # two of three train, of each tissue: 12 columns
    few = ("sweep", "spec.toml", "-o", "out", "--crb-weights", "0.3", "--train", "grid", "--threads", "1", *KEPT)
    assert "the fingerprints support only " in refused(*few, "--rank", "20", changes=True)
    assert sorted(path.name for path in folder.iterdir()) == ["run.ckpt", "spec.toml"]
    n = len(simulated)
    assert n > 0
    assert main([*few, "--rank", "3"]) == 0
    assert len(simulated) == n


def test_an_output_that_is_taken_is_refused_before_the_checkpoint_is_touched(
    refused: Callable[..., str], folder: Path, simulated: list[int]
) -> None:
    (folder / "out.cfl").write_text("mine")
    assert "out.cfl exists already" in refused(*BASIS, *KEPT)
    assert simulated == []


def test_a_checkpoint_is_not_written_before_its_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is mended and started again at once must not find the file of the wrong one."""
    monkeypatch.setattr(Checkpoint, "due", lambda _: pytest.fail("a batch has ended"))
    monkeypatch.setattr(training, "simulate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main([*BASIS, *KEPT]) == 130
    assert sorted(path.name for path in folder.iterdir()) == ["spec.toml"]
