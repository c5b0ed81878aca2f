"""Matching where parameters are known in every voxel, as B1 from a map.

The atoms of a dictionary that have the same values of them are a slab; every voxel is matched with the slab nearest to
its values. The steps between slabs are its accuracy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
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
    known: Mapping[str, NDArray[np.float64]],
    mask_level: float = 0.05,
    refine: bool = False,
    progress: Callable[[int], object] | None = None,
    pool: Pool | None = None,
) -> Maps:
    """Return the parameters of the best atom for every voxel, among those nearest in the known parameters.

    Parameters
    ----------
    coeff, dictionary, mask_level, refine, progress, pool
        As for `matching.match`.
    known : mapping of parameter name to array (*X)
        What is known, SI units; voxels where any of it is NaN are not fitted.

    Returns
    -------
    Maps
        The known parameters are those of the slab. `edge` tells of the other parameters, and of known values `beyond`
        the dictionary.

    Raises
    ------
    UserError
        The dictionary has no grid of a parameter, or no voxel that could be fitted has a value.
    """
    grids = {name: slabs(dictionary, name) for name in known}
    wanted = foreground(coeff, mask_level)
    mask = wanted & np.all([np.isfinite(values) for values in known.values()], axis=0)
    names, lacking = " and ".join(known), int(wanted.sum() - mask.sum())
    if wanted.any() and not mask.any():
        raise UserError(f"the map of {names} has no values where the image is: expected one of the same region")
    if lacking:
        logger.warning("%d of %d voxels have no %s: they are not fitted", lacking, wanted.sum(), names)
    columns = [_column(dictionary, name) for name in known]
    slab = np.where(mask, _slab(grids, [np.where(mask, values, 0) for values in known.values()]), -1)
    belongs, inner = _slab(grids, list(dictionary.theta[:, columns].T)), _inner(dictionary, columns)
    theta = np.zeros((len(dictionary.parameters), *mask.shape), np.float32)
    m0, edge = np.zeros(mask.shape, np.complex64), np.zeros(mask.shape, bool)
    for number in np.unique(slab[mask]):
        here, atoms = slab == number, belongs == number
        if not atoms.any():
            raise UserError(f"the dictionary has a grid of {names}, but not all of their combinations")
        found = match(coeff[:, here], _part(inner, atoms), mask_level=0, refine=refine, progress=progress, pool=pool)
        theta[:, here], m0[here], edge[here] = found.theta, found.m0, found.edge
    return Maps(dictionary.parameters, theta, m0, edge | (mask & beyond(grids, known)), mask)


def beyond(grids: Mapping[str, NDArray[np.float64]], known: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Return where known values lie more than half a step beyond the outermost of their `slabs`."""
    outside = []
    for name, values in known.items():
        grid = grids[name]
        first, last = grid[0] - (grid[1] - grid[0]) / 2, grid[-1] + (grid[-1] - grid[-2]) / 2
        outside.append((values < first) | (values > last))
    return np.asarray(np.any(outside, axis=0))


def _slab(grids: Mapping[str, NDArray[np.float64]], values: Sequence[NDArray[Any]]) -> NDArray[np.intp]:
    """Return the number of the slab that is nearest to values of all known parameters."""
    nearest = [np.searchsorted((grid[1:] + grid[:-1]) / 2, v) for grid, v in zip(grids.values(), values, strict=True)]
    return np.asarray(np.ravel_multi_index(nearest, [len(grid) for grid in grids.values()]))


def _column(dictionary: Dictionary, name: str) -> int:
    return [parameter.name for parameter in dictionary.parameters].index(name)


def _inner(dictionary: Dictionary, columns: list[int]) -> Dictionary:
    """Return the dictionary without the edges that are there for the sake of the known parameters alone."""
    others = np.delete(dictionary.theta, columns, axis=1)
    # an atom is inside if it is so anywhere else along the known parameters
    _, row = np.unique(others, axis=0, return_inverse=True)
    row = row.ravel()
    free = np.zeros(row.max() + 1, bool)
    free[row[~dictionary.edge]] = True
    return replace(dictionary, edge=dictionary.edge & ~free[row])


def _part(dictionary: Dictionary, chosen: Any) -> Dictionary:
    jac = None if dictionary.jac is None else dictionary.jac[chosen]
    arrays = {key: getattr(dictionary, key)[chosen] for key in ("theta", "coeff", "norm", "edge")}
    return replace(dictionary, jac=jac, **arrays)
