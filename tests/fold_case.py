"""Small dictionaries for the tests of the fold, and what numpy's dense SVD of D = [(1 - l) S, l J] makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crbsvd_plugin import crb
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.model import Batch, Parameter

Array = NDArray[Any]
Kind = Literal["complex", "real", "imaginary", "mixed"]
KINDS: tuple[Kind, ...] = ("complex", "real", "imaginary", "mixed")
RANK = 4
PARAMETERS = (Parameter("a", "s", 0, 1), Parameter("n", "", 0, 1, nuisance=True), Parameter("b", "1/s", 0, 1))
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Shape:
    """Frames, and by how much each singular value is smaller than the one before."""

    n_frames: int
    decay: float


FULL = Shape(23, 0.6)
"""Needs all dimensions: nothing falls outside."""
LEADING = Shape(97, 0.3)
"""Falls to 1e-9 within 17 complex dimensions: a third of all is enough."""


def make_batches(
    rng: np.random.Generator, kind: Kind, sizes: tuple[int, ...] = (17, 40, 23), shape: Shape = FULL
) -> list[Batch]:
    """Return one batch per class, the norms of whose derivatives differ by 2e7."""
    n = shape.n_frames
    modes = np.linalg.qr(complex_normal(rng, n, n))[0] * shape.decay ** np.arange(n)
    batches = []
    for i, (size, label) in enumerate(zip(sizes, ("wm", "gm", "csf"), strict=True)):
        rows = complex_normal(rng, size, 4, n) @ modes.T * np.array([1.0, 4e4, 1.0, 2e-3])[:, None]
        part = {"complex": rows, "real": rows.real + 0j, "imaginary": 1j * rows.imag}
        rows = part["real" if i % 2 else "imaginary"] if kind == "mixed" else part[kind]
        batches.append(Batch(rng.uniform(size=(size, 3)), rows[:, 0], rows[:, 1:], label, (1.0, 0.25, 3.0)[i]))
    return batches


def complex_normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def blocks_of(batch: Batch, fisher: crb.Fisher = "real") -> dict[str, Array]:
    """Return the signals and the unit derivatives of a batch, (B, T) each."""
    assert batch.jac is not None
    unit = crb.orthogonalise(batch.signal, batch.jac, targets=[0, 2], fisher=fisher).unit
    return {"signal": batch.signal, "a": unit[:, 0], "b": unit[:, 1]}


def dense_matrix(
    batches: Sequence[Batch],
    weight: float,
    *,
    conjugate: bool = False,
    fisher: crb.Fisher = "real",
    factors: Mapping[tuple[str, str], float] | None = None,
) -> Array:
    """Return D (T, N), column by column what is folded."""
    columns = []
    for batch in batches:
        for name, block in blocks_of(batch, fisher).items():
            share = 1 - weight if name == "signal" else weight
            columns.append(share * np.sqrt(batch.weight * (factors or {}).get((batch.label, name), 1.0)) * block.T)
    matrix = np.concatenate(columns, axis=1)
    # conjugates count by half each
    return np.concatenate([matrix, matrix.conj()], axis=1) / np.sqrt(2) if conjugate else matrix


def dense(batches: Sequence[Batch], weight: float, **options: Any) -> tuple[Array, Array]:
    """Return the left singular vectors and the singular values of D."""
    u, s, _ = np.linalg.svd(dense_matrix(batches, weight, **options), full_matrices=False)
    return u, s


def folded(batches: Sequence[Batch], **options: Any) -> BasisAccumulator:
    """Return what has absorbed the batches, one after the other."""
    accumulator = BasisAccumulator(PARAMETERS, batches[0].signal.shape[1], **options)
    for batch in batches:
        accumulator.update(batch)
    return accumulator


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a batch."""
    assert batch.jac is not None
    for i in range(0, len(batch.theta), size):
        j = i + size
        yield replace(batch, theta=batch.theta[i:j], signal=batch.signal[i:j], jac=batch.jac[i:j])


def dropped(accumulator: BasisAccumulator, batches: Sequence[Batch], weight: float) -> float:
    """Return the norm of what the fold has dropped of D: its own shares of energies that are computed here."""
    total = 0.0
    for batch in batches:
        for name, block in blocks_of(batch, accumulator.fisher).items():
            share = (1 - weight) ** 2 if name == "signal" else weight**2
            energy = batch.weight * float(np.linalg.norm(block)) ** 2
            total += share * energy * accumulator.outside[batch.label, name]
    return float(np.sqrt(total))


def sine(a: Array, b: Array) -> float:
    """Return the sine of the largest angle between two subspaces of equal dimension."""
    return float(np.linalg.norm(b - a @ (a.conj().T @ b), 2))


def angle_tolerance(s: Array, rank: int = RANK, lost: float = 0.0) -> float:
    """Return how far the fold may turn the leading `rank` dimensions of D with singular values s.

    Rounding of the Gram matrix, by Davis and Kahan: its error, eps s_1^2 times a small power of its size, here 100,
    over the gap of the squares. What was dropped, by Wedin: twice its norm over the gap (see `BasisAccumulator`),
    where the fold's estimate of its energy, a mean of 32 chi^2, is off by less than 3.
    """
    after = s[rank] if rank < len(s) else 0.0
    rounding = 100 * EPS * s[0] ** 2 / (s[rank - 1] ** 2 - after**2)
    return float(rounding + 2 * np.sqrt(3) * lost / (s[rank - 1] - after))
