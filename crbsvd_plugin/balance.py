"""Which rank has the least error of the parameters: noise, which grows with it, against leak, which falls."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .amplification import Errors
from .errors import UserError

_SURE = 2.0
"""Standard errors: by less, a rank is not told from the best one."""


@dataclass(frozen=True)
class Row:
    """Errors of one parameter in one tissue at one rank, relative to its value; infinite where it cannot be estimated.

    Parameters
    ----------
    rank : int
        Number of coefficients.
    tissue, parameter : str
        Tissue of the phantom, and the parameter.
    noise : float
        Median over the voxels of the standard deviation.
    leak : float
        Median over the voxels of the size of the bias.
    total : float
        Root of the sum of their squares.
    """

    rank: int
    tissue: str
    parameter: str
    noise: float
    leak: float
    total: float


@dataclass(frozen=True)
class Choice:
    """The recommended rank, its worst total error and where that is, the rank of the least error, and the rule."""

    rank: int
    total: float
    tissue: str
    parameter: str
    least: int
    rule: str


def table(
    found: Mapping[int, Errors],
    tissue: Sequence[str],
    names: Sequence[str],
    *,
    without: int | None = None,
) -> list[Row]:
    """Return rows of all ranks, tissues and parameters; of all replicas, or without one of them."""
    rows = []
    where = {label: np.flatnonzero(np.asarray(tissue) == label) for label in dict.fromkeys(tissue)}
    for rank, errors in found.items():
        draws = errors.noise if without is None else np.delete(errors.noise, without, axis=0)
        deviation = np.sqrt(draws.mean(axis=0))
        for label, voxels in where.items():
            noise, leak = np.median(deviation[voxels], axis=0), np.median(np.abs(errors.bias[voxels]), axis=0)
            rows += [
                Row(rank, str(label), name, float(noise[i]), float(leak[i]), math.hypot(noise[i], leak[i]))
                for i, name in enumerate(names)
            ]
    return rows


def least(
    found: Mapping[int, Errors],
    tissue: Sequence[str],
    names: Sequence[str],
    *,
    counted: Collection[tuple[str, str]],
) -> Choice:
    """Return the smallest rank whose worst total error cannot be told from the least one.

    Parameters
    ----------
    found : mapping of rank to Errors
        Of N replicas, at least 2.
    tissue, names
        Tissue of every voxel, and the names of the parameters.
    counted : collection of pairs
        Tissues and parameters whose errors count.

    Returns
    -------
    Choice
        The difference of the worst totals of a rank and of the best one has a standard error that comes from leaving
        out one replica at a time (jackknife): sqrt((N - 1) / N sum (d_n - mean d)^2). As all ranks have the same noise,
        it is smaller than that of either. Ranks within two of them are equal.

    Raises
    ------
    UserError
        At no rank can all that counts be estimated.
    """
    finite = {
        rank: row for rank, row in worst(table(found, tissue, names), counted).items() if math.isfinite(row.total)
    }
    if not finite:
        raise UserError(
            f"up to rank {max(found)} there are too few coefficients to estimate all that counts; take a larger --rank"
        )
    best = min(finite, key=lambda rank: (finite[rank].total, rank))
    n = len(found[best].noise)
    parts = [worst(table(found, tissue, names, without=one), counted) for one in range(n)]
    for rank, row in sorted(finite.items()):
        differences = np.array([part[rank].total - part[best].total for part in parts])
        error = math.sqrt((n - 1) * float(differences.var()))
        if row.total - finite[best].total <= _SURE * error or rank == best:
            break
    rule = (
        "the smallest rank whose worst total error over tissues and parameters is the least one, or above it by no "
        f"more than {_SURE:g} standard errors of that difference (jackknife over {n} replicas)"
    )
    return Choice(rank, row.total, row.tissue, row.parameter, best, rule)


def worst(rows: Sequence[Row], counted: Collection[tuple[str, str]]) -> dict[int, Row]:
    """Return the row of the largest total error of every rank."""
    largest: dict[int, Row] = {}
    for row in rows:
        if (row.tissue, row.parameter) in counted and (row.rank not in largest or row.total > largest[row.rank].total):
            largest[row.rank] = row
    return largest
