"""Matching where a parameter is known in every voxel, as B1 from a map.

The atoms of a dictionary that have the same value of it are a slab; every voxel is matched with the slab nearest to its
value. The steps between slabs are its accuracy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster import Pool
from ..dictionary import Dictionary
from ..errors import UserError
from .matching import foreground, match
from .result import Maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_FEWEST_SLABS, _MOST_SLABS = 3, 200  # of two, both are edges


def slabs(dictionary: Dictionary, name: str) -> NDArray[np.float64]:
    """Return the values (n,) of a parameter in a dictionary, increasing.

    Raises
    ------
    UserError
        The dictionary does not have the parameter, or one value only, or so many that they are no grid.
    """
    names = [parameter.name for parameter in dictionary.parameters]
    advice = f"make the basis with a fit_prior that has a grid of {name}, and for B1 with --set b1=true"
    if name not in names:
        raise UserError(f"the dictionary has {', '.join(names)} and no {name}, of which a map is given; {advice}")
    values = np.unique(dictionary.theta[:, names.index(name)])
    if not _FEWEST_SLABS <= len(values) <= _MOST_SLABS:
        raise UserError(
            f"the dictionary has {len(values)} values of {name}, expected a grid of {_FEWEST_SLABS} to {_MOST_SLABS}; "
            f"{advice}"
        )
    return values


def match_fixed(
    coeff: NDArray[Any],
    dictionary: Dictionary,
    *,
    name: str,
    known: NDArray[np.float64],
    mask_level: float = 0.05,
    refine: bool = False,
    progress: Callable[[int], object] | None = None,
    pool: Pool | None = None,
) -> Maps:
    """Return the parameters of the best atom for every voxel, among those nearest in a known parameter.

    Parameters
    ----------
    coeff, dictionary, mask_level, refine, progress, pool
        As for `matching.match`.
    name : str
        The parameter that is known.
    known : array (*X)
        Its values; voxels where it is NaN are not fitted.

    Returns
    -------
    Maps
        The known parameter is that of the slab. `edge` tells of the other parameters, and of known values that lie
        more than half a step beyond the outermost slab.

    Raises
    ------
    UserError
        The dictionary has no grid of the parameter, or no voxel that could be fitted has a value.
    """
    values = slabs(dictionary, name)
    wanted = foreground(coeff, mask_level)
    mask = wanted & np.isfinite(known)
    lacking = int(wanted.sum() - mask.sum())
    if wanted.any() and not mask.any():
        raise UserError(f"the map of {name} has no values where the image is: expected one of the same region")
    if lacking:
        logger.warning("%d of %d voxels have no %s: they are not fitted", lacking, wanted.sum(), name)
    middle = (values[1:] + values[:-1]) / 2
    slab = np.where(mask, np.searchsorted(middle, np.where(mask, known, values[0])), -1)
    first, last = 2 * values[0] - middle[0], 2 * values[-1] - middle[-1]
    beyond = mask & ((known < first) | (known > last))
    theta = np.zeros((len(dictionary.parameters), *mask.shape), np.float32)
    m0, edge = np.zeros(mask.shape, np.complex64), np.zeros(mask.shape, bool)
    for number, part in enumerate(_parts(dictionary, name, values)):
        here = slab == number
        if here.any():
            found = match(coeff[:, here], part, mask_level=0, refine=refine, progress=progress, pool=pool)
            theta[:, here], m0[here], edge[here] = found.theta, found.m0, found.edge
    return Maps(dictionary.parameters, theta, m0, edge | beyond, mask)


def _parts(dictionary: Dictionary, name: str, values: NDArray[np.float64]) -> list[Dictionary]:
    """Return the dictionary of every slab; atoms on an edge for the sake of the known parameter alone are not."""
    column = [parameter.name for parameter in dictionary.parameters].index(name)
    others = np.delete(dictionary.theta, column, axis=1)
    of = dictionary.theta[:, column]
    # an atom is inside if it is so anywhere else along the known parameter
    _, row = np.unique(others, axis=0, return_inverse=True)
    row = row.ravel()
    free = np.zeros(row.max() + 1, bool)
    free[row[~dictionary.edge]] = True
    inner = replace(dictionary, edge=dictionary.edge & ~free[row])
    return [_part(inner, of == value) for value in values]


def _part(dictionary: Dictionary, chosen: Any) -> Dictionary:
    jac = None if dictionary.jac is None else dictionary.jac[chosen]
    arrays = {key: getattr(dictionary, key)[chosen] for key in ("theta", "coeff", "norm", "edge")}
    return replace(dictionary, jac=jac, **arrays)
