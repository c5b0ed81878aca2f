"""Nonlinear least squares of qmt-hsfp with all eight parameters: signals of the model against those of a polynomial.

Voxels are grey and white matter of a box (TISSUE, |w0| <= 250 rad/s), through the six cycles of `qmt.train`
(T = 6852) and a basis of rank 15, with noise of ||c|| / 250, from the best of some thousand atoms. Both ways take the
same Levenberg-Marquardt steps, in a process of their own with one thread, and count its seconds of CPU, which others
on the machine change little, from the first voxel to the last. The
tensor of Chebyshev polynomials that `fit.emulator` makes is out of the question for eight parameters; the
polynomial here has the terms T_n1(u_1) .. T_n8(u_8) with sum_i n_i / DEGREES_i <= 1, and is fitted to simulated
signals by least squares. Its error is the largest on draws that it has not seen, relative to ||phi^H s||; what it does
to estimates is printed.

As a script: METHOD FOLDER, one method on the voxels that the folder holds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import harness
import numpy as np
from numpy.polynomial import chebyshev

from crbsvd_plugin import models, threads
from crbsvd_plugin.fit import nlls
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.forward import CompressedModel, Simulated
from crbsvd_plugin.fit.result import Maps

# m0s, R1f, R2f, Rx, R1s, T2s, w0, B1
TISSUE = np.array([[0.05, 0.25, 8, 8, 2, 8e-6, -250, 0.7], [0.3, 1, 25, 40, 6, 16e-6, 250, 1.2]])
DEGREES = np.array([8, 7, 9, 4, 4, 4, 5, 9])
_RANK, _SNR, _VOXELS, _ATOMS, _DRAWS, _TESTED, _PAIRS = 15, 250.0, 256, 4000, 8000, 1000, 3


@dataclass(frozen=True)
class Polynomial:
    """The polynomial sum_n a_n T_n1(u_1) .. T_nP(u_P): powers (N, P) and coefficients (N, K)."""

    box: Box
    powers: np.ndarray
    terms: np.ndarray

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return int(self.terms.shape[1])

    def products(self, u: np.ndarray, *, slopes: bool) -> np.ndarray:
        """Return all products of polynomials at u (B, P), and their derivatives to u: (1 + P or 1, B, N)."""
        one, by = [], []
        for i, n in enumerate(self.powers.T):
            values = chebyshev.chebvander(u[:, i], max(1, n.max()))
            steps = np.stack(
                [chebyshev.chebval(u[:, i], chebyshev.chebder(unit)) for unit in np.eye(values.shape[1])], axis=1
            )
            one.append(values[:, n])
            by.append(steps[:, n])
        p = len(one)
        # products of what is before and after a parameter, so that none is divided by
        before, after = [np.ones_like(one[0])], [np.ones_like(one[0])]
        for i in range(p):
            before.append(before[-1] * one[i])
            after.append(after[-1] * one[p - 1 - i])
        rows = [before[p - 1] * one[p - 1]]
        if slopes:
            rows += [before[i] * by[i] * after[p - 1 - i] for i in range(p)]
        return np.stack(rows)

    def value_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return phi^H s (B, K) and its derivatives (B, P, K)."""
        rows = self.products(self.box.unit(theta), slopes=True)
        parts = self.terms.view(np.float64)
        found = (rows.reshape(-1, len(parts)) @ parts).view(np.complex128).reshape(*rows.shape[:2], -1)
        return found[0], np.moveaxis(found[1:], 0, 1) / self.box.slope(theta)[..., None]


def powers() -> np.ndarray:
    """Return all n (N, 8) with sum n_i / DEGREES_i <= 1."""
    found = np.zeros((1, 0), int)
    for degree in DEGREES:
        step = np.arange(degree + 1)
        left = 1 - (found / DEGREES[: found.shape[1]]).sum(axis=1)
        old, new = np.nonzero(step[None] / degree <= left[:, None] + 1e-12)
        found = np.column_stack([found[old], step[new]])
    return found


def fitted(exact: Simulated) -> Polynomial:
    """Return the polynomial, by least squares relative to ||phi^H s|| at draws that are dense where Chebyshev's are."""
    rng = np.random.default_rng(1)
    u = np.cos(np.pi * rng.random((_DRAWS, len(DEGREES))))
    values = compressed(exact, u)
    weight = 1 / np.linalg.norm(values, axis=1)[:, None]
    empty = Polynomial(exact.box, powers(), np.zeros((1, values.shape[1]), complex))
    products = empty.products(u, slopes=False)[0] * weight
    terms = np.linalg.solve(products.T @ products, products.T @ (values * weight))
    return Polynomial(exact.box, empty.powers, np.ascontiguousarray(terms))


