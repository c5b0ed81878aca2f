"""Plot of `normal-vs-fft`: cost of one normal operator against K, C and N, and that of its transforms alone."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# letter, what it counts, and where it stands in (image size, coils, coefficients)
AXES = (("K", "coefficients K", 2), ("C", "coils C", 1), ("N", "voxels N", 0))
_PEERS = {"ours_s": ("o-", "C0", "normal operator"), "peer_s": ("s--", "C1", "its pruned FFTs alone")}


def varied(rows: Sequence[dict[str, Any]], at: int) -> list[dict[str, Any]]:
    """Return the 2-D rows that differ from the first one in one number alone, in its order."""
    first = rows[0]["size"]
    same = [
        row for row in rows if len(row["size"][0]) == 2 and all(row["size"][i] == first[i] for i in {0, 1, 2} - {at})
    ]
    return sorted(same, key=lambda row: count(row, at))


def count(row: dict[str, Any], at: int) -> int:
    """Return a row's number of voxels, coils or coefficients."""
    return math.prod(row["size"][0]) if at == 0 else int(row["size"][at])


def slope(rows: Sequence[dict[str, Any]], at: int, key: str) -> float:
    """Return the power by which the seconds `key` grow with that number, by least squares of the logarithms."""
    x, y = np.log([count(row, at) for row in rows]), np.log([row[key] for row in rows])
    return float(np.polyfit(x, y, 1)[0])


def draw(rows: Sequence[dict[str, Any]], path: Path, *, n_threads: int) -> None:
    """Draw three panels on logarithmic axes into a PNG file, with the date and the threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axis, (letter, words, at) in zip(figure.subplots(1, 3, sharey=True), AXES, strict=True):
        shown = varied(rows, at)
        x = [count(row, at) for row in shown]
        for key, (style, colour, name) in _PEERS.items():
            label = f"{name}: {letter}$^{{{slope(shown, at, key):.2f}}}$"
            axis.loglog(x, [1e3 * row[key] for row in shown], style, color=colour, label=label)
        labels = [f"{math.isqrt(n)}$^2$" for n in x] if at == 0 else [str(n) for n in x]
        axis.set_xticks(x, labels)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(words)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="small")
        if letter == "K":
            axis.set_ylabel("time [ms], median")
    shape, n_coils, rank = rows[0]["size"]
    figure.suptitle(
        f"One normal operator. Where not varied: {' x '.join(map(str, shape))}, C = {n_coils}, K = {rank}; "
        f"{n_threads} threads on {os.cpu_count()} cores, {datetime.date.today()}", fontsize="medium"
    )  # fmt: skip
    FigureCanvasAgg(figure).print_png(path)
