"""Curves for a page, drawn by Plotly: how they look, and how they change with switches."""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UserError
from .page import Plot, Table, View

Values = Sequence[float | None]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by all eyes (Okabe and Ito)."""
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
_WIDE = 2.2
_INK, _GRID = "#1b1f24", "#e3e7ec"


@dataclass(frozen=True)
class Curve:
    """How one curve looks, whatever it shows; its `name` is plain text.

    Parameters
    ----------
    name : str
        In the legend.
    colour, dash, symbol : str
        As Plotly calls them.
    mode : str
        ``lines``, ``markers`` or both with ``+``.
    width : float
        Of the line.
    notes : sequence, optional
        For each point what `hint`, the text that a pointer brings up, calls ``%{customdata}``.
    """

    name: str
    colour: str = _INK
    dash: str = "solid"
    symbol: str = "circle"
    mode: str = "lines+markers"
    width: float = 2
    notes: Sequence[Any] | None = None


@dataclass(frozen=True)
class Shown:
    """What is to be seen under one setting of the switches: for each curve its x, y and perhaps standard errors.

    Parameters
    ----------
    x, y : sequences
        None, or NaN, where there is nothing.
    axis : str
        Title of the y axis.
    said : str
        The same in words.
    logarithmic : str
        The axes that are: ``""``, ``"y"`` or ``"xy"``.
    errors : sequence, optional
        Standard errors of y.
    """

    x: Sequence[Values]
    y: Sequence[Values]
    axis: str
    said: str
    logarithmic: str = ""
    errors: Sequence[Values] | None = None


def library() -> str:
    """Return the script that draws.

    Raises
    ------
    UserError
        Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError("a report needs the package plotly: pip install 'crbsvd-plugin[report]'") from None
    # a browser reads every end of a line as \n, and the page names the hash of what it reads
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


def ordered(names: Sequence[str], chosen: int | None = None) -> list[Curve]:
    """Return curves of something that grows, from dark to bright; the chosen one is drawn thick."""
    import matplotlib
    from matplotlib.colors import to_hex

    # the end of the map is too bright for thin lines
    positions = [0.88 * i / max(1, len(names) - 1) for i in range(len(names))]
    colours = [to_hex(matplotlib.colormaps["viridis"](position)) for position in positions]
    looks = zip(names, colours, itertools.cycle(_DASHES), itertools.cycle(_SYMBOLS), strict=False)
    return [
        Curve(name, colour, width=2 * _WIDE) if i == chosen else Curve(name, colour, dash, symbol, width=1.8)
        for i, (name, colour, dash, symbol) in enumerate(looks)
    ]


def distinct(names: Sequence[str], mode: str = "lines+markers") -> list[Curve]:
    """Return curves of things that have no order."""
    looks = zip(names, itertools.cycle(_COLOURS), itertools.cycle(_DASHES), itertools.cycle(_SYMBOLS), strict=False)
    return [Curve(name, colour, dash, symbol, mode) for name, colour, dash, symbol in looks]


