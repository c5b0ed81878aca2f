"""BART's own terms, kernels and progress with the real program, against solvers that know nothing of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bart_penalties import allowed, noisy
from test_bart_pics import error, matrix, tolerance

from crbsvd_plugin import bart, threads
from crbsvd_plugin.cartesian import CartesianOperator
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.kernel_cache import KernelCache
from crbsvd_plugin.recon import BartOptions, reconstruct
from crbsvd_plugin.recon.bart_command import pics_command
from crbsvd_plugin.recon.bart_files import export
from crbsvd_plugin.recon.bart_options import Term, solver_of
from crbsvd_plugin.recon.bart_pics import _padded
from crbsvd_plugin.recon.eigenvalue import step_size
from crbsvd_plugin.recon.fista import fista

pytestmark = pytest.mark.bart
SLOW = 200  # iterations of BART's FISTA, which is not restarted


class Sum:
    """l1 norm of the voxels, R(c) = sum |c|; the magnitudes of coefficients joined or not."""

    def __init__(self, *, joint: bool) -> None:
        self.joint = joint

    def prox(self, coeff: np.ndarray, threshold: float, iteration: int = 0) -> np.ndarray:
        size = np.sqrt((np.abs(coeff) ** 2).sum(axis=0)) if self.joint else np.abs(coeff)
        return coeff * (np.maximum(size - threshold, 0) / np.where(size > 0, size, 1))

    def value(self, coeff: np.ndarray) -> float:
        return float(np.sqrt((np.abs(coeff) ** 2).sum(axis=0) if self.joint else np.abs(coeff) ** 2).sum())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run BART with one thread: problems are tiny, and sums then have one order."""
    with threads.limit(1):
        yield


def by(*terms: str, **options: Any) -> dict[str, Any]:
    return {"backend": "bart", "bart_options": BartOptions(terms), **options}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (11, 9), (7, 6, 5)])
def test_the_l1_norm_of_voxels_for_every_size(rng: np.random.Generator, shape: tuple[int, ...], joint: bool) -> None:
    """Added voxels are zero in the solution. BART leaves out the last proximal map: it is applied here."""
    operator, ksp = noisy(rng, shape)
    one, right = Sum(joint=joint), operator.adjoint(ksp)
    lam = 0.5
    step = step_size(operator.normal, operator.coeff_shape, operator.dtype)
    expected = fista(operator.normal, right, penalty=one, lam=lam, iterations=SLOW)
    found = reconstruct(operator, ksp, iterations=SLOW, **by(f"I:{64 if joint else 0}:{lam}"))
    limit = allowed(operator, ksp, expected)
    assert error(one.prox(found, step * lam), expected) < limit
    # another weight, or the other way to join, is far outside of that
    assert error(fista(operator.normal, right, penalty=one, lam=1.1 * lam, iterations=SLOW), expected) > 4 * limit
    other = fista(operator.normal, right, penalty=Sum(joint=not joint), lam=lam, iterations=SLOW)
    assert error(other, expected) > 4 * limit


def gradient(image: np.ndarray) -> np.ndarray:
    """Return differences (2, K, *X) to the voxel before, the last one coming before the first."""
    return np.stack([image - np.roll(image, 1, axis=axis) for axis in (1, 2)])


def total_variation(operator: SubspaceOperator, ksp: np.ndarray, padded: tuple[int, ...], lam: float) -> np.ndarray:
    """Minimise 1/2 sum w |A c - y|^2 + lam sum |gradient| over images with more voxels, by the primal-dual method.

    Chambolle and Pock, doi 10.1007/s10851-010-0251-1; dense, so that the step of the data is exact.
    """
    rank, shape = operator.phi.shape[1], operator.shape
    a = matrix(operator).reshape(-1, rank, *shape)
    whole = np.zeros((len(a), rank, *padded), complex)
    whole[:, :, : shape[0], : shape[1]] = a
    flat = whole.reshape(len(a), -1)
    w = np.tile(operator.weights.ravel(), len(operator.sens))
    tau = sigma = 1 / math.sqrt(8)
    inverse = np.linalg.inv(np.eye(flat.shape[1]) + tau * flat.conj().T @ (w[:, None] * flat))
    right = tau * flat.conj().T @ (w * ksp.ravel())
    x = np.zeros((rank, *padded), complex)
    ahead, dual = x, gradient(x)
    for _ in range(3000):
        dual = dual + sigma * gradient(ahead)
        dual = dual / np.maximum(1, np.sqrt((np.abs(dual) ** 2).sum(axis=0)) / lam)
        back = sum(part - np.roll(part, -1, axis=axis) for part, axis in zip(dual, (1, 2), strict=True))
        before, x = x, (inverse @ ((x - tau * back).ravel() + right)).reshape(x.shape)
        ahead = 2 * x - before
    return x[:, : shape[0], : shape[1]]


