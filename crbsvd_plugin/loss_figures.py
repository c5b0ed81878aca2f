"""The figures of a report that show a sweep: losses, approximate against exact bounds, certificate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from . import plots
from .charts import shown
from .page import Panel, Plot, Table
from .plots import Curve, Shown
from .weighting import ALL, SIGNAL
from .written import Fit, Line, Loss, Number, Sweep

RANK, WEIGHT = "number of coefficients K", "crb weight"
MOST = 10
"""Curves of a plot."""
_FLOOR = 1e-7  # %: of losses below it nothing is left but rounding
_ENERGY = "signal energy"
_SAME = Curve("both the same", dash="dot", mode="lines", width=1.2)
_STATISTICS = {"mean": "mean", "median": "median", "worst tenth": "worst_decile"}
_FIGURES = {
    "loss, exact bound B_ec": ("exact", "loss of the CRB of {} [%]"),
    "loss, approximate bound B_ac": ("approximate", "approximate loss of the CRB of {} [%]"),
    "kept, B_u / B_ec": ("retained", "CRB of {} that is kept [%]"),
}


class _Case(NamedTuple):
    """What is shown of every basis."""

    tissue: str
    parameter: str
    figure: str
    statistic: str


class _Losses:
    """The rows of a sweep, to be looked up, and what they are of."""

    def __init__(self, sweep: Sweep):
        self.chosen = sweep.recommended
        self._rows = {(r.crb_weight, r.rank, r.tissue, r.parameter, r.figure): r for r in sweep.rows}
        self.ranks = sorted({row.rank for row in sweep.rows})
        self.weights = sorted({row.crb_weight for row in sweep.rows})
        tissues = list(dict.fromkeys(row.tissue for row in sweep.rows))
        self.tissues = sorted(tissues, key=lambda tissue: tissue != ALL)
        self.parameters = list(dict.fromkeys(row.parameter for row in sweep.rows if row.parameter != SIGNAL))
        self.few_ranks = shown(self.ranks, self.chosen.rank, MOST)
        self.few_weights = shown(self.weights, self.chosen.crb_weight, MOST)

    def percent(self, weight: float, rank: int, case: _Case) -> Number:
        """Return a figure in percent, or None where there is none."""
        row: Loss | None = self._rows.get((weight, rank, case.tissue, case.parameter, case.figure))
        value: Number = getattr(row, case.statistic) if row is not None else None
        return None if value is None else 100 * value

    def drawn(self, weight: float, rank: int, case: _Case) -> Number:
        """Return the same, lifted to where a logarithm can show it."""
        value = self.percent(weight, rank, case)
        return value if value is None or case.figure == "retained" else max(value, _FLOOR)

    def curves(self) -> tuple[list[Curve], list[Curve]]:
        """Return those of the weights and those of the ranks."""
        weights, ranks = [f"{weight:g}" for weight in self.few_weights], [str(rank) for rank in self.few_ranks]
        return (
            plots.ordered(weights, self.few_weights.index(self.chosen.crb_weight)),
            plots.ordered(ranks, self.few_ranks.index(self.chosen.rank)),
        )


def losses(sweep: Sweep) -> Panel:
    """Return losses against rank, a curve for each weight, and against weight, a curve for each rank."""
    found = _Losses(sweep)
    chosen, by_rank, by_weight = found.chosen, {}, {}
    for key, case, axis in _cases(found):
        said = (
            f"{axis.removesuffix(' [%]')}, {words(case.tissue)}, {case.statistic.replace('_', ' ')}: "
            f"{number(found.percent(chosen.crb_weight, chosen.rank, case), ' %')} "
            f"at the recommended K = {chosen.rank} and weight {chosen.crb_weight:g}; "
        )
        said, logarithmic = said[0].upper() + said[1:], "" if case.figure == "retained" else "y"
        y = [[found.drawn(weight, rank, case) for rank in found.ranks] for weight in found.few_weights]
        ends = [found.percent(chosen.crb_weight, rank, case) for rank in found.ranks]
        text = said + _ends(f"with this weight, from K = {found.ranks[0]} to {found.ranks[-1]}", ends)
        by_rank[key] = Shown([found.ranks] * len(y), y, axis, text, logarithmic)
        y = [[found.drawn(weight, rank, case) for weight in found.weights] for rank in found.few_ranks]
        ends = [found.percent(weight, chosen.rank, case) for weight in found.weights]
        text = said + _ends(f"with this K, from weight {found.weights[0]:g} to {found.weights[-1]:g}", ends)
        by_weight[key] = Shown([found.weights] * len(y), y, axis, text, logarithmic)
    cases = [_Case(tissue, SIGNAL, "energy", "mean") for tissue in found.tissues]
    cases += [_Case(tissue, name, "exact", "mean") for name in found.parameters for tissue in found.tissues]
    heads = [f"{'energy' if case.parameter == SIGNAL else case.parameter}, {case.tissue} [%]" for case in cases]
    table_of_ranks, table_of_weights = (
        Table(
            [head, *heads],
            [[f"{at:g}", *(number(found.percent(*basis, case)) for case in cases)] for at, basis in entries],
        )
        for head, entries in (
            (f"K (weight {chosen.crb_weight:g})", [(rank, (chosen.crb_weight, rank)) for rank in found.ranks]),
            (f"weight (K = {chosen.rank})", [(weight, (weight, chosen.rank)) for weight in found.weights]),
        )
    )
    of_weights, of_ranks = found.curves()
    return Panel(
        [
            plots.plot(
                "Against the rank", of_weights, by_rank, table_of_ranks, axis=RANK, legend="weight", mark=chosen.rank
            ),
            plots.plot(
                "Against the weight", of_ranks, by_weight, table_of_weights,
                axis=WEIGHT, legend="K", mark=chosen.crb_weight,
            ),
        ],
        {
            "Parameter": [*found.parameters, _ENERGY], "Tissue": [words(tissue) for tissue in found.tissues],
            "Figure": list(_FIGURES), "Over the fingerprints": list(_STATISTICS),
        },
    )  # fmt: skip


def _cases(found: _Losses) -> Iterator[tuple[str, _Case, str]]:
    """Yield the key, the case and the title of the axis of every setting of the switches of `losses`."""
    for (i, name), (j, tissue), (s, statistic) in itertools.product(
        enumerate([*found.parameters, _ENERGY]), enumerate(found.tissues), enumerate(_STATISTICS.values())
    ):
        if name == _ENERGY and i == len(found.parameters):
            yield f"{i}.{j}.*.{s}", _Case(tissue, SIGNAL, "energy", statistic), "energy loss of the signals [%]"
            continue
        for k, (figure, axis) in enumerate(_FIGURES.values()):
            yield f"{i}.{j}.{k}.{s}", _Case(tissue, name, figure, statistic), axis.format(name)


def bounds(sweep: Sweep) -> Panel:
    """Return losses by approximate bounds against those by exact ones: of all bases, and of single fingerprints."""
    found = _Losses(sweep)
    chosen, views = found.chosen, {}
    for (i, name), (j, tissue), (s, statistic) in itertools.product(
        enumerate(found.parameters), enumerate(found.tissues), enumerate(_STATISTICS.values())
    ):
        cases = [_Case(tissue, name, figure, statistic) for figure in ("approximate", "exact")]
        x, y = (
            [[found.drawn(weight, rank, case) for rank in found.ranks] for weight in found.few_weights]
            for case in cases
        )
        known = [value for values in x for value in values if value is not None]
        ends = [min(known), max(known)] if known else []
        here = [number(found.percent(chosen.crb_weight, chosen.rank, case), " %") for case in cases]
        said = (
            f"{name}, {words(tissue)}: of the recommended K = {chosen.rank} and weight {chosen.crb_weight:g}, "
            f"{here[0]} by approximate and {here[1]} by exact bounds; {_apart(x, y)}"
        )
        views[f"{i}.{j}.{s}"] = Shown([*x, ends], [*y, ends], f"exact loss of {name} [%]", said, "xy")
    curves = [replace(curve, notes=found.ranks) for curve in found.curves()[0]]
    header = ["K", "weight", "parameter", "slope", "intercept [%]", "r\N{SUPERSCRIPT TWO}", "fingerprints"]
    table = Table(header, [_cells(line) for line in sweep.lines])
    axis = "approximate loss [%]"
    hint = "K = %{customdata}"
    made = [plots.plot("All weights and ranks", [*curves, _SAME], views, table, axis=axis, legend="weight", hint=hint)]
    if sweep.points:
        made.append(_points(sweep, found.parameters, axis))
    switches = {
        "Parameter": found.parameters, "Tissue": [words(tissue) for tissue in found.tissues],
        "Over the fingerprints": list(_STATISTICS),
    }  # fmt: skip
    return Panel(made, switches)


def _points(sweep: Sweep, parameters: Sequence[str], axis: str) -> Plot:
    """Return the plot of single held-out fingerprints in the recommended basis, with the regression."""
    tissues = list(dict.fromkeys(tissue for pairs in sweep.points.values() for tissue in pairs))
    views, rows = {}, []
    for i, name in enumerate(parameters):
        pairs = sweep.points.get(name, {})
        x, y = ([[100 * value for value in pairs.get(t, ([], []))[part]] for t in tissues] for part in (0, 1))
        line = sweep.regressions.get(name)
        known = [value for values in x for value in values]
        ends = [min(known), max(known)] if known and line else []
        fitted = [line.slope * end + 100 * line.intercept for end in ends] if line else []
        views[f"{i}.*.*"] = Shown(
            [*x, ends, ends], [*y, fitted, ends], f"exact loss of {name} [%]", f"{name}: {_regression(line)}."
        )
        rows += [
            [f"{name}, {tissue}", f"{a:.4g}", f"{b:.4g}"]
            for tissue, xs, ys in zip(tissues, x, y, strict=True)
            for a, b in zip(xs, ys, strict=True)
        ]
    curves = plots.distinct(tissues, "markers")
    fit = Curve("regression", mode="lines", width=1.5)
    chosen = sweep.recommended
    title = f"Single fingerprints at K = {chosen.rank}, weight {chosen.crb_weight:g}"
    table = Table(["parameter, tissue", "approximate loss [%]", "exact loss [%]"], rows)
    return plots.plot(title, [*curves, fit, _SAME], views, table, axis=axis)


def certificate(sweep: Sweep) -> Panel:
    """Return what the bases cost, and what any basis of their rank costs at least, against the rank."""
    entries = {(one.crb_weight, one.rank): one for one in sweep.certificate or []}
    weights = sorted({weight for weight, _ in entries})
    # the recommended one is seen first
    weights.sort(key=lambda weight: weight != sweep.recommended.crb_weight)
    views, rows = {}, []
    for i, weight in enumerate(weights):
        ranks = sorted(rank for at, rank in entries if at == weight)
        found = [entries[weight, rank] for rank in ranks]
        x = [one.rank for one in found]
        y = [
            [None if v is None else 100 * v for v in values]
            for values in zip(*((o.cost, o.bound) for o in found), strict=True)
        ]
        at = entries.get((weight, sweep.recommended.rank), found[-1])
        said = (
            f"Weight {weight:g}, K = {at.rank}: this basis loses {number(percent(at.cost), ' %')} of the weighted "
            f"total, no basis of that rank loses less than {number(percent(at.bound), ' %')}."
        )
        views[str(i)] = Shown([x, x], y, "cost of the weighted total [%]", said, "y")
        rows += [[f"{weight:g}", str(o.rank), number(percent(o.cost)), number(percent(o.bound))] for o in found]
    curves = plots.distinct(["CRB-SVD, exact bounds", "lower bound of any basis"])
    table = Table(["weight", "K", "cost [%]", "lower bound [%]"], rows)
    made = plots.plot("Cost against the rank", curves, views, table, axis=RANK)
    return Panel([made], {"Weight": [f"{weight:g}" for weight in weights]})


def words(tissue: str) -> str:
    """Return a tissue class as a reader calls it."""
    return "all tissues" if tissue == ALL else tissue


def number(value: Number, unit: str = "") -> str:
    """Return three digits of a number, or a dash where there is none."""
    return "-" if value is None else f"{f'{value:#.3g}'.rstrip('.')}{unit}"


def percent(value: Number) -> Number:
    """Return a share in percent, or None where there is none."""
    return None if value is None else 100 * value


def _ends(what: str, values: Sequence[Number]) -> str:
    return f"{what}, {number(values[0])} to {number(values[-1], ' %')}."


def _apart(x: Sequence[Sequence[Number]], y: Sequence[Sequence[Number]]) -> str:
    """Say how far apart two figures are at most."""
    pairs = [(a, b) for xs, ys in zip(x, y, strict=True) for a, b in zip(xs, ys, strict=True)]
    gaps = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    if not gaps:
        return "nothing can be estimated."
    return (
        f"over all bases that are drawn the two differ by {number(median(gaps))} percentage points (median), "
        f"{number(max(gaps))} at most."
    )


def _regression(line: Fit | None) -> str:
    if line is None:
        return "there is no regression"
    return (
        f"exact = {line.slope:.3f} approximate {100 * line.intercept:+.2g} %, r\N{SUPERSCRIPT TWO} = "
        f"{line.r_squared:.4f}, over {line.n} fingerprints"
    )


def _cells(line: Line) -> list[str]:
    fit = [f"{line.slope:.4f}", f"{100 * line.intercept:.3g}", f"{line.r_squared:.4f}", str(line.n)]
    return [str(line.rank), f"{line.crb_weight:g}", words(line.parameter), *fit]
