"""What of fingerprints and frames is kept for a page to show: few enough to be read, enough to be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .assess import Tally
from .weighting import ALL

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_POINTS, MOST_FRAMES = 300, 500


def excerpt(tally: Tally, basis: int, rank: int) -> dict[str, Any]:
    """Return what a sweep keeps of the basis that it recommends: `points` and `functions`."""
    return {"points": points(tally, basis, rank), "functions": functions(tally.phis[basis][:, :rank])}


def points(tally: Tally, basis: int, rank: int) -> dict[str, dict[str, list[list[float]]]]:
    """Return approximate and exact losses of single fingerprints, thinned evenly.

    Parameters
    ----------
    tally : Tally
        The losses.
    basis, rank : int
        Which of its bases, and how many of its columns.

    Returns
    -------
    dict
        Parameter -> tissue class -> the losses 1 - B_u / B_ac and 1 - B_u / B_ec, two lists of six digits. At most
        `MOST_POINTS` of a parameter, and one of every class; a parameter that has none is left out.
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    # of several classes none may be called so, but a single one
    labels = [label for label in tally.labels if label != ALL] or [ALL]
    for name in tally.names:
        pairs = {}
        for label in labels:
            both = np.array([tally.values(label, name, figure, basis, rank) for figure in ("approximate", "exact")])
            pairs[label] = both[:, np.isfinite(both).all(axis=0)]
        n_points = sum(values.shape[1] for values in pairs.values())
        # a class is rounded up to a point more
        step = max(1, -(-n_points // (MOST_POINTS - len(labels))))
        if n_points:
            found[name] = {label: [_digits(row) for row in values[:, ::step]] for label, values in pairs.items()}
    return found


def functions(phi: NDArray[Any]) -> dict[str, list[Any]]:
    """Return the columns of a basis at up to `MOST_FRAMES` frames.

    Parameters
    ----------
    phi : array (T, K)
        Real or complex.

    Returns
    -------
    dict
        ``frames``, counted from 0, evenly apart; ``real`` and, where phi is complex, ``imag``: a list for each column.
    """
    step = -(-len(phi) // MOST_FRAMES)
    kept = phi[::step]
    found: dict[str, list[Any]] = {"frames": list(range(0, len(phi), step))}
    found["real"] = [_digits(column) for column in kept.real.T]
    if np.iscomplexobj(phi):
        found["imag"] = [_digits(column) for column in kept.imag.T]
    return found


def _digits(values: NDArray[Any]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
