"""The verb `study`: what it writes, that it can be repeated and resumed bit for bit, and what it refuses."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cli_case
import click
import pytest

from crbsvd_plugin import bench, campaign, checkpoint, study
from crbsvd_plugin.cli import main

AT = ("--at", "T1=810ms,T2=0.06")
SMALL = ("--train", "60", "--atoms", "500", "--ranks", "4,5", "--measurements", "40", "--threads", "1")
STUDY = ("study", "spec.toml", "-o", "out", *AT, *SMALL)
FILES = ["study.csv", "study.json", "study.png"]


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the command in this process, and return the one line that it says."""
    yield from cli_case.refuser(folder, capsys)


def content(name: str = "out") -> dict[str, Any]:
    return json.loads(Path(name, "study.json").read_text())


def files(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}


def elsewhere(name: str, *more: str) -> list[str]:
    return [*(name if word == "out" else word for word in STUDY), *more]


def test_the_command_writes_table_figure_and_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STUDY, "--at", "T1=1.3,T2=0.09", "--crb-weights", "0,0.5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(path.name for path in (folder / "out").iterdir()) == FILES
    assert (folder / "out" / "study.png").read_bytes().startswith(b"\x89PNG")
    record = content()
    assert record["fingerprints"] == [[0.81, 0.06], [1.3, 0.09]]
    assert (record["snr"], record["measurements"], record["seed"], record["method"]) == (50, 40, 0, "matching")
    assert len(record["rows"]) == 2 * 2 * 2 * 2
    with Path("out", "study.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(out.splitlines()) == 1 + len(table)
    for row, all_digits in zip(table, record["rows"], strict=True):
        assert row.keys() == all_digits.keys()
        for name, text in row.items():
            if name not in ("parameter", "unit"):
                assert float(text) == pytest.approx(all_digits[name], rel=1e-5)
        assert float(row["truth"]) == record["fingerprints"][int(row["fingerprint"])][row["parameter"] == "T2"]


@pytest.mark.usefixtures("undrawn")
def test_the_seed_decides(folder: Path) -> None:
    for name, more in (("out", ()), ("again", ()), ("other", ("--seed", "1"))):
        assert main(elsewhere(name, *more)) == 0
    assert files("out") == files("again")
    assert content()["rows"] != content("other")["rows"]
    for row, other in zip(content()["rows"], content("other")["rows"], strict=True):
        assert row["crb"] == other["crb"]


@pytest.mark.usefixtures("undrawn")
def test_noise_does_not_depend_on_what_else_is_studied(folder: Path) -> None:
    """The same measurements in every basis: a rank or a weight more, or more measurements, change no other row."""
    assert main([*STUDY]) == 0
    assert main(elsewhere("more", "--ranks", "3,4,5", "--crb-weights", "0,0.3,0.5")) == 0
    shared = [row for row in content("more")["rows"] if row["rank"] != 3 and row["crb_weight"] != 0.3]
    # columns of a smaller basis are those of a larger one but for rounding, which may move a near tie
    for row, other in zip(content()["rows"], shared, strict=True):
        assert abs(row["bias"] - other["bias"]) < 0.2 * row["bias_se"]
        assert row["crb_compressed"] == pytest.approx(other["crb_compressed"], rel=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_more_threads_find_the_same(folder: Path) -> None:
    method = ("--method", "nlls", "--start", "truth")
    assert main([*STUDY, *method]) == 0
    assert main(elsewhere("two", *method, "--threads", "2")) == 0
    for row, other in zip(content()["rows"], content("two")["rows"], strict=True):
        # sums in another order, 1e-16 times the condition of a basis; fits end within 1e-8 of their minima
        for name in ("bias", "sd", "crb", "crb_compressed"):
            assert abs(row[name] - other[name]) < 1e-5 * row["crb"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("method", [("matching",), ("nlls", "--start", "truth")], ids=["matching", "nlls"])
def test_a_study_that_was_interrupted_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: tuple[str, ...]
) -> None:
    """Interrupted again and again, each time after a few fits: every bit as if nothing had happened, nothing twice."""
    monkeypatch.setattr(campaign, "BLOCK", 16)
    monkeypatch.setattr(campaign, "_BLOCKS", 1)
    assert main([*STUDY, "--method", *method]) == 0
    monkeypatch.setitem(checkpoint.Checkpoint.__init__.__kwdefaults__, "every", 0.0)
    fit, begun = bench.Bench.fit, 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun % 4 == 0:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(bench.Bench, "fit", interrupted)
    statuses = [main(elsewhere("resumed", "--method", *method, "--checkpoint", "kept")) for _ in range(4)]
    # two weights, two ranks, 3 blocks: 12 fits, 3 of each run
    assert statuses == [130, 130, 130, 0]
    assert begun == 12 + 3
    assert files("resumed") == files("out")
    # what is done is not done again
    begun = 0
    assert main(elsewhere("third", "--method", *method, "--checkpoint", "kept")) == 0
    assert begun == 0
    assert files("third") == files("out")
    # another seed has a file of its own
    assert main(elsewhere("fourth", "--method", *method, "--checkpoint", "kept", "--seed", "3")) == 130
    assert len(list(folder.glob("kept.measured-*"))) == 2


@pytest.mark.usefixtures("undrawn")
def test_fingerprints_from_a_table(folder: Path, refused: Callable[..., str]) -> None:
    table = [word for word in STUDY if word not in AT]
    (folder / "theta.csv").write_text("T2, T1\n60 ms, 0.81\n\n0.09,1300ms\n")
    assert main([*table, "--table", "theta.csv"]) == 0
    assert content()["fingerprints"] == [[0.81, 0.06], [1.3, 0.09]]
    for text, message in (
        ("T2,T1\n", "has 1 lines, expected names"),
        ("T2,T1\n0.06\n", "line 2 has 1 values, expected 2"),
        ("T2,T1\n0.06,0.81\n0.06,9\n", "line 3: T1 is 9 s, but the fit has"),
        ("T2,T1\n0.06,\n", "line 2: T1: '' is not a quantity"),
        ("T2,T11\n0.06,1\n", "(did you mean 'T1'?)"),
    ):
        (folder / "bad.csv").write_text(text)
        assert message in refused(*table[:3], "bad", *table[4:], "--table", "bad.csv")
    (folder / "bad.csv").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as CSV" in refused(*table[:3], "bad", *table[4:], "--table", "bad.csv")


@pytest.mark.usefixtures("undrawn")
def test_random_fingerprints(folder: Path) -> None:
    drawn = [word for word in STUDY if word not in AT]
    assert main([*drawn, "--random", "3"]) == 0
    assert main([*drawn[:3], "other", *drawn[4:], "--random", "3", "--seed", "1"]) == 0
    one, other = content()["fingerprints"], content("other")["fingerprints"]
    assert len(one) == 3
    assert one != other


@pytest.mark.usefixtures("undrawn")
def test_force_replaces_only_its_own(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("mine")
    assert main([*STUDY]) == 0
    assert "exists already: choose another name, or say --force" in refused(*STUDY)
    assert main([*STUDY, "--snr", "20", "--force"]) == 0
    assert content()["snr"] == 20
    assert (folder / "out" / "notes.txt").read_text() == "mine"


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cli_case.listing(folder)
    assert main([*STUDY, "--dry-run", "--checkpoint", "kept"]) == 0
    assert "with 160 fits" in capsys.readouterr().out
    assert main([*STUDY, "--dry-run", "--method", "nlls", "--signals", "exact", "--start", "truth"]) == 0
    assert "160 fits, each of which is taken for 10 simulations" in capsys.readouterr().out
    assert cli_case.listing(folder) == before


BAD: list[tuple[tuple[str, ...], str]] = [
    (("--at", "T1=1,T22=0.1"), "the model has no parameter 'T22', expected T1, T2 (did you mean 'T2'?)"),
    (("--at", "T1=1"), "--at T1=1: T2 is missing, expected a value from 0.005 to"),
    (("--at", "T1=1,T2=0.1,T1=2"), "T1 is given twice"),
    (("--at", "T1=9,T2=0.1"), "T1 is 9 s, but the fit has 0.1 to"),
    (("--at", "T1=1,T2=1e-4"), "T2 is 0.0001 s, but the fit has 0.005 to"),
    (("--at", "T1=0.2,T2=0.3"), "T2 is above T1, but the fit prior t1-t2 has no such atoms"),
    (("--at", "T1=nan,T2=0.1"), "T1 is nan, expected a finite number"),
    (("--at", "T1=1 deg,T2=0.1"), "T1: '1 deg' is not a quantity"),
    (("--at", "T1"), "'T1', expected names and values"),
    (("--at", ""), "'', expected names and values"),
    (("--random", "3"), "--at and --random given; choose one"),
    (("--table", "x.csv"), "--at and --table given"),
    (("--measurements", "1"), "--measurements is 1, expected at least 2"),
    (("--snr", "0"), "--snr is 0, expected a number above 0"),
    (("--snr", "-3"), "--snr is -3"),
    (("--snr", "nan"), "--snr is nan"),
    (("--snr", "inf"), "--snr is inf"),
    (("--ranks", "4,41"), "--ranks holds 41, expected numbers from 1 to the number of frames, 40"),
    (("--ranks", "0,3"), "--ranks holds 0"),
    (("--ranks", "5:3:1"), "--ranks is empty"),
    (("--ranks", "3.5"), "'3.5', expected whole numbers"),
    (("--ranks", "a"), "'a', expected numbers with commas"),
    (("--crb-weights", "1.5"), "1.5, expected 0 to 1"),
    (("--crb-weights", "1:0:0.1"), "--crb-weights is empty"),
    (("--method", "nlls", "--ranks", "2,4"), "2 coefficients cannot tell M0 and 2 parameters"),
    (("--method", "perk", "--ranks", "2"), "2 coefficients cannot tell M0 and 2 parameters"),
    (("--start", "truth"), "--fit-starts, --signals, --bounds and --start belong to --method nlls"),
    (("--signals", "exact"), "belong to --method nlls"),
    (("--bounds", "T1=0.1:5"), "belong to --method nlls"),
    (("--method", "nlls", "--bounds", "T1=1:2"), "--at T1=810ms,T2=0.06: T1 is 0.81 s, but the fit has 1 to 2"),
    (("--method", "nlls", "--bounds", "T1=1:1e3"), "expected a range within that of the model"),
    (("--method", "nlls", "--bounds", "T3=1:2"), "the model has no parameter 'T3'"),
    (("--method", "nlls", "--refine"), "--refine belongs to --method matching"),
    (("--atoms", "none"), "--atoms is 'none', expected grid or a number"),
    (("--seed", "-1"), "'--seed'"),
    (("--checkpoint", "out/study.csv"), "--checkpoint out/study.csv is one of the outputs"),
    (("-o", "spec.toml"), "spec.toml is a file, expected a folder"),
]


@pytest.mark.parametrize(("more", "message"), BAD, ids=lambda value: "" if isinstance(value, str) else " ".join(value))
def test_what_the_user_can_mend(refused: Callable[..., str], more: tuple[str, ...], message: str) -> None:
    assert message in refused(*STUDY, *more)


def test_fingerprints_must_be_given(refused: Callable[..., str]) -> None:
    none = [word for word in STUDY if word not in AT]
    assert "--at, --table and --random, but none is given" in refused(*none)
    assert "--table x.csv does not exist" in refused(*none, "--table", "x.csv")
    for number in ("0", "10001"):
        assert f"--random is {number}, expected 1 to 9999" in refused(*none, "--random", number)
    assert "--random is 9999, but the fit prior t1-t2 has" in refused(*none, "--random", "9999")


def test_nothing_to_fit(refused: Callable[..., str], folder: Path) -> None:
    spec = (folder / "spec.toml").read_text()
    tissue = '[fit_prior]\n[[fit_prior.tissues]]\nlabel = "one"\nT1 = 0.81\nT2 = 0.06\n'
    (folder / "spec.toml").write_text(spec + tissue)
    assert "one value of every parameter of interest: nothing is fitted" in refused(*STUDY)


def test_the_defaults_are_those_of_the_request() -> None:
    command = importlib.import_module("crbsvd_plugin.cli.study").command
    options = {parameter.name: parameter.default for parameter in command.params}
    asked = study.Request(spec="x")
    for name in ("snr", "measurements", "atoms", "seed", "train", "weighting", "fisher"):
        assert getattr(asked, name) == options[name]
    for name in ("method", "fit_starts", "start"):
        assert getattr(asked.way, name) == options[name]
    context = click.Context(command)
    for name in ("ranks", "crb_weights"):
        (parameter,) = (one for one in command.params if one.name == name)
        assert parameter.callback(context, parameter, options[name]) == getattr(asked, name)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_workers_find_the_same(folder: Path) -> None:
    pytest.importorskip("distributed")
    method = ("--method", "nlls", "--start", "truth")
    assert main([*STUDY, *method]) == 0
    assert main(elsewhere("spread", *method, "--workers", "2")) == 0
    for row, other in zip(content()["rows"], content("spread")["rows"], strict=True):
        # bases are merged in another order: 1e-7, the tolerance of `sweep`; an error of a basis moves an estimate by
        # as much of ||c|| / sigma = 150 standard deviations
        for name in ("bias", "sd"):
            assert abs(row[name] - other[name]) < 1e-4 * row["crb"]
