"""Whether an old basis is good enough for a new protocol: figures against dense ones, and the verdict."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin.audit import Audit, Row, audit
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.prior import split
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import resolve

T, K = 40, 4
TISSUES = """
[prior]
[[prior.tissues]]
label = "{0}"
n = 200
T1 = {{ kind = "uniform", low = {1}, high = {2} }}
T2 = {{ kind = "log-uniform", low = "{3} ms", high = "{4} ms" }}
"""
BRAIN, FLUID = TISSUES.format("brain", 0.7, 1.6, 40, 120), TISSUES.format("fluid", 3, 5, 900, 2500)


def write(folder: Path, name: str, angles: Any, tissues: str) -> str:
    listed = ", ".join(f'"{angle:.2f} deg"' for angle in angles)
    (folder / name).write_text(f'name = "mrf-fisp"\naccuracy = 0.0\nflip_angles = [{listed}]\n{tissues}')
    return str(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    angles = 10 + 50 * np.abs(np.sin(np.arange(T) * np.pi / 20))
    write(folder, "old.toml", angles, BRAIN)
    write(folder, "near.toml", angles * 1.01, BRAIN)
    write(folder, "other.toml", np.roll(angles, 9) * 0.6, BRAIN)
    write(folder, "fluid.toml", angles, BRAIN + FLUID.replace("[prior]\n", ""))
    write(folder, "short.toml", angles[:30], BRAIN)
    name = str(folder / "b")
    words = ["--rank", str(K), "--crb-weight", "0.5", "--atoms", "none", "--no-conjugate"]
    assert main(["basis", str(folder / "old.toml"), "-o", name, *words]) == 0
    return folder


def bound(signal: Any, jac: Any, i: int) -> float:
    """Return the bound of parameter i, with M0 as two real unknowns."""
    columns = np.stack([signal, 1j * signal, *jac])
    fisher = (columns.conj() @ columns.T).real
    scale = 1 / np.sqrt(np.diag(fisher))
    return float(np.linalg.inv(fisher * np.outer(scale, scale))[i + 2, i + 2] * scale[i + 2] ** 2)


def test_figures_are_those_of_dense_fisher_matrices(folder: Path) -> None:
    basis = Basis.load(folder / "b")
    found = audit(basis, str(folder / "other.toml"), report=silent)
    spec = resolve(str(folder / "other.toml"))
    (held_out,) = split(spec.prior.atoms(spec.model.parameters), 0.33)[1]
    signal, jac = spec.model.signal_and_jacobian(held_out.theta)
    assert found.n == len(held_out.theta)
    c, dc = basis.project(signal), basis.project(jac)
    energy = 1 - np.sum(np.abs(c) ** 2, axis=1) / np.sum(np.abs(signal) ** 2, axis=1)
    rows = {row.parameter: row for row in found.rows}
    assert [row.tissue for row in found.rows] == ["brain"] * 3
    # phi is read from single precision: 6e-8 each, next to losses of 1e-3 and more
    np.testing.assert_allclose(rows["signal"].lost, energy.mean(), rtol=1e-3)
    for i, name in enumerate(["T1", "T2"]):
        ratios = [bound(s, j, i) / bound(a, b, i) for s, j, a, b in zip(signal, jac, c, dc, strict=True)]
        lost = 1 - np.array(ratios)
        np.testing.assert_allclose(rows[name].lost, lost.mean(), rtol=1e-5)
        assert np.mean(lost >= rows[name].worst_decile * (1 - 1e-5)) == pytest.approx(0.1, abs=1.5 / len(lost))


def test_the_comparison_is_a_basis_that_was_made_for_it(folder: Path, tmp_path: Path) -> None:
    # auditing the basis of the other sequence itself: the comparison is made of two thirds of its fingerprints
    name = str(tmp_path / "b")
    words = ["--rank", str(K), "--crb-weight", "0.5", "--atoms", "none", "--no-conjugate"]
    assert main(["basis", str(folder / "other.toml"), "-o", name, *words]) == 0
    its_own = audit(Basis.load(name), str(folder / "other.toml"), report=silent)
    old = audit(Basis.load(folder / "b"), str(folder / "other.toml"), report=silent)
    for mine, its in zip(old.rows, its_own.rows, strict=True):
        assert mine.lost_remade == its.lost_remade  # the same for both: old.toml's weight is 0.5, too
        # a third of the fingerprints more change a basis of this rank by next to nothing
        assert its.lost == pytest.approx(its.lost_remade, abs=0.01)
        assert mine.lost > its.lost + 0.01 or mine.parameter == "signal"
    assert its_own.good
    assert not old.good


def test_a_small_change_of_the_protocol_is_good_enough_and_other_tissues_are_not(folder: Path) -> None:
    basis = Basis.load(folder / "b")
    near = audit(basis, str(folder / "near.toml"), report=silent)
    assert near.good
    assert near.verdict.startswith("good enough: no standard deviation is more than ")
    fluid = audit(basis, str(folder / "fluid.toml"), report=silent)
    worst = max((row for row in fluid.rows if row.parameter != "signal"), key=lambda row: row.sd_ratio)
    assert worst.tissue == "fluid"
    assert fluid.verdict.startswith(f"make a new basis: {worst.parameter} of fluid has {worst.sd_ratio:.3g} times the ")
    assert [row.tissue for row in fluid.rows][::3] == ["brain", "fluid", "all"]
    assert audit(basis, str(folder / "fluid.toml"), sd_limit=worst.sd_ratio, energy_limit=1.0, report=silent).good


def test_the_verdict_in_cases() -> None:
    signal, fine = Row("a", "signal", 0.01, 0.02, 0.01), Row("a", "T1", 0.19, 0.3, 0.19)
    assert Audit([signal, fine], 9, 0.05, 0.05).good
    assert Row("a", "T1", 0.75, 1, 0.0).sd_ratio == 2.0
    assert Row("a", "T1", 1.0, 1, 0.5).sd_ratio == math.inf
    gone = Audit([signal, fine, Row("b", "T1", 1.0, 1.0, 0.5)], 9, 0.05, 0.05)
    assert gone.verdict.startswith("make a new basis: T1 of b is lost")
    # not to be estimated even uncompressed: nothing is lost
    assert Audit([signal, Row("b", "T1", math.nan, math.nan, math.nan)], 9, 0.05, 0.05).good
    biased = Audit([Row("a", "signal", 0.1, 0.2, 0.01), fine], 9, 0.05, 0.05)
    assert biased.verdict == (
        "make a new basis: 10 % of the energy of a is lost, where 1 % need be, and what is lost is bias"
    )
    # no basis of this rank loses less
    assert Audit([Row("a", "signal", 0.1, 0.2, 0.09), fine], 9, 0.05, 0.05).good


def test_the_command_prints_a_table_json_or_csv(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(folder / "b"), str(folder / "other.toml"), "--rank", "3"]
    assert main([*words, "-o", str(tmp_path / "x.csv")]) == 0
    out = capsys.readouterr().out
    assert "brain       CRB T2" in out
    assert "make a new basis: " in out.splitlines()[-1]
    with (tmp_path / "x.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["good"] is False
    assert [row["parameter"] for row in content["losses"]] == [row["parameter"] for row in table]
    np.testing.assert_allclose([row["lost"] for row in content["losses"]], [float(row["lost"]) for row in table], 1e-5)
    assert content["losses"][0]["sd_ratio"] is None  # the energy has no standard deviation
    assert main([*words, "-o", str(tmp_path / "x.csv")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["audit", str(folder / "b"), str(folder / "short.toml")]) == 2
    assert "the model has 30 frames, the basis 40" in capsys.readouterr().err
