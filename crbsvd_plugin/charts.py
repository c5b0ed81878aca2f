"""Figures of a sweep (losses against the crb weight, approximate against exact bounds), of a study and of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .advice import Choice, Row
from .weighting import ALL, SIGNAL

if TYPE_CHECKING:
    from . import balance, outcome
    from .assess import Tally

T = TypeVar("T", int, float)
_PANELS = {
    "energy": "energy loss, Eq. (6)",
    "approximate": "approximate CRB loss, Eq. (8) with B_ac",
    "exact": "exact CRB loss, Eq. (8) with B_ec",
    "retained": "R = mean of B_u / B_ec, Eq. (13)",
}
_STYLES = [(dashes, marker) for marker in ".x^s" for dashes in ("-", "--", ":", "-.")]
_N_RANKS = 8
_N_POINTS = 3000
_FLOOR = 1e-9
"""Losses below it are drawn there: of them nothing is left but rounding."""


def losses(rows: Sequence[Row], choice: Choice, path: Path) -> None:
    """Draw the four panels of Fig. 2: mean losses over all tissues against the crb weight.

    Parameters
    ----------
    rows : sequence of Row
        Losses of all ranks and weights.
    choice : Choice
        What is recommended: gets a ring.
    path : Path
        The PNG file. A line for each parameter (dashes) and each of up to eight ranks (colour) at which any
        parameter can be estimated, the recommended one among them.
    """
    # NaN: it could not be estimated before
    rows = [row for row in rows if row.tissue == "all" and not math.isnan(row.mean)]
    means = {(row.figure, row.parameter, row.rank, row.crb_weight): row.mean for row in rows}
    weights = sorted({row.crb_weight for row in rows})
    ranks = shown([row.rank for row in rows if row.figure == "retained" and row.mean > 0], choice.rank)
    colours = dict(zip(ranks, _colours(len(ranks)), strict=True))
    parameters = list(dict.fromkeys(row.parameter for row in rows if row.parameter != SIGNAL))
    styles = {SIGNAL: ("-", "."), **dict(zip(parameters, itertools.cycle(_STYLES), strict=False))}
    figure = _figure(10, 8)
    axes = figure.subplots(2, 2, sharex=True)
    for axis, (name, title) in zip(axes.flat, _PANELS.items(), strict=True):
        floor = 0.0 if name == "retained" else _FLOOR
        for rank, parameter in itertools.product(ranks, [SIGNAL] if name == "energy" else parameters):
            dashes, marker = styles[parameter]
            y = [max(means[name, parameter, rank, weight], floor) for weight in weights]
            axis.plot(weights, y, dashes, color=colours[rank], marker=marker)
            if rank == choice.rank:
                axis.plot(choice.crb_weight, y[weights.index(choice.crb_weight)], "o", ms=10, mfc="none", mec="k")
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if name != "retained":
            axis.set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("crb weight")
    keys = [_line(f"K = {rank}", color=colours[rank]) for rank in ranks]
    keys += [_line(name, color="k", linestyle=styles[name][0], marker=styles[name][1]) for name in parameters]
    keys.append(_line("recommended", color="k", linestyle="", marker="o", markerfacecolor="none", markersize=10))
    figure.legend(handles=keys, loc="outside lower center", ncols=-(-len(keys) // 2), fontsize="small")
    _save(figure, path)


def study(rows: Sequence[outcome.Row], path: Path) -> None:
    """Draw Fig. 4: bias and standard deviation against the rank, a line for each crb weight, with standard errors.

    Parameters
    ----------
    rows : sequence of outcome.Row
        What was found.
    path : Path
        The PNG file, a row of panels for each parameter. A dashed line is the bound of all frames, dotted ones those of
        the coefficients. Of one fingerprint everything has the unit of the parameter; of several it is relative to
        the bound of all frames, and the root mean square over all fingerprints that have one (noise of biases too).
    """
    parameters = list(dict.fromkeys(row.parameter for row in rows))
    weights, ranks = (sorted({getattr(row, name) for row in rows}) for name in ("crb_weight", "rank"))
    several = len({row.fingerprint for row in rows}) > 1
    figure = _figure(10, 1 + 3.2 * len(parameters))
    axes = figure.subplots(len(parameters), 2, squeeze=False, sharex=True)
    for (left, right), name in zip(axes, parameters, strict=True):
        for colour, weight in zip(_colours(len(weights)), weights, strict=True):
            cases = [[r for r in rows if (r.parameter, r.crb_weight, r.rank) == (name, weight, rank)] for rank in ranks]
            bias, sd, bound = (np.array([_together(case, key, several) for case in cases]).T for key in _DRAWN)
            for axis, (value, error) in ((left, bias), (right, sd)):
                axis.errorbar(ranks, value, error, fmt=".-", capsize=3, color=colour, label=f"crb weight {weight:g}")
            right.plot(ranks, bound[0], ":", color=colour, label=f"CRB of K coefficients, {weight:g}")
        whole = _together([row for row in rows if row.parameter == name], ("crb", None), several)[0]
        right.axhline(whole, ls="--", color="k", lw=1, label="CRB of all frames")
        left.axhline(0, ls="--", color="k", lw=1)
        unit = "relative to the CRB" if several else next(f"[{r.unit}]" if r.unit else "" for r in rows)
        left.set_ylabel(f"bias of {name} {unit}".rstrip())
        right.set_ylabel(f"standard deviation of {name} {unit}".rstrip())
        for axis in (left, right):
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("number of coefficients K")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 1].legend(fontsize="small")
    _save(figure, path)


_DRAWN = (("bias", "bias_se"), ("sd", "sd_se"), ("crb_compressed", None))


def rank(rows: Sequence[balance.Row], choice: balance.Choice, path: Path) -> None:
    """Draw noise (dashes), leak (dots) and total error against the rank, a panel for each parameter.

    Parameters
    ----------
    rows : sequence of balance.Row
        Errors of all ranks.
    choice : balance.Choice
        What is recommended: gets a line.
    path : Path
        The PNG file.
    """
    parameters, tissues = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("parameter", "tissue"))
    figure = _figure(5 * len(parameters), 4.5)
    for axis, name in zip(figure.subplots(1, len(parameters), squeeze=False)[0], parameters, strict=True):
        for i, tissue in enumerate(tissues):
            shown = [r for r in rows if (r.parameter, r.tissue) == (name, tissue) and math.isfinite(r.total)]
            for key, style in (("noise", "--"), ("leak", ":"), ("total", ".-")):
                values = [100 * getattr(r, key) for r in shown]
                label = tissue if key == "total" else None
                axis.plot([r.rank for r in shown], values, style, color=f"C{i}", label=label)
        axis.axvline(choice.rank, color="k", lw=1, alpha=0.5)
        axis.set_title(f"{name}: total, noise (dashes), leak (dots)")
        axis.set_xlabel("number of coefficients K")
        axis.set_ylabel(f"error [% of {name}]")
        axis.set_yscale("log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    _save(figure, path)


def _together(rows: Sequence[outcome.Row], keys: tuple[str, str | None], several: bool) -> tuple[float, float]:
    """Return a figure and its standard error, of one fingerprint as they are; NaN where there is none."""
    value, error = (np.array([getattr(row, key) if key else 0.0 for row in rows], np.float64) for key in keys)
    scale = np.array([row.crb for row in rows]) if several else np.ones(len(rows))
    known = np.isfinite(value) & np.isfinite(scale) & np.isfinite(error)
    if not known.any():
        return math.nan, 0.0
    value, error = value[known] / scale[known], error[known] / scale[known]
    if not several:
        return float(value[0]), float(error[0])
    total = math.sqrt(float(np.mean(value**2)))
    spread = math.sqrt(float(np.sum((value * error) ** 2))) / len(value)
    return total, spread / total if total else 0.0


def shown(known: Sequence[T], chosen: T, most: int = _N_RANKS) -> list[T]:
    """Return the chosen rank or weight and others, evenly spread, where there are more than can be told apart."""
    found: list[T] = sorted(set(known) | {chosen})
    if len(found) > most:
        found = sorted({chosen, *(found[round(i)] for i in np.linspace(0, len(found) - 1, most - 1))})
    return found


def scatter(tally: Tally, basis: int, choice: Choice, path: Path) -> dict[str, dict[str, float]]:
    """Draw Fig. 3: the exact loss of every held-out fingerprint against its approximate one, with regression.

    Parameters
    ----------
    tally : Tally
        The losses.
    basis : int
        Which of its bases.
    choice : Choice
        Weight and rank that are drawn.
    path : Path
        The PNG file, a panel for each parameter.

    Returns
    -------
    dict
        Slope, intercept, r^2 and number of points of the regression over all fingerprints, for each
        parameter that has one.
    """
    # of several classes none may be called so, but a single one
    labels = [label for label in tally.labels if label != ALL] or [ALL]
    figure = _figure(5 * len(tally.names), 5)
    axes = figure.subplots(1, len(tally.names), squeeze=False)[0]
    regressions: dict[str, dict[str, float]] = {}
    for axis, name in zip(axes, tally.names, strict=True):
        pairs = {
            label: np.array([tally.values(label, name, kind, basis, choice.rank) for kind in ("approximate", "exact")])
            for label in labels
        }
        for i, (label, values) in enumerate(pairs.items()):
            shown = values[:, :: -(-values.shape[1] // _N_POINTS) or 1]
            # matplotlib takes a dollar for mathematics, and leaves out what begins with an underscore
            text = f" {label}".replace("$", r"\$") if label.startswith("_") else label.replace("$", r"\$")
            axis.plot(*shown, ".", ms=4, alpha=0.6, color=f"C{i}", label=text)
        known = np.concatenate(list(pairs.values()), axis=1)
        line = regression(known)
        if line:
            regressions[name] = line
            ends = np.array([np.nanmin(known[0]), np.nanmax(known[0])], np.float64)
            axis.plot(ends, line["slope"] * ends + line["intercept"], "k-", lw=1, label=_text(line))
        elif np.isnan(known).all():
            axis.text(0.5, 0.5, "cannot be estimated", ha="center", transform=axis.transAxes)
        axis.set_xlabel("approximate loss 1 - B_u / B_ac")
        axis.set_ylabel("exact loss 1 - B_u / B_ec")
        axis.set_title(f"{name}, K = {choice.rank}, crb weight {choice.crb_weight:g}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", markerscale=2)
    _save(figure, path)
    return regressions


def regressions(tally: Tally, crb_weights: Sequence[float], rank: int) -> Iterator[dict[str, Any]]:
    """Return the regression of Fig. 3 for the bases of all weights at ranks 1 to `rank`.

    Over all fingerprints, for each parameter that has one, and for all of them together (``all``).
    """
    for i, weight in enumerate(crb_weights):
        for k in range(1, rank + 1):
            pairs = {
                name: np.array([tally.values(ALL, name, kind, i, k) for kind in ("approximate", "exact")])
                for name in tally.names
            }
            for name, values in (pairs | {ALL: np.concatenate(list(pairs.values()), axis=1)}).items():
                line = regression(values)
                if line:
                    yield {"crb_weight": weight, "rank": k, "parameter": name, **line}


def regression(pairs: Any) -> dict[str, float]:
    """Return the least-squares line through points (2, N) and r^2, or nothing where there is none."""
    x, y = pairs[:, np.isfinite(pairs).all(axis=0)].astype(np.float64)
    if len(x) < 2 or not x.std() or not y.std():
        return {}
    slope = float(np.cov(x, y)[0, 1] / x.var(ddof=1))
    return {
        "slope": slope,
        "intercept": float(y.mean() - slope * x.mean()),
        "r_squared": float(np.corrcoef(x, y)[0, 1] ** 2),
        "n": len(x),
    }


def _text(line: dict[str, float]) -> str:
    return f"y = {line['slope']:.3f} x {line['intercept']:+.2g}, r$^2$ = {line['r_squared']:.4f}"


def _colours(n: int) -> Any:
    import matplotlib

    # the end of the map is too bright for thin lines
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.9, n))


def _line(label: str, **looks: Any) -> Any:
    """Return a key of the legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **looks)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(path)
