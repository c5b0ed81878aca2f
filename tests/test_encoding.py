"""The subspace operator against dense matrices, and the public checks of operators."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import threads, toeplitz
from crbsvd_plugin.encoding import _KERNEL, SubspaceOperator
from crbsvd_plugin.testing import check_adjoint, check_normal

# FINUFFT promises eps as the error relative to the norm of the result, up to a factor of a few for each axis
# (Barnett et al., doi 10.1137/18M120885X); in single precision rounding (6e-8 at phases up to pi n) adds to it.
EPS = {dtype: _KERNEL[np.dtype(dtype)]["eps"] for dtype in (np.complex64, np.complex128)}
FACTOR = 5.0
DTYPES = [np.complex64, np.complex128]
# name: image size X, frames, coefficients, coils, readouts, samples
CASES = {
    "2d": ((6, 6), 7, 3, 3, 15, 11),
    "odd and unequal": ((7, 4), 7, 3, 2, 14, 9),
    "flat": ((1, 9), 4, 2, 2, 8, 5),
    "3d": ((4, 6, 4), 5, 2, 2, 12, 9),
    "3d odd and unequal": ((3, 5, 4), 5, 3, 2, 12, 7),
    "3d one slab": ((1, 5, 4), 5, 3, 2, 12, 7),
    "one coil": ((5, 6), 5, 2, 1, 12, 7),
    "one readout": ((5, 6), 5, 2, 2, 1, 7),
    "one frame": ((5, 6), 1, 1, 2, 9, 7),
    "one coefficient": ((5, 6), 6, 1, 2, 9, 7),
    "more rows than a slab, more coils than threads": ((11, 5), 5, 2, 5, 9, 7),
    "one sample": ((5, 6), 6, 2, 2, 9, 1),
    "one of everything": ((2, 3), 1, 1, 1, 1, 1),
    "rank of all frames": ((4, 3), 4, 4, 2, 9, 5),
}
Freeze = Callable[..., np.ndarray]


def arrays(
    case: str, rng: np.random.Generator, freeze: Freeze, *, real: bool = False, weights: bool = True
) -> dict[str, Any]:
    """Return the arrays of a problem, all read-only: ragged frames, one of them empty, a fifth of the weights zero."""
    shape, n_frames, rank, n_coils, n_readouts, n_samples = CASES[case]

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size) + 1j * rng.standard_normal(size)

    basis = np.linalg.qr(normal(n_frames, rank).real if real else normal(n_frames, rank))[0]
    size = (n_readouts, n_samples)
    traj = rng.uniform(-0.5, 0.5, (*size, len(shape))) * shape
    # two thirds of the readouts in the first half of the frames, none in the last if there is more than one
    frame = (rng.uniform(0, 1, n_readouts) ** 2 * max(n_frames - 1, 1)).astype(int)
    found: dict[str, Any] = {"traj": traj, "frame": frame, "phi": basis, "sens": normal(n_coils, *shape)}
    if weights:
        found["weights"] = rng.uniform(0.2, 2, size) * (rng.random(size) > 0.2)
    return {name: freeze(array) for name, array in found.items()}


def dense(arrays: dict[str, Any]) -> np.ndarray:
    """Return A as a matrix (C R S, K n_voxels), sample by sample from the formula."""
    traj, frame, phi, sens = (arrays[name] for name in ("traj", "frame", "phi", "sens"))
    shape = sens.shape[1:]
    rows = []
    for coil in sens:
        for readout, t in zip(traj, frame, strict=True):
            for k in readout:
                wave: Any = 1.0
                for axis, n in enumerate(shape):
                    index = np.arange(n) - n // 2
                    wave = np.multiply.outer(wave, np.exp(-2j * np.pi * k[axis] * index / n))
                row = (wave * coil).ravel() / math.sqrt(math.prod(shape))
                rows.append(np.concatenate([p * row for p in phi[t]]))
    return np.array(rows)


def error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def make(arrays: dict[str, Any], dtype: Any) -> SubspaceOperator:
    rest = {name: array for name, array in arrays.items() if name != "traj"}
    return SubspaceOperator(arrays["traj"], **rest, dtype=dtype)


def random(rng: np.random.Generator, freeze: Freeze, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return freeze((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_dense_matrix(rng: np.random.Generator, frozen: Freeze, case: str, real: bool, dtype: Any) -> None:
    given = arrays(case, rng, frozen, real=real)
    matrix, operator = dense(given), make(given, dtype)
    coeff = random(rng, frozen, operator.coeff_shape, dtype)
    ksp = random(rng, frozen, operator.ksp_shape, dtype)
    weights = np.tile(given["weights"].ravel(), len(given["sens"]))
    tolerance = FACTOR * len(operator.shape) * EPS[dtype]

    forward = operator.forward(coeff)
    assert forward.dtype == dtype
    assert error(forward, (matrix @ coeff.ravel()).reshape(operator.ksp_shape)) < tolerance
    adjoint = operator.adjoint(ksp)
    assert adjoint.dtype == dtype
    if weights.any():  # a single sample may have weight zero
        assert error(adjoint, (matrix.conj().T @ (weights * ksp.ravel())).reshape(operator.coeff_shape)) < tolerance
        expected = matrix.conj().T @ (weights * (matrix @ coeff.ravel()))
        normal = operator.normal(coeff)
        assert normal.dtype == dtype
        # the error of the kernel is relative to its largest value: more where A^H W A is small, as with few samples
        largest = np.linalg.norm(matrix * np.sqrt(weights)[:, None], 2) ** 2 * np.linalg.norm(coeff)
        assert np.linalg.norm(normal.ravel() - expected) < 2 * tolerance * largest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_passes_the_public_checks(rng: np.random.Generator, frozen: Freeze, case: str, dtype: Any) -> None:
    given = arrays(case, rng, frozen)
    operator = make(given | {"weights": frozen(np.maximum(given["weights"], 0.05))}, dtype)
    check_adjoint(
        operator.forward, operator.adjoint, operator.coeff_shape, operator.ksp_shape, weights=operator.weights,
        tolerance=FACTOR * EPS[dtype],
    )  # fmt: skip
    check_normal(operator.forward, operator.adjoint, operator.normal, operator.coeff_shape, tolerance=50 * EPS[dtype])


def test_without_weights_all_are_one(rng: np.random.Generator, frozen: Freeze) -> None:
    given = arrays("odd and unequal", rng, frozen, weights=False)
    bare, ones = make(given, np.complex128), make(given | {"weights": np.ones(given["traj"].shape[:2])}, np.complex128)
    ksp = random(rng, frozen, bare.ksp_shape, np.complex128)
    # threads add in another order in every run
    assert error(bare.adjoint(ksp), ones.adjoint(ksp)) < 1e-13
    coeff = random(rng, frozen, bare.coeff_shape, np.complex128)
    assert error(bare.normal(coeff), bare.adjoint(bare.forward(coeff))) < 50 * EPS[np.complex128]


def test_all_weights_zero(rng: np.random.Generator, frozen: Freeze) -> None:
    given = arrays("2d", rng, frozen)
    operator = make(given | {"weights": np.zeros(given["traj"].shape[:2])}, np.complex64)
    assert not operator.adjoint(random(rng, frozen, operator.ksp_shape, np.complex64)).any()
    assert not operator.normal(random(rng, frozen, operator.coeff_shape, np.complex64)).any()
    real = make(arrays("2d", rng, frozen, real=True) | {"weights": np.zeros(given["traj"].shape[:2])}, np.complex64)
    assert not real.normal(random(rng, frozen, real.coeff_shape, np.complex64)).any()


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30])
def test_missing_samples_may_hold_anything(rng: np.random.Generator, frozen: Freeze, rubbish: float) -> None:
    operator = make(arrays("2d", rng, frozen), np.complex64)
    ksp = random(rng, frozen, operator.ksp_shape, np.complex64)
    spoilt = frozen(np.where(operator.weights == 0, np.complex64(rubbish), ksp))
    assert error(operator.adjoint(spoilt), operator.adjoint(ksp)) < 1e-5


@pytest.mark.parametrize("case", ["2d", "odd and unequal", "3d odd and unequal"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_real_basis_has_a_real_kernel(rng: np.random.Generator, frozen: Freeze, case: str, dtype: Any) -> None:
    given = arrays(case, rng, frozen, real=True)
    real = make(given, dtype)
    values = real.toeplitz.parts
    assert values.dtype == real.weights.dtype
    rank = real.rank
    shape = (rank * (rank + 1) // 2, *(2 * n for n in real.shape))
    assert values.shape == (1, *shape)
    # the same basis in complex numbers takes the other path and must give the same
    same = make(given | {"phi": frozen(given["phi"].astype(complex))}, dtype)
    assert same.toeplitz.parts.shape == (2, *shape)
    rounding = 1e3 * np.finfo(dtype).eps * np.abs(values).max()
    assert np.abs(same.toeplitz.parts[0] - values[0]).max() < rounding
    assert np.abs(same.toeplitz.parts[1]).max() < rounding
    coeff = random(rng, frozen, real.coeff_shape, dtype)
    assert error(same.normal(coeff), real.normal(coeff)) < 1e3 * np.finfo(dtype).eps


def test_an_imaginary_part_that_must_not_be_is_a_defect() -> None:
    values = np.array([1.0 + 1e-3j, 2.0], np.complex64)
    with pytest.raises(ArithmeticError, match=r"real basis has an imaginary part of 5\.0e-04"):
        toeplitz._without_imaginary(values)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_two_kernels_of_a_real_basis_go_through_one_nufft(rng: np.random.Generator, rank: int) -> None:
    shape, frame = (3, 4), np.arange(7)
    traj, phi, weights = rng.uniform(-2, 2, (7, 5, 2)), rng.standard_normal((7, rank)), rng.uniform(0, 1, (7, 5))
    lags = np.stack(np.meshgrid(*(np.fft.ifftshift(np.arange(-n, n)) for n in shape), indexing="ij"), axis=-1)
    phases = np.exp(2j * np.pi * np.tensordot(lags / shape, traj, axes=(-1, -1)))
    calls = []

    def psf(strength: np.ndarray, out: np.ndarray) -> None:
        calls.append(strength)
        out[...] = np.tensordot(phases, strength, axes=2)

    parts = toeplitz.parts_of(psf, phi, frame, weights, shape)
    n_pairs = rank * (rank + 1) // 2
    # the last one or two go alone
    assert len(calls) == {1: 1, 3: 2, 6: 4, 10: 6}[n_pairs]
    for i, (k, other) in enumerate(zip(*np.triu_indices(rank), strict=True)):
        kernel = np.tensordot(phases, (phi[:, k] * phi[:, other])[:, None] * weights, axes=2)
        kernel[shape[0]], kernel[:, shape[1]] = 0, 0
        np.testing.assert_allclose(parts[0, i], np.fft.fftn(kernel), rtol=0, atol=1e-12)


@pytest.mark.parametrize("real", [True, False])
def test_one_grid_of_lags_is_all_that_kernels_need(rng: np.random.Generator, real: bool) -> None:
    shape, rank, size = (15, 20, 9), 3, (40, 7)
    phi = rng.standard_normal((40, rank)) + (0 if real else 1j * rng.standard_normal((40, rank)))
    phi, weights = phi.astype(np.float32 if real else np.complex64), np.ones(size, np.float32)

    def psf(strength: np.ndarray, out: np.ndarray) -> None:
        assert (strength.shape, strength.dtype, out.dtype) == (size, np.complex64, np.complex64)
        out[...] = 1

    toeplitz.parts_of(psf, phi, np.arange(40), weights, shape)  # what is imported or planned once
    tracemalloc.start()
    try:
        kernel = toeplitz.parts_of(psf, phi, np.arange(40), weights, shape)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    lags = 8 * math.prod(2 * n for n in shape)
    # a second grid, or a copy of a part, would be half as much again; strengths and small things are far below
    assert kernel.nbytes + lags <= peak < kernel.nbytes + 1.25 * lags


@pytest.mark.parametrize("case", ["2d", "3d odd and unequal"])
def test_any_number_of_threads_and_of_coils_at_a_time(
    rng: np.random.Generator, frozen: Freeze, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    operator = make(arrays(case, rng, frozen), np.complex64)
    coeff = random(rng, frozen, operator.coeff_shape, np.complex64)
    expected = operator.normal(coeff)
    with threads.limit(1):
        np.testing.assert_array_equal(operator.normal(coeff), expected)
    for n_coils in (1, 2):
        monkeypatch.setattr(toeplitz, "_CACHE", n_coils * 2 * coeff.nbytes)
        np.testing.assert_array_equal(operator.normal(coeff), expected)
    monkeypatch.setattr(toeplitz, "_ROWS", 3)  # a last piece that is smaller
    np.testing.assert_array_equal(operator.normal(coeff), expected)


def test_normal_is_hermitian_and_not_negative(rng: np.random.Generator, frozen: Freeze) -> None:
    operator = make(arrays("odd and unequal", rng, frozen), np.complex128)
    unit = np.eye(math.prod(operator.coeff_shape)).reshape(-1, *operator.coeff_shape)
    matrix = np.array([operator.normal(one).ravel() for one in unit]).T
    assert np.abs(matrix - matrix.conj().T).max() < 50 * EPS[np.complex128] * np.abs(matrix).max()
    lowest, *_, highest = np.linalg.eigvalsh(matrix)
    assert lowest > -50 * EPS[np.complex128] * highest


def test_the_conjugated_basis_is_another_operator(rng: np.random.Generator, frozen: Freeze) -> None:
    given = arrays("2d", rng, frozen)
    coeff = random(rng, frozen, make(given, np.complex128).coeff_shape, np.complex128)
    conjugated = make(given | {"phi": given["phi"].conj()}, np.complex128)
    assert error(conjugated.forward(coeff), make(given, np.complex128).forward(coeff)) > 0.5
    assert error(conjugated.normal(coeff), make(given, np.complex128).normal(coeff)) > 0.1


def test_noise_keeps_its_strength(rng: np.random.Generator, frozen: Freeze) -> None:
    """All points of the grid sampled in all frames: then A^H A is the number of frames' energy, 1 by orthonormality."""
    shape, n_frames = (5, 4), 3
    ky, kx = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    grid = np.stack([ky.ravel(), kx.ravel()], axis=-1).astype(float)
    basis = np.linalg.qr(rng.standard_normal((n_frames, 2)) + 1j * rng.standard_normal((n_frames, 2)))[0]
    operator = SubspaceOperator(
        frozen(np.tile(grid, (n_frames, 1, 1))), frame=np.arange(n_frames), phi=basis,
        sens=np.ones((1, *shape)), dtype=np.complex128,
    )  # fmt: skip
    coeff = random(rng, frozen, operator.coeff_shape, np.complex128)
    assert error(operator.adjoint(operator.forward(coeff)), coeff) < 5 * EPS[np.complex128]
    assert error(operator.normal(coeff), coeff) < 5 * EPS[np.complex128]


