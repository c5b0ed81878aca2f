"""What a study found, as rows of a table and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

_MOST = 60


@dataclass(frozen=True)
class Row:
    """One parameter of one fingerprint in one basis at one rank.

    Parameters
    ----------
    fingerprint : int
        Which one, from 0.
    crb_weight, rank
        The basis.
    parameter, unit : str
        The parameter, and the SI unit of the lengths below.
    truth : float
        Its true value.
    n, failed, edge : int
        Measurements; those whose fit came to no minimum, which are left out; and of the others those that ended at
        the edge of the dictionary or at an end of a range.
    bias, bias_se, sd, sd_se, rmse, rmse_se : float
        See `estimates`.
    crb, crb_compressed : float
        Standard deviations that no unbiased estimate falls below: of all frames, and of the coefficients (exact, B_ec).
    """

    fingerprint: int
    crb_weight: float
    rank: int
    parameter: str
    unit: str
    truth: float
    n: int
    failed: int
    edge: int
    bias: float
    bias_se: float
    sd: float
    sd_se: float
    rmse: float
    rmse_se: float
    crb: float
    crb_compressed: float
    sd_over_crb: float = field(init=False)
    sd_over_compressed: float = field(init=False)

    def __post_init__(self) -> None:
        for name, bound in (("sd_over_crb", self.crb), ("sd_over_compressed", self.crb_compressed)):
            # where nothing can be estimated there is nothing to compare with
            object.__setattr__(self, name, self.sd / bound if math.isfinite(bound) else math.nan)


@dataclass(frozen=True)
class Outcome:
    """All that a study found."""

    rows: Sequence[Row]

    @property
    def text(self) -> str:
        """The outcome as a text table, the first rows of it where there are many."""
        heads = f"{'weight':>6}{'K':>4}  {'parameter':<10}{'truth':>10}{'bias':>11}{'+-':>9}{'sd':>11}{'+-':>9}"
        heads += f"{'CRB':>11}{'CRB of K':>11}{'sd / CRB':>9}{'failed':>8}{'edge':>6}"
        lines = [heads, *map(_line, self.rows[:_MOST])]
        if len(self.rows) > _MOST:
            lines.append(f"and {len(self.rows) - _MOST} rows more: see study.csv")
        return "\n".join(lines)


def _line(row: Row) -> str:
    return (
        f"{row.crb_weight:>6g}{row.rank:>4}  {row.parameter:<10}{row.truth:>10.4g}{row.bias:>11.3g}"
        f"{row.bias_se:>9.1g}{row.sd:>11.3g}{row.sd_se:>9.1g}{row.crb:>11.3g}{row.crb_compressed:>11.3g}"
        f"{row.sd_over_crb:>9.3f}{row.failed:>8}{row.edge:>6}"
    )
