"""How far bases are from the best possible, on the fingerprints that they are measured on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .assess import Tally
from .gram import least
from .weighting import SIGNAL, Weighting


def certificates(tally: Tally, basis: int, weighting: Weighting, *, conjugate: bool) -> Iterator[tuple[float, float]]:
    """Return what a basis costs at each of its ranks, with exact bounds, and what no basis of them costs less than.

    Parameters
    ----------
    tally : Tally
        The fingerprints, with Gram matrices.
    basis : int
        Which of its bases.
    weighting : Weighting
        What counts how much.
    conjugate : bool
        The conjugate of every fingerprint counts, too, so that bases are real.

    Yields
    ------
    cost, bound : float
        Shares of the weighted total. The bound is that of the approximate bounds B_ac <= B_ec, an eigenvalue
        problem in the directions of the tally (`gram.least`); what is outside of these counts as kept, so it is low
        for sequences that fill more dimensions.
    """
    factors = weighting.factors([(label, name) for label in tally.labels for name in (SIGNAL, *tally.names)])
    ranks = range(1, tally.phis[basis].shape[1] + 1)
    grams = {key: tally.gram(*key) for key in factors}
    total = np.sum([f * (grams[key].real if conjugate else grams[key]) for key, f in factors.items()], axis=0)
    whole = sum(f * tally.totals(*key)[1] for key, f in factors.items())
    bounds = least(total, whole, whole - float(np.trace(total).real), ranks)
    for rank, bound in zip(ranks, bounds, strict=True):
        lost = sum(f * tally.totals(*key, basis, rank)[0] for key, f in factors.items())
        yield (lost / whole, bound / whole) if whole else (0.0, 0.0)
