"""FISTA and ADMM against optimality conditions in dense matrices, and against each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_bart_pics import dense, error, matrix, problem, random_coeff, samples
from test_encoding import EPS, arrays, make, random
from test_penalty import dense_prox

from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.recon.eigenvalue import largest_eigenvalue, step_size
from crbsvd_plugin.recon.objective import objective
from crbsvd_plugin.recon.penalty import penalty
from crbsvd_plugin.recon.wavelet import Wavelet
from crbsvd_plugin.trajectory import radial

Freeze = Callable[..., np.ndarray]
# image size, coils
CASES = {"odd and unequal": ((7, 5), 3), "one coil": ((5, 6), 1), "3d": ((3, 5, 4), 2), "flat": ((1, 9), 2)}
BLOCK = 3
FEW: dict[str, Any] = {"iterations": 300, "tolerance": 1e-10}


def noisy(rng: np.random.Generator, case: str) -> tuple[SubspaceOperator, np.ndarray]:
    """Return a problem with a complex basis, uneven weights and more data than unknowns, and its k-space."""
    shape, n_coils = CASES[case]
    like = problem(rng, shape, n_coils=n_coils)
    # all of k-space, so that one coil is enough
    traj = rng.uniform(-0.5, 0.5, like.traj.shape) * shape
    operator = SubspaceOperator(
        traj, frame=like.frame, phi=like.phi, sens=like.sens, weights=like.weights, dtype=np.complex128
    )
    ksp = samples(operator, random_coeff(rng, operator))
    ksp = ksp + 0.3 * (rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))
    ksp.setflags(write=False)
    return operator, ksp


def spectrum(operator: SubspaceOperator, ksp: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A^H W A, A^H W y and the eigenvalues of the first, all dense."""
    a, w = matrix(operator), np.tile(operator.weights.ravel(), len(operator.sens))
    hessian = a.conj().T @ (w[:, None] * a)
    return hessian, a.conj().T @ (w * ksp.ravel()), np.linalg.eigvalsh(hessian)


def prox(regulariser: str, v: np.ndarray, t: float) -> np.ndarray:
    """Return the proximal map, by other means than the package where there are any."""
    if regulariser == "llr":
        return dense_prox(v, t, BLOCK, (0,) * (v.ndim - 1))
    if regulariser == "l2":
        return v / (1 + t)
    wavelet = Wavelet(v.shape[1:])
    z = wavelet.forward(v)
    return wavelet.backward(z * np.maximum(1 - t / np.abs(z), 0))


@pytest.mark.parametrize("solver", ["fista", "admm"])
@pytest.mark.parametrize("regulariser", ["l2", "llr", "wavelet"])
@pytest.mark.parametrize("case", CASES)
def test_solution_satisfies_the_dense_optimality_condition(
    rng: np.random.Generator, case: str, regulariser: Any, solver: Any
) -> None:
    """T(x) = prox(x - s grad f(x)) contracts by 1 - s mu: its fixed point is at most |x - T x| / (s mu) away."""
    operator, ksp = noisy(rng, case)
    hessian, right, values = spectrum(operator, ksp)
    lam, step = 0.5, 1 / values[-1]
    found = reconstruct(
        operator, ksp, lam=lam, regulariser=regulariser, block=BLOCK, shift="none", solver=solver, **FEW
    )
    down = found - step * (hessian @ found.ravel() - right).reshape(found.shape)
    distance = np.linalg.norm(found - prox(regulariser, down, step * lam)) / (step * values[0])
    # the operator is right to 50 eps of its norm (see test_encoding), as is A^H W y
    tolerance = 100 * EPS[np.complex128] * values[-1] / values[0]
    assert distance < tolerance * np.linalg.norm(found)
    # the penalty does something
    assert error(found, dense(operator, ksp, 0)) > 0.01 > 1000 * tolerance


def test_both_solvers_reach_the_same_in_single_precision(rng: np.random.Generator) -> None:
    operator, ksp = noisy(rng, "odd and unequal")
    single = SubspaceOperator(
        operator.traj, frame=operator.frame, phi=operator.phi, sens=operator.sens, weights=operator.weights
    )
    _, _, values = spectrum(operator, ksp)
    options: dict[str, Any] = {"lam": 0.5, "regulariser": "llr", "block": BLOCK, "shift": "none"}
    expected = reconstruct(operator, ksp, **options, **FEW)
    for solver in ("fista", "admm"):
        found = reconstruct(single, ksp, solver=solver, iterations=300, tolerance=1e-6, **options)
        assert found.dtype == np.complex64
        assert error(found, expected) < 10 * EPS[np.complex64] * values[-1] / values[0]


