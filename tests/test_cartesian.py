"""The Cartesian operator against dense matrices and the operator of readouts, and reconstructions with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_encoding import EPS, error, random

from crbsvd_plugin import cartesian
from crbsvd_plugin.cartesian import CartesianOperator
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.testing import check_adjoint, check_normal

Freeze = Callable[..., np.ndarray]
DTYPES = [np.complex64, np.complex128]
# name: image size X, frames, coefficients, coils
CASES = {
    "2d": ((6, 4), 7, 3, 3),
    "odd and unequal": ((7, 4), 6, 2, 2),
    "3d odd and unequal": ((3, 5, 4), 5, 3, 2),
    "flat": ((1, 9), 4, 2, 2),
    "3d one slab": ((1, 5, 4), 5, 3, 2),
    "one coil": ((5, 6), 5, 2, 1),
    "one frame": ((5, 6), 1, 1, 3),
    "more coils than threads": ((3, 5), 5, 2, 7),
    "one of everything": ((2, 3), 1, 1, 1),
    "rank of all frames": ((4, 3), 4, 4, 2),
}
MASKS = ["samples", "weights"]


def arrays(case: str, rng: np.random.Generator, freeze: Freeze, *, kind: str, real: bool = False) -> dict[str, Any]:
    """Return the arrays of a problem, all read-only; three fifths are sampled, of the last frame of several nothing."""
    shape, n_frames, rank, n_coils = CASES[case]

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size) + 1j * rng.standard_normal(size)

    mask = rng.random((n_frames, *shape)) < 0.6
    mask[1:][-1:] = False
    if kind == "weights":
        mask = mask * rng.uniform(0.2, 2, mask.shape)
    basis = np.linalg.qr(normal(n_frames, rank).real if real else normal(n_frames, rank))[0]
    found = {"mask": mask, "phi": basis, "sens": normal(n_coils, *shape)}
    return {name: freeze(array) for name, array in found.items()}


def dense(given: dict[str, Any]) -> np.ndarray:
    """Return A as a matrix (C T n_voxels, K n_voxels), from the formula."""
    mask, phi, sens = (given[name] for name in ("mask", "phi", "sens"))
    shape = sens.shape[1:]
    place = np.stack([index.ravel() - n // 2 for index, n in zip(np.indices(shape), shape, strict=True)], axis=1)
    wave = np.exp(-2j * np.pi * (place / np.array(shape)) @ place.T) / math.sqrt(len(place))
    sampled = (mask > 0).reshape(len(mask), -1)
    rows = np.einsum("tk,kx,cx,tj->ctkjx", sampled, wave, sens.reshape(len(sens), -1), phi, optimize=True)
    return rows.reshape(-1, phi.shape[1] * len(place))


def make(given: dict[str, Any], dtype: Any) -> CartesianOperator:
    return CartesianOperator(given["mask"], phi=given["phi"], sens=given["sens"], dtype=dtype)


def rounding(operator: CartesianOperator) -> float:
    """Return the error of as many roundings as one number meets on its way to k-space and back."""
    sums = len(operator.sens) + len(operator.phi) + 2 * operator.rank + 2 * math.log2(math.prod(operator.shape))
    return float((8 + sums) * np.finfo(operator.dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("case", CASES)
def test_equals_a_dense_matrix(
    rng: np.random.Generator, frozen: Freeze, case: str, kind: str, real: bool, dtype: Any
) -> None:
    given = arrays(case, rng, frozen, kind=kind, real=real)
    matrix, operator = dense(given), make(given, dtype)
    coeff = random(rng, frozen, operator.coeff_shape, dtype)
    ksp = random(rng, frozen, operator.ksp_shape, dtype)
    weights = np.tile(given["mask"].ravel(), len(given["sens"]))
    tolerance = rounding(operator)

    forward = operator.forward(coeff)
    assert forward.dtype == dtype
    assert error(forward, (matrix @ coeff.ravel()).reshape(operator.ksp_shape)) < tolerance
    adjoint = operator.adjoint(ksp)
    assert adjoint.dtype == dtype
    assert error(adjoint, (matrix.conj().T @ (weights * ksp.ravel())).reshape(operator.coeff_shape)) < tolerance
    normal = operator.normal(coeff)
    assert normal.dtype == dtype
    # what is small in A^H W A has the errors of what is large
    largest = np.linalg.norm(matrix * np.sqrt(weights)[:, None], 2) ** 2 * np.linalg.norm(coeff)
    expected = matrix.conj().T @ (weights * (matrix @ coeff.ravel()))
    assert np.linalg.norm(normal.ravel() - expected) < tolerance * largest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("case", CASES)
def test_passes_the_public_checks(rng: np.random.Generator, frozen: Freeze, case: str, kind: str, dtype: Any) -> None:
    operator = make(arrays(case, rng, frozen, kind=kind), dtype)
    check_adjoint(
        operator.forward, operator.adjoint, operator.coeff_shape, operator.ksp_shape, weights=operator.weights,
        tolerance=rounding(operator),
    )  # fmt: skip
    check_normal(
        operator.forward, operator.adjoint, operator.normal, operator.coeff_shape, tolerance=2 * rounding(operator)
    )


@pytest.mark.parametrize("case", ["2d", "odd and unequal", "3d odd and unequal"])
def test_readouts_on_the_points_of_the_grid_are_the_same(rng: np.random.Generator, frozen: Freeze, case: str) -> None:
    """One readout of one sample for every sample of the mask, weights included."""
    given = arrays(case, rng, frozen, kind="weights")
    shape = given["sens"].shape[1:]
    frame, *place = np.nonzero(given["mask"])
    traj = np.stack([index - n // 2 for index, n in zip(place, shape, strict=True)], axis=1)
    weights = given["mask"][given["mask"] > 0]
    readouts = SubspaceOperator(
        traj[:, None], frame=frame, phi=given["phi"], sens=given["sens"], weights=weights[:, None], dtype=np.complex128
    )
    grid = make(given, np.complex128)
    coeff = random(rng, frozen, grid.coeff_shape, np.complex128)
    # some times the accuracy of the NUFFT, of which the reference is made
    tolerance = 15 * EPS[np.complex128]
    assert error(grid.forward(coeff)[:, given["mask"] > 0], readouts.forward(coeff)[..., 0]) < tolerance
    assert error(grid.normal(coeff), readouts.normal(coeff)) < tolerance


def test_a_real_basis_has_a_real_matrix(rng: np.random.Generator, frozen: Freeze) -> None:
    given = arrays("odd and unequal", rng, frozen, kind="samples", real=True)
    real, same = make(given, np.complex64), make(given | {"phi": given["phi"].astype(complex)}, np.complex64)
    assert real.mixing.dtype == np.float32
    assert real.mixing.shape == (1, 3, 7, 4)
    assert same.mixing.shape == (2, 3, 7, 4)
    np.testing.assert_array_equal(same.mixing, [real.mixing[0], np.zeros((3, 7, 4))])


@pytest.mark.parametrize("kind", MASKS)
def test_frames_in_blocks_are_the_same(
    rng: np.random.Generator, frozen: Freeze, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given = arrays("2d", rng, frozen, kind=kind)
    coeff = random(rng, frozen, (3, 6, 4), np.complex128)
    whole = make(given, np.complex128)
    ksp = whole.forward(coeff)
    expected = whole.adjoint(ksp)
    for points in (1, 3 * 24):  # one frame, or three of the seven at a time
        monkeypatch.setattr(cartesian, "_BLOCK", points)
        blocks = make(given, np.complex128)
        assert error(blocks.forward(coeff), ksp) < rounding(blocks)
        assert error(blocks.adjoint(ksp), expected) < rounding(blocks)
        assert error(blocks.normal(coeff), expected) < rounding(blocks)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30])
def test_what_is_not_sampled_may_hold_anything(rng: np.random.Generator, frozen: Freeze, rubbish: float) -> None:
    operator = make(arrays("2d", rng, frozen, kind="weights"), np.complex64)
    ksp = random(rng, frozen, operator.ksp_shape, np.complex64)
    spoilt = frozen(np.where(operator.weights == 0, np.complex64(rubbish), ksp))
    np.testing.assert_array_equal(operator.adjoint(spoilt), operator.adjoint(ksp))


@pytest.mark.parametrize("backend", ["native", "sigpy", pytest.param("bart", marks=pytest.mark.bart)])
def test_no_backend_sees_what_is_not_sampled(rng: np.random.Generator, frozen: Freeze, backend: Any) -> None:
    given, ksp = shuffled(rng, frozen, shape=(5, 6), n_coils=2)
    operator = make(given, np.complex64)
    spoilt = frozen(np.where(operator.weights, ksp, np.nan))
    found = reconstruct(operator, spoilt, lam=1, iterations=4, backend=backend)
    # threads may add in another order in every run
    assert error(found, reconstruct(operator, ksp, lam=1, iterations=4, backend=backend)) < rounding(operator)


def test_no_samples_give_no_image(rng: np.random.Generator, frozen: Freeze) -> None:
    given = arrays("2d", rng, frozen, kind="samples") | {"mask": np.zeros((7, 6, 4), bool)}
    operator = make(given, np.complex64)
    assert not operator.adjoint(random(rng, frozen, operator.ksp_shape, np.complex64)).any()
    assert not operator.normal(random(rng, frozen, operator.coeff_shape, np.complex64)).any()


@pytest.mark.parametrize("case", ["odd and unequal", "3d odd and unequal", "one coil"])
def test_a_fully_sampled_image_comes_back_at_once(rng: np.random.Generator, frozen: Freeze, case: str) -> None:
    """With coils of unit root sum of squares and an orthonormal basis A^H A is the identity."""
    given = arrays(case, rng, frozen, kind="samples")
    given["mask"] = np.ones(given["mask"].shape, bool)
    given["sens"] = given["sens"] / np.linalg.norm(given["sens"], axis=0)
    operator = make(given, np.complex128)
    coeff = random(rng, frozen, operator.coeff_shape, np.complex128)
    ksp = operator.forward(coeff)
    # noise of k-space is noise of the images
    assert np.linalg.norm(ksp) == pytest.approx(np.linalg.norm(coeff), rel=rounding(operator))
    for backend in ("native", "sigpy"):
        found = reconstruct(operator, frozen(ksp), lam=0, iterations=1, backend=backend)
        assert error(found, coeff) < rounding(operator)


def shuffled(
    rng: np.random.Generator, frozen: Freeze, *, shape: tuple[int, ...], n_coils: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Return T2 shuffling in small: exponential decays, a third of k-space in every frame, and k-space with noise."""
    n_frames = 8
    decay = np.exp(-np.arange(n_frames)[:, None] / np.array([3.0, 9.0])) * np.exp(0.4j * np.arange(n_frames))[:, None]
    mask = rng.random((n_frames, *shape)) < 1 / 3
    mask[3] = False
    sens = rng.standard_normal((n_coils, *shape)) + 1j * rng.standard_normal((n_coils, *shape))
    given = {"mask": mask, "phi": np.linalg.qr(decay)[0], "sens": sens / np.linalg.norm(sens, axis=0)}
    operator = make(given, np.complex128)
    ksp = operator.forward(random(rng, frozen, operator.coeff_shape, np.complex128))
    ksp += 0.1 * random(rng, frozen, ksp.shape, np.complex128)
    return {name: frozen(array) for name, array in given.items()}, frozen(ksp)


