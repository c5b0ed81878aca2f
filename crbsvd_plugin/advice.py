"""Which rank and which crb weight to take, from the losses of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import UserError
from .weighting import SIGNAL


@dataclass(frozen=True)
class Row:
    """One figure of one basis on held-out fingerprints.

    Parameters
    ----------
    crb_weight : float
        The paper's lambda.
    rank : int
        Number of coefficients K.
    tissue : str
        Tissue class, or "all".
    parameter : str
        Name of the parameter, or "signal".
    figure : str
        ``energy`` of the signal; ``approximate``, ``exact`` or ``retained`` of a parameter: see `assess`.
    mean, median, worst_decile : float
        Over the fingerprints; the worst tenth loses more than its decile (of ``retained``, keeps less).
    """

    crb_weight: float
    rank: int
    tissue: str
    parameter: str
    figure: str
    mean: float
    median: float
    worst_decile: float


@dataclass(frozen=True)
class Choice:
    """The recommended basis, what it loses, whether that is within the budget, and by which rule it was chosen.

    Without energy loss where the weights of the classes leave no signals to be counted.
    """

    crb_weight: float
    rank: int
    crb_loss: float
    energy_loss: float | None
    met: bool
    rule: str


@dataclass(frozen=True)
class Share:
    """What a basis of a share of the training fingerprints differs in from that of all of them.

    Parameters
    ----------
    share : float
        Share of the training fingerprints.
    crb_weight, rank
        Of the basis.
    angle : float
        Largest angle [rad] between the two subspaces.
    losses : dict of str to float
        Mean loss of the signals' energy, and mean exact CRB loss of each parameter, over all tissues.
    """

    share: float
    crb_weight: float
    rank: int
    angle: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a sweep recommends, and how it would change with fewer fingerprints (nothing if that was not asked)."""

    choice: Choice
    shares: Sequence[Share] = ()

    @property
    def text(self) -> str:
        """The outcome in words."""
        choice = self.choice
        take = (
            f"{'take' if choice.met else 'no basis keeps the budget, the nearest is'} "
            f"--rank {choice.rank} --crb-weight {choice.crb_weight:g}: its worst parameter loses "
            f"{100 * choice.crb_loss:.2f} % of the CRB"
        )
        energy = "" if choice.energy_loss is None else f", the signals {100 * choice.energy_loss:.3f} % of their energy"
        take += f"{energy}."
        lines = [take, f"Rule: {choice.rule}."]
        same = [s for s in self.shares if (s.crb_weight, s.rank) == (choice.crb_weight, choice.rank)]
        whole = next((s for s in same if s.share == 1), None)
        for part in same:
            if whole is not None and part is not whole:
                change = max(abs(loss - whole.losses[name]) for name, loss in part.losses.items())
                lines.append(
                    f"From {100 * part.share:g} % of the training fingerprints its subspace turns by "
                    f"{math.degrees(part.angle):.2g} degrees, "
                    f"and no loss changes by more than {100 * change:.2g} percentage points."
                )
        return "\n".join(lines)


def recommend(rows: Sequence[Row], *, max_crb_loss: float, max_energy_loss: float) -> Choice:
    """Return the smallest rank within a budget, and for it the weight.

    Parameters
    ----------
    rows : sequence of Row
        Losses of all ranks and weights; those over all tissues count.
    max_crb_loss : float
        Largest mean exact CRB loss of any parameter that can be estimated uncompressed.
    max_energy_loss : float
        Largest mean loss of the signals' energy.

    Returns
    -------
    Choice
        Of all bases of that rank within the budget the one whose worst parameter loses least. If
        no basis is within the budget, of the largest rank the one that exceeds it by the smallest factor.
        Of equals the one with the smallest weight.

    Raises
    ------
    UserError
        No parameter has a finite bound.
    """
    losses: dict[tuple[int, float], dict[str, float]] = {}
    for row in rows:
        # NaN: it could not be estimated before, so no basis loses anything of it
        if row.tissue == "all" and row.figure in ("energy", "exact") and not math.isnan(row.mean):
            losses.setdefault((row.rank, row.crb_weight), {})[row.parameter] = row.mean
    found = [
        (rank, weight, max(loss for name, loss in figures.items() if name != SIGNAL), figures.get(SIGNAL))
        for (rank, weight), figures in losses.items()
        if figures.keys() - {SIGNAL}
    ]
    if not found:
        raise UserError("no parameter can be estimated from these fingerprints; look at the sequence and the prior")
    budget = (
        f"mean exact CRB loss of every parameter at most {max_crb_loss:g} and energy loss at most {max_energy_loss:g}"
    )
    within = [entry for entry in found if entry[2] <= max_crb_loss and (entry[3] or 0.0) <= max_energy_loss]
    if within:
        rank, weight, crb_loss, energy = min(within, key=lambda entry: (entry[0], entry[2], entry[1]))
        rule = (
            f"the smallest rank at which some weight keeps, over all held-out fingerprints "
            f"and weighted as in the basis, the {budget}; "
            "of these weights the one whose worst parameter loses least"
        )
        return Choice(weight, rank, crb_loss, energy, True, rule)
    largest = max(entry[0] for entry in found)
    rank, weight, crb_loss, energy = min(
        (entry for entry in found if entry[0] == largest),
        key=lambda entry: (max(entry[2] / max_crb_loss, (entry[3] or 0.0) / max_energy_loss), entry[1]),
    )
    rule = (
        f"no rank up to {largest} keeps the {budget}; of the largest rank the weight that exceeds the budget by the "
        "smallest factor: allow a larger rank or a larger loss"
    )
    return Choice(weight, rank, crb_loss, energy, False, rule)
