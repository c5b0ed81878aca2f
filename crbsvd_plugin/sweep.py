"""Every crb weight and every rank from one pass over the fingerprints, and which of them to take."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import __version__, charts, crb, files, request
from .advice import Choice, Outcome, Row, Share, recommend
from .assess import Tally
from .basis import Basis, plain
from .batches import batch_size
from .certificate import certificates
from .errors import UserError
from .excerpt import excerpt
from .fingerprints import DIMENSIONS
from .fold import BasisAccumulator
from .heldout import assessed
from .model import SignalModel
from .prior import Atoms, Prior, split
from .progress import Report, counted
from .tallied import counted_rows, loss_rows
from .training import Training
from .weighting import SIGNAL, Weighting

if TYPE_CHECKING:
    from .cluster import Pool

logger = logging.getLogger(__name__)

FORMAT = "crbsvd-sweep/1"
HELD_OUT = 0.33
"""Share of the fingerprints that the losses are measured on, as in the paper."""

MEMBERS = ("sweep.csv", "regressions.csv", "sweep.png", "scatter.png")
_SHARES = (0.2, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Request(request.Request):
    """What the user asks for; the fields are the options of `crbsvd sweep`.

    Parameters
    ----------
    crb_weights : sequence of float
        The weights.
    rank : int
        Ranks 1 to this one.
    max_crb_loss, max_energy_loss : float
        Budget of the recommendation: largest mean exact CRB loss of any parameter, and largest
        mean loss of energy, over all held-out fingerprints.
    converge : bool
        Also train on 1/5 and 1/2 of the fingerprints.
    """

    crb_weights: Sequence[float] = field(default=tuple(i / 10 for i in range(10)))
    rank: int = 10
    max_crb_loss: float = 0.05
    max_energy_loss: float = 0.01
    converge: bool = False

    @property
    def parts(self) -> list[str]:
        """The names of checkpoints of the shares of the fingerprints."""
        if self.checkpoint is None or not self.converge:
            return []
        return [f"{self.checkpoint}.{i + 1}" for i in range(len(_SHARES))]


class Measured(NamedTuple):
    """Accumulators and bases by their share of the fingerprints, the losses of the bases, and which to take."""

    accumulators: dict[float, BasisAccumulator]
    bases: dict[float, list[Basis]]
    tally: Tally
    rows: list[Row]
    choice: Choice


@dataclass(frozen=True)
class Plan:
    """A request whose model, fingerprints and output are known to be good."""

    request: Request
    model: SignalModel
    prior: Prior
    training: Training
    held_out: Sequence[Atoms]
    folder: Path
    force: bool = False

    def estimate(self) -> str:
        """Return the expected memory and time, from a small sample, in words."""
        n_held_out = sum(len(atoms.theta) for atoms in self.held_out)
        duration = request.seconds(self.model, [*self.training.atoms, *self.held_out], jacobian=True)
        n_families = len(_SHARES) if self.request.converge else 1
        n_targets, n_parameters = len(crb.interesting(self.model.parameters)), len(self.model.parameters)
        n_columns = n_families * len(self.request.crb_weights) * self.request.rank
        memory = request.mebibytes(self.training, n_accumulators=n_families)
        # of a batch, the coefficients and what is made of them; a float32 per figure, see `assess.Tally`, twice while
        # the last ones are appended
        size = min(batch_size(self.model.n_frames, n_parameters), n_held_out)
        memory += 2 * 16 * size * (1 + n_parameters + n_targets) * n_columns / 2**20
        n_kept = min(DIMENSIONS, self.model.n_frames)
        memory += 16 * (size * n_kept + 3 * n_kept**2) * (1 + n_targets) / 2**20
        memory += 2 * 4 * (1 + 2 * n_targets) * n_held_out * n_columns / 2**20
        return (
            f"{self.training.size} fingerprints of {self.model.n_frames} frames, {n_held_out} held out: "
            f"about {memory:.0f} MiB and {duration:.0f} s in this process"
        )

    def make(self, *, report: Report) -> Outcome:
        """Make all bases, measure them, write table and figures, and return what to take.

        Raises
        ------
        UserError
            The fingerprints do not support the rank, or the files cannot be written.
        """
        asked = self.request
        accumulators, bases, tally, rows, choice = self.measured(report=report)
        shares = list(self._convergence(tally, bases)) if asked.converge else []
        weighting = Weighting(choice.crb_weight, asked.weighting, asked.parameter_weights, asked.class_weights).info
        chosen = list(asked.crb_weights).index(choice.crb_weight)
        content = {
            "software": f"crbsvd-plugin {__version__}",
            "model": self.model.spec,
            "prior": self.prior.spec,
            "n_atoms": {atoms.label: len(atoms.theta) for atoms in self.training.atoms},
            "n_held_out": {atoms.label: len(atoms.theta) for atoms in self.held_out},
            "fisher": asked.fisher,
            "conjugate": asked.conjugate,
            **{name: value for name, value in weighting.items() if name != "crb_weight"},
            "crb_weights": list(asked.crb_weights),
            "n_dependent": accumulators[1.0].n_dependent,
            "outside": max(accumulators[1.0].outside.values()),
            "recommended": asdict(choice),
            **excerpt(tally, chosen, choice.rank),
            "certificate": list(self._certificates(tally)),
            "convergence": [asdict(share) for share in shares] or None,
            "rows": [asdict(row) for row in rows],
        }
        with files.product(self.folder / "sweep.json", list(MEMBERS), kind=FORMAT, force=self.force) as product:
            files.write_table(product.path("sweep.csv"), [asdict(row) for row in rows])
            files.write_table(
                product.path("regressions.csv"), list(charts.regressions(tally, asked.crb_weights, asked.rank))
            )
            charts.losses(rows, choice, product.path("sweep.png"))
            regressions = charts.scatter(tally, chosen, choice, product.path("scatter.png"))
            product.commit(plain({**content, "regressions": regressions}))
        return Outcome(choice, shares)

    def measured(self, *, report: Report) -> Measured:
        """Make all bases and measure them; raises what `make` does, but of files."""
        asked = self.request
        with asked.pool() as pool:
            accumulators = self._fold(pool, report)
            bases = dict(self._families(accumulators, report))
            tally = assessed(
                asked.training(self.model, self.held_out), [basis.phi for family in bases.values() for basis in family],
                accumulators[1.0].leading(DIMENSIONS), checkpoint=asked.checkpoint, pool=pool, report=report,
            )  # fmt: skip
        rows = list(loss_rows(tally, asked.crb_weights, asked.rank))
        counting = counted_rows(rows, tally, parameters=asked.parameter_weights, classes=asked.class_weights)
        choice = recommend(list(counting), max_crb_loss=asked.max_crb_loss, max_energy_loss=asked.max_energy_loss)
        return Measured(accumulators, bases, tally, rows, choice)

    def _fold(self, pool: Pool | None, report: Report) -> dict[float, BasisAccumulator]:
        """Return the accumulator of all fingerprints and, where convergence is asked for, of shares of them."""
        asked = self.request
        if not asked.converge:
            return {1.0: asked.run(self.training, pool=pool, report=report)}
        # every fingerprint is simulated once: each part is added to those before it
        accumulators: dict[float, BasisAccumulator] = {}
        rest, before = tuple(self.training.atoms), 0.0
        for i, share in enumerate(_SHARES):
            rest, part = split(rest, (share - before) / (1 - before)) if share < 1 else ((), rest)
            name = asked.parts[i] if asked.parts else None
            found = replace(asked, checkpoint=name).run(asked.training(self.model, part), pool=pool, report=report)
            if before:
                found.merge(accumulators[before])
            accumulators[share] = found
            before = share
        return dict(reversed(accumulators.items()))

    def _families(
        self, accumulators: Mapping[float, BasisAccumulator], report: Report
    ) -> Iterator[tuple[float, list[Basis]]]:
        """Return the bases of all fingerprints, then those of shares that support the rank."""
        asked = self.request
        progress = counted(report, "bases", len(accumulators) * len(asked.crb_weights))
        for share, accumulator in accumulators.items():
            found: list[Basis] = []
            try:
                for weight in asked.crb_weights:
                    found.append(asked.basis(accumulator, asked.rank, weight))
                    progress(1)
                yield share, found
            except UserError as error:
                if share == 1:
                    raise
                logger.warning("convergence: %g %% of the fingerprints are left out: %s", 100 * share, error)

    def _certificates(self, tally: Tally) -> Iterator[dict[str, float]]:
        """Return what every basis costs with exact bounds, held out, and what no basis of its rank costs less than."""
        conjugate = bool(self.request.conjugate)
        for i, weight in enumerate(self.request.crb_weights):
            weighting = self.request.weights(tally.labels, weight)
            for k, (cost, bound) in enumerate(certificates(tally, i, weighting, conjugate=conjugate)):
                yield {"crb_weight": weight, "rank": k + 1, "cost": cost, "bound": bound}

    def _convergence(self, tally: Tally, bases: Mapping[float, Sequence[Basis]]) -> Iterator[Share]:
        """Compare the bases of fewer fingerprints with those of all: largest angle [rad], and losses."""
        from scipy.linalg import subspace_angles

        n_weights = len(self.request.crb_weights)
        for family, (share, found) in enumerate(bases.items()):
            for i, (weight, basis) in enumerate(zip(self.request.crb_weights, found, strict=True)):
                for rank in range(1, self.request.rank + 1):
                    angle = float(subspace_angles(bases[1.0][i].phi[:, :rank], basis.phi[:, :rank])[0])
                    losses = tally.means(family * n_weights + i, rank)["all"]
                    means = {n: figures["energy" if n == SIGNAL else "exact"] for n, figures in losses.items()}
                    yield Share(share, weight, rank, angle, means)


def plan(asked: Request, folder: str, *, force: bool) -> Plan:
    """Check a request before any work is done; raises what `drafted` does, or UserError if the output exists."""
    drawn = drafted(asked, folder, force=force)
    asked.check_free(Path(folder) / "sweep.json", list(MEMBERS), kind=FORMAT, force=force)
    return drawn


def drafted(asked: Request, folder: str, *, force: bool) -> Plan:
    """Check a request but for its output.

    Raises
    ------
    UserError
        An option is out of range.
    """
    spec = asked.resolved()
    asked = asked.settled(spec)
    prior = request.sized(spec.prior, asked.train, "--train", spec.model)
    atoms, held_out = split(prior.atoms(spec.model.parameters), HELD_OUT)
    training = asked.training(spec.model, atoms)
    wrong = [weight for weight in asked.crb_weights if not 0 <= weight <= 1]
    if wrong or not asked.crb_weights:
        found = f"holds {wrong[0]:g}" if wrong else "is empty"
        raise UserError(f"--crb-weights {found}, expected numbers from 0 to 1, with commas")
    asked.check(training, rank=asked.rank, crb_weights=asked.crb_weights)
    left = [part.label for part in held_out if len(part.theta)]
    if not left:
        raise UserError(
            f"--train {asked.train} gives {training.size} fingerprints, too few to hold some of them out; "
            "take more, or a wider prior"
        )
    names = [spec.model.parameters[i].name for i in crb.interesting(spec.model.parameters)]
    factors = asked.factors(training, 0.5)
    if not any(factors[label, name] for label in left for name in names):
        raise UserError(
            f"the weights of classes and parameters are 0 for all of {', '.join(names)} in {', '.join(left)}: "
            "nothing is left to choose a basis by"
        )
    for part in atoms:
        if part.label not in left:
            logger.warning("%s has too few fingerprints to hold one out: it trains, but is not measured", part.label)
    return Plan(asked, spec.model, prior, training, held_out, Path(folder), force)
