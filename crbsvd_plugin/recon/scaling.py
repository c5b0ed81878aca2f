r"""Units of lambda: BART's ``pics`` means something else by it than the objective says.

Without ``-w``, BART 0.8.00 divides the data by a typical value of the images A^H W y,

.. math:: s = \begin{cases} p_{90} & \max - p_{90} < 2 (p_{90} - p_{50}) \\ \max & \text{else} \end{cases}

with the percentiles of their moduli over all voxels and coefficients; and for locally low rank it
multiplies lambda by the largest singular value that is to be expected of noise in B blocks of M x N,

.. math:: g = \sqrt M + \sqrt N + \sqrt{\log(B \min(M, N))}

References
----------
Uecker et al., BART, doi 10.5281/zenodo.592960 (facts of its version 0.8.00, checked in the tests).
Ong and Lustig, doi 10.1109/JSTSP.2016.2545518 (g).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .penalty import Regulariser, Shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Scaling = Literal["none", "bart"]
SCALINGS: tuple[Scaling, ...] = ("none", "bart")


def data_scale(right: NDArray[Any]) -> float:
    """Return what BART divides the data by; 1 where all is zero.

    Parameters
    ----------
    right : array (K, *X)
        A^H W y.
    """
    size = np.abs(right).ravel()
    n = size.size
    places = (n // 2, int(n * 0.9), n - 1)
    ordered = np.partition(size, places)
    p50, p90, largest = (float(ordered[place]) for place in places)
    scale = p90 if largest - p90 < 2 * (p90 - p50) else largest
    return scale or 1.0


def llr_width(shape: tuple[int, ...], rank: int, block: int, *, overlap: bool) -> float:
    """Return g, by which BART multiplies lambda for locally low rank.

    Parameters
    ----------
    shape : tuple of int
        Image size X.
    rank : int
        Number of coefficients N.
    block : int
        Edge of a block [voxels].
    overlap : bool
        B counts the blocks at every place, not those side by side.
    """
    n_voxels = math.prod(min(block, n) for n in shape)
    n_blocks = math.prod(n - min(block, n) + 1 if overlap else math.ceil(n / block) for n in shape)
    return math.sqrt(n_voxels) + math.sqrt(rank) + math.sqrt(math.log(n_blocks * min(n_voxels, rank)))


def bart_factor(right: NDArray[Any], *, regulariser: Regulariser, block: int, shift: Shift) -> float:
    """Return how many times larger a weight in our objective is than the `lam` that does the same in BART.

    Parameters
    ----------
    right : array (K, *X)
        A^H W y.
    regulariser : {"llr", "wavelet"}
        The penalty.
    block, shift
        Blocks of llr, see `reconstruct`.

    Notes
    -----
    Dividing the data by s and multiplying the result by s is the same as the weight s lam, where R(s c) = s R(c), and
    changes nothing where R is quadratic.
    """
    overlap = shift == "overlap"
    width = llr_width(right.shape[1:], len(right), block, overlap=overlap) if regulariser == "llr" else 1.0
    return data_scale(right) * width


def scaled_lam(
    lam: float, right: NDArray[Any], *, scaling: Scaling, regulariser: Regulariser, block: int, shift: Shift
) -> float:
    """Return the weight in our objective of a `lam` in the units of `scaling`, and tell what it is in both units.

    The other arguments are those of `bart_factor`.
    """
    if regulariser == "l2":
        return lam  # the same in both
    factor = bart_factor(right, regulariser=regulariser, block=block, shift=shift)
    ours = lam * factor if scaling == "bart" else lam
    logger.info("lam %.6g, which bart pics without -w calls %.6g (its scaling here: %.6g)", ours, ours / factor, factor)
    return ours