def compressed(exact: Simulated, u: np.ndarray) -> np.ndarray:
    """Return phi^H s at u (B, 8)."""
    parts = np.array_split(exact.box.theta(u), max(1, len(u) // 500))
    return np.concatenate([exact.model.signal(part) @ exact.phi.conj() for part in parts])


def fit(train: tuple[np.ndarray, np.ndarray]) -> harness.Result:
    """Fit all voxels with the model and with the polynomial, in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, train)
        a, b = harness.interleaved(lambda: _run("model", folder), lambda: _run("polynomial", folder), pairs=_PAIRS)
        both = _run("model-threads", folder)
        with np.load(folder / "problem.npz") as file:
            spread, error = file["spread"], float(file["error"])
        exact, close = (np.load(folder / f"{method}.npy") for method in ("model", "polynomial"))
    off = np.abs(close - exact) / spread
    print(
        f"fit: voxels/s: {_VOXELS / a.seconds:.1f} of the model, {_VOXELS / b.seconds:.1f} of the polynomial (CPU of 1 "
        f"thread); {_VOXELS / both.seconds:.1f} of the model by the clock with {threads.count()} threads"
    )
    print(
        f"fit: the polynomial moves estimates by {np.median(off.max(axis=1)):.1e} (median of the largest of 8), "
        f"{np.quantile(off.max(axis=1), 0.95):.1e} (95 %) of their standard deviation, at ||c|| = {_SNR:g} sigma",
        flush=True,
    )
    return harness.Result(
        "fit", a.seconds, "total-degree polynomial for the model, CPU of 1 thread", b.seconds, b.seconds / a.seconds,
        a.megabytes, b.megabytes, 0.0, error,
    )  # fmt: skip


def _write(folder: Path, train: tuple[np.ndarray, np.ndarray]) -> None:
    """Write the voxels with their starts, the basis and the polynomial."""
    alpha, trf = train
    model = models.build({"name": "qmt-hsfp", "alpha": alpha, "TRF": trf})
    box, rng = Box(model.parameters, *TISSUE), np.random.default_rng(0)
    some = model.signal(box.theta(rng.uniform(-1, 1, (600, 8))))
    phi = np.linalg.svd(np.concatenate([some.real, some.imag]), full_matrices=False)[2][:_RANK].T
    exact = Simulated(model, np.ascontiguousarray(phi), box)
    at = time.perf_counter()
    polynomial = fitted(exact)
    seconds = time.perf_counter() - at
    tested = rng.uniform(-1, 1, (_TESTED, 8))
    values = compressed(exact, tested)
    products = polynomial.products(tested, slopes=False)[0]
    errors = np.linalg.norm(products @ polynomial.terms - values, axis=1) / np.linalg.norm(values, axis=1)
    print(
        f"fit: polynomial of {len(polynomial.powers)} terms from {_DRAWS} signals in {seconds:.1f} s, off by "
        f"{np.median(errors):.1e} (median), {errors.max():.1e} (largest) of a signal",
        flush=True,
    )
    u = rng.uniform(-0.9, 0.9, (_VOXELS, 8))
    clean, jac = exact.value_and_jacobian(box.theta(u))
    norm = np.linalg.norm(clean, axis=1)
    sigma = norm[:, None] / _SNR
    voxels = clean + sigma * (rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape))
    columns = np.concatenate([clean[:, None], 1j * clean[:, None], jac * box.slope(box.theta(u))[..., None]], axis=1)
    fisher = np.einsum("bik,bjk->bij", columns.conj(), columns).real
    spread = sigma * np.sqrt(np.diagonal(np.linalg.inv(fisher), axis1=1, axis2=2)[:, 2:])
    atoms = rng.uniform(-1, 1, (_ATOMS, 8))
    signals = compressed(exact, atoms)
    best = np.abs(voxels.conj() @ (signals / np.linalg.norm(signals, axis=1)[:, None]).T).argmax(axis=1)
    np.savez(
        folder / "problem.npz", alpha=alpha, TRF=trf, phi=exact.phi, voxels=voxels, start=box.theta(atoms[best]),
        powers=polynomial.powers, terms=polynomial.terms, spread=spread, error=errors.max(),
    )  # fmt: skip


def _run(method: str, folder: Path) -> harness.Usage:
    whole = harness.run(
        [sys.executable, str(Path(__file__)), method, str(folder)], environment={"OPENBLAS_NUM_THREADS": "1"}
    )
    return harness.Usage(json.loads(whole.output.splitlines()[-1]), whole.megabytes)


def _main(method: str, folder: Path) -> None:
    with np.load(folder / "problem.npz") as file:
        content = dict(file)
    model = models.build({"name": "qmt-hsfp", "alpha": content["alpha"], "TRF": content["TRF"]})
    box = Box(model.parameters, *TISSUE)
    forward: CompressedModel = Simulated(model, content["phi"], box)
    if method == "polynomial":
        forward = Polynomial(box, content["powers"], content["terms"])
    none = np.zeros(_VOXELS, bool)
    start = Maps(model.parameters, content["start"].T, none.astype(complex), none, ~none)
    warm = Maps(model.parameters, start.theta[:, :1], start.m0[:1], none[:1], start.mask[:1])
    with threads.limit(None if method == "model-threads" else 1):
        nlls.fit(content["voxels"][:1].T, forward, warm)
        clock = time.perf_counter if method == "model-threads" else time.process_time
        at = clock()
        found = nlls.fit(content["voxels"].T, forward, start)
        seconds = clock() - at
    np.save(folder / f"{method}.npy", box.unit(found.theta.T.astype(float)))
    print(json.dumps(seconds))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