def normal_equations(given: dict[str, Any], ksp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A^H W A and A^H W y as dense matrix and vector."""
    matrix, weights = dense(given), np.tile(given["mask"].ravel(), len(given["sens"]))
    return matrix.conj().T @ (weights[:, None] * matrix), matrix.conj().T @ (weights * ksp.ravel())


def minimiser(given: dict[str, Any], ksp: np.ndarray, lam: float) -> np.ndarray:
    """Return the minimiser of 1/2 sum w |A c - y|^2 + lam/2 ||c||^2, by dense linear algebra."""
    hessian, right = normal_equations(given, ksp)
    return np.linalg.solve(hessian + lam * np.eye(len(hessian)), right).reshape(-1, *given["sens"].shape[1:])


@pytest.mark.parametrize("backend", ["native", "sigpy", pytest.param("bart", marks=pytest.mark.bart)])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(
    ("shape", "n_coils", "lam"),
    # a third of the samples of one coil do not determine two coefficients
    [((7, 4), 4, 0.0), ((7, 4), 4, 0.2), ((3, 5, 2), 4, 0.0), ((4, 5), 1, 0.05)],
)
def test_shuffled_frames_give_the_dense_solution(
    rng: np.random.Generator, frozen: Freeze, shape: tuple[int, ...], n_coils: int, kind: str, lam: float, backend: Any
) -> None:
    given, ksp = shuffled(rng, frozen, shape=shape, n_coils=n_coils)
    if kind == "weights":
        given["mask"] = frozen(given["mask"] * rng.uniform(0.2, 2, given["mask"].shape))
    operator, expected = make(given, np.complex128), minimiser(given, ksp, lam)
    lowest, *_, highest = np.linalg.eigvalsh(normal_equations(given, ksp)[0]) + lam
    condition = float(highest / lowest)
    # conjugate gradients in n steps leave 2 ((sqrt(condition) - 1) / (sqrt(condition) + 1))^n of the energy norm
    iterations = math.ceil(np.log(1e14) / -np.log((condition**0.5 - 1) / (condition**0.5 + 1)))
    assert iterations < 600
    found = reconstruct(operator, ksp, lam=lam, iterations=iterations, backend=backend)
    # BART calculates in single precision
    tolerance = condition * rounding(make(given, np.complex64) if backend == "bart" else operator)
    assert error(found, expected) < tolerance
    # the conjugated basis, another lambda, and weights taken as their squares are told apart
    others = [minimiser(given | {"phi": given["phi"].conj()}, ksp, lam)]
    if lam:
        others.append(minimiser(given, ksp, 2 * lam))
    if kind == "weights":
        others.append(minimiser(given | {"mask": given["mask"] ** 2}, ksp, lam))
    assert min(error(other, expected) for other in others) > max(100 * tolerance, 0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.ones((3, 6, 8))}, r"mask has shape \(3, 6, 8\), expected \(3, 6, 7\)"),
        ({"mask": np.ones((4, 6, 7))}, r"mask has shape \(4, 6, 7\), expected \(3, 6, 7\)"),
        ({"mask": np.ones((6, 7))}, r"mask has shape \(6, 7\), expected \(3, 6, 7\)"),
        ({"mask": np.full((3, 6, 7), -1.0)}, r"weights go down to -1\.0, expected 0 or more"),
        ({"mask": np.full((3, 6, 7), np.nan)}, r"weights go down to nan, expected 0 or more"),
        ({"phi": np.ones(3)}, r"phi \(3,\) and sens \(2, 6, 7\) do not fit"),
        ({"sens": np.ones((2, 6))}, r"phi \(3, 2\) and sens \(2, 6\) do not fit, expected \(T, K\) and \(C, \*X\)"),
        ({"sens": np.ones((2, 6, 7, 8, 9))}, r"do not fit, expected .* with 2 or 3 X"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    good = {"mask": np.ones((3, 6, 7), bool), "phi": np.eye(3, 2), "sens": np.ones((2, 6, 7))}
    with pytest.raises(ValueError, match=message):
        make(good | change, np.complex64)


def test_images_and_data_of_other_shapes_are_refused(rng: np.random.Generator, frozen: Freeze) -> None:
    operator = make(arrays("2d", rng, frozen, kind="samples"), np.complex64)
    for apply in (operator.forward, operator.normal):
        with pytest.raises(ValueError, match=r"coeff has shape \(3, 4, 6\), expected \(3, 6, 4\)"):
            apply(np.zeros((3, 4, 6)))
    ksp = np.zeros((3, 7, 6, 1))
    with pytest.raises(ValueError, match=r"ksp has shape \(3, 7, 6, 1\), expected \(3, 7, 6, 4\)"):
        operator.adjoint(ksp)
    for backend in ("native", "sigpy", "bart"):
        with pytest.raises(ValueError, match=r"ksp has (the )?shape \(3, 7, 6, 1\), expected \(3, 7, 6, 4\)"):
            reconstruct(operator, ksp, iterations=1, backend=backend)
