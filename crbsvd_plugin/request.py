"""What the user asks to be trained, checked and run: what `basis` and `sweep` have in common."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import cluster, crb, files
from .basis import Basis
from .batches import batch_size
from .errors import UserError
from .fold import BasisAccumulator
from .model import SignalModel
from .prior import Atoms, Prior
from .progress import Report, counted
from .spec import Spec, resolve
from .subspace import MOST, TOLERANCE
from .training import Training
from .weighting import SIGNAL, Block, Kind, Weighting

if TYPE_CHECKING:
    from .cluster import Pool

logger = logging.getLogger(__name__)

_PROBED = 64
_DIMENSION = 3 * MOST // 2  # where the subspace is cut
PROGRAM = 180
"""Memory of the program itself [MiB], with numba, scipy and what they load."""
_DIGITS = 15


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options of a training.

    Parameters
    ----------
    spec, settings
        The model, see `spec.resolve`.
    train : str
        Fingerprints: "grid" for all of the prior's, or a number for about that many.
    fisher
        See `fold.BasisAccumulator`.
    conjugate : bool, optional
        Likewise; not given: where the prior has the conjugate of every signal (`Spec.conjugates`).
    tolerance : float, optional
        Likewise; not given: that of the model (`Spec.tolerance`).
    weighting, parameter_weights, class_weights
        See `weighting.Weighting`.
    checkpoint : str, optional
        See `training.Training.run`.
    workers, scheduler
        Cluster to run on, see `cluster.connect`; this process alone if neither is given.
    """

    spec: str
    settings: Sequence[str] = ()
    train: str = "20000"
    fisher: crb.Fisher = "real"
    conjugate: bool | None = None
    tolerance: float | None = None
    weighting: Kind = "svd"
    parameter_weights: Mapping[str, float] = field(default_factory=dict)
    class_weights: Mapping[Any, float] = field(default_factory=dict)
    checkpoint: str | None = None
    workers: int | None = None
    scheduler: str | None = None

    def resolved(self) -> Spec:
        """Return the model and its priors."""
        return resolve(self.spec, self.settings)

    def settled(self, spec: Spec) -> Self:
        """Return the request with what it leaves to the model and its priors."""
        conjugate = spec.conjugates if self.conjugate is None else self.conjugate
        tolerance = spec.tolerance if self.tolerance is None else self.tolerance
        return replace(self, conjugate=conjugate, tolerance=tolerance)

    def training(self, model: SignalModel, atoms: Sequence[Atoms]) -> Training:
        """Return the training on these fingerprints."""
        tolerance = TOLERANCE if self.tolerance is None else self.tolerance
        return Training(
            model=model, atoms=atoms, fisher=self.fisher, conjugate=bool(self.conjugate), tolerance=tolerance
        )

    def check(self, training: Training, *, rank: int, crb_weights: Sequence[float]) -> None:
        """Refuse what could not be made of a training, before it is run.

        Raises
        ------
        UserError
            The rank or a weight is out of range, or a weight is given to what is not there.
        """
        n_frames = training.model.n_frames
        if not 1 <= rank <= n_frames:
            raise UserError(f"--rank is {rank}, expected 1 to the number of frames, {n_frames}")
        for weight in crb_weights:
            if not 0 <= weight <= 1:
                raise UserError(f"--crb-weight is {weight}, expected 0 to 1")
            if not any(self.factors(training, weight).values()):
                raise UserError(f"with a crb weight of {weight:g} nothing has a weight above zero; change the weights")

    def check_free(self, sidecar: Path, names: list[str], *, kind: str, force: bool) -> None:
        """Refuse outputs that are there already, that cannot be written, or that are the checkpoint too."""
        if self.checkpoint is not None:
            outputs = {(sidecar.parent / name).resolve() for name in (sidecar.name, *names)}
            kept = {Path(name).resolve() for name in (self.checkpoint, *self.parts)}
            # a file of the name of their folder, and a file below one of them, cannot be either
            folders = {folder for path in kept for folder in path.parents}
            if kept & (outputs | {sidecar.parent.resolve()}) or outputs & folders:
                raise UserError(f"--checkpoint {self.checkpoint} is one of the outputs; give it another name")
        files.check_free(sidecar, names, kind=kind, force=force)
        files.check_writable(sidecar)

    @property
    def parts(self) -> list[str]:
        """The names of checkpoints of parts of the fingerprints, where these are trained one after the other."""
        return []

    def pool(self) -> AbstractContextManager[Pool | None]:
        """Connect to the cluster, if there is to be one."""
        return cluster.spread(workers=self.workers, scheduler=self.scheduler)

    def run(self, training: Training, *, pool: Pool | None, report: Report) -> BasisAccumulator:
        """Run a training, told to the user as the stage "fingerprints"."""
        logger.info("%d fingerprints, about %.0f MiB", training.size, mebibytes(training))
        progress = counted(report, "fingerprints", training.size)
        accumulator = training.run(checkpoint=self.checkpoint, pool=pool, progress=progress)
        for (label, name), theta in accumulator.dependent.items():
            logger.warning(
                "%s: d/d%s of some fingerprints is zero or depends on other derivatives, first at theta = %s; "
                "they are left out (%d in all classes)",
                label, name, theta, accumulator.n_dependent[name],
            )  # fmt: skip
        return accumulator

    def basis(
        self, accumulator: BasisAccumulator, rank: int, crb_weight: float, *, info: Mapping[str, Any] | None = None
    ) -> Basis:
        """Return the basis of a rank and a crb weight, with the other weights as asked for."""
        weights = self.weights(accumulator.labels, crb_weight)
        return accumulator.finish(
            rank, crb_weight, weighting=weights.kind, info=info,
            parameter_weights=weights.parameters, class_weights=weights.classes,
        )  # fmt: skip

    def factors(self, training: Training, crb_weight: float) -> dict[Block, float]:
        """Return what the squared loss of every block of a training counts.

        Raises
        ------
        UserError
            A weight is out of range, or given to what is not there.
        """
        parameters = training.model.parameters
        names = [SIGNAL, *(parameters[i].name for i in crb.interesting(parameters))]
        weighting = Weighting(crb_weight, self.weighting, self.parameter_weights, self.class_weights)
        return weighting.factors([(atoms.label, name) for atoms in training.atoms for name in names])

    def weights(self, labels: Sequence[str], crb_weight: float) -> Weighting:
        """Return the weights as asked for, without those of other classes than these."""
        # a share of the fingerprints may have none of a small class
        classes = {
            key: weight
            for key, weight in self.class_weights.items()
            if (key[0] if isinstance(key, tuple) else key) in labels
        }
        return Weighting(crb_weight, self.weighting, self.parameter_weights, classes)


