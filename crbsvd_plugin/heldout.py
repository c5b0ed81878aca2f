"""Measure bases on fingerprints that they were not made from: interruptible, on one machine or many."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .assess import Tally
from .batches import batch_size, pieces, simulate
from .checkpoint import Checkpoint
from .prior import Atoms
from .progress import Report, counted
from .training import State, Training, number_of_atoms, resume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cluster import Pool


def assessed(
    held_out: Training,
    phis: Sequence[NDArray[Any]],
    directions: NDArray[np.float64],
    *,
    checkpoint: str | None,
    pool: Pool | None,
    report: Report,
) -> Tally:
    """Return the losses of all bases on held-out fingerprints, told to the user as a stage.

    Parameters
    ----------
    held_out : Training
        The fingerprints, as if they were to be trained on.
    phis : sequence of arrays (T, K)
        The bases.
    directions : array (T, r)
        See `Tally`.
    checkpoint : str, optional
        Begin of the name of the file that keeps what is done.
    pool : Pool, optional
        Workers to spread the fingerprints over.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        The checkpoint is of another run, or damaged; a signal is not finite.
    """
    model = held_out.model
    queue = pieces(held_out.atoms, size=batch_size(model.n_frames, len(model.parameters)))
    # what travels with every piece of work must be small
    measure = _Measure(replace(held_out, atoms=()), phis, directions)
    tally, keeper = measure.empty(), None
    if checkpoint is not None:
        digest = hashlib.sha256(
            b"".join(np.ascontiguousarray(phi).tobytes() for phi in (*phis, directions))
        ).hexdigest()
        # other weights or ranks make other bases, with a file of their own
        keeper = Checkpoint(f"{checkpoint}.held-out-{digest[:8]}", {**held_out.key, "bases": digest})

    def steps(rest: Sequence[Atoms]) -> Iterator[int]:
        for part in map(measure, rest) if pool is None else pool.map(measure, rest):
            found = measure.empty()
            found.restore(*part)
            tally.merge(found)
            yield 1

    progress = counted(report, "held-out fingerprints", sum(len(piece.theta) for piece in queue))
    resume(tally, queue, steps, keeper=keeper, progress=progress, size=number_of_atoms)
    return tally


@dataclass(frozen=True)
class _Measure:
    """The state of the tally of one batch of fingerprints; an object, so that it can be sent to a worker."""

    held_out: Training
    phis: Sequence[NDArray[Any]]
    directions: NDArray[np.float64]

    def empty(self) -> Tally:
        parameters, fisher = self.held_out.model.parameters, self.held_out.fisher
        return Tally(parameters, self.phis, fisher=fisher, directions=self.directions)

    def __call__(self, piece: Atoms) -> State:
        tally = self.empty()
        tally.update(simulate(self.held_out.model, piece))
        return tally.state()
