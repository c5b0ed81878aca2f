"""Ranges of a fit that the user gives: how they are read, where fits start and end, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cli_case
import numpy as np
import pytest
from fit_case import complex_normal, gridded, phases, simulated
from numpy.typing import NDArray

from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.bounds import bounded
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.fitter import prepared
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.model import Parameter

PARAMETERS = (Parameter("T1", "s", 1e-3, 20.0), Parameter("w0", "rad/s", -500, 500), Parameter("B1", "", 0.1, 2.0))


def box() -> Box:
    return Box(PARAMETERS, np.array([0.1, -300, 1.0]), np.array([5.5, 200, 1.0]))


def test_ranges_are_replaced_by_name() -> None:
    found = bounded(box(), ["w0=-10 Hz:400", " T1 = 50ms : 0.9 ", "B1=0.8:1.2"])
    # 10 Hz are 20 pi rad/s
    np.testing.assert_allclose(found.low, [0.05, -20 * np.pi, 0.8], rtol=1e-15)
    np.testing.assert_array_equal(found.high, [0.9, 400, 1.2])
    np.testing.assert_array_equal(box().low, [0.1, -300, 1.0])
    np.testing.assert_array_equal(bounded(box(), []).high, box().high)
    np.testing.assert_array_equal(bounded(box(), ["w0=7:7"]).free, [True, False, False])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["T1"], "--bounds 'T1', expected a name and both ends of a range as in m0s=0:0.5"),
        (["T1=1"], "'T1=1', expected a name and both ends"),
        (["T1=1:2:3"], "expected a name and both ends"),
        (["=1:2"], "expected a name and both ends"),
        (["T11=1:2"], "the model has no parameter 'T11', expected one of: T1, w0, B1 (did you mean 'T1'?)"),
        (["T1=1:2", "T1=1:3"], "--bounds T1=1:3: T1 is given twice"),
        (["T1=1 deg:2"], "--bounds T1=1 deg:2: T1: '1 deg' is not a quantity"),
        (["T1=1:inf"], "T1 is inf, expected a finite number"),
        (["T1=2:1"], "bounds of T1 are 2 to 1 s, expected a range within that of the model, 0.001 to 20"),
        (["T1=1:30"], "bounds of T1 are 1 to 30 s, expected a range within that of the model, 0.001 to 20"),
    ],
)
def test_what_cannot_be_meant_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        bounded(box(), texts)
    assert message in str(caught.value)


def test_atoms_within_a_range_are_those() -> None:
    known = gridded(5)
    low, high = known.theta[6], known.theta[18]
    found = known.within(low, high)
    np.testing.assert_array_equal(found.theta, known.theta[[6, 7, 8, 11, 12, 13, 16, 17, 18]])
    np.testing.assert_array_equal(found.coeff, known.coeff[[6, 7, 8, 11, 12, 13, 16, 17, 18]])
    assert len(found.norm) == len(found.edge) == 9
    with pytest.raises(UserError, match="none of the 25 atoms lies within --bounds, so no fit can start"):
        known.within(low + 1e-6, low + 2e-6)


def measured(rng: np.random.Generator, theta: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Return coefficients (K, n) of theta (n, P) without noise, of any phase."""
    clean = simulated().value_and_jacobian(theta)[0] * phases(rng, len(theta))[:, None]
    return clean.T.astype(np.complex64)


def test_a_fit_finds_what_lies_beyond_its_dictionary(rng: np.random.Generator) -> None:
    """Atoms up to T1 = 1.2 s, truths of 1.6 to 2.4 s: without bounds all end at 1.2 s, with them all are found."""
    whole = gridded(9)
    short = whole.within(whole.theta.min(axis=0), np.array([1.2, 1.0]))
    top = short.theta[:, 0].max()
    theta = np.stack([rng.uniform(1.6, 2.4, 40), rng.uniform(0.05, 0.15, 40)], axis=1)
    coeff = measured(rng, theta)
    forward = simulated()
    basis = Basis(forward.phi, np.ones(forward.rank), {"model": dict(forward.model.spec)})
    narrow = prepared(basis, short, method="nlls", signals="exact", mask_level=0.0).fit(coeff)
    np.testing.assert_array_equal(narrow.theta[0], np.float32(top))
    assert narrow.edge.all()
    wide = prepared(basis, short, method="nlls", signals="exact", mask_level=0.0, bounds=["T1=0.3:3"]).fit(coeff)
    assert not wide.edge.any()
    # coefficients are rounded to 6e-8, and the bounds of both are below 1e3 of such a relative error
    np.testing.assert_allclose(wide.theta.T, theta, rtol=1e-4)


