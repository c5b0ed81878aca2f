"""Regression on random Fourier features, compiled.

The features of a voxel are never in memory: each is made, multiplied with its weights and forgotten, for a tile of
voxels at a time whose sums stay in the cache. Products of matrices (BLAS) would write and read a thousand of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..jit import kernel, prange

TILE = 64
"""Voxels at a time; arrays have a multiple of that many."""

# sin(2 pi y) = sum_i _SINE[i] y^(2 i + 1), cut where a quarter of a turn is right to (pi / 2)^13 / 13! = 6e-8
_SINE = np.array([(-1) ** i * math.tau ** (2 * i + 1) / math.factorial(2 * i + 1) for i in range(6)], np.float32)
_S1, _S3, _S5, _S7, _S9, _S11 = _SINE


@kernel(parallel=True, fastmath={"contract"})
def regress(x: Any, frequencies: Any, turns: Any, weights: Any, out: Any) -> None:
    """Write sum_j w_jo cos(2 pi (f_j . x + t_j)) to out.

    Parameters
    ----------
    x : float32 array (F, V)
        F regressors of V voxels, V a multiple of `TILE`.
    frequencies : float32 array (n, F)
        f_j.
    turns : float32 array (n,)
        t_j.
    weights : float32 array (n, O)
        w_jo.
    out : float32 array (O, V)
        Written.

    Notes
    -----
    Every voxel for itself and in the same order, so that the bits depend neither on its neighbours nor on the threads.
    """
    n_regressors, n_voxels = x.shape
    n_features, n_outputs = weights.shape
    half, quarter = np.float32(0.5), np.float32(0.25)
    for tile in prange(n_voxels // TILE):
        at = tile * TILE
        here, sums = np.empty((n_regressors, TILE), np.float32), np.zeros((n_outputs, TILE), np.float32)
        feature = np.empty(TILE, np.float32)
        for f in range(n_regressors):
            for v in range(TILE):
                here[f, v] = x[f, at + v]
        for j in range(n_features):
            turn = turns[j]
            for v in range(TILE):
                feature[v] = turn
            for f in range(n_regressors):
                frequency = frequencies[j, f]
                for v in range(TILE):
                    feature[v] += frequency * here[f, v]
            for v in range(TILE):
                # cos(2 pi t) = sin(2 pi (1/4 - |t|)) for t from -1/2 to 1/2
                t = feature[v]
                y = quarter - abs(t - np.floor(t + half))
                z = y * y
                feature[v] = y * (_S1 + z * (_S3 + z * (_S5 + z * (_S7 + z * (_S9 + z * _S11)))))
            for o in range(n_outputs):
                weight = weights[j, o]
                for v in range(TILE):
                    sums[o, v] += weight * feature[v]
        for o in range(n_outputs):
            for v in range(TILE):
                out[o, at + v] = sums[o, v]
