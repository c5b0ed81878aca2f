"""The operators as SigPy's, SigPy's algorithms on them, and one problem through all backends."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sigpy
import sigpy.mri
import test_bart_pics
import test_cartesian
import test_encoding
from test_encoding import EPS, error, random

from crbsvd_plugin import as_linop
from crbsvd_plugin.cartesian import CartesianOperator
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.recon.sigpy_app import SubspaceRecon, root_weighted
from crbsvd_plugin.testing import check_adjoint, check_normal

Freeze = Callable[..., np.ndarray]
Problem = tuple[Any, np.ndarray, float]
# operator, of the Cartesian one also what its mask is, and the case of its tests
CASES = [
    ("readouts", "2d"),
    ("readouts", "3d odd and unequal"),
    ("readouts", "one coil"),
    ("samples", "odd and unequal"),
    ("weights", "2d"),
    ("weights", "3d odd and unequal"),
    ("weights", "one coil"),
]


def problem(rng: np.random.Generator, frozen: Freeze, kind: str, case: str, dtype: Any) -> Problem:
    """Return an operator with a complex basis, W^(1/2) A as a dense matrix, and the accuracy of the operator."""
    if kind == "readouts":
        given = test_encoding.arrays(case, rng, frozen)
        operator: Any = test_encoding.make(given, dtype)
        # that of the operator against a dense matrix, in tests/test_encoding.py
        matrix, accuracy = test_encoding.dense(given), 2 * test_encoding.FACTOR * len(operator.shape) * EPS[dtype]
    else:
        given = test_cartesian.arrays(case, rng, frozen, kind=kind)
        operator = test_cartesian.make(given, dtype)
        matrix, accuracy = test_cartesian.dense(given), test_cartesian.rounding(operator)
    weights = given["weights" if kind == "readouts" else "mask"]
    return operator, np.sqrt(np.tile(weights.ravel(), len(given["sens"])))[:, None] * matrix, accuracy


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_linop_equals_a_dense_matrix(
    rng: np.random.Generator, frozen: Freeze, kind: str, case: str, dtype: Any
) -> None:
    """It is W^(1/2) A, its adjoint the conjugate transpose of that, also where weights are zero."""
    operator, matrix, accuracy = problem(rng, frozen, kind, case, dtype)
    linop = as_linop(operator)
    assert tuple(linop.ishape) == operator.coeff_shape
    assert tuple(linop.oshape) == operator.ksp_shape
    coeff = random(rng, frozen, operator.coeff_shape, dtype)
    ksp = random(rng, frozen, operator.ksp_shape, dtype)
    largest = float(np.linalg.norm(matrix, 2))
    for got, expected, size in (
        (linop(coeff), matrix @ coeff.ravel(), largest * np.linalg.norm(coeff)),
        (linop.H(ksp), matrix.conj().T @ ksp.ravel(), largest * np.linalg.norm(ksp)),
        (linop.N(coeff), matrix.conj().T @ (matrix @ coeff.ravel()), largest**2 * np.linalg.norm(coeff)),
    ):
        assert got.dtype == dtype
        assert np.linalg.norm(got.ravel() - expected) < accuracy * size
    check_adjoint(linop, linop.H, operator.coeff_shape, operator.ksp_shape, tolerance=accuracy)
    check_adjoint(linop.H, linop.H.H, operator.ksp_shape, operator.coeff_shape, tolerance=accuracy)
    check_adjoint(linop.N, linop.N.H, operator.coeff_shape, operator.coeff_shape, tolerance=2 * accuracy * largest)
    assert np.linalg.norm(linop.N(coeff) - (linop.H * linop)(coeff)) < 2 * accuracy * largest**2 * np.linalg.norm(coeff)
    check_normal(linop.H, linop, linop.H.N, operator.ksp_shape, tolerance=1e3 * np.finfo(dtype).eps)


def test_normal_is_our_own(rng: np.random.Generator, frozen: Freeze) -> None:
    """No transform of samples is made in it, also not inside of SigPy's sums and products."""
    operator, _, _ = problem(rng, frozen, "readouts", "2d", np.complex64)
    coeff = random(rng, frozen, operator.coeff_shape, np.complex64)
    expected = operator.normal(coeff)

    def refuse(_: Any) -> Any:
        pytest.fail("forward or adjoint was called")

    only = SimpleNamespace(
        coeff_shape=operator.coeff_shape, ksp_shape=operator.ksp_shape, dtype=operator.dtype, weights=operator.weights,
        forward=refuse, adjoint=refuse, normal=operator.normal,
    )  # fmt: skip
    found = (as_linop(only).N + 0.5 * sigpy.linop.Identity(operator.coeff_shape))(coeff)
    assert error(found, expected + 0.5 * coeff) < 10 * np.finfo(np.complex64).eps


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
def test_one_frame_and_one_coefficient_are_sigpys_sense(
    rng: np.random.Generator, frozen: Freeze, shape: tuple[int, ...]
) -> None:
    sens = random(rng, frozen, (3, *shape), np.complex128)
    weights = frozen(rng.uniform(0.2, 2, shape) * (rng.random(shape) < 0.6))
    ours = as_linop(CartesianOperator(weights[None], phi=np.ones((1, 1)), sens=sens, dtype=np.complex128))
    theirs = sigpy.mri.linop.Sense(sens, weights=weights)
    image, ksp = (random(rng, frozen, size, np.complex128) for size in (shape, sens.shape))
    assert error(ours(image[None])[:, 0], theirs(image)) < 1e-14
    assert error(ours.H(ksp[:, None])[0], theirs.H(ksp)) < 1e-14
    assert error(ours.N(image[None])[0], theirs.N(image)) < 1e-14


