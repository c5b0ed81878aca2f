"""Bases of qmt-hsfp by the command: what a dense SVD gives, with either Fisher matrix; and the published train."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_case
import numpy as np
import pytest

from crbsvd_plugin import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.models.qmt import train
from crbsvd_plugin.spec import resolve

DATA = Path(os.environ.get("CRBSVD_REFERENCE_DATA", Path(__file__).parents[1] / "../shared/data"))
SPEC = ["qmt-hsfp", "--set", "train=own.npz"]
N_TARGETS = 6


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where every eighth pulse of our own train lies: 3 cycles of 63."""
    monkeypatch.chdir(tmp_path)
    alpha, trf = train.built_in()
    np.savez("own.npz", alpha=alpha[:, ::8], TRF=trf[:, ::8])
    return tmp_path


def perpendicular(signal: np.ndarray, jac: np.ndarray, i: int, fisher: str) -> np.ndarray:
    """Return the unit vector (T,) of what other derivatives and M0 leave of derivative i, by plain least squares."""
    rest = np.delete(jac, i, axis=0)
    others = np.concatenate([[signal], rest] if fisher == "complex" else [[signal, 1j * signal], rest]).T
    others = others / np.linalg.norm(others, axis=0)
    if fisher == "complex":
        left = jac[i] - others @ np.linalg.lstsq(others, jac[i], rcond=None)[0]
    else:
        stacked, target = np.concatenate([others.real, others.imag]), np.concatenate([jac[i].real, jac[i].imag])
        left = jac[i] - others @ np.linalg.lstsq(stacked, target, rcond=None)[0]
    return left / np.linalg.norm(left)


@pytest.mark.parametrize("fisher", ["real", "complex"])
def test_a_basis_is_that_of_a_dense_svd_and_real(own: Path, fisher: str) -> None:
    rank = 12
    options = ["--train", "60", "--atoms", "none", "--rank", str(rank), "--crb-weight", "0.5", "--fisher", fisher]
    assert main(["basis", *SPEC, "-o", "b", *options]) == 0
    basis, columns = Basis.load("b"), []
    spec = resolve("qmt-hsfp", ["train=own.npz"])
    for atoms in spec.prior.thinned(60, spec.model.parameters).atoms(spec.model.parameters):
        signal, jac = spec.model.signal_and_jacobian(atoms.theta)
        for s, j in zip(signal, jac, strict=True):
            rows = [s, *(perpendicular(s, j, i, fisher) for i in range(N_TARGETS))]
            columns += [np.sqrt(atoms.weight) * row for row in rows]
    both = np.array(columns + [column.conj() for column in columns]).T
    left, values, _ = np.linalg.svd(both, full_matrices=False)
    assert values[rank - 1] > 1.02 * values[rank]
    # up to a phase of each, the singular vectors of fingerprints and their conjugates are real ...
    turned = left[:, :rank] * np.exp(-0.5j * np.angle((left[:, :rank] ** 2).sum(axis=0)))
    assert np.abs(turned.imag).max() < 1e-7
    assert np.isrealobj(basis.phi)
    # ... and those of the command; a share of 1e-4 of the energy may be left out, a hundredth of a column
    angles = np.linalg.svd(turned.real.T @ basis.phi, compute_uv=False)
    assert angles.min() > 1 - 1e-6
    assert (basis.info["fisher"], basis.info["conjugate"]) == (fisher, True)


def test_a_sweep_tells_what_the_weight_gains(own: Path) -> None:
    """Losses of all six parameters with either Fisher matrix, which are kept apart; what a weight of 0.5 is for."""
    means: dict[str, dict[tuple[float, int], list[float]]] = {}
    for fisher in ("real", "complex"):
        options = ["--train", "300", "--rank", "14", "--crb-weights", "0,0.5", "--fisher", fisher]
        assert main(["sweep", *SPEC, "-o", fisher, *options]) == 0
        assert json.loads((own / fisher / "sweep.json").read_text())["fisher"] == fisher
        with (own / fisher / "sweep.csv").open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if (row["tissue"], row["figure"]) == ("all", "exact")]
        assert {row["parameter"] for row in rows} == {"m0s", "R1f", "R2f", "Rx", "R1s", "T2s"}
        found = means.setdefault(fisher, {})
        for row in rows:
            found.setdefault((float(row["crb_weight"]), int(row["rank"])), []).append(float(row["mean"]))
        mean = {key: float(np.mean(values)) for key, values in found.items()}
        # more columns never lose more
        for weight in (0.0, 0.5):
            assert (np.diff([mean[weight, rank] for rank in range(1, 15)]) <= 1e-9).all()
        assert mean[0.5, 14] < 0.8 * mean[0.0, 14]
    assert means["real"] != means["complex"]


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "FA_pattern.npz").is_file(), reason="the published train is not here")
def test_the_published_train_end_to_end(tmp_path: Path) -> None:
    """8,192 fingerprints of 6 x 1142 pulses with the default options."""
    spec = ["qmt-hsfp", "--set", f"train={(DATA / 'FA_pattern.npz').resolve()}", "--set", "prior=mao-table1"]
    command = [
        *cli_case.COMMAND,
        "basis",
        *spec,
        "-o",
        "b",
        "--train",
        "8200",
        "--atoms",
        "none",
        "--crb-weight",
        "0.5",
    ]
    program = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # KiB
    assert int(done.stdout.split()[-1]) < 4e9 / 1024
    basis = Basis.load(tmp_path / "b")
    assert (basis.n_frames, basis.rank) == (6852, 15)
    assert np.isrealobj(basis.phi)
    assert sum(basis.info["n_atoms"].values()) >= 8192
    losses: dict[str, Any] = basis.info["held_out"]["all"]
    assert all(0 < losses[name]["exact"] < 1 for name in ("m0s", "R1f", "R2f", "Rx", "R1s", "T2s"))