def sized(prior: Prior, size: str, option: str, model: SignalModel) -> Prior:
    """Return a prior of the wanted size: "grid" or a number.

    Raises
    ------
    UserError
        It is neither.
    """
    if size == "grid":
        return prior
    # more digits than any prior has atoms would not fit into a float
    if not size.isdecimal() or len(size) > _DIGITS:
        raise UserError(f"{option} is {size!r}, expected grid or a number")
    return prior.thinned(int(size), model.parameters)


def seconds(model: SignalModel, atoms: Sequence[Atoms], *, jacobian: bool) -> float:
    """Return how long simulating atoms will take in this process, from a few of every class."""
    run = model.signal_and_jacobian if jacobian else model.signal
    total = 0.0
    for part in atoms:
        sample = part.theta[np.random.default_rng(0).integers(0, len(part.theta), _PROBED)]
        run(sample[:1])  # compiles
        start = time.perf_counter()
        run(sample)
        total += (time.perf_counter() - start) / _PROBED * len(part.theta)
    return total


def mebibytes(training: Training, *, n_accumulators: int = 1) -> float:
    """Return the memory of a training [MiB]: program, batch, its copies, and the Gram matrices at their largest.

    A batch is there three times: simulated, orthogonalised, and while that is done. Where the subspace grows there are
    its rows as the fold takes them, their residuals for every block and for all, and what is subtracted from these.
    """
    n_frames, parameters = training.model.n_frames, training.model.parameters
    n_blocks = len(training.atoms) * (1 + len(crb.interesting(parameters)))
    size = min(batch_size(n_frames, len(parameters)), max((len(atoms.theta) for atoms in training.atoms), default=0))
    batch = 3 * 16 * size * n_frames * (1 + len(parameters))
    batch += 4 * 16 * size * n_frames * (1 + len(crb.interesting(parameters)))
    # the dimension of the subspace is not known before, only where it is cut at the latest, but for one batch
    dimension = min(n_frames, _DIMENSION) if training.tolerance else n_frames
    number = 8 if training.conjugate else 16
    grams = (8 * n_frames * dimension + number * n_blocks * dimension**2) * n_accumulators
    return PROGRAM + (batch + grams) / 2**20
