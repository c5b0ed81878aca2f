"""Several distinct starts for a fit, from a dictionary.

The atoms next to the best one are nearly as good, so the k best atoms are k times the same start. Here the best atom of
each cell of a coarse grid stands for the cell, and cells that touch one already taken are passed over.

Of many parameters the grid has two axes, the nuisances first. In fields (B0, B1) sums of squares have several minima;
beyond them, given the fields, tissue parameters hardly do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster import Pool
from ..dictionary import Dictionary
from .blocks import in_blocks
from .box import Box
from .index import Index, build
from .search import search

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELLS, _VOXELS = 8, 2048
_MOST_AXES, _AXES_OF_MANY = 4, 2


def distinct_starts(
    coeff: NDArray[Any], dictionary: Dictionary, mask: NDArray[np.bool_], n_starts: int, *, pool: Pool | None = None
) -> NDArray[np.float64]:
    """Return the parameters of the best atoms of distinct cells, best first.

    Parameters
    ----------
    coeff : complex array (K, *X)
        Coefficient images.
    dictionary : Dictionary
        Atoms compressed with the same basis.
    mask : bool array (*X)
        The voxels to do.
    n_starts : int
        Number of starts S.
    pool : Pool, optional
        Workers to spread the voxels over.

    Returns
    -------
    float64 array (S, P, *X)
        0 outside of the mask. Where there are not that many distinct cells, the best atom again.
    """
    box = Box.around(dictionary.parameters, dictionary.theta)
    # the upper end belongs to the last cell
    places = np.minimum((box.unit(dictionary.theta)[:, _axes(box)] + 1) / 2 * _CELLS, _CELLS - 1).astype(np.intp)
    cells, belongs = np.unique(places, axis=0, return_inverse=True)
    members = [np.flatnonzero(belongs.ravel() == i) for i in range(len(cells))]
    indices = [build(dictionary.coeff[some]) for some in members]
    touching = np.abs(cells[:, None] - cells).max(axis=-1) <= 1
    chosen = np.flatnonzero(mask)
    voxels = coeff.reshape(len(coeff), -1).T[chosen].astype(np.complex64)
    one = partial(_best, atoms=dictionary.coeff, members=members, indices=indices, touching=touching, n_starts=n_starts)
    found = np.zeros((n_starts, len(dictionary.parameters), mask.size))
    for part, best in in_blocks(one, voxels.__getitem__, len(chosen), size=_VOXELS, pool=pool):
        found[..., chosen[part]] = np.moveaxis(dictionary.theta[best], -1, 1)
    return found.reshape(*found.shape[:2], *mask.shape)


def _axes(box: Box) -> list[int]:
    """Return the parameters that the grid of cells is of."""
    varied = [i for i in range(len(box.parameters)) if box.free[i]]
    if len(varied) <= _MOST_AXES:
        return varied
    return sorted(varied, key=lambda i: not box.parameters[i].nuisance)[:_AXES_OF_MANY]


def _best(
    voxels: NDArray[np.complex64],
    *,
    atoms: NDArray[np.complex64],
    members: list[NDArray[np.intp]],
    indices: list[Index],
    touching: NDArray[np.bool_],
    n_starts: int,
) -> NDArray[np.intp]:
    """Return the atoms (S, V) of voxels (V, K), from the best one (V, cells) in each cell."""
    champions = np.stack([some[search(voxels, index)] for some, index in zip(members, indices, strict=True)], axis=1)
    score = np.abs(np.einsum("vck,vk->vc", atoms[champions].conj(), voxels))
    rows = np.arange(len(voxels))
    taken: list[NDArray[np.intp]] = []
    for _ in range(n_starts):
        cell = score.argmax(axis=1)
        spent = score[rows, cell] < 0
        taken.append(np.where(spent, taken[0] if taken else 0, champions[rows, cell]))
        score[touching[cell]] = -1.0
    return np.stack(taken)
