"""The digital brain: enough pure voxels, known tissues, a fine grid whose centre is that of the image."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from crbsvd_plugin import models, phantom
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry

needs_maps = pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="extra 'demo' is not installed")
EPS = np.finfo(float).eps


@pytest.fixture
def without_nilearn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def check_pure_voxels(brain: phantom.Phantom) -> None:
    """What the table of the demo needs: 500 pure voxels of GM and WM, 100 of each that have pure neighbours."""
    maps = brain.maps()
    for name, at_least in (("GM", 500), ("WM", 500), ("CSF", 100)):
        pure = maps[name] >= 0.99
        assert pure.sum() >= at_least, name
        assert ndimage.binary_erosion(pure).sum() >= 100, name


@needs_maps
@pytest.mark.parametrize(("matrix", "fov"), [(192, 240.0), (256, 256.0), (192, 256.0)])
def test_enough_pure_voxels_of_mni152(matrix: int, fov: float) -> None:
    brain = phantom.brain(matrix, fov=fov)
    assert brain.source == "mni152"
    check_pure_voxels(brain)


def test_ellipses_where_the_maps_are_missing(without_nilearn: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "crbsvd_plugin"):
        brain = phantom.brain(192)
    assert brain.source == "analytic"
    assert "extra 'demo'" in caplog.text
    check_pure_voxels(brain)


@needs_maps
def test_nilearn_is_not_imported() -> None:
    program = "import sys; from crbsvd_plugin import phantom; phantom.brain(16); sys.exit('nilearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@needs_maps
def test_left_is_left_and_front_is_front() -> None:
    brain = phantom.brain(64)
    maps = brain.maps()
    # the posterior horns of the ventricles spread wider than the anterior ones; index y grows towards the back
    csf = ndimage.binary_opening(maps["CSF"] > 0.5)[16:48, 16:48]
    front, back = (np.flatnonzero(half.any(axis=0)) for half in (csf[4:13], csf[19:28]))
    assert np.ptp(back) > np.ptp(front) > 0
    # a symmetric template, centred: column n//2 is its own mirror image
    np.testing.assert_allclose(maps["WM"][:, 33:], maps["WM"][:, 31:0:-1], atol=1e-6)


def test_tissues(without_nilearn: None) -> None:
    brain = phantom.brain(96)
    inside = brain.fraction.sum(axis=0) > 0
    np.testing.assert_allclose(brain.fraction.sum(axis=0)[inside], 1, atol=4 * EPS)
    for share, pair, tissue in zip(brain.fraction, brain.pair, phantom.TISSUES, strict=True):
        t1, t2 = brain.theta[np.unique(pair[share > 0])].T
        assert 100 <= len(t1) <= 24 * 16
        # mild variation, on both sides of the literature's value
        np.testing.assert_allclose(t1, tissue.t1, rtol=0.055)
        np.testing.assert_allclose(t2, tissue.t2, rtol=0.08)
        assert t1.min() < tissue.t1 < t1.max()
        assert t2.min() < tissue.t2 < t2.max()
        if tissue.name == "GM":
            assert t1.max() < 1.45
        # neighbours differ by a step of 1/24 of the range at most: the map is smooth
        jumps = np.abs(np.diff(brain.theta[pair, 0], axis=0))[(share[1:] > 0) & (share[:-1] > 0)]
        assert jumps.max() < 2 * tissue.t1 * 0.11 / 24
    used = np.unique(brain.pair[brain.fraction > 0])
    np.testing.assert_array_equal(used, np.arange(len(brain.theta)))  # no signal is computed in vain


def test_relaxation_times_lie_off_the_grids_of_dictionaries(without_nilearn: None) -> None:
    theta = phantom.brain(64).theta
    for column, steps in ((0, (0.001, 0.002, 0.01, 0.016)), (1, (0.0001, 0.00038, 0.001, 0.008))):
        for step in steps:
            distance = np.abs(theta[:, column] / step - np.round(theta[:, column] / step))
            assert distance.min() > 1e-6
            assert 0.1 < distance.mean() < 0.4  # spread over the cell, as 0.25 would be on the average


@pytest.mark.parametrize("matrix", [32, 33])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_fine_and_image_grid_have_one_centre(matrix: int, factor: int, without_nilearn: None) -> None:
    brain = replace(phantom.brain(matrix, factor=factor), factor=factor)
    n_fine = factor * matrix
    offset = (np.arange(n_fine) - n_fine // 2) / factor
    # a blob of width 2.5 voxels: sums of it are integrals to exp(-2 (pi 2.5)^2), and it has faded at the border
    fine = np.exp(-((offset[:, None] - 1.3) ** 2 + (offset[None] + 2.6) ** 2) / (2 * 2.5**2))
    coarse = brain.on_image_grid(fine)
    assert coarse.shape == (matrix, matrix)
    assert coarse.sum() == pytest.approx(fine.sum() / factor**2, rel=1e-6)
    x = np.arange(matrix) - matrix // 2
    # plain 2 x 2 averaging is off by 0.25
    assert (coarse.sum(axis=1) @ x) / coarse.sum() == pytest.approx(1.3, abs=1e-5)
    assert (coarse.sum(axis=0) @ x) / coarse.sum() == pytest.approx(-2.6, abs=1e-5)


def small(rng: np.random.Generator, n_pairs: int = 5) -> phantom.Phantom:
    fraction = rng.dirichlet(np.ones(3), (8, 8)).transpose(2, 0, 1)
    pair = rng.integers(0, n_pairs, (3, 8, 8))
    m0 = rng.uniform(0.5, 1.5, (3, 8, 8))
    geometry = Geometry((4, 4, 1), (1.0, 1.0, 1.0))
    return phantom.Phantom(fraction, rng.uniform(0.1, 4, (n_pairs, 2)), pair, m0, 2, geometry, "test")


def test_signals_of_mixed_voxels_add_up(rng: np.random.Generator, frozen: Callable[..., np.ndarray]) -> None:
    brain = small(rng)
    values = frozen(rng.standard_normal((5, 6)) + 1j * rng.standard_normal((5, 6)))
    images = brain.mix(values)
    assert images.shape == (6, 8, 8)
    assert images.dtype == np.complex64
    for y, x in ((0, 0), (3, 7), (7, 2)):
        expected = sum(brain.fraction[i, y, x] * brain.m0[i, y, x] * values[brain.pair[i, y, x]] for i in range(3))
        np.testing.assert_allclose(images[:, y, x], expected, atol=8 * np.finfo(np.float32).eps)


def test_truth_of_mixed_voxels_is_weighted_with_m0(rng: np.random.Generator) -> None:
    brain = small(rng)
    maps = brain.maps()
    y, x = 2, 1  # fine voxel 4, 2: away from the border
    weight = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]) * (brain.fraction * brain.m0)[:, 3:6, 1:4]
    t2 = brain.theta[brain.pair[:, 3:6, 1:4], 1]
    assert maps["M0map"][y, x] == pytest.approx(weight.sum(), rel=1e-12)
    assert maps["T2map"][y, x] == pytest.approx((weight * t2).sum() / weight.sum(), rel=1e-12)
    assert list(maps) == ["M0map", "T1map", "T2map", "GM", "WM", "CSF"]


@pytest.mark.parametrize("n_coils", [1, 3, 8])
def test_coils(n_coils: int) -> None:
    sens = phantom.coils(n_coils, (33, 48))
    assert sens.shape == (n_coils, 33, 48)
    np.testing.assert_allclose((np.abs(sens) ** 2).sum(axis=0), 1, atol=8 * EPS)
    for axis in (1, 2):
        assert np.abs(np.diff(sens, axis=axis)).max() < 0.2  # smooth, the phase included
    if n_coils > 1:
        assert np.linalg.matrix_rank(sens.reshape(n_coils, -1)) == n_coils
    # the same field of view on a finer grid
    fine = phantom.coils(n_coils, (66, 96))
    np.testing.assert_allclose(fine[:, 1::2, ::2], sens, atol=64 * EPS)


class Decay:
    """A complex signal model for tests: recovery and decay with a turning phase."""

    def __init__(self, *names: str, n_frames: int = 30):
        self.parameters = tuple(SimpleNamespace(name=name) for name in names)
        self.n_frames = n_frames
        self.spec: dict[str, Any] = {"name": "decay"}

    def signal(self, theta: np.ndarray) -> np.ndarray:
        t = 0.02 * np.arange(1, self.n_frames + 1)
        values = dict(zip([p.name for p in self.parameters], theta.T, strict=True))
        decay = np.exp(-t / values["T2"][:, None]) * (1 - 1.9 * np.exp(-t / values["T1"][:, None]))
        return values.get("B1", np.ones(len(theta)))[:, None] * decay * np.exp(0.3j * np.arange(self.n_frames))


def test_parameters_go_where_the_model_wants_them(rng: np.random.Generator) -> None:
    theta = rng.uniform(0.1, 2, (4, 2))
    expected = Decay("T1", "T2").signal(theta)
    np.testing.assert_array_equal(phantom.signals_of(Decay("T2", "B1", "T1"), theta), expected)


def test_models_that_need_less_or_nuisances() -> None:
    """T1 alone, and w0, which is 0 where nobody tells it."""
    theta = np.array([[0.8, 0.05], [1.4, 0.1]])
    flash = models.build({"name": "ir-flash", "n_frames": 9, "b1": False})
    np.testing.assert_array_equal(phantom.signals_of(flash, theta), flash.signal(theta[:, :1]))
    balanced = models.build({"name": "bssfp-mrf", "flip_angles": [0.4] * 9})
    np.testing.assert_array_equal(phantom.signals_of(balanced, theta), balanced.signal(np.insert(theta, 2, 0, axis=1)))


@pytest.mark.parametrize("names", [("T1", "T2", "T2s"), ("B1", "w0")])
def test_model_of_other_parameters_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="the phantom knows T1, T2, B1 and w0"):
        phantom.signals_of(Decay(*names), np.ones((2, 2)))


def test_expansion_is_exact(without_nilearn: None) -> None:
    signal = phantom.signals_of(Decay("T1", "T2", n_frames=200), phantom.brain(64).theta)
    phi, coeff = phantom.expand(signal)
    lost = np.linalg.norm(signal - coeff @ phi.T, axis=1) / np.linalg.norm(signal, axis=1)
    assert lost.max() < 1.1e-10  # the bound, and rounding
    assert 5 < phi.shape[1] < 40
    one_less = np.linalg.norm(signal - coeff[:, :-1] @ phi[:, :-1].T, axis=1) / np.linalg.norm(signal, axis=1)
    assert one_less.max() > 1e-10
    np.testing.assert_allclose(phi.conj().T @ phi, np.eye(phi.shape[1]), atol=1e-12)


def test_expansion_of_as_many_signals_as_frames(rng: np.random.Generator) -> None:
    signal = rng.standard_normal((4, 6)) + 1j * rng.standard_normal((4, 6))
    phi, coeff = phantom.expand(signal)
    assert phi.shape == (6, 4)
    np.testing.assert_allclose(coeff @ phi.T, signal, atol=1e-13)
