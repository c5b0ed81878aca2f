"""Bias and standard deviation of parameters by simulation, against rank and crb weight, beside their bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import __version__, charts, crb, files, request, truths
from .basis import Basis, plain
from .batches import batch_size
from .bench import Way
from .campaign import Campaign
from .errors import UserError
from .estimates import Estimates
from .fit.bounds import bounded
from .fit.box import Box
from .model import SignalModel
from .outcome import Outcome, Row
from .prior import Atoms, Prior
from .progress import Report
from .training import Training
from .weighting import Weighting

if TYPE_CHECKING:
    from numpy.typing import NDArray


FORMAT = "crbsvd-study/1"
MEMBERS = ("study.csv", "study.png")
_SIMULATED = 10
"""Simulations of a fit without an emulator, about."""


@dataclass(frozen=True, kw_only=True)
class Request(request.Request):
    """What the user asks for; the fields are the options of `crbsvd study`.

    Parameters
    ----------
    at, table, random
        The fingerprints, see `truths.chosen`.
    snr : float
        |M0| / sigma, where sigma is the noise per real component of a coefficient.
    measurements : int
        Number N of noisy measurements of each fingerprint.
    ranks, crb_weights : sequences
        The bases.
    way : Way
        How measurements are fitted.
    atoms : str
        Atoms of the dictionary, from the fit prior: "grid" or a number.
    seed : int
        Of the noise and of drawn fingerprints.
    """

    at: Sequence[str] = ()
    table: str | None = None
    random: int | None = None
    snr: float = 50.0
    measurements: int = 1000
    ranks: Sequence[int] = (3, 4, 5, 6, 7, 8, 9, 10)
    crb_weights: Sequence[float] = (0.0, 0.5)
    way: Way = field(default_factory=Way)
    atoms: str = "grid"
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """A request whose model, fingerprints and output are known to be good."""

    request: Request
    model: SignalModel
    prior: Prior
    fit_prior: Prior
    training: Training
    truth: NDArray[np.float64]
    box: Box
    folder: Path
    force: bool = False

    @property
    def fitted(self) -> list[int]:
        """Which parameters of interest are fitted: they have more than one value."""
        return [i for i in crb.interesting(self.model.parameters) if self.box.free[i]]

    @property
    def campaign(self) -> Campaign:
        """The measurements."""
        asked = self.request
        return Campaign(
            model=self.model, truth=self.truth, fit_prior=self.fit_prior, box=self.box, way=asked.way,
            ranks=asked.ranks, snr=asked.snr, n_measurements=asked.measurements, seed=asked.seed,
        )  # fmt: skip

    def estimate(self) -> str:
        """Return the expected memory and time, from a small sample, in words."""
        asked, n_parameters = self.request, len(self.model.parameters)
        n_fits = len(asked.crb_weights) * len(asked.ranks) * len(self.truth) * asked.measurements
        memory = request.mebibytes(self.training) + n_fits * (4 * n_parameters + 1) / 2**20
        duration = request.seconds(self.model, self.training.atoms, jacobian=True)
        if asked.way.needs_dictionary:
            atoms = self.fit_prior.atoms(self.model.parameters)
            duration += request.seconds(self.model, atoms, jacobian=asked.way.refine)
            n_atoms = sum(len(part.theta) for part in atoms)
            memory += 8 * n_atoms * len(asked.crb_weights) * (max(asked.ranks) + 4) / 2**20
        if asked.way.simulates(self.box):
            one = request.seconds(self.model, [Atoms("study", self.truth)], jacobian=True)
            duration += _SIMULATED * n_fits * one / len(self.truth)
            fits = f"{n_fits} fits, each of which is taken for {_SIMULATED} simulations"
        else:
            fits = f"{n_fits} fits, which are not counted"
        return (
            f"{self.training.size} fingerprints of {self.model.n_frames} frames, {len(self.truth)} to be measured: "
            f"about {memory:.0f} MiB and {duration:.0f} s in this process, with {fits}"
        )

    def make(self, *, report: Report) -> Outcome:
        """Make all bases, fit all measurements, and write table and figure.

        Raises
        ------
        UserError
            The fingerprints do not support the rank, the method cannot fit this model, or the files cannot be written.
        """
        asked = self.request
        with asked.pool() as pool:
            accumulator = asked.run(self.training, pool=pool, report=report)
            info = {"model": self.model.spec}
            bases = [asked.basis(accumulator, max(asked.ranks), weight, info=info) for weight in asked.crb_weights]
            estimates = self.campaign.run(
                bases, checkpoint=asked.checkpoint, key=self.training.key, pool=pool, report=report
            )
        outcome = Outcome(list(self._rows(bases, estimates)))
        weighting = Weighting(0.5, asked.weighting, asked.parameter_weights, asked.class_weights).info
        content = {
            "software": f"crbsvd-plugin {__version__}",
            "model": self.model.spec,
            "prior": self.prior.spec,
            "fit_prior": self.fit_prior.spec,
            "n_atoms": {atoms.label: len(atoms.theta) for atoms in self.training.atoms},
            "fisher": asked.fisher,
            "conjugate": asked.conjugate,
            **{name: value for name, value in weighting.items() if name != "crb_weight"},
            **asdict(asked.way),
            "snr": asked.snr,
            "measurements": asked.measurements,
            "seed": asked.seed,
            "parameters": [parameter.name for parameter in self.model.parameters],
            "fingerprints": self.truth.tolist(),
            "ranges": {
                p.name: [low, high]
                for p, low, high in zip(
                    self.model.parameters, self.box.low.tolist(), self.box.high.tolist(), strict=True
                )
            },
            "held": [p.name for p, free in zip(self.model.parameters, self.box.free, strict=True) if not free],
            "rows": [asdict(row) for row in outcome.rows],
        }
        with files.product(self.folder / "study.json", list(MEMBERS), kind=FORMAT, force=self.force) as product:
            files.write_table(product.path("study.csv"), [asdict(row) for row in outcome.rows])
            charts.study(outcome.rows, product.path("study.png"))
            product.commit(plain(content))
        return outcome

    def _rows(self, bases: Sequence[Basis], estimates: Estimates) -> Iterator[Row]:
        asked, parameters, free = self.request, self.model.parameters, np.flatnonzero(self.box.free).tolist()
        size = batch_size(self.model.n_frames, len(parameters))
        for start in range(0, len(self.truth), size):
            batch = self.campaign.simulated(slice(start, start + size))
            assert batch.jac is not None
            # what the fit holds is no unknown
            problem = batch.signal, batch.jac[:, free]
            targets = [free.index(i) for i in self.fitted]
            found = [crb.bounds_by_rank(*problem, b.phi, targets=targets, fisher=asked.fisher) for b in bases]
            for f, (i, weight), (k, rank), (p, index) in itertools.product(
                range(len(batch.theta)), enumerate(asked.crb_weights), enumerate(asked.ranks), enumerate(self.fitted)
            ):
                case, truth = (i, k, start + f), float(batch.theta[f, index])
                bounds = (found[i].uncompressed[0, f, p], found[i].exact[rank - 1, f, p])
                yield Row(
                    start + f, weight, rank, parameters[index].name, parameters[index].unit, truth,
                    asked.measurements, estimates.failed(*case), estimates.at_edge(*case),
                    *estimates.statistics(*case, index, truth), *(float(np.sqrt(b)) / asked.snr for b in bounds),
                )  # fmt: skip


def plan(asked: Request, folder: str, *, force: bool) -> Plan:
    """Check a request before any work is done.

    Raises
    ------
    UserError
        An option is out of range, a fingerprint cannot be found by the fit, or the output exists already.
    """
    spec = asked.resolved()
    asked, model = asked.settled(spec), spec.model
    if asked.measurements < 2:
        raise UserError(f"--measurements is {asked.measurements}, expected at least 2 for a standard deviation")
    if not 0 < asked.snr < math.inf:
        raise UserError(f"--snr is {asked.snr:g}, expected a number above 0")
    if asked.seed < 0:
        raise UserError(f"--seed is {asked.seed}, expected 0 or more")
    wrong = [rank for rank in asked.ranks if not 1 <= rank <= model.n_frames]
    if wrong or not asked.ranks:
        found = f"holds {wrong[0]}" if wrong else "is empty"
        raise UserError(f"--ranks {found}, expected numbers from 1 to the number of frames, {model.n_frames}")
    if not asked.crb_weights:
        raise UserError("--crb-weights is empty, expected numbers from 0 to 1, with commas")
    prior = request.sized(spec.prior, asked.train, "--train", model)
    fit_prior = request.sized(spec.fit_prior, asked.atoms, "--atoms", model)
    training = asked.training(model, prior.atoms(model.parameters))
    asked.check(training, rank=max(asked.ranks), crb_weights=asked.crb_weights)
    # ranges are those of the atoms that a fit will have, where nothing else is said
    box = Box.around(model.parameters, np.concatenate([part.theta for part in fit_prior.atoms(model.parameters)]))
    box = bounded(box, asked.way.bounds)
    truth = truths.chosen(box, fit_prior, at=asked.at, table=asked.table, random=asked.random, seed=asked.seed)
    asked.way.check(asked.ranks, box)
    planned = Plan(asked, model, prior, fit_prior, training, truth, box, Path(folder), force)
    if not planned.fitted:
        raise UserError(
            f"the fit prior {fit_prior.name}, or --bounds, has one value of every parameter of interest: "
            "nothing is fitted"
        )
    asked.check_free(Path(folder) / "study.json", list(MEMBERS), kind=FORMAT, force=force)
    return planned