def test_shapes_are_checked(rng: np.random.Generator, frozen: Freeze) -> None:
    """Also the number of axes, which SigPy's own check misses."""
    linop = as_linop(problem(rng, frozen, "samples", "2d", np.complex64)[0])
    for apply, wrong in ((linop, (3, 6, 4, 2)), (linop.N, (3, 6, 4, 2)), (linop.H, (3, 7, 6, 4, 2))):
        with pytest.raises(RuntimeError, match=r"Exceptions from .*Subspace") as raised:
            apply(np.zeros(wrong, np.complex64))
        assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize("kind", ["readouts", "weights"])
def test_linop_can_be_pickled_and_copied(rng: np.random.Generator, frozen: Freeze, kind: str) -> None:
    operator, _, accuracy = problem(rng, frozen, kind, "odd and unequal", np.complex128)
    linop = as_linop(operator)
    # loads of what was dumped here; and before its plans are made, which FINUFFT keeps in memory of its own
    again = [pickle.loads(pickle.dumps(linop)), copy.deepcopy(linop)]  # noqa: S301
    coeff = random(rng, frozen, operator.coeff_shape, np.complex128)
    for one in again:
        assert repr(one) == repr(linop)
        assert error(one(coeff), linop(coeff)) < accuracy
        assert error(one.N(coeff), linop.N(coeff)) < accuracy


def test_data_are_multiplied_by_the_root_of_the_weights(rng: np.random.Generator, frozen: Freeze) -> None:
    operator, _, _ = problem(rng, frozen, "weights", "2d", np.complex64)
    ksp = random(rng, frozen, operator.ksp_shape, np.complex64)
    spoilt = frozen(np.where(operator.weights == 0, np.complex64(np.nan), ksp))
    found = root_weighted(operator, spoilt)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, np.sqrt(operator.weights) * ksp, rtol=1e-6)
    bools = problem(rng, frozen, "samples", "2d", np.complex64)[0]
    np.testing.assert_array_equal(root_weighted(bools, ksp), bools.weights * ksp)
    with pytest.raises(ValueError, match=r"ksp has shape \(2, 7, 6, 4\), expected \(3, 7, 6, 4\)"):
        root_weighted(operator, ksp[:2])