def test_inputs_of_lower_precision_and_integers_are_taken(frozen: Freeze) -> None:
    operator = SubspaceOperator(
        frozen(np.zeros((2, 3, 2), int)), frame=[0, 1], phi=np.eye(2, dtype=int)[:, :1], sens=np.ones((1, 4, 3), int)
    )
    assert operator.coeff_shape == (1, 4, 3)
    assert operator.ksp_shape == (1, 2, 3)
    assert operator.rank == 1
    ksp = operator.forward(np.ones((1, 4, 3), int))
    np.testing.assert_allclose(ksp, [[[12**0.5] * 3, [0] * 3]], atol=FACTOR * EPS[np.complex64] * 12**0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traj": np.zeros((4, 5, 3))}, r"traj has shape \(4, 5, 3\), expected \(R, S, 2\)"),
        ({"traj": np.zeros((4, 5))}, r"traj has shape \(4, 5\), expected \(R, S, 2\)"),
        ({"sens": np.ones((2, 6, 7, 8))}, r"traj has shape \(4, 5, 2\), expected \(R, S, 3\)"),
        ({"sens": np.ones((2, 6))}, r"traj has shape \(4, 5, 2\), expected \(R, S, 1\)"),
        ({"shape": (7, 6)}, r"sens has shape \(2, 6, 7\), expected \(C, 7, 6\)"),
        ({"frame": np.zeros(3, int)}, r"frame \(3,\) and weights \(4, 5\) do not fit traj \(4, 5, 2\)"),
        ({"weights": np.ones((4, 6))}, r"frame \(4,\) and weights \(4, 6\) do not fit"),
        ({"weights": np.full((4, 5), -1.0)}, r"weights go down to -1\.0, expected 0 or more"),
        ({"weights": np.full((4, 5), np.nan)}, r"weights go down to nan, expected 0 or more"),
        ({"frame": np.array([0, 1, 2, 3])}, r"frames 0 to 3 lie outside of 0 to 2"),
        ({"frame": np.array([0, -1, 2, 0])}, r"frames -1 to 2 lie outside of 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    good = {"traj": np.zeros((4, 5, 2)), "frame": np.zeros(4, int), "phi": np.eye(3, 2), "sens": np.ones((2, 6, 7))}
    given = {**good, **change}
    with pytest.raises(ValueError, match=message):
        SubspaceOperator(given.pop("traj"), **given)


def test_images_and_data_of_other_shapes_are_refused(rng: np.random.Generator, frozen: Freeze) -> None:
    operator = make(arrays("2d", rng, frozen), np.complex64)
    for apply in (operator.forward, operator.normal):
        with pytest.raises(ValueError, match=r"coeff has shape \(3, 6, 5\), expected \(3, 6, 6\)"):
            apply(np.zeros((3, 6, 5)))
    with pytest.raises(ValueError, match=r"ksp has shape \(3, 15, 1\), expected \(3, 15, 11\)"):
        operator.adjoint(np.zeros((3, 15, 1)))


def test_the_public_checks_find_what_is_wrong(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((6, 4)) + 1j * rng.standard_normal((6, 4))
    weights = rng.uniform(0, 2, 6)

    def forward(x: np.ndarray) -> np.ndarray:
        return matrix @ x

    def adjoint(y: np.ndarray) -> np.ndarray:
        return matrix.conj().T @ (weights * y)

    def normal(x: np.ndarray) -> np.ndarray:
        return adjoint(forward(x))

    check_adjoint(forward, adjoint, (4,), (6,), weights=weights, tolerance=1e-14)
    check_normal(forward, adjoint, normal, (4,), tolerance=1e-14)
    with pytest.raises(AssertionError, match="not adjoint"):
        check_adjoint(forward, adjoint, (4,), (6,))  # the weights forgotten
    with pytest.raises(AssertionError, match="not adjoint"):
        check_adjoint(forward, lambda y: matrix.T @ (weights * y), (4,), (6,), weights=weights)
    with pytest.raises(AssertionError, match="not adjoint"):
        check_adjoint(forward, lambda y: 1.0001 * adjoint(y), (4,), (6,), weights=weights)
    with pytest.raises(AssertionError, match=r"forward gives shape \(6,\), expected \(5,\)"):
        check_adjoint(forward, lambda _: np.zeros(4), (4,), (5,))
    with pytest.raises(AssertionError, match=r"adjoint gives shape \(1,\), expected \(4,\)"):
        check_adjoint(forward, lambda _: np.zeros(1), (4,), (6,))
    with pytest.raises(AssertionError, match=r"normal differs from adjoint\(forward\) by 1.00e-03"):
        check_normal(forward, adjoint, lambda x: 1.001 * normal(x), (4,))
    with pytest.raises(AssertionError, match="normal differs"):
        check_normal(forward, adjoint, lambda _: np.full(4, np.nan), (4,))
