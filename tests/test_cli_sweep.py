"""The verb `sweep`: what it writes and says, what it refuses, and the options that it shares with `basis`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cli_case
import click
import numpy as np
import pytest

from crbsvd_plugin import bundle, sweep
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.cli.common import numbers
from crbsvd_plugin.progress import silent

SMALL = ("--train", "60", "--rank", "4", "--crb-weights", "0,0.5", "--threads", "1")
SWEEP = ("sweep", "spec.toml", "-o", "out", *SMALL)
FILES = ["regressions.csv", "scatter.png", "sweep.csv", "sweep.json", "sweep.png"]
ONLY = ("--class-weight", "csf:T1=0", "--parameter-weight", "T2=3", "--class-weight", "fat=0.25")


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the command in this process, and return the one line that it says."""
    yield from cli_case.refuser(folder, capsys)


def content(name: str = "out") -> dict[str, Any]:
    return json.loads(Path(name, "sweep.json").read_text())


def test_the_command_writes_the_files_and_says_what_to_take(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "--converge"]) == 0
    out, err = capsys.readouterr()
    assert sorted(path.name for path in (folder / "out").iterdir()) == FILES
    chosen = content()["recommended"]
    assert out.startswith(f"take --rank {chosen['rank']} --crb-weight {chosen['crb_weight']:g}: its worst parameter")
    assert f"loses {100 * chosen['crb_loss']:.2f} % of the CRB" in out
    assert f"\nRule: {chosen['rule']}.\n" in out
    assert out.count("of the training fingerprints its subspace turns by") == 2
    assert err == ""
    assert len(content()["convergence"]) == 3 * 2 * 4


def test_weights_that_leave_nothing_are_refused_before_the_work(refused: Callable[..., str]) -> None:
    none = [f"--class-weight={label}:{name}=0" for label in ("gm+wm", "fat", "csf") for name in ("T1", "T2")]
    assert "are 0 for all of T1, T2 in gm+wm, fat, csf: nothing is left to choose a basis by" in refused(*SWEEP, *none)