def solvable(
    rng: np.random.Generator, frozen: Freeze, kind: str, *, lam: float, case: str = "odd and unequal"
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, float]:
    """Return operator and data, A^H W A + lam and A^H W y of dense matrices, and their accuracy times condition."""
    operator, matrix, accuracy = problem(rng, frozen, kind, case, np.complex128)
    ksp = random(rng, frozen, operator.ksp_shape, np.complex128)
    weights = np.broadcast_to(operator.weights, operator.ksp_shape)
    hessian = matrix.conj().T @ matrix + lam * np.eye(matrix.shape[1])
    right = matrix.conj().T @ (np.sqrt(weights) * ksp).ravel()
    return operator, ksp, hessian, right, 2 * accuracy * float(np.linalg.cond(hessian))


@pytest.mark.parametrize(
    ("kind", "solver"),
    [
        ("readouts", "ConjugateGradient"),
        ("readouts", "GradientMethod"),
        ("weights", "ConjugateGradient"),
        ("weights", "GradientMethod"),
        ("weights", "PrimalDualHybridGradient"),  # goes through forward and adjoint
        ("samples", "ConjugateGradient"),
    ],
)
def test_sigpys_solvers_find_the_dense_solution(
    rng: np.random.Generator, frozen: Freeze, kind: str, solver: str
) -> None:
    lam = 3.0
    operator, ksp, hessian, right, tolerance = solvable(rng, frozen, kind, lam=lam)
    expected = np.linalg.solve(hessian, right)
    app = sigpy.app.LinearLeastSquares(
        as_linop(operator), root_weighted(operator, ksp), lamda=lam, solver=solver, max_iter=600, show_pbar=False
    )
    assert error(app.run().ravel(), expected) < tolerance


def test_sigpys_conjugate_gradients_take_the_linop(rng: np.random.Generator, frozen: Freeze) -> None:
    operator, ksp, hessian, right, tolerance = solvable(rng, frozen, "weights", lam=3.0)
    linop = as_linop(operator)
    found = np.zeros(operator.coeff_shape, complex)
    system = linop.N + 3.0 * sigpy.linop.Identity(operator.coeff_shape)
    algorithm = sigpy.alg.ConjugateGradient(system, linop.H(root_weighted(operator, ksp)), found, max_iter=200)
    while not algorithm.done():
        algorithm.update()
    assert error(found.ravel(), np.linalg.solve(hessian, right)) < tolerance


def soft(values: np.ndarray, level: float) -> np.ndarray:
    size = np.abs(values)
    return np.where(size > level, (1 - level / np.maximum(size, level)) * values, 0)


@pytest.mark.parametrize("kind", ["readouts", "weights"])
def test_accelerated_gradients_with_a_prox_end_where_the_gradient_balances_it(
    rng: np.random.Generator, frozen: Freeze, kind: str
) -> None:
    """With g = level |c|_1, c = soft(c - t grad, t level) for any t > 0, and only there."""
    lam, level = 3.0, 2.0
    operator, ksp, hessian, right, tolerance = solvable(rng, frozen, kind, lam=lam)
    prox = sigpy.prox.L1Reg(operator.coeff_shape, level)
    app = sigpy.app.LinearLeastSquares(
        as_linop(operator), root_weighted(operator, ksp), lamda=lam, proxg=prox, max_iter=600, show_pbar=False
    )
    found = app.run().ravel()
    assert 0.1 < np.mean(found == 0) < 0.9
    step = 1 / float(np.linalg.norm(hessian, 2))
    balanced = soft(found - step * (hessian @ found - right), step * level)
    assert error(balanced, found) < tolerance
    # the level counts
    other = soft(found - step * (hessian @ found - right), step * 1.01 * level)
    assert error(other, found) > 100 * tolerance


def words(operator: Any) -> dict[str, Any]:
    """Return the arrays of an operator in SigPy's words."""
    found = {"mps": operator.sens, "phi": operator.phi, "weights": operator.weights}
    if isinstance(operator, SubspaceOperator):
        found |= {"coord": operator.traj, "frame": operator.frame}
    return found