@pytest.mark.parametrize("solver", ["fista", "admm"])
def test_without_a_weight_it_is_least_squares(rng: np.random.Generator, solver: Any) -> None:
    operator, ksp = noisy(rng, "one coil")
    expected = dense(operator, ksp, 0)
    for regulariser in ("llr", "wavelet"):
        found = reconstruct(operator, ksp, lam=0, regulariser=regulariser, block=BLOCK, solver=solver, **FEW)  # type: ignore[arg-type]
        assert error(found, expected) < 1e-7


@pytest.mark.parametrize("solver", ["fista", "admm"])
@pytest.mark.parametrize("regulariser", ["llr", "wavelet"])
def test_the_largest_useful_weight(rng: np.random.Generator, regulariser: Any, solver: Any) -> None:
    """0 is the solution if and only if the dual norm of A^H W y is at most lam."""
    operator, ksp = noisy(rng, "odd and unequal")
    right = operator.adjoint(ksp)
    if regulariser == "llr":
        parts = [right[:, i : i + BLOCK, j : j + BLOCK].reshape(3, -1) for i in (0, 3, 6) for j in (0, 3)]
        largest = max(np.linalg.norm(part, 2) for part in parts)
    else:
        largest = np.abs(Wavelet(operator.shape).forward(right)).max()
    options: dict[str, Any] = {"regulariser": regulariser, "block": BLOCK, "shift": "none", "solver": solver}
    options |= {"iterations": 60}
    assert not reconstruct(operator, ksp, lam=1.0001 * largest, **options).any()
    assert reconstruct(operator, ksp, lam=0.999 * largest, **options).any()


@pytest.mark.parametrize("solver", ["cg", "fista", "admm"])
def test_a_start_at_the_solution_stays_there(rng: np.random.Generator, solver: Any) -> None:
    operator, ksp = noisy(rng, "odd and unequal")
    options: dict[str, Any] = {
        "lam": 0.5, "regulariser": "l2" if solver == "cg" else "llr", "block": BLOCK, "shift": "none", "solver": solver,
    }  # fmt: skip
    best = reconstruct(operator, ksp, **options, **FEW)
    best.setflags(write=False)
    seen: list[float] = []
    again = reconstruct(
        operator, ksp, **options, iterations=3, start=best, callback=lambda _, x: seen.append(error(x, best))
    )
    # what is left of the tolerance, times the condition, and the error of the operator in another product
    assert max(seen) < 1e-8
    assert error(again, best) < 1e-8
    # it is a start: from there a few iterations do more than from zero
    near = best * 1.001
    few: dict[str, Any] = {**options, "iterations": 3}
    assert error(reconstruct(operator, ksp, start=near, **few), best) < error(reconstruct(operator, ksp, **few), best)


def test_objective_is_what_it_says(rng: np.random.Generator, frozen: Freeze) -> None:
    operator, ksp = noisy(rng, "3d")
    coeff = random(rng, frozen, operator.coeff_shape, np.complex128)
    misfit = matrix(operator) @ coeff.ravel() - ksp.ravel()
    energy = 0.5 * np.sum(np.tile(operator.weights.ravel(), len(ksp)) * np.abs(misfit) ** 2)
    for name in ("l2", "llr", "wavelet"):
        one = penalty(name, operator.shape, block=BLOCK, shift="none")  # type: ignore[arg-type]
        spoilt = frozen(np.where(operator.weights == 0, np.nan, ksp))
        found = objective(operator, spoilt, coeff, penalty=one, lam=0.7)
        assert found == pytest.approx(energy + 0.7 * one.value(coeff), rel=1e-8)
    assert one.value(coeff) > 1


def test_random_shifts_lower_the_mean_over_all_shifts(rng: np.random.Generator) -> None:
    """One grid fits its own blocks; random and all shifts serve the mean, and both give the same in every run."""
    operator, ksp = noisy(rng, "odd and unequal")
    mean = penalty("llr", operator.shape, block=BLOCK, shift="overlap")
    options: dict[str, Any] = {"lam": 3.0, "regulariser": "llr", "block": BLOCK, "iterations": 100}
    energy = {}
    for shift in ("none", "random", "overlap"):
        found = reconstruct(operator, ksp, shift=shift, **options)
        # threads add in another order in every run
        assert error(reconstruct(operator, ksp, shift=shift, **options), found) < 1e-9
        energy[shift] = objective(operator, ksp, found, penalty=mean, lam=3.0)
    assert energy["overlap"] < energy["random"] < energy["none"]


