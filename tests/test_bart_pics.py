"""``bart pics`` against dense linear algebra: the same objective, the same axes, the same lambda."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from crbsvd_plugin import bart
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon.bart_command import pics_command
from crbsvd_plugin.recon.bart_pics import pics

# BART 0.8.00 interpolates its Kaiser-Bessel kernel I0(b sqrt(1 - x^2)) / I0(b) linearly in a table of 100 points.
# The second derivative is at most b = pi sqrt((3 * 1.5)^2 - 0.8) = 13.9, hence an error of b / (8 * 99^2) per axis.
TABLE = 13.9 / (8 * 99**2)
# It enters once through the right-hand side and twice through the normal operator, and again for its other
# gridding errors, which are of the same size: 4 per axis, 1.4e-3 in two dimensions (5e-4 is what is measured).
ERRORS_PER_AXIS = 4
# Half-width of the gridding kernel. BART drops what lies beyond the edge of k-space, so samples closer to it are
# wrong by up to half; a test of conventions keeps away from it.
MARGIN = 1.5


def tolerance(operator) -> float:
    return ERRORS_PER_AXIS * len(operator.shape) * TABLE


def problem(rng, shape, *, n_frames=6, n_coeff=3, n_coils=8, n_samples=12, frame=None, weights="random"):
    """Make a problem with more samples than unknowns, unevenly spread over the frames.

    Many coils stand in for the edge of k-space, where it has no samples.
    """
    n_readouts = 4 * n_frames + math.ceil(6 * n_coeff * math.prod(shape) / (n_coils * n_samples))
    if frame is None:
        frame = rng.integers(0, n_frames, n_readouts)
    size = np.array(shape)
    reach = np.where(size == 1, 0.5, size / 2 - MARGIN)
    sens = rng.standard_normal((n_coils, *shape)) + 1j * rng.standard_normal((n_coils, *shape))
    sens /= np.sqrt((np.abs(sens) ** 2).sum(axis=0))
    basis = rng.standard_normal((n_frames, n_coeff)) + 1j * rng.standard_normal((n_frames, n_coeff))
    shape_of_weights = (len(frame), n_samples)
    missing = rng.random(shape_of_weights) < 0.2
    arrays = {
        "traj": rng.uniform(-1, 1, (*shape_of_weights, len(shape))) * reach,
        "frame": frame,
        "phi": np.linalg.qr(basis)[0],
        "sens": sens,
        "weights": rng.uniform(0.2, 2, shape_of_weights) * ~missing if weights == "random" else None,
    }
    operator = SubspaceOperator(**arrays, dtype=np.complex128)
    for array in (operator.traj, operator.frame, operator.phi, operator.sens, operator.weights):
        array.setflags(write=False)
    return operator


def matrix(operator) -> np.ndarray:
    """Return the dense A, (C R S, K n_voxels), by direct summation."""
    position = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in operator.shape], indexing="ij"), axis=-1)
    position = position.reshape(-1, len(operator.shape)) / np.array(operator.shape)
    fourier = np.exp(-2j * np.pi * operator.traj @ position.T) / math.sqrt(len(position))
    sens = operator.sens.reshape(len(operator.sens), -1)
    rows = np.einsum("rsx,cx,rk->crskx", fourier, sens, operator.phi[operator.frame])
    return rows.reshape(-1, operator.phi.shape[1] * len(position))


def dense(operator, ksp, lam) -> np.ndarray:
    """Return the minimiser of 1/2 sum w |A c - y|^2 + lam/2 |c|^2."""
    a = matrix(operator)
    w = np.tile(operator.weights.ravel(), len(operator.sens))
    normal = a.conj().T @ (w[:, None] * a) + lam * np.eye(a.shape[1])
    return np.linalg.solve(normal, a.conj().T @ (w * ksp.ravel())).reshape(-1, *operator.shape)


def random_coeff(rng, operator) -> np.ndarray:
    shape = (operator.phi.shape[1], *operator.shape)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def samples(operator, coeff) -> np.ndarray:
    ksp = (matrix(operator) @ coeff.ravel()).reshape(len(operator.sens), *operator.traj.shape[:2])
    ksp.setflags(write=False)
    return ksp


def error(given, wanted) -> float:
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


@pytest.mark.bart
@pytest.mark.parametrize("shape", [(16, 16), (17, 14), (14, 17), (9, 7), (1, 12), (12, 1), (7, 6, 8)])
def test_known_coefficients_come_back_and_the_conjugated_basis_fails(rng, shape):
    operator = problem(rng, shape)
    coeff = random_coeff(rng, operator)
    ksp = samples(operator, coeff)
    rows = np.tile(np.sqrt(operator.weights).ravel(), len(operator.sens))[:, None] * matrix(operator)
    condition = np.linalg.cond(rows.conj().T @ rows)
    assert condition < 200  # then 100 iterations leave ((sqrt(200) - 1) / (sqrt(200) + 1))^100 = 7e-7
    found = pics(operator, ksp, lam=0, iterations=100)
    assert found.dtype == np.complex64
    assert found.shape == coeff.shape
    assert error(found, coeff) < tolerance(operator)

    conjugated = SimpleNamespace(**{**vars(operator), "phi": operator.phi.conj()})
    assert error(pics(conjugated, ksp, lam=0, iterations=100), coeff) > 0.5


@pytest.mark.bart
@pytest.mark.parametrize("lam", [0.05, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_same_objective_and_scaling_with_noise_and_uneven_weights(rng, lam, scale):
    operator = problem(rng, (11, 12))
    ksp = samples(operator, random_coeff(rng, operator))
    ksp = scale * (ksp + rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))
    expected = dense(operator, ksp, lam)
    assert error(pics(operator, ksp, lam=lam, iterations=60), expected) < tolerance(operator)
    # what a factor of two in lambda, or weights taken as w^2, would make of it is far outside of that
    assert error(dense(operator, ksp, 2 * lam), expected) > 5 * tolerance(operator)
    squared = SimpleNamespace(**{**vars(operator), "weights": operator.weights**2})
    assert error(dense(squared, ksp, lam), expected) > 50 * tolerance(operator)


@pytest.mark.bart
def test_ragged_and_empty_frames(rng):
    frame = np.repeat([4, 0, 4, 2, 4], [20, 9, 3, 8, 1])  # unsorted; 24 readouts in one frame, none in 1, 3 and 5
    operator = problem(rng, (7, 6), n_coeff=2, frame=frame)
    ksp = samples(operator, random_coeff(rng, operator))
    assert error(pics(operator, ksp, lam=0.3, iterations=60), dense(operator, ksp, 0.3)) < tolerance(operator)


@pytest.mark.bart
@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30])
def test_missing_samples_may_hold_anything(rng, rubbish):
    operator = problem(rng, (7, 6))
    ksp = samples(operator, random_coeff(rng, operator))
    spoilt = np.where(operator.weights == 0, rubbish, ksp)
    # threads add in another order in every run: some rounding errors of float32 (6e-8), a few 1e-7 together
    assert error(pics(operator, spoilt, lam=0.3, iterations=5), pics(operator, ksp, lam=0.3, iterations=5)) < 1e-5


@pytest.mark.bart
def test_without_weights_all_samples_count_the_same(rng):
    operator = problem(rng, (7, 6), weights=None)
    ksp = samples(operator, random_coeff(rng, operator))
    bare = SimpleNamespace(**{**vars(operator), "weights": None})
    assert error(pics(bare, ksp, lam=0.3, iterations=60), dense(operator, ksp, 0.3)) < tolerance(operator)


@pytest.mark.bart
def test_trajectory_is_periodic(rng):
    operator = problem(rng, (7, 6))
    ksp = samples(operator, random_coeff(rng, operator))
    turns = rng.integers(-2, 3, operator.traj.shape)
    shifted = SimpleNamespace(**{**vars(operator), "traj": operator.traj + turns * np.array(operator.shape)})
    assert error(matrix(shifted), matrix(operator)) < 1e-12
    found = pics(operator, ksp, lam=0.3, iterations=20)
    # the positions differ by rounding, in float64 before and in float32 (spacing 5e-7) inside of BART
    assert error(pics(shifted, ksp, lam=0.3, iterations=20), found) < 1e-5


@pytest.mark.bart
@pytest.mark.parametrize(("n_frames", "n_coeff", "n_coils"), [(1, 1, 1), (1, 1, 3), (5, 1, 1), (3, 3, 1)])
def test_one_of_everything(rng, n_frames, n_coeff, n_coils):
    operator = problem(rng, (8, 7), n_frames=n_frames, n_coeff=n_coeff, n_coils=n_coils)
    ksp = samples(operator, random_coeff(rng, operator))
    assert error(pics(operator, ksp, lam=0.3, iterations=60), dense(operator, ksp, 0.3)) < tolerance(operator)


@pytest.mark.bart
def test_no_signal_gives_no_coefficients(rng):
    operator = problem(rng, (6, 6))
    assert not pics(operator, np.zeros(operator.ksp_shape), lam=0.3, iterations=5).any()


def test_command_line():
    line = "bart pics -l2 -r 1e-05 -i 30 -w 1 -t traj -p pattern -B basis ksp sens coeff"
    assert pics_command(lam=1e-5, iterations=30) == line.split()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -0.1, "iterations": 3}, r"lam is -0\.1, expected a number from 0 on"),
        ({"lam": math.nan, "iterations": 3}, r"lam is nan"),
        ({"lam": 0, "iterations": 0}, r"iterations is 0, expected at least 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        pics_command(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ksp": np.zeros((2, 4, 6))}, r"ksp has the shape \(2, 4, 6\), expected \(2, 4, 5\)"),
        ({"ksp": np.zeros((3, 4, 5))}, r"ksp has the shape \(3, 4, 5\), expected \(2, 4, 5\)"),
        ({"ksp": np.zeros((2, 0, 5)), "traj": np.zeros((0, 5, 2)), "frame": np.zeros(0, int)}, r"there are no data"),
        ({"traj": np.zeros((4, 5, 3))}, r"traj has the shape \(4, 5, 3\), expected \(4, 5, 2\)"),
        ({"traj": np.zeros((4, 5))}, r"traj has the shape \(4, 5\), expected 3 axes"),
        ({"frame": np.zeros(3, int)}, r"frame has the shape \(3,\), expected \(4,\)"),
        ({"frame": np.array([0, 1, 2, 3])}, r"frame runs from 0 to 3, but phi has 3 frames"),
        ({"frame": np.array([0, -1, 2, 0])}, r"frame runs from -1 to 2"),
        ({"phi": np.zeros((1, 3, 2))}, r"phi has the shape \(1, 3, 2\), expected 2 axes"),
        ({"sens": np.zeros((2, 7, 6))}, r"sens has the shape \(2, 7, 6\), expected \(2, 6, 7\)"),
        ({"weights": np.ones((4, 6))}, r"weights has the shape \(4, 6\), expected \(4, 5\)"),
        ({"weights": np.full((4, 5), -1.0)}, r"weights go down to -1\.0, expected 0 or more"),
        ({"weights": np.full((4, 5), np.nan)}, r"weights go down to nan"),
        ({"shape": (6,)}, r"traj has the shape \(4, 5, 2\), expected \(4, 5, 1\)"),
    ],
)
def test_arrays_are_checked_before_bart_sees_them(monkeypatch, change, message):
    monkeypatch.setattr(bart, "run", lambda *_, **__: pytest.fail("BART was run"))
    good = {
        "traj": np.zeros((4, 5, 2)),
        "frame": np.array([0, 1, 2, 0]),
        "phi": np.eye(3, 2),
        "sens": np.ones((2, 6, 7)),
        "shape": (6, 7),
        "weights": None,
        "ksp": np.zeros((2, 4, 5)),
    }
    arrays = {**good, **change}
    ksp = arrays.pop("ksp")
    with pytest.raises(ValueError, match=message):
        pics(SimpleNamespace(**arrays), ksp, lam=0, iterations=1)


def test_missing_bart_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BART_TOOLBOX_PATH", raising=False)
    monkeypatch.setattr(bart, "temporary_folder", lambda: pytest.fail("files are being written"))
    arrays = {"traj": np.zeros((1, 2, 2)), "frame": np.zeros(1, int), "phi": np.eye(1), "sens": np.ones((1, 4, 4))}
    operator = SimpleNamespace(**arrays, shape=(4, 4), weights=None)
    with pytest.raises(UserError, match="no program 'bart' on PATH"):
        pics(operator, np.zeros((1, 1, 2)), lam=0, iterations=1)
