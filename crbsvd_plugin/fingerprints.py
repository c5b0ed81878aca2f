"""Training and held-out fingerprints in the leading dimensions of a fold, where exact bounds of bases are cheap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from . import crb
from .batches import batch_size, pieces, simulate
from .cluster import Pool
from .exact import ExactLoss, Reduced, reduced
from .fold import BasisAccumulator
from .model import Batch, SignalModel
from .prior import Atoms
from .progress import Report, counted, silent
from .training import Training
from .weighting import Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DIMENSIONS = 256
"""Leading dimensions of the fold in which bases are looked for; of MRF-FISP 60 give all digits of 256."""

_LIMIT = 2**30
_FIRST = 8
"""Every so-manieth fingerprint is enough for the first steps: halves the time of MT trains, to the same cost."""


@dataclass(frozen=True)
class Fingerprints:
    """Training and held-out fingerprints in the leading dimensions of a fold: what bases there lose.

    Parameters
    ----------
    columns : array (T, r)
        The dimensions.
    first, training, held_out : ExactLoss
        Of some of the training fingerprints, of all, and of those that decide whether a basis is better.
    """

    columns: NDArray[np.float64]
    first: ExactLoss
    training: ExactLoss
    held_out: ExactLoss


def prepared(
    accumulator: BasisAccumulator,
    training: Training,
    held_out: Sequence[Atoms],
    factors: Mapping[Block, float],
    *,
    worst: bool = False,
    pool: Pool | None = None,
    report: Report = silent,
) -> Fingerprints:
    """Simulate fingerprints for `improved`; good for any rank and crb weight.

    Parameters
    ----------
    accumulator, training
        What was folded.
    held_out : sequence of Atoms
        Other fingerprints.
    factors : mapping
        What the squared loss of every block counts, see `Weighting.factors`; signals against derivatives do not matter
        here, but neither may be all zero.
    worst : bool
        Of every parameter the worst tenth counts, see `ExactLoss`.
    pool : Pool, optional
        Workers to simulate on.
    report : callable
        Told of the progress.
    """
    columns = accumulator.leading(DIMENSIONS)
    targets, fisher = accumulator.targets, training.fisher
    reduce = partial(reduced, columns=columns, targets=targets, fisher=fisher, with_units=worst)
    parts, rest = (
        list(_reduced(replace(training, atoms=atoms), reduce, worst, pool, report))
        for atoms in (training.atoms, held_out)
    )
    first, loss, held = (
        ExactLoss(some, factors, accumulator.columns[1:], targets=targets, fisher=fisher, worst=worst)
        for some in ([part.every(_FIRST) for part in parts], parts, rest)
    )
    return Fingerprints(columns, first, loss, held)


def _reduced(
    training: Training, reduce: Callable[[Batch], Reduced], worst: bool, pool: Pool | None, report: Report
) -> Iterator[Reduced]:
    """Simulate fingerprints, evenly fewer where they would not fit into memory, in the few dimensions."""
    model, atoms, size = training.model, training.atoms, _size(training, worst)
    step = -(-size // _LIMIT)
    if step > 1:
        logger.info("exact bounds of every %d. fingerprint, for all would take %.1f GiB", step, size / 2**30)
        atoms = [Atoms(part.label, part.theta[::step], part.weight * step) for part in atoms]
    queue = pieces(atoms, size=batch_size(model.n_frames, len(model.parameters)))
    progress = counted(report, "exact bounds", sum(len(piece.theta) for piece in queue))
    for part in (pool or Pool()).map(_Reduce(model, reduce), queue):
        yield part
        progress(len(part.energy))


def _size(training: Training, worst: bool) -> int:
    """Return what the fingerprints take in the few dimensions [B], at most."""
    parameters = training.model.parameters
    rows = 1 + len(parameters) + worst * len(crb.interesting(parameters))
    return training.size * rows * 16 * min(DIMENSIONS, training.model.n_frames)


def mebibytes(training: Training, *, worst: bool) -> float:
    """Return the memory of a search [MiB]: its fingerprints, twice while they are joined, and those it begins with."""
    return 2.2 * min(_size(training, worst), _LIMIT) / 2**20


@dataclass(frozen=True)
class _Reduce:
    """Simulates and reduces a batch; an object, so that it can be sent to a worker."""

    model: SignalModel
    reduce: Callable[[Batch], Reduced]

    def __call__(self, piece: Atoms) -> Reduced:
        return self.reduce(simulate(self.model, piece))