def test_a_fit_stays_within_its_bounds(rng: np.random.Generator) -> None:
    """Narrower than the dictionary, with truths on both sides: those outside end at the bound, and are marked."""
    theta = np.stack([np.linspace(0.6, 1.5, 30), np.full(30, 0.08)], axis=1)
    forward = simulated()
    basis = Basis(forward.phi, np.ones(forward.rank), {"model": dict(forward.model.spec)})
    fitter = prepared(basis, gridded(20), method="nlls", signals="exact", mask_level=0.0, bounds=["T1=0.5:1.0"])
    found = fitter.fit(measured(rng, theta))
    outside = theta[:, 0] > 1.0
    np.testing.assert_array_equal(found.theta[0][outside], 1.0)
    np.testing.assert_array_equal(found.edge, outside)
    np.testing.assert_allclose(found.theta[:, ~outside].T, theta[~outside], rtol=1e-4)


@pytest.fixture
def refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    yield from cli_case.refuser(here, capsys)


def test_the_commands_take_bounds(here: Path, refuse: Callable[..., str]) -> None:
    nlls, bounds = ("--method", "nlls", "--threads", "1"), ("--bounds", "T1=0.4:1.1", "--bounds", "T2=5ms:3")
    assert main(["fit", "c", "b", "-o", "f", *nlls, *bounds]) == 0
    assert main(["maps", "raw.h5", "b", "-o", "m", *nlls, *bounds]) == 0
    maps = [load_map(Path(folder) / "T1map.nii.gz")[0] for folder in ("f", "m")]
    np.testing.assert_array_equal(*maps)
    inside = maps[0] > 0
    assert inside.any()
    assert (maps[0][inside] >= np.float32(0.4)).all()
    assert (maps[0][inside] <= np.float32(1.1)).all()
    # the phantom has fluid of 4 s
    edge = load_map(Path("f") / "EDGEmap.nii.gz")[0]
    assert (edge[inside & (maps[0] == np.float32(1.1))] == 1).all()
    assert (maps[0] == np.float32(1.1)).any()
    for verb in (("fit", "c", "b", "-o", "x"), ("maps", "raw.h5", "b", "-o", "x")):
        assert "--bounds belong to --method nlls" in refuse(*verb, *bounds)
        assert "bounds of T1 are 3 to 2 s" in refuse(*verb, *nlls, "--bounds", "T1=3:2")
        assert "so no fit can start" in refuse(*verb, *nlls, "--bounds", "T1=15:19")


def test_coefficients_of_noise_end_within_the_bounds(rng: np.random.Generator) -> None:
    """Whatever the data: no estimate is outside, from one start or from three."""
    forward = simulated()
    basis = Basis(forward.phi, np.ones(forward.rank), {"model": dict(forward.model.spec)})
    coeff = complex_normal(rng, forward.rank, 50).astype(np.complex64)
    for n_starts in (1, 3):
        fitter = prepared(
            basis, gridded(12), method="nlls", signals="exact", mask_level=0.0, n_starts=n_starts,
            bounds=["T1=0.7:1.3", "T2=0.04:0.4"],
        )  # fmt: skip
        t1, t2 = fitter.fit(coeff).theta
        assert t1.min() >= np.float32(0.7)
        assert t1.max() <= np.float32(1.3)
        assert t2.min() >= np.float32(0.04)
        assert t2.max() <= np.float32(0.4)