@pytest.mark.parametrize("kind", ["readouts", "weights", "samples"])
def test_app_solves_the_same_problem(rng: np.random.Generator, frozen: Freeze, kind: str) -> None:
    lam = 3.0
    operator, ksp, hessian, right, _ = solvable(rng, frozen, kind, lam=lam)
    accuracy = problem(rng, frozen, kind, "odd and unequal", np.complex64)[2]
    found = SubspaceRecon(ksp, **words(operator), lamda=lam, max_iter=60, show_pbar=False).run()
    assert found.dtype == np.complex64
    assert found.shape == operator.coeff_shape
    tolerance = 2 * accuracy * float(np.linalg.cond(hessian))
    expected = np.linalg.solve(hessian, right)
    assert error(found.ravel(), expected) < tolerance
    assert error(np.linalg.solve(hessian + lam * np.eye(len(hessian)), right), expected) > 10 * tolerance


def test_app_in_the_order_of_sigpys(
    rng: np.random.Generator, frozen: Freeze, capsys: pytest.CaptureFixture[str]
) -> None:
    operator, ksp, _, _, _ = solvable(rng, frozen, "readouts", lam=1.0)
    arguments = (ksp, operator.sens, operator.phi, 1.0, operator.weights, operator.traj)
    app = SubspaceRecon(*arguments, frame=operator.frame, max_iter=3)
    native = reconstruct(operator, ksp, lam=1.0, iterations=3)
    assert error(app.run(), native) < 100 * EPS[np.complex64]
    assert "SubspaceRecon: 100%" in capsys.readouterr().err
    prox = sigpy.prox.L1Reg(operator.coeff_shape, 1e9)
    assert not SubspaceRecon(*arguments, frame=operator.frame, proxg=prox, max_iter=3, show_pbar=False).run().any()
    assert "SubspaceRecon" not in capsys.readouterr().err


def test_app_takes_what_is_not_zero_as_sampled(rng: np.random.Generator, frozen: Freeze) -> None:
    operator, _, _ = problem(rng, frozen, "samples", "2d", np.complex64)
    ksp = operator.forward(random(rng, frozen, operator.coeff_shape, np.complex64))
    given = words(operator)
    expected = SubspaceRecon(ksp, **given, lamda=0.1, max_iter=5, show_pbar=False).run()
    found = SubspaceRecon(ksp, **given | {"weights": None}, lamda=0.1, max_iter=5, show_pbar=False).run()
    np.testing.assert_array_equal(found, expected)
    everything = SubspaceRecon(ksp, **given | {"weights": np.ones(operator.weights.shape)}, lamda=0.1, show_pbar=False)
    assert error(everything.run(), expected) > 0.1


def test_app_refuses_half_of_a_trajectory(rng: np.random.Generator, frozen: Freeze) -> None:
    operator, _, _ = problem(rng, frozen, "readouts", "2d", np.complex64)
    given, ksp = words(operator), np.zeros(operator.ksp_shape)
    for missing in ("coord", "frame"):
        with pytest.raises(ValueError, match="coord and frame belong together"):
            SubspaceRecon(ksp, **given | {missing: None})


@pytest.mark.parametrize("lam", [0.0, np.float64(0.7)])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_sigpy_makes_the_steps_of_the_native_solver(
    rng: np.random.Generator, frozen: Freeze, kind: str, case: str, dtype: Any, lam: float
) -> None:
    """Few steps, so that rounding is not amplified yet: the images of every iteration are the same."""
    operator, _, _ = problem(rng, frozen, kind, case, dtype)
    ksp = random(rng, frozen, operator.ksp_shape, dtype)
    steps: dict[str, list[tuple[int, np.ndarray]]] = {"native": [], "sigpy": []}
    for backend, seen in steps.items():
        found = reconstruct(
            operator, ksp, lam=lam, iterations=4, backend=backend,
            callback=lambda iteration, image, seen=seen: seen.append((iteration, image.copy())),
        )  # fmt: skip
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, seen[-1][1])
    for (iteration, native), (other, theirs) in zip(*steps.values(), strict=True):
        assert iteration == other
        assert error(theirs, native) < 1e3 * np.finfo(dtype).eps
    assert [iteration for iteration, _ in steps["sigpy"]] == [1, 2, 3, 4]


