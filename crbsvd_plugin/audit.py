"""Is a basis good enough for another sequence, or for other tissues? What it loses there, beside one made for them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import crb, files, request
from .assess import Tally
from .basis import Basis, plain
from .batches import batch_size, iter_batches
from .errors import UserError
from .prior import split
from .progress import Report, counted
from .weighting import ALL, SIGNAL

HELD_OUT = 0.33
_USUAL_WEIGHT = 0.3


@dataclass(frozen=True)
class Row:
    """What is lost of one parameter in one tissue, or of the signal.

    Parameters
    ----------
    tissue, parameter : str
        ``all`` for all tissues together, ``signal`` for the energy.
    lost, worst_decile : float
        Mean loss, and the loss that a tenth of the fingerprints exceeds: of the energy (Eq. 6), or of the exact bound,
        1 - B_u / B_ec (Eq. 8); NaN where the parameter cannot be estimated at all.
    lost_remade : float
        The mean loss in a basis of the same rank and crb weight, made for this sequence and these tissues.
    sd_ratio : float
        How many times larger the standard deviation is than in that one: sqrt((1 - lost_remade) / (1 - lost)). NaN for
        the energy.
    """

    tissue: str
    parameter: str
    lost: float
    worst_decile: float
    lost_remade: float
    sd_ratio: float = field(init=False)

    def __post_init__(self) -> None:
        kept, best = 1 - self.lost, 1 - self.lost_remade
        ratio = math.nan
        if self.parameter != SIGNAL and math.isfinite(kept) and math.isfinite(best):
            ratio = math.sqrt(best / kept) if kept > 0 else math.inf
        object.__setattr__(self, "sd_ratio", ratio)


@dataclass(frozen=True)
class Audit:
    """What a basis loses.

    Parameters
    ----------
    rows : sequence of Row
        Class by class, ``all`` last.
    n : int
        Fingerprints that were looked at; others made the basis that ours is compared with.
    sd_limit, energy_limit : float
        What is still good: a share more of any standard deviation, and of energy lost.
    """

    rows: Sequence[Row]
    n: int
    sd_limit: float
    energy_limit: float

    @property
    def good(self) -> bool:
        """Whether nothing is beyond the limits."""
        return not self._problems()

    @property
    def verdict(self) -> str:
        """What to do, in one line."""
        problems = self._problems()
        if problems:
            return f"make a new basis: {'; '.join(problems)}"
        ratios = [row.sd_ratio for row in self.rows if math.isfinite(row.sd_ratio)]
        most = 100 * (max(ratios, default=1.0) - 1)
        return (
            f"good enough: no standard deviation is more than {max(most, 0):.1f} % larger than with a new basis of "
            f"this rank, and at most {100 * max(self._energies()):.2g} % of the energy is lost"
        )

    @property
    def text(self) -> str:
        """A table of the losses in percent, with the verdict."""
        lines = [f"{'tissue':<12}{'lost of':<12}{'mean [%]':>10}{'a tenth >':>11}{'new basis':>11}{'sd, times':>11}"]
        for row in self.rows:
            what = "energy" if row.parameter == SIGNAL else f"CRB {row.parameter}"
            cells = (_percent(value) for value in (row.lost, row.worst_decile, row.lost_remade))
            ratio = f"{row.sd_ratio:.3f}" if not math.isnan(row.sd_ratio) else "-"
            first, second, third = cells
            lines.append(f"{row.tissue:<12}{what:<12}{first:>10}{second:>11}{third:>11}{ratio:>11}")
        return "\n".join([*lines, self.verdict])

    def json(self) -> str:
        """Return all of it as JSON; null for what is not finite."""
        content = {
            "good": self.good,
            "verdict": self.verdict,
            "fingerprints": self.n,
            "sd_limit": self.sd_limit,
            "energy_limit": self.energy_limit,
            "losses": [asdict(row) for row in self.rows],
        }
        return json.dumps(plain(content), indent=1, allow_nan=False)

    def save(self, path: str, *, force: bool) -> None:
        """Write the table as CSV.

        Raises
        ------
        UserError
            The file exists already or cannot be written.
        """
        with files.single(Path(path), force=force) as part:
            files.write_table(part, [asdict(row) for row in self.rows])

    def _energies(self) -> list[float]:
        return [row.lost for row in self.rows if row.parameter == SIGNAL]

    def _problems(self) -> list[str]:
        found = []
        # `all` is a mean of the others, and behind it one tissue could hide; where there is but one it is the same
        worst = max((row for row in self.rows if row.sd_ratio > 0), key=lambda row: row.sd_ratio, default=None)
        if worst is not None and worst.sd_ratio > 1 + self.sd_limit:
            much = "is lost" if math.isinf(worst.sd_ratio) else f"has {worst.sd_ratio:.3g} times the standard deviation"
            found.append(f"{worst.parameter} of {worst.tissue} {much} that a basis made for it would give")
        energy = max((row for row in self.rows if row.parameter == SIGNAL), key=lambda row: row.lost)
        if energy.lost > self.energy_limit and energy.lost > 2 * energy.lost_remade:
            found.append(
                f"{100 * energy.lost:.2g} % of the energy of {energy.tissue} is lost, where "
                f"{100 * energy.lost_remade:.2g} % need be, and what is lost is bias"
            )
        return found


def audit(
    basis: Basis,
    spec: str,
    settings: Sequence[str] = (),
    *,
    fingerprints: str = "3000",
    crb_weight: float | None = None,
    fisher: crb.Fisher | None = None,
    sd_limit: float = 0.05,
    energy_limit: float = 0.05,
    report: Report,
) -> Audit:
    """Measure what a basis loses on the fingerprints of a SPEC.

    67 % of the fingerprints make a basis of the same rank to compare with, the others measure both.

    Parameters
    ----------
    basis : Basis
        What is judged.
    spec, settings
        The sequence and its prior, see `spec.resolve`.
    fingerprints : str
        About how many, or grid: all.
    crb_weight, fisher : optional
        Of the basis to compare with, and of the bounds; if not given as the basis says, else 0.3 and real.
    sd_limit, energy_limit : float
        See `Audit`.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        The sequence has another number of frames than the basis.
    """
    info = basis.info
    weight = info.get("crb_weight", _USUAL_WEIGHT) if crb_weight is None else crb_weight
    kind: crb.Fisher = info.get("fisher", "real") if fisher is None else fisher
    asked = request.Request(
        spec=spec, settings=settings, train=fingerprints, fisher=kind, weighting=info.get("weighting", "svd")
    )
    found = asked.resolved()
    asked, model = asked.settled(found), found.model
    basis.check_frames(model)
    prior = request.sized(found.prior, fingerprints, "--fingerprints", model)
    training, held_out = split(prior.atoms(model.parameters), HELD_OUT)
    if not held_out:
        raise UserError(f"prior {prior.name!r} has one fingerprint in each tissue, expected some to measure with")
    planned = asked.training(model, training)
    asked.check(planned, rank=basis.rank, crb_weights=[weight])
    remade = asked.basis(asked.run(planned, pool=None, report=report), basis.rank, weight)
    tally = Tally(model.parameters, [basis.phi, remade.phi], fisher=kind)
    n = sum(len(part.theta) for part in held_out)
    progress, size = counted(report, "losses", n), batch_size(model.n_frames, len(model.parameters))
    for batch in iter_batches(model, held_out, batch_size=size, progress=progress):
        tally.update(batch)
    rows = []
    best = tally.means(1)
    for label, columns in tally.losses(0).items():
        if label == ALL and len(tally.labels) == 1 and tally.labels != [ALL]:
            continue
        for name, figures in columns.items():
            figure = "energy" if name == SIGNAL else "exact"
            values = figures[figure]
            rows.append(Row(label, name, values["mean"], values["worst_decile"], best[label][name][figure]))
    return Audit(rows, n, sd_limit, energy_limit)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.3f}"