def plot(
    title: str, curves: Sequence[Curve], views: Mapping[str, Shown], table: Table, *,
    axis: str, legend: str = "", hint: str = "", mark: float | None = None,
) -> Plot:  # fmt: skip
    """Return a plot of curves.

    Parameters
    ----------
    title : str
        Its heading.
    curves : sequence of Curve
        The same under all settings.
    views : mapping of str to Shown
        By the numbers of the options, see `page.Plot`; the first is drawn first.
    table : Table
        The figures behind it.
    axis : str
        Title of the x axis.
    legend : str
        What the names of the curves are.
    hint : str
        A line more of what a pointer brings up, as a template of Plotly.
    mark : float, optional
        The x that is recommended.
    """
    import plotly.graph_objects as go

    traces = []
    for curve in curves:
        lines = (
            f"<b>{f'{legend} ' if legend else ''}%{{fullData.name}}</b>",
            "%{xaxis.title.text}: %{x:.4~g}",
            "%{yaxis.title.text}: %{y:.4~g}",
            hint,
        )
        traces.append(
            go.Scatter(
                name=_literal(curve.name), mode=curve.mode, customdata=curve.notes,
                line={"color": curve.colour, "dash": curve.dash, "width": curve.width},
                marker={"color": curve.colour, "symbol": curve.symbol, "size": 7},
                hovertemplate="<br>".join(line for line in lines if line) + "<extra></extra>",
            )
        )  # fmt: skip
    whole = axis.endswith(" K")
    signs = ["thick"] if any(curve.width > _WIDE for curve in curves) else []
    signs += [] if mark is None else ["grey line"]
    heading = " ".join([*filter(None, [legend]), *([f"({' and '.join(signs)}: recommended)"] if signs else [])])
    around = {"showline": True, "linecolor": _INK, "gridcolor": _GRID, "zeroline": False, "automargin": True}
    small = {"size": 13}
    layout = {
        "font": {"size": 12.5, "color": _INK}, "plot_bgcolor": "#fff", "paper_bgcolor": "#fff",
        # the buttons have their place above the plot
        "margin": {"l": 8, "r": 12, "t": 30, "b": 8},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#fff", "bordercolor": _INK, "font": {"color": _INK, "size": 13}},
        "legend": {
            "orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "font": {"size": 12},
            "x": 0, "xref": "container", "xanchor": "left",
            "title": {"side": "top", "font": {"size": 12}, "text": heading},
        },
        "xaxis": {**around, "title": {"text": axis, "font": small}, "tickformat": "d" if whole else "~g"},
        "yaxis": {**around, "title": {"text": "", "font": small}, "tickformat": "~g"},
        "shapes": [] if mark is None else [
            {"type": "line", "x0": mark, "x1": mark, "yref": "paper", "y0": 0, "y1": 1,
             "line": {"color": "#8c959f", "width": 1.5, "dash": "dash"}}
        ],
    }  # fmt: skip
    figure = json.loads(go.Figure(traces, layout).to_json())
    del figure["layout"]["template"]  # ten times as long as all the rest
    return Plot(title, figure, {key: _view(shown) for key, shown in views.items()}, table)


def _view(shown: Shown) -> View:
    x, y = ([[_finite(value) for value in values] for values in part] for part in (shown.x, shown.y))
    data: dict[str, Sequence[Any]] = {"x": x, "y": y}
    if shown.errors is not None:
        data["error_y"] = [
            {"type": "data", "array": array, "thickness": 1.2, "width": 4, "visible": any(array)}
            for array in ([_finite(value) or 0 for value in values] for values in shown.errors)
        ]
    empty = all(value is None for values in y for value in values)
    note = {"text": "cannot be estimated", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    layout: dict[str, Any] = {"yaxis.title.text": _literal(shown.axis), "annotations": [note] if empty else []}
    for name, values in (("x", x), ("y", y)):
        known = [value for line in values for value in line if value is not None]
        layout[f"{name}axis.autorange"] = True
        layout[f"{name}axis.type"] = "log" if name in shown.logarithmic else "linear"
        layout[f"{name}axis.dtick"] = _step(known) if name in shown.logarithmic else None
    return View(data, layout, shown.said)


def _step(values: Sequence[float]) -> float | str:
    """Return which numbers a logarithmic axis shows: powers of ten, with 2 and 5 or all digits where these are few."""
    positive = [value for value in values if value > 0]
    span = max(positive) / min(positive) if positive else 1
    return 1 if span > 300 else "D2" if span > 10 else "D1"


def _finite(value: float | None) -> float | None:
    """Return six digits of a number, or None for what JSON cannot say."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _literal(text: str) -> str:
    """Return text in which Plotly sees no HTML of its own."""
    return html.escape(text, quote=False)
