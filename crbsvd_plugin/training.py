"""Simulate the fingerprints of a prior and fold them: interruptible, on one machine or many."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from . import __version__, crb
from .basis import Basis
from .batches import batch_size, pieces, simulate
from .checkpoint import Checkpoint
from .fold import BasisAccumulator
from .model import SignalModel
from .prior import Atoms, Prior
from .subspace import TOLERANCE
from .weighting import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cluster import Pool

logger = logging.getLogger(__name__)

_CHUNK = 2
_N_CHUNKS = 128
_GROUP = 4

T = TypeVar("T")
State = tuple[dict[str, Any], dict[str, "NDArray[Any]"]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is folded, and how.

    Parameters
    ----------
    model : SignalModel
        The model.
    atoms : sequence of Atoms
        Fingerprints by tissue class.
    fisher, conjugate, tolerance
        See `BasisAccumulator`.
    """

    model: SignalModel
    atoms: Sequence[Atoms]
    fisher: crb.Fisher = "real"
    conjugate: bool = False
    tolerance: float = TOLERANCE

    @property
    def size(self) -> int:
        """Number of fingerprints."""
        return sum(len(atoms.theta) for atoms in self.atoms)

    @property
    def key(self) -> dict[str, Any]:
        """What a checkpoint must agree in."""
        digest = hashlib.sha256()
        for atoms in self.atoms:
            digest.update(repr((atoms.label, atoms.weight, atoms.theta.shape)).encode())
            digest.update(np.ascontiguousarray(atoms.theta).tobytes())
        return {
            "software": f"crbsvd-plugin {__version__}",
            "numpy": np.__version__,
            "model": dict(self.model.spec),
            "fingerprints": f"{self.size}, SHA-256 {digest.hexdigest()}",
            "fisher": self.fisher,
            "conjugate": self.conjugate,
            "tolerance": self.tolerance,
        }

    def run(
        self,
        *,
        checkpoint: str | Path | None = None,
        pool: Pool | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> BasisAccumulator:
        """Return the accumulator of all fingerprints, from which any number of bases can be finished.

        Parameters
        ----------
        checkpoint : path, optional
            File that keeps what is done, every two minutes and at the end. If it is there already
            the run goes on from it, and ends bit for bit as one that was not interrupted (same
            machine, threads and versions).
        pool : Pool, optional
            Workers to spread the fingerprints over; each of them folds, and the partial
            accumulators are merged in a tree.
        progress : callable, optional
            Called with the number of fingerprints just done.

        Raises
        ------
        UserError
            The checkpoint is of another run, or damaged; a signal is not finite.
        """
        queue = pieces(self.atoms, size=batch_size(self.model.n_frames, len(self.model.parameters)))
        accumulator = self._empty()
        keeper = None if checkpoint is None else Checkpoint(checkpoint, self.key)
        resume(
            accumulator,
            queue,
            lambda rest: self._steps(accumulator, rest, len(queue), pool),
            keeper=keeper,
            progress=progress,
            size=number_of_atoms,
        )
        return accumulator

    def _steps(
        self, accumulator: BasisAccumulator, queue: Sequence[Atoms], n_batches: int, pool: Pool | None
    ) -> Iterator[int]:
        """Fold what is left of a queue of so many batches; after each step yield how many are done."""
        if pool is None:
            for piece in queue:
                accumulator.update(simulate(self.model, piece))
                yield 1
            return
        # what travels with every piece of work must be small
        bare = replace(self, atoms=())
        # every chunk finds its subspace anew, so chunks of long queues are longer; a run that goes on has the same ones
        size = max(_CHUNK, -(-n_batches // _N_CHUNKS))
        chunks = [queue[i : i + size] for i in range(0, len(queue), size)]
        n_left = len(queue)
        for state in pool.reduce(bare._fold, bare._merge, chunks, group=_GROUP):
            accumulator.merge(self._restored(state))
            yield min(size * _GROUP, n_left)
            n_left -= size * _GROUP

    def _empty(self) -> BasisAccumulator:
        return BasisAccumulator(
            self.model.parameters, self.model.n_frames,
            fisher=self.fisher, conjugate=self.conjugate, tolerance=self.tolerance,
        )  # fmt: skip

    def _restored(self, state: State) -> BasisAccumulator:
        accumulator = self._empty()
        accumulator.restore(*state)
        return accumulator

    def _fold(self, chunk: Sequence[Atoms]) -> State:
        accumulator = self._empty()
        for piece in chunk:
            accumulator.update(simulate(self.model, piece))
        return accumulator.state()

    def _merge(self, state: State, other: State) -> State:
        accumulator = self._restored(state)
        accumulator.merge(self._restored(other))
        return accumulator.state()


def number_of_atoms(piece: Atoms) -> int:
    """Return how many fingerprints a batch has."""
    return len(piece.theta)


class Resumable(Protocol):
    """What a long run fills, and can give and take as plain values and arrays."""

    def state(self) -> State:
        """Return all that `restore` needs."""

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what had this state."""


def resume(
    filled: Resumable,
    queue: Sequence[T],
    steps: Callable[[Sequence[T]], Iterable[int]],
    *,
    keeper: Checkpoint | None,
    progress: Callable[[int], object] | None,
    size: Callable[[T], int],
) -> None:
    """Work off a queue, from where a checkpoint says that it was left.

    Parameters
    ----------
    filled : Resumable
        Is filled.
    queue : sequence
        All batches of the work, in a fixed order.
    steps : callable
        Given the batches that are left, fills, and yields after each step how many batches it took.
    keeper : Checkpoint, optional
        Keeps what is done every now and then, and at the end.
    progress : callable, optional
        Called with the size of what was just done.
    size : callable
        Gives the size of a batch.
    """

    def tell(done: Sequence[T]) -> None:
        if progress is not None and done:
            progress(sum(map(size, done)))

    n_done = 0
    found = None if keeper is None else keeper.load()
    if keeper is not None and found is not None:
        filled.restore(found[0]["state"], found[1])
        n_done = found[0]["n_done"]
        logger.info("%s: going on after %d of %d batches", keeper.path, n_done, len(queue))
        tell(queue[:n_done])
    if keeper is not None and n_done < len(queue):
        keeper.check()
    for n_new in steps(queue[n_done:]):
        tell(queue[n_done : n_done + n_new])
        n_done += n_new
        if keeper is not None and (keeper.due() or n_done == len(queue)):
            values, arrays = filled.state()
            keeper.save({"state": values, "n_done": n_done}, arrays)


def compute_basis(
    model: SignalModel,
    prior: Prior,
    *,
    rank: int,
    crb_weight: float,
    weighting: Kind = "svd",
    fisher: crb.Fisher = "real",
    conjugate: bool = False,
    tolerance: float = TOLERANCE,
    progress: Callable[[int], object] | None = None,
) -> Basis:
    """Simulate a prior and return its CRB-SVD basis.

    Parameters
    ----------
    model, prior
        What to simulate.
    rank, crb_weight, weighting
        As in `BasisAccumulator.finish`.
    fisher, conjugate, tolerance
        As in `BasisAccumulator`.
    progress : callable, optional
        Called with the number of atoms after each batch.

    Raises
    ------
    UserError
        A weight or the rank is out of range.
    """
    atoms = prior.atoms(model.parameters)
    training = Training(model=model, atoms=atoms, fisher=fisher, conjugate=conjugate, tolerance=tolerance)
    info = {"model": model.spec, "prior": prior.spec}
    return training.run(progress=progress).finish(rank, crb_weight, weighting=weighting, info=info)