def test_signals_without_weight(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = [f"--class-weight={label}:signal=0" for label in ("gm+wm", "fat", "csf")]
    assert main([*SWEEP, "--crb-weights", "0.5,0.9", *none]) == 0
    out = capsys.readouterr().out
    assert "% of the CRB." in out
    assert content()["recommended"]["energy_loss"] is None


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_that_is_an_output(refused: Callable[..., str]) -> None:
    for name, more in (("out", ()), ("out/sweep.json", ()), ("out/sweep.csv/x", ())):
        assert f"--checkpoint {name} is one of the outputs" in refused(*SWEEP, "--checkpoint", name, *more)
    converge = [word if word != "out" else "kept.2" for word in SWEEP]
    assert "--checkpoint kept is one of the outputs" in refused(*converge, "--converge", "--checkpoint", "kept")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(refused: Callable[..., str]) -> None:
    long = [word if word != "out" else "x" * 260 for word in SWEEP]
    assert "the name is too long" in refused(*long, "--dry-run")


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cli_case.listing(folder)
    assert main([*SWEEP, "--dry-run", "--checkpoint", "kept"]) == 0
    assert "fingerprints of 40 frames, " in capsys.readouterr().out
    assert cli_case.listing(folder) == before


@pytest.mark.usefixtures("undrawn")
def test_force_replaces_only_its_own(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("mine")
    assert main([*SWEEP]) == 0
    first = content()
    assert "exists already: choose another name, or say --force" in refused(*SWEEP)
    assert main([*SWEEP, "--crb-weights", "0.25", "--force"]) == 0
    assert (content()["crb_weights"], first["crb_weights"]) == ([0.25], [0, 0.5])
    assert (folder / "out" / "notes.txt").read_text() == "mine"
    (folder / "other").mkdir()
    (folder / "other" / "sweep.csv").write_text("mine")
    for force in ((), ("--force",)):
        assert "sweep.csv exists" in refused(*SWEEP[:3], "other", *SMALL, *force)


@pytest.mark.usefixtures("undrawn")
def test_weights_reach_the_bases_of_both_verbs(folder: Path) -> None:
    """Parameter X is of interest in class Y only: T1 in all but csf."""
    assert main([*SWEEP, *ONLY]) == 0
    classes = {("csf", "T1"): 0.0, "fat": 0.25}
    options: dict[str, Any] = {"parameter_weights": {"T2": 3.0}, "class_weights": classes, "train": "60"}
    asked = sweep.Request(spec="spec.toml", crb_weights=(0.0, 0.5), rank=4, **options)
    sweep.plan(asked, "same", force=False).make(report=silent)
    found, same = content(), content("same")
    assert (found["parameter_weights"], found["class_weights"]) == ({"T2": 3.0}, {"csf:T1": 0.0, "fat": 0.25})
    # one thread or several: sums of products in another order, 1e-16 times the condition
    for row, other in zip(found["rows"], same["rows"], strict=True):
        assert abs(row["mean"] - other["mean"]) < 1e-8
    assert main(["sweep", "spec.toml", "-o", "plain", *SMALL]) == 0
    lost = [
        next(row["mean"] for row in one["rows"] if list(row.values())[:5] == [0.5, 4, "csf", "T1", "approximate"])
        for one in (found, content("plain"))
    ]
    assert lost[0] > 1.01 * lost[1]

    fixed = ("--rank", "4", "--crb-weight", "0.5", "--train", "60", "--atoms", "none", "--threads", "1")
    assert main(["basis", "spec.toml", "-o", "b", *fixed, *ONLY]) == 0
    plan = bundle.plan(
        bundle.Request(spec="spec.toml", rank=4, crb_weight=0.5, atoms="none", **options), "c", force=False
    )
    expected = plan.fold(report=silent).finish(4, 0.5, parameter_weights={"T2": 3.0}, class_weights=classes)
    basis = Basis.load("b")
    assert basis.info["class_weights"] == {"csf:T1": 0.0, "fat": 0.25}
    # complex64 in the file
    np.testing.assert_allclose(basis.phi, expected.phi, atol=1e-6)
    assert main(["basis", "spec.toml", "-o", "d", *fixed]) == 0
    assert np.abs(Basis.load("d").phi - basis.phi).max() > 1e-2


SHARED: list[tuple[tuple[str, ...], str]] = [
    (("--rank", "41"), "--rank is 41, expected 1 to the number of frames, 40"),
    (("--rank", "0"), "--rank is 0"),
    (("--train", "2e4"), "--train is '2e4', expected grid or a number"),
    (("--train", "9" * 400), "expected grid or a number"),
    (("--class-weight", "cfs:T1=0"), "class weight of 'cfs:T1': unknown"),
    (("--class-weight", "cfs:T1=0"), "(did you mean 'csf'?)"),
    (("--class-weight", "csf:T22=0"), "(did you mean 'T2'?)"),
    (("--class-weight", "csf"), "'csf', expected CLASS=W with a number; see 'crbsvd"),
    (("--class-weight", "csf=nan"), "weight of 'csf' is nan, expected 0 to 1e+12"),
    (("--class-weight", "csf=-1"), "weight of 'csf' is -1.0"),
    (("--class-weight", ""), "'', expected CLASS=W with a number"),
    (("--parameter-weight", "T22=1"), "(did you mean 'T2'?)"),
    (("--parameter-weight", "T1=much"), "'T1=much', expected NAME=W with a number"),
    (("--parameter-weight", "T1=inf"), "weight of 'T1' is inf"),
    (("--parameter-weight", "=1"), "parameter weight of '': unknown"),
    (("--weighting", "eq12"), "'eq12' is not one of 'svd', 'loss'"),
    (("--fisher", "imaginary"), "'imaginary' is not one of 'real', 'complex'"),
    (("--checkpoint", ""), "the name is empty"),
    (("--checkpoint", "spec.toml/"), "is a folder, expected the name of a file"),
    (("--workers", "0"), "workers"),
]
OWN: list[tuple[tuple[str, ...], str]] = [
    (("--crb-weights", "0:1:0"), "'0:1:0', expected numbers with commas, or low:high:step"),
    (("--crb-weights", "0:1"), "'0:1', expected numbers with commas, or low:high:step"),
    (("--crb-weights", "0:0.5:0.1:1"), "expected numbers with commas, or low:high:step"),
    (("--crb-weights", "0:1:1e-300"), "of at most 1000 numbers"),
    (("--crb-weights", "0:1:0.001"), "of at most 1000 numbers"),
    (("--crb-weights", ""), "expected numbers with commas"),
    (("--crb-weights", "0.1,,0.2"), "expected numbers with commas"),
    (("--crb-weights", "a"), "'a', expected numbers with commas"),
    (("--crb-weights", "nan"), "'nan', expected numbers with commas"),
    (("--crb-weights", "0:inf:1"), "expected numbers with commas"),
    (("--crb-weights", "1:0:0.1"), "--crb-weights is empty, expected numbers from 0 to 1, with commas"),
    (("--crb-weights", "0,1.5"), "--crb-weights holds 1.5, expected numbers from 0 to 1"),
    (("--crb-weights", "-0.1"), "--crb-weights holds -0.1"),
    (("--crb-weight", "0.1"), "'--crb-weights'"),
    (("--max-crb-loss", "0"), "'--max-crb-loss': 0 is out of range"),
    (("--max-energy-loss", "nan"), "'--max-energy-loss': nan is out of range"),
    (("--crb-weights", "0,1", "--parameter-weight", "T1=0", "--parameter-weight", "T2=0"), "a crb weight of 1 nothing"),
    (("-o", "spec.toml"), "spec.toml is a file, expected a folder"),
    (("-o", ""), "the name is empty"),
]
CASES = [
    *[((*SWEEP, *more), message) for more, message in [*SHARED, *OWN]],
    *[(("basis", "spec.toml", "-o", "b", "--train", "60", *more), message) for more, message in SHARED],
    (("sweep", "mrf-fips", "-o", "out"), "did you mean 'mrf-fisp'?"),
    (("swep", *SWEEP[1:]), "did you mean 'sweep'?"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), CASES, ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:90]
)
def test_what_the_user_can_mend(refused: Callable[..., str], arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)


def test_a_rank_above_what_the_data_support(refused: Callable[..., str]) -> None:
    said = refused("sweep", "spec.toml", "-o", "out", "--train", "6", "--rank", "40", "--crb-weights", "0.5")
    assert "rank is 40, but the fingerprints support only" in said
    assert said.endswith("take a smaller rank or a wider prior\n")


def test_a_train_too_short_for_its_parameters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cli_case.listing(folder)
    one_frame = ("--set", "flip_angles=[0.5]", "--rank", "1", "--train", "60", "--crb-weights", "0")
    assert main(["sweep", "mrf-fisp", "-o", "out", *one_frame]) == 2
    *warnings, last = capsys.readouterr().err.splitlines()
    assert last.startswith("crbsvd: no parameter can be estimated from these fingerprints")
    assert all("is zero or depends on other derivatives" in line for line in warnings)
    # of three classes and two parameters each
    assert len(warnings) == 6
    assert cli_case.listing(folder) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:0.9:0.1", tuple(i / 10 for i in range(10))),
        ("0.5", (0.5,)),
        ("0.5,0,0.5", (0.5, 0.0)),
        ("0:0.5:0.3", (0.0, 0.3)),
        ("0:1:0.25,0.3", (0.0, 0.25, 0.5, 0.75, 1.0, 0.3)),
        ("0.2:0.2:0.1", (0.2,)),
        ("1:0.5:-0.25", (1.0, 0.75, 0.5)),
        ("0:1:2", (0.0,)),
    ],
)
def test_numbers(text: str, expected: tuple[float, ...]) -> None:
    command = importlib.import_module("crbsvd_plugin.cli.sweep").command
    assert numbers(click.Context(command), command.params[2], text) == expected


def test_the_defaults_are_those_of_the_request() -> None:
    command = importlib.import_module("crbsvd_plugin.cli.sweep").command
    options = {parameter.name: parameter.default for parameter in command.params}
    asked = sweep.Request(spec="x")
    for name in ("rank", "max_crb_loss", "max_energy_loss", "train", "weighting", "fisher"):
        assert getattr(asked, name) == options[name]
    assert asked.crb_weights == numbers(click.Context(command), command.params[2], options["crb_weights"])


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_workers_find_the_same(folder: Path) -> None:
    pytest.importorskip("distributed")
    assert main([*SWEEP, "--converge"]) == 0
    assert main([*SWEEP[:3], "spread", *SMALL, "--converge", "--workers", "2"]) == 0
    one, other = content(), content("spread")
    for row, same in zip(one["rows"], other["rows"], strict=True):
        assert {**row, "mean": 0, "median": 0, "worst_decile": 0} == {**same, "mean": 0, "median": 0, "worst_decile": 0}
        # the tolerance that the issue sets for merging in any order
        assert abs(row["mean"] - same["mean"]) < 1e-7
    assert other["recommended"]["rank"] == one["recommended"]["rank"]