@pytest.mark.parametrize("solver", ["fista", "admm"])
def test_tolerance_ends_it_and_callback_sees_all(rng: np.random.Generator, solver: Any) -> None:
    operator, ksp = noisy(rng, "odd and unequal")
    options: dict[str, Any] = {"lam": 0.5, "regulariser": "llr", "block": BLOCK, "shift": "none", "solver": solver}
    seen: list[np.ndarray] = []
    found = reconstruct(
        operator, ksp, iterations=200, tolerance=1e-3, callback=lambda _, x: seen.append(x.copy()), **options
    )
    np.testing.assert_array_equal(found, seen[-1])
    changes = [np.linalg.norm(b - a) / np.linalg.norm(b) for a, b in itertools.pairwise(seen)]
    assert 3 < len(seen) < 200
    assert changes[-1] <= 1e-3 < changes[0]
    if solver == "fista":
        assert min(changes[:-1]) > 1e-3
    counted: list[int] = []
    reconstruct(operator, ksp, iterations=4, callback=lambda i, _: counted.append(i), **options)
    assert counted == [1, 2, 3, 4]


@pytest.mark.parametrize("solver", ["fista", "admm"])
def test_no_data_and_no_weights_give_no_image(rng: np.random.Generator, frozen: Freeze, solver: Any) -> None:
    given = arrays("odd and unequal", rng, frozen)
    options: dict[str, Any] = {"lam": 0.1, "regulariser": "llr", "block": BLOCK, "solver": solver, "iterations": 3}
    operator = make(given, np.complex64)
    assert not reconstruct(operator, np.zeros(operator.ksp_shape), **options).any()
    blind = make(given | {"weights": np.zeros(given["traj"].shape[:2])}, np.complex64)
    assert not reconstruct(blind, random(rng, frozen, operator.ksp_shape, np.complex64), **options).any()


@pytest.mark.parametrize("n_readouts", [5, 60])
def test_step_is_short_enough(rng: np.random.Generator, n_readouts: int) -> None:
    phi = np.linalg.qr(rng.standard_normal((3, 2)) + 1j * rng.standard_normal((3, 2)))[0]
    operator = SubspaceOperator(
        radial(n_readouts, 8), frame=np.arange(n_readouts) % 3, phi=phi, sens=np.ones((1, 8, 8)), dtype=np.complex128
    )
    unit = np.eye(2 * 64).reshape(-1, *operator.coeff_shape)
    highest = np.linalg.eigvalsh(np.array([operator.normal(one).ravel() for one in unit]).T)[-1]
    estimate = largest_eigenvalue(operator.normal, operator.coeff_shape, operator.dtype)
    assert 0.995 * highest < estimate < (1 + 1e-9) * highest
    assert step_size(operator.normal, operator.coeff_shape, operator.dtype) <= 1 / highest
    with pytest.raises(ArithmeticError, match="normal operator is not finite: the norm of N v is nan"):
        largest_eigenvalue(lambda x: x * np.nan, (3,), np.complex64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -0.1}, r"tolerance is -0\.1, expected at least 0"),
        ({"tolerance": np.nan}, r"tolerance is nan, expected at least 0"),
        ({"regulariser": "tv"}, r"regulariser is 'tv', expected one of l2, llr, wavelet"),
        ({"shift": "all"}, r"shift is 'all', expected one of none, random, overlap"),
        ({"block": 0}, r"block is 0, expected at least 1"),
        ({"scaling": "sigpy"}, r"scaling is 'sigpy', expected one of none, bart"),
        ({"solver": "ist"}, r"solver is 'ist', expected one of cg, fista, admm"),
        ({"solver": "cg"}, r"solver is cg, which cannot solve llr; use fista or admm"),
        ({"solver": "admm", "backend": "bart"}, r"solver is admm, but bart solves this by fista; leave it out"),
        ({"tolerance": 0.1, "backend": "bart"}, r"tolerance is 0\.1, but bart stops by iterations alone"),
        (
            {"shift": "overlap", "regulariser": "wavelet", "backend": "bart"},
            r"shift is overlap, which bart has for llr only; use random or none",
        ),
        (
            {"shift": "overlap", "backend": "bart"},
            r"overlap, which bart gets wrong on an axis of 2 voxels with blocks of 8",
        ),
    ],
)
def test_options_that_do_not_fit(rng: np.random.Generator, frozen: Freeze, options: Any, message: str) -> None:
    operator = make(arrays("one of everything", rng, frozen), np.complex64)
    with pytest.raises(UserError, match=message):
        reconstruct(operator, np.zeros(operator.ksp_shape), **{"regulariser": "llr", **options})


def test_data_and_starts_that_do_not_fit(rng: np.random.Generator, frozen: Freeze) -> None:
    operator = make(arrays("2d", rng, frozen), np.complex64)
    with pytest.raises(ValueError, match=r"start has shape \(3, 6, 5\), expected \(3, 6, 6\)"):
        reconstruct(operator, np.zeros(operator.ksp_shape), start=np.zeros((3, 6, 5)))
    with pytest.raises(UserError, match="k-space holds values that are not finite; leave these samples out"):
        reconstruct(operator, np.full(operator.ksp_shape, np.nan), regulariser="llr")
