"""Losses of a tally as rows of a table, and those that a recommendation counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .advice import Row
from .assess import Tally
from .weighting import ALL


def loss_rows(tally: Tally, crb_weights: Sequence[float], rank: int) -> Iterator[Row]:
    """Return the losses of ranks 1 to `rank` of the first bases of a tally, which are those of these weights."""
    for i, weight in enumerate(crb_weights):
        for k in range(1, rank + 1):
            for tissue, columns in tally.losses(i, k).items():
                for parameter, figures in columns.items():
                    for figure, values in figures.items():
                        yield Row(weight, k, tissue, parameter, figure, **values)


def counted_rows(
    rows: Sequence[Row], tally: Tally, *, parameters: Mapping[str, float], classes: Mapping[Any, float]
) -> Iterator[Row]:
    """Return the rows over all tissues, weighted as in the basis: what has no weight there has none here.

    Parameters
    ----------
    rows, tally
        Losses, and the tally that they are of.
    parameters, classes : mapping
        Weights of parameters and classes, see `weighting.Weighting`.
    """
    rows = [row for row in rows if parameters.get(row.parameter, 1.0) > 0]
    if not classes:
        yield from (row for row in rows if row.tissue == ALL)
        return
    atoms = {label: float(tally.weights(label).sum()) for label in tally.labels}
    sums: dict[tuple[float, int, str, str], tuple[float, float]] = {}
    for row in rows:
        if row.tissue not in atoms or np.isnan(row.mean):
            continue
        weights = (classes.get(key, 1.0) for key in (row.tissue, (row.tissue, row.parameter)))
        factor = atoms[row.tissue] * math.prod(weights)
        key = (row.crb_weight, row.rank, row.parameter, row.figure)
        lost, total = sums.get(key, (0.0, 0.0))
        sums[key] = (lost + factor * row.mean, total + factor)
    for (weight, rank, parameter, figure), (lost, total) in sums.items():
        if total:
            yield Row(weight, rank, ALL, parameter, figure, lost / total, np.nan, np.nan)