def test_sigpy_ends_where_the_native_solver_ends(rng: np.random.Generator, frozen: Freeze) -> None:
    """Without that, in single precision, these iterations end in numbers that are none."""
    given, ksp = test_cartesian.shuffled(rng, frozen, shape=(7, 4), n_coils=4)
    operator = test_cartesian.make(given, np.complex64)
    done: dict[str, list[int]] = {"native": [], "sigpy": []}
    native, theirs = (
        reconstruct(operator, ksp, iterations=500, backend=backend, callback=lambda i, _, seen=seen: seen.append(i))
        for backend, seen in done.items()
    )
    assert abs(done["native"][-1] - done["sigpy"][-1]) <= 1
    condition = float(np.linalg.cond(test_cartesian.normal_equations(given, ksp)[0]))
    assert error(theirs, native) < condition * test_cartesian.rounding(operator)
    app = SubspaceRecon(ksp, **words(operator), max_iter=500, show_pbar=False)
    assert error(app.run(), native) < condition * test_cartesian.rounding(operator)
    assert app.alg.iter == done["sigpy"][-1]


@pytest.mark.bart
@pytest.mark.parametrize("shape", [(9, 8), (5, 4, 6)])
def test_all_backends_give_one_answer(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    """Readouts with weights, a complex basis and a penalty: the dense solution, to the accuracy of each."""
    operator = test_bart_pics.problem(rng, shape, n_coils=4)
    lam = 0.3
    ksp = test_bart_pics.samples(operator, test_bart_pics.random_coeff(rng, operator))
    ksp = ksp + rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape)
    expected = test_bart_pics.dense(operator, ksp, lam)
    rows = np.sqrt(np.tile(operator.weights.ravel(), 4))[:, None] * test_bart_pics.matrix(operator)
    condition = float(np.linalg.cond(rows.conj().T @ rows + lam * np.eye(rows.shape[1])))
    ours = 10 * len(shape) * EPS[np.complex128] * condition
    tolerances = {"native": ours, "sigpy": ours, "bart": test_bart_pics.tolerance(operator)}
    iterations = math.ceil(math.log(2 / ours) / -math.log((condition**0.5 - 1) / (condition**0.5 + 1)))
    for backend, tolerance in tolerances.items():
        found = reconstruct(operator, ksp, lam=lam, iterations=iterations, backend=backend)
        assert error(found, expected) < tolerance
        assert error(test_bart_pics.dense(operator, ksp, 2 * lam), expected) > 4 * tolerance


class Own:
    """An operator of a user's own: a dense matrix."""

    def __init__(self, matrix: np.ndarray, weights: np.ndarray):
        self.matrix, self.weights, self.dtype = matrix, weights, matrix.dtype
        self.ksp_shape, self.coeff_shape = (matrix.shape[:1], matrix.shape[1:])

    def forward(self, coeff: np.ndarray) -> np.ndarray:
        return self.matrix @ coeff

    def adjoint(self, ksp: np.ndarray) -> np.ndarray:
        return self.matrix.conj().T @ (self.weights * ksp)

    def normal(self, coeff: np.ndarray) -> np.ndarray:
        return self.adjoint(self.forward(coeff))


def test_an_operator_of_ones_own_is_taken_by_all_but_bart(rng: np.random.Generator, frozen: Freeze) -> None:
    own = Own(random(rng, frozen, (9, 3), np.complex128), frozen(rng.uniform(0.5, 2, 9)))
    ksp = random(rng, frozen, (9,), np.complex128)
    hessian = own.matrix.conj().T @ (own.weights[:, None] * own.matrix) + 0.1 * np.eye(3)
    expected = np.linalg.solve(hessian, own.adjoint(ksp))
    for backend in ("native", "sigpy"):
        found = reconstruct(own, ksp, lam=0.1, iterations=3, backend=backend)  # exact after as many steps
        assert error(found, expected) < 1e-12
    with pytest.raises(UserError, match="bart has no form for the operator Own, expected readouts or a grid"):
        reconstruct(own, ksp, lam=0.1, iterations=3, backend="bart")
