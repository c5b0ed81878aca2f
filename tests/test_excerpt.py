"""What a sweep keeps for a page: points of every class, in their share, and columns at few frames."""

from __future__ import annotations

import numpy as np
import pytest
from crb_case import random_data

from crbsvd_plugin.assess import Tally
from crbsvd_plugin.excerpt import MOST_FRAMES, MOST_POINTS, excerpt, functions, points
from crbsvd_plugin.model import Batch, Parameter

PARAMETERS = [Parameter("a", "s", 0, 1), Parameter("n", "", 0, 1, nuisance=True), Parameter("b", "1", 0, 1)]


def tally_of(rng: np.random.Generator, sizes: dict[str, int]) -> Tally:
    phi = np.linalg.qr(rng.standard_normal((9, 5)) + 1j * rng.standard_normal((9, 5)))[0]
    tally = Tally(PARAMETERS, [phi[:, ::-1], phi])
    for label, size in sizes.items():
        signal, jac = random_data(rng, size, 3, 9)
        tally.update(Batch(rng.random((size, 3)), signal, jac, label, 1.0))
    return tally


@pytest.mark.parametrize("sizes", [{"x": 700, "y": 3, "z": 1}, {"x": 5}, {"all": 301}, {"x": 299, "y": 1}])
def test_points_are_single_fingerprints_of_every_class(rng: np.random.Generator, sizes: dict[str, int]) -> None:
    tally = tally_of(rng, sizes)
    found = points(tally, 1, 4)
    assert list(found) == ["a", "b"]
    for name, pairs in found.items():
        assert list(pairs) == list(sizes)
        assert sum(len(x) for x, _ in pairs.values()) <= MOST_POINTS
        for label, (x, y) in pairs.items():
            assert len(x) >= min(1, sizes[label])
            # six digits of a float32, in the order of the fingerprints
            for kept, figure in ((x, "approximate"), (y, "exact")):
                values = tally.values(label, name, figure, 1, 4)
                step = -(-len(values) // len(kept)) if len(kept) < len(values) else 1
                np.testing.assert_allclose(kept, values[::step][: len(kept)], rtol=1e-6, atol=1e-6)


def test_what_cannot_be_estimated_has_no_points(rng: np.random.Generator) -> None:
    tally = Tally(PARAMETERS, [np.eye(9)[:, :4]])
    signal, jac = random_data(rng, 6, 3, 9)
    jac[:2, 0] = 0
    tally.update(Batch(rng.random((6, 3)), signal, jac, "x", 1.0))
    found = points(tally, 0, 4)
    assert [len(found[name]["x"][0]) for name in ("a", "b")] == [4, 6]
    none = Tally(PARAMETERS, [np.eye(9)[:, :4]])
    jac[:, 0] = 0
    none.update(Batch(rng.random((6, 3)), signal, jac, "x", 1.0))
    assert list(points(none, 0, 4)) == ["b"]


@pytest.mark.parametrize("n_frames", [1, 500, 501, 1203])
@pytest.mark.parametrize("real", [True, False])
def test_columns_at_few_frames(rng: np.random.Generator, n_frames: int, real: bool) -> None:
    phi = rng.standard_normal((n_frames, 3)) + (0 if real else 1j * rng.standard_normal((n_frames, 3)))
    found = functions(phi)
    frames = found["frames"]
    assert frames[0] == 0
    assert n_frames / 3 <= len(frames) <= MOST_FRAMES
    np.testing.assert_allclose(np.transpose(found["real"]), phi.real[frames], rtol=5e-6)
    assert ("imag" in found) is not real
    if not real:
        np.testing.assert_allclose(np.transpose(found["imag"]), phi.imag[frames], rtol=5e-6)


def test_the_excerpt_is_of_the_basis_that_is_asked_for(rng: np.random.Generator) -> None:
    tally = tally_of(rng, {"x": 4})
    found = excerpt(tally, 1, 2)
    assert found == {"points": points(tally, 1, 2), "functions": functions(tally.phis[1][:, :2])}
    assert found != excerpt(tally, 0, 2)