@pytest.mark.parametrize("shape", [(6, 8), (7, 5)])
def test_total_variation_by_admm(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Of an odd axis it is that of the image with one more voxel, which is free to be what costs the least."""
    operator, ksp = noisy(rng, shape)
    expected = total_variation(operator, ksp, tuple(n + n % 2 for n in shape), 0.3)
    found = reconstruct(operator, ksp, iterations=2000, **by("T:3:0:0.3"))
    limit = allowed(operator, ksp, expected)
    assert error(found, expected) < limit
    assert error(total_variation(operator, ksp, tuple(n + n % 2 for n in shape), 0.33), expected) > 4 * limit


@pytest.mark.parametrize("terms", [("Q:0.4",), ("Q:0.4", "I:0:0")])
def test_energy_is_our_l2(rng: np.random.Generator, terms: tuple[str, ...]) -> None:
    operator, ksp = noisy(rng, (9, 8))
    expected = reconstruct(operator, ksp, lam=0.4, iterations=60)
    assert error(reconstruct(operator, ksp, iterations=600, **by(*terms)), expected) < allowed(operator, ksp, expected)


@pytest.mark.parametrize(
    "terms",
    [("Q:1",), ("I:0:1",), ("W:7:0:1",), ("F:7:0:1",), ("L:7:7:1",), ("T:7:0:1",), ("G:7:0:1",), ("C:67:0:1",),
     ("I:0:1", "W:7:0:1"), ("Q:1", "I:0:1")],
)  # fmt: skip
def test_the_solver_is_the_one_that_bart_takes(
    rng: np.random.Generator, terms: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, ksp = noisy(rng, (6, 8))
    lines: list[str] = []
    monkeypatch.setattr("crbsvd_plugin.bart.program._read", spy(lines))
    seen: list[int] = []
    options = by(*terms, iterations=12, callback=lambda i, _: seen.append(i))
    found = reconstruct(operator, ksp, block=4, **options)
    assert np.isfinite(found).all()
    names = {"cg": "conjugate gradients", "fista": "FISTA", "admm": "ADMM"}
    solver = solver_of([Term.read(text) for text in terms])
    assert [name for name, text in names.items() if text in lines] == [solver]
    assert seen == list(range(1, len(seen) + 1))
    # ADMM counts one more for itself, and its conjugate gradients may end early
    assert len(seen) == 12 if solver != "admm" else 10 <= len(seen) <= 12


def spy(lines: list[str]) -> Any:
    read = bart.program._read

    def watched(pipes: Any, on_line: Any) -> Any:
        def both(line: str) -> None:
            lines.append(line.strip())
            on_line(line)

        return read(pipes, both)

    return watched


def test_a_start_is_taken_by_fista(rng: np.random.Generator) -> None:
    operator, ksp = noisy(rng, (8, 9))
    step = step_size(operator.normal, operator.coeff_shape, operator.dtype)

    def found(iterations: int, **options: Any) -> np.ndarray:
        image = reconstruct(operator, ksp, iterations=iterations, **by("I:0:0.5"), **options)
        return Sum(joint=False).prox(image, 0.5 * step)

    best = found(400)
    limit = allowed(operator, ksp, best)  # the gradient that the start is prepared with is ours
    assert error(found(2, start=best), best) < limit
    assert error(found(2), best) > 10 * limit


def test_a_start_is_taken_by_admm(rng: np.random.Generator) -> None:
    """Its dual variables begin with zero, so it leaves the best images first, but not as far as zero."""
    operator, ksp = noisy(rng, (8, 9))
    best = reconstruct(operator, ksp, iterations=1000, **by("T:3:0:0.3"))
    near = reconstruct(operator, ksp, start=best, iterations=2, **by("T:3:0:0.3"))
    assert error(near, best) < 0.8 * error(reconstruct(operator, ksp, iterations=2, **by("T:3:0:0.3")), best)


@pytest.mark.parametrize("term", ["W:7:0:0.02", "L:7:7:0.02", "I:0:0.02", "T:7:0:0.02", "Q:2"])
def test_with_its_scaling_it_is_what_a_user_of_bart_gets(rng: np.random.Generator, tmp_path: Path, term: str) -> None:
    """Who leaves out -w, and asks by -S for the images in the size of the data."""
    operator, ksp = noisy(rng, (8, 8))
    padded, inner = _padded((8, 8), 4, overlap=False)
    export(operator, ksp, tmp_path, padded, inner)
    step = step_size(operator.normal, operator.coeff_shape, operator.dtype)
    command = pics_command(lam=0, terms=[Term.read(term)], iterations=30, block=4, shift="none", step=step)
    place = command.index("-w")
    command[place : place + 2] = ["-S"]
    bart.run(command[1:], folder=tmp_path, threads=1)
    expected = bart.read_cfl(tmp_path / "coeff").T.reshape(operator.coeff_shape)
    options = by(term, block=4, shift="none", iterations=30)
    # its scale is that of its operator; an order statistic is no more wrong than the image at its largest
    assert error(reconstruct(operator, ksp, scaling="bart", **options), expected) < 2 * tolerance(operator)
    if term != "Q:2":
        assert error(reconstruct(operator, ksp, **options), expected) > 4 * tolerance(operator)


@pytest.mark.parametrize("shape", [(8, 8), (7, 5)])
def test_terms_on_a_grid(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    operator = CartesianOperator(
        rng.random((5, *shape)) < 0.6,
        phi=np.linalg.qr(rng.standard_normal((5, 2)) + 1j * rng.standard_normal((5, 2)))[0],
        sens=rng.standard_normal((3, *shape)) + 1j * rng.standard_normal((3, *shape)),
        dtype=np.complex128,
    )
    ksp = operator.forward(rng.standard_normal((2, *shape)) + 1j * rng.standard_normal((2, *shape)))
    lam, one = 0.5, Sum(joint=True)
    step = step_size(operator.normal, operator.coeff_shape, operator.dtype)
    expected = fista(operator.normal, operator.adjoint(ksp), penalty=one, lam=lam, iterations=1000)
    found = one.prox(reconstruct(operator, ksp, iterations=1000, **by(f"I:64:{lam}")), step * lam)
    # single precision, 1000 sums long at most: 1000 * 6e-8
    assert error(found, expected) < 6e-5


@pytest.mark.parametrize("options", [{}, by("W:7:0:0.1"), {"regulariser": "llr", "lam": 0.1, "block": 4}])
def test_a_kept_kernel_gives_the_same_and_is_used(
    rng: np.random.Generator, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, ksp = noisy(rng, (9, 8))
    operator.kernel_cache = KernelCache(tmp_path)
    options = {"backend": "bart", "iterations": 8, "shift": "none", **options}
    operator.kernel_cache, cache = None, operator.kernel_cache
    expected = reconstruct(operator, ksp, **options)
    operator.kernel_cache = cache
    lines: list[list[str]] = []
    for _ in range(2):
        lines.append([])
        with monkeypatch.context() as patch:
            patch.setattr("crbsvd_plugin.bart.program._read", spy(lines[-1]))
            found = reconstruct(operator, ksp, callback=lambda *_: None, **options)
        np.testing.assert_array_equal(found, expected)
    # BART says so where it grids the function
    assert [any("nufft kernel dims" in line for line in one) for one in lines] == [True, False]
    find = KernelCache.find
    monkeypatch.setattr(KernelCache, "find", lambda *given: None if (got := find(*given)) is None else 2 * got)
    assert error(reconstruct(operator, ksp, **options), expected) > 0.1


def test_low_memory_gives_the_same(rng: np.random.Generator) -> None:
    operator, ksp = noisy(rng, (9, 8))
    options = {"backend": "bart", "iterations": 8, "lam": 0.1}
    expected = reconstruct(operator, ksp, **options)
    found = reconstruct(operator, ksp, bart_options=BartOptions(lowmem=True), **options)
    # the same sums in another order: some rounding errors of float32 (6e-8), a few 1e-7 together
    assert error(found, expected) < 1e-5
