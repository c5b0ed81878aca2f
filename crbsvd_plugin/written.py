"""What sweep, study and rank write and a basis says of itself, as far as it is shown: types, ranges and sizes."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from . import advice
from .weighting import SIGNAL

Real = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
"""Finite, in per cent too."""
Number = Real | None
"""None where nothing can be estimated."""
Rank = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Frame = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Loss(msgspec.Struct, frozen=True):
    """One figure of one basis, see `advice.Row`."""

    crb_weight: Real
    rank: Rank
    tissue: str
    parameter: str
    figure: str
    mean: Number
    median: Number
    worst_decile: Number


class Share(msgspec.Struct, frozen=True):
    """What a basis of fewer fingerprints differs in, see `advice.Share`."""

    share: Real
    crb_weight: Real
    rank: Rank
    angle: Real
    losses: dict[str, Number]


class Fit(msgspec.Struct, frozen=True):
    """A regression of exact losses on approximate ones, see `charts.regression`."""

    slope: Real
    intercept: Real
    r_squared: Real
    n: int


class Line(Fit, frozen=True, kw_only=True):
    """That of one basis and parameter, see `charts.regressions`."""

    crb_weight: Real
    rank: Rank
    parameter: str


class Functions(msgspec.Struct, frozen=True):
    """Columns of a basis, see `excerpt.functions`."""

    frames: list[Frame]
    real: list[list[Real]]
    imag: list[list[Real]] | None = None

    def __post_init__(self) -> None:
        if {len(column) for column in [*self.real, *(self.imag or self.real)]} != {len(self.frames)}:
            raise ValueError("the columns of the basis have not as many values as there are frames")


class Certificate(msgspec.Struct, frozen=True):
    """Shares of the weighted total that a basis costs, and that any of its rank costs at least."""

    crb_weight: Real
    rank: Rank
    cost: Number
    bound: Number


class Sweep(msgspec.Struct, frozen=True):
    """sweep.json, as far as it is shown; `lines` are those of regressions.csv."""

    model: dict[str, Any]
    prior: dict[str, Any]
    n_atoms: dict[str, int]
    n_held_out: dict[str, int]
    recommended: advice.Choice
    rows: list[Loss]
    regressions: dict[str, Fit]
    points: dict[str, dict[str, tuple[list[Real], list[Real]]]] = {}
    functions: Functions | None = None
    convergence: list[Share] | None = None
    certificate: list[Certificate] | None = None
    lines: list[Line] = []

    def __post_init__(self) -> None:
        chosen = (self.recommended.crb_weight, self.recommended.rank)
        if chosen not in {(row.crb_weight, row.rank) for row in self.rows}:
            raise ValueError("the recommended basis is not among the rows")
        if any(len(x) != len(y) for pairs in self.points.values() for x, y in pairs.values()):
            raise ValueError("the points have not as many exact losses as approximate ones")


class Estimate(msgspec.Struct, frozen=True):
    """Bias and standard deviation of a parameter of a fingerprint, see `outcome.Row`."""

    fingerprint: int
    crb_weight: Real
    rank: Rank
    parameter: str
    unit: str
    truth: Real
    failed: int
    bias: Number
    bias_se: Number
    sd: Number
    sd_se: Number
    crb: Number
    crb_compressed: Number


class Study(msgspec.Struct, frozen=True):
    """study.json, as far as it is shown."""

    model: dict[str, Any]
    method: str
    snr: Real
    measurements: int
    parameters: list[str]
    fingerprints: list[list[Real]]
    rows: list[Estimate]

    def __post_init__(self) -> None:
        if not self.rows or any(not 0 <= row.fingerprint < len(self.fingerprints) for row in self.rows):
            raise ValueError("the rows are not those of the fingerprints")
        if any(len(theta) != len(self.parameters) for theta in self.fingerprints):
            raise ValueError("the fingerprints have not as many values as there are parameters")
        cases = {(row.fingerprint, row.parameter) for row in self.rows}
        if len(cases) != math.prod(map(len, map(set, zip(*cases, strict=True)))):
            raise ValueError("a fingerprint lacks a parameter that others have")


class Spread(msgspec.Struct, frozen=True):
    """What noise and what lies outside of the basis do to a parameter at a rank, relative to its value."""

    rank: Rank
    tissue: str
    parameter: str
    noise: Number
    leak: Number
    total: Number


class Amount(msgspec.Struct, frozen=True):
    """rank.json, as far as it is shown."""

    rows: list[Spread]
    recommended: Rank
    rule: str
    model: dict[str, Any] | None = None
    scan: str | None = None
    snr: Real | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("there are no rows")


class Exact(msgspec.Struct, frozen=True):
    """What the search of a basis with exact bounds has found, see `choose.improved`."""

    worst: bool
    energy_loss: Number
    cost: Real
    cost_held_out: Real
    start: Real
    start_held_out: Real
    least: Real


class Told(msgspec.Struct, frozen=True):
    """``info`` of a basis, as far as it is shown; all of it may be absent."""

    model: dict[str, Any] = {}
    prior: dict[str, Any] = {}
    n_atoms: dict[str, int] = {}
    crb_weight: Real = 0.0
    held_out: dict[str, dict[str, dict[str, Number]]] = {}
    exact: Exact | None = None

    def __post_init__(self) -> None:
        names = {name for columns in self.held_out.values() for name in columns} - {SIGNAL}
        wanted = {SIGNAL: {"energy"}, **{name: {"exact", "approximate"} for name in names}}
        for columns in self.held_out.values():
            if not all(figures <= columns.get(name, {}).keys() for name, figures in wanted.items()):
                raise ValueError("a tissue lacks a loss that others have")
