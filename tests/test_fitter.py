"""Least squares through the public face: starts, the choice of method, files and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cli_case
import numpy as np
import pytest
from fit_case import complex_normal, emulated, gridded

from crbsvd_plugin import pipeline
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.emulator import Emulator
from crbsvd_plugin.fit.fitter import Fitter, prepared
from crbsvd_plugin.fit.forward import Simulated
from crbsvd_plugin.fit.result import stacked
from crbsvd_plugin.fit.starts import distinct_starts
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.maps import load_map


def best_atoms(voxels: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(voxels.astype(complex) @ atoms.astype(complex).conj().T).argmax(axis=1))


def test_starts_are_the_best_of_cells_that_do_not_touch(rng: np.random.Generator) -> None:
    known = gridded(24)  # three atoms a side in each of 8 x 8 cells
    shape = (6, 5)
    coeff = complex_normal(rng, known.rank, *shape).astype(np.complex64)
    mask = rng.random(shape) < 0.8
    found = distinct_starts(coeff, known, mask, 4)
    assert found.shape == (4, 2, *shape)
    assert not found[..., ~mask].any()
    voxels = coeff[:, mask].T
    np.testing.assert_array_equal(found[0][:, mask].T, known.theta[best_atoms(voxels, known.coeff)])
    cell = np.minimum((emulated().box.unit(np.moveaxis(found[..., mask], 1, -1)) + 1) * 4, 7).astype(int)
    score = np.abs(voxels @ known.coeff.conj().T)
    cells = np.minimum((emulated().box.unit(known.theta) + 1) * 4, 7).astype(int)
    for v in range(len(voxels)):
        apart = np.ones(len(cells), bool)
        for s in range(4):
            best = np.flatnonzero(apart)[score[v, apart].argmax()]
            np.testing.assert_array_equal(cell[s, v], cells[best])
            apart &= np.abs(cells - cells[best]).max(axis=1) > 1


def test_where_there_are_no_more_cells_the_best_comes_again(rng: np.random.Generator) -> None:
    known = gridded(2)
    coeff = complex_normal(rng, known.rank, 7).astype(np.complex64)
    found = distinct_starts(coeff, known, np.ones(7, bool), 6)
    assert len(np.unique(found[:4, :, 0], axis=0)) == 4
    np.testing.assert_array_equal(found[4], found[0])
    np.testing.assert_array_equal(found[5], found[0])


def test_more_starts_are_never_worse(rng: np.random.Generator) -> None:
    coeff = complex_normal(rng, 5, 300).astype(np.complex64)
    # nine atoms: the best of them is not always in the valley of the least minimum, of which noise has several
    one, four = (Fitter(gridded(3), 0.0, emulated(), n).fit(coeff) for n in (1, 4))
    assert one.residual is not None
    assert four.residual is not None
    assert np.all(four.residual <= one.residual)
    assert np.any(four.residual < 0.999 * one.residual)


def test_slices_are_stacked_and_a_missing_one_is_empty(rng: np.random.Generator) -> None:
    one = Fitter(gridded(4), 0.0, emulated()).fit(complex_normal(rng, 5, 3, 4).astype(np.complex64))
    whole = stacked([None, one])
    assert whole.theta.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(whole.theta[:, 1], one.theta)
    for name in ("m0", "edge", "mask", "converged", "residual"):
        array = getattr(whole, name)
        assert array.dtype == getattr(one, name).dtype
        assert not array[0].any()
        np.testing.assert_array_equal(array[1], getattr(one, name))


def test_stages_are_reported() -> None:
    told: list[tuple[str, int, int]] = []
    Fitter(gridded(4), 0.0, emulated()).fit(np.ones((5, 3, 4), np.complex64), report=lambda *step: told.append(step))
    assert told[-1] == ("least squares", 12, 12)
    assert ("fit", 12, 12) in told


@pytest.fixture
def refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    yield from cli_case.refuser(here, capsys)


def maps_of(folder: str) -> dict[str, np.ndarray]:
    return {path.name.split(".")[0]: load_map(path)[0] for path in Path(folder).glob("*.nii.gz")}


def test_the_command_fits_better_than_the_dictionary_is_fine(here: Path) -> None:
    """Residuals of least squares are smaller than those of the best atoms, everywhere; the sidecars say how."""
    assert main(["fit", "c", "b", "-o", "matched"]) == 0
    assert main(["fit", "c", "b", "-o", "fitted", "--method", "nlls", "--fit-starts", "2"]) == 0
    matched, fitted = maps_of("matched"), maps_of("fitted")
    assert set(fitted) == set(matched) | {"RESIDUALmap", "CONVERGEDmap"}
    inside = matched["M0map"] > 0
    np.testing.assert_array_equal(fitted["M0map"] > 0, inside)
    assert fitted["CONVERGEDmap"][inside].mean() > 0.99
    basis, dictionary = pipeline.load("b", rank=None, with_dictionary=True)
    coeff = CoefficientImages.load("c", like=None).volume(0)[:, inside].T
    assert dictionary is not None
    best = dictionary.coeff[best_atoms(coeff, dictionary.coeff)]
    left = np.linalg.norm(coeff - np.sum(best.conj() * coeff, axis=1)[:, None] * best, axis=1)
    assert np.all(fitted["RESIDUALmap"][inside] <= left * (1 + 1e-5))
    # what is written is what the model itself leaves, to the error of the emulator
    model = basis.model()
    theta = np.stack([fitted["T1map"][inside], fitted["T2map"][inside]], axis=1).astype(float)
    signal = model.signal(theta) @ basis.phi.conj()
    m0 = (fitted["M0map"] * np.exp(1j * fitted["M0phase"]))[inside]
    expected = np.linalg.norm(coeff - m0[:, None] * signal, axis=1)
    tolerance = 2e-5 * np.linalg.norm(coeff, axis=1)
    assert np.all(np.abs(fitted["RESIDUALmap"][inside] - expected) <= tolerance)
    sidecar = json.loads(Path("fitted/T1map.json").read_text())
    assert sidecar["EstimationAlgorithm"].startswith("nonlinear least squares")
    summary = json.loads(Path("fitted/maps.json").read_text())
    assert summary["voxels_not_converged"] == (inside & (fitted["CONVERGEDmap"] == 0)).sum()


def test_maps_and_fit_give_the_same_maps(here: Path) -> None:
    assert main(["maps", "raw.h5", "b", "-o", "m", "--method", "nlls", "--threads", "1"]) == 0
    assert main(["fit", "c", "b", "-o", "f", "--method", "nlls", "--threads", "1"]) == 0
    whole, alone = maps_of("m"), maps_of("f")
    for name, array in whole.items():
        np.testing.assert_array_equal(array, alone[name])


def test_exact_signals_give_what_the_emulator_gives(here: Path) -> None:
    """To the error of the emulator times the condition of the fit; most voxels far better."""
    basis, dictionary = pipeline.load("b", rank=None, with_dictionary=True)
    assert dictionary is not None
    quick = prepared(basis, dictionary, method="nlls")
    slow = prepared(basis, dictionary, method="nlls", signals="exact")
    assert isinstance(quick.forward, Emulator)
    assert isinstance(slow.forward, Simulated)
    assert quick.forward.error <= 1e-5
    coeff = CoefficientImages.load("c", like=None).volume(0)[:, 12:18, 12:18]
    a, b = quick.fit(coeff), slow.fit(coeff)
    both = a.mask & ~a.edge & ~b.edge
    assert both.sum() > 20
    assert np.median(np.abs(a.theta / b.theta - 1)[:, both]) < 1e-4


def test_bad_options_end_in_one_line(refuse: Callable[..., str]) -> None:
    fit: tuple[Any, ...] = ("fit", "c", "b", "-o", "x")
    assert "--fit-starts, --signals and --bounds belong to --method nlls" in refuse(*fit, "--fit-starts", "2")
    assert "--fit-starts, --signals and --bounds belong to --method nlls" in refuse(*fit, "--signals", "exact")
    assert "--refine belongs to --method matching; leave" in refuse(*fit, "--refine", "--method", "nlls")
    assert "'least' is not one of" in refuse(*fit, "--method", "least")
    assert "0 is not in the range" in refuse(*fit, "--method", "nlls", "--fit-starts", "0")
    few = ("maps", "raw.h5", "b", "-o", "x", "--method", "nlls", "--rank", "2")
    assert "2 coefficients cannot tell M0 and 2 parameters, expected at least 3" in refuse(*few)


def test_settings_of_a_config_are_checked_too(here: Path) -> None:
    basis, dictionary = pipeline.load("b", rank=None, with_dictionary=True)
    assert dictionary is not None
    with pytest.raises(UserError, match="--fit-starts is 0, expected at least 1"):
        prepared(basis, dictionary, method="nlls", n_starts=0)
