"""Dictionary matching in the compressed domain.

For a voxel with the coefficients c, the atom with unit-norm coefficients d that explains most is
that of largest |d^H c|; the complex scale is M0 = d^H c / norm, norm = ||phi^H s(theta)||.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster import Pool
from ..dictionary import Dictionary
from .result import Maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ATOMS, _VOXELS = 4096, 2048


def match(
    coeff: NDArray[Any],
    dictionary: Dictionary,
    *,
    mask_level: float = 0.05,
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
    progress : callable, optional
        Called with the number of voxels after each block.
    pool : Pool, optional
        Workers to spread the blocks over. The blocks are the same everywhere, so the maps are, bit for bit.

    Raises
    ------
    ValueError
        The number of coefficients differs from the dictionary's.
    """
    if len(coeff) != dictionary.rank:
        raise ValueError(f"coeff has {len(coeff)} coefficients, the dictionary {dictionary.rank}")
    shape = coeff.shape[1:]
    voxels = _voxels(coeff)
    mask = foreground(coeff, mask_level)
    chosen = np.flatnonzero(mask)
    blocks = (voxels[chosen[start : start + _VOXELS]] for start in range(0, len(chosen), _VOXELS))
    best, done = np.zeros(len(chosen), np.intp), 0
    for found in (pool or Pool()).map(partial(best_atoms, atoms=dictionary.coeff), blocks):
        best[done : done + len(found)] = found
        done += len(found)
        if progress is not None:
            progress(len(found))
    theta = np.zeros((len(dictionary.parameters), len(voxels)), np.float32)
    m0, edge = np.zeros(len(voxels), np.complex64), np.zeros(len(voxels), bool)
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


def best_atoms(voxels: NDArray[np.complex64], atoms: NDArray[np.complex64]) -> NDArray[np.intp]:
    """Return the index of the atom (B, K) of largest |d^H c| for each voxel (V, K); ties to the first.

    Where all atoms are purely real or purely imaginary (a real basis and FISP), |d^H c|^2 is the
    sum of two real products, which halves the work.
    """
    best = np.zeros(len(voxels), np.intp)
    score = np.full(len(voxels), -1.0, np.float32)
    real = _real_atoms(atoms)
    halves = None if real is None else np.concatenate([voxels.real, voxels.imag])
    for start in range(0, len(atoms), _ATOMS):
        if real is None or halves is None:
            product = voxels @ atoms[start : start + _ATOMS].conj().T
            power = product.real**2 + product.imag**2
        else:
            squares = (halves @ real[start : start + _ATOMS].T) ** 2
            power = squares[: len(voxels)] + squares[len(voxels) :]
        index = power.argmax(axis=1)
        value = power[np.arange(len(voxels)), index]
        better = value > score
        best[better], score[better] = index[better] + start, value[better]
    return best


def _real_atoms(atoms: NDArray[np.complex64]) -> NDArray[np.float32] | None:
    if not atoms.real.any():
        return atoms.imag
    return None if atoms.imag.any() else atoms.real
