"""Dictionary matching in the compressed domain.

For a voxel with the coefficients c, the atom with unit-norm coefficients d that explains most is
that of largest |d^H c|; the complex scale is M0 = d^H c / norm, norm = ||phi^H s(theta)||. The atom is
that of brute force in double precision, found without looking at most of the others (`search`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster import Pool
from ..dictionary import Dictionary
from .blocks import in_blocks
from .index import build
from .refine import refined
from .result import Maps
from .search import search

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VOXELS = 16384  # of a block: 20 ms of work, beside which starting threads, or sending it, is little


def match(
    coeff: NDArray[Any],
    dictionary: Dictionary,
    *,
    mask_level: float = 0.05,
    refine: bool = False,
    progress: Callable[[int], object] | None = None,
    pool: Pool | None = None,
) -> Maps:
    """Return the parameters of the best atom for every voxel.

    Parameters
    ----------
    coeff : complex array (K, *X)
        Coefficient images.
    dictionary : Dictionary
        Atoms compressed with the same basis.
    mask_level : float
        Voxels whose ||c|| is below this share of its 99th percentile are not fitted; 0: all are
        that are not zero. Voxels that are not finite are never fitted.
    refine : bool
        Take a Gauss-Newton step from the best atom, see `refine`; `edge` stays that of the atom.
    progress : callable, optional
        Called with the number of voxels after each block.
    pool : Pool, optional
        Workers to spread the blocks over. The blocks are the same everywhere, so the maps are, bit for bit.

    Raises
    ------
    ValueError
        The number of coefficients differs from the dictionary's.
    UserError
        `refine` is asked for, and the dictionary has no derivatives.
    """
    if len(coeff) != dictionary.rank:
        raise ValueError(f"coeff has {len(coeff)} coefficients, the dictionary {dictionary.rank}")
    if refine:
        dictionary.require_derivatives()
    shape = coeff.shape[1:]
    voxels = _voxels(coeff)
    mask = foreground(coeff, mask_level)
    chosen = np.flatnonzero(mask)
    best, one = np.zeros(len(chosen), np.intp), partial(search, index=build(dictionary.coeff))
    for part, found in in_blocks(
        one, lambda part: voxels[chosen[part]], len(chosen), size=_VOXELS, progress=progress, pool=pool
    ):
        best[part] = found
    theta = np.zeros((len(dictionary.parameters), len(voxels)), np.float32)
    m0, edge = np.zeros(len(voxels), np.complex64), np.zeros(len(voxels), bool)
    if refine:
        theta[:, chosen], m0[chosen] = refined(voxels[chosen], best, dictionary)
    else:
        theta[:, chosen] = dictionary.theta[best].T
        m0[chosen] = np.sum(dictionary.coeff[best].conj() * voxels[chosen], axis=1) / dictionary.norm[best]
    edge[chosen] = dictionary.edge[best]
    return Maps(dictionary.parameters, theta.reshape(-1, *shape), m0.reshape(shape), edge.reshape(shape), mask)


def foreground(coeff: NDArray[Any], mask_level: float) -> NDArray[np.bool_]:
    """Return the voxels (*X) of coefficient images (K, *X) that are fitted, see `match`."""
    voxels = _voxels(coeff)
    finite = np.asarray(np.isfinite(voxels).all(axis=1))
    size = np.linalg.norm(np.where(finite[:, None], voxels, 0), axis=1)
    brightest = np.percentile(size[finite], 99) if finite.any() else 0.0
    mask: NDArray[np.bool_] = (size > 0) & (size >= mask_level * brightest)
    return mask.reshape(coeff.shape[1:])


def _voxels(coeff: NDArray[Any]) -> NDArray[np.complex64]:
    """Return coefficient images (K, *X) as voxels (V, K)."""
    return np.ascontiguousarray(coeff.reshape(len(coeff), -1).T, dtype=np.complex64)
