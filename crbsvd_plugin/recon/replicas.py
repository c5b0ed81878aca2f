"""Noise of coefficient images by pseudo-replicas: what a reconstruction makes of a little more noise.

References
----------
Robson et al., Comprehensive quantification of signal-to-noise ratio and g-factor for image-based and k-space-based
parallel imaging reconstructions, doi 10.1002/mrm.21728.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def replica_covariance(
    images: Callable[[np.random.Generator], NDArray[Any]],
    coeff: NDArray[Any],
    *,
    n_replicas: int,
    rng: np.random.Generator,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.complex64]:
    """Return the covariance of coefficients, C = E[n n^H] / 2 per real component, as its upper triangle.

    n = images(y + e) - images(y), with white circular noise e of sigma 1 per real component. A difference, because
    conjugate gradients that are stopped early, blocks and wavelets depend on the data that they are given: this is
    what they do to noise about these data. C of N replicas has a relative error of 1 / sqrt(N) in each voxel, a
    standard deviation that is made from it half of that.

    Parameters
    ----------
    images : callable
        Generator to coefficient images (K, *X) of whitened data y with `white_noise` that it draws.
    coeff : complex array (K, *X)
        Those of y alone.
    n_replicas : int
        N, at least 1.
    rng : Generator
        Of the noise.
    progress : callable, optional
        Called with 1 after each replica.

    Returns
    -------
    complex64 array (K (K + 1) / 2, *X)
        C_kl for k <= l, row by row.
    """
    pairs = list(zip(*np.triu_indices(len(coeff)), strict=True))
    total = np.zeros((len(pairs), *coeff.shape[1:]), np.complex64)
    for _ in range(n_replicas):
        change = images(rng) - coeff
        for number, (k, other) in enumerate(pairs):
            total[number] += change[k] * change[other].conj()
        if progress is not None:
            progress(1)
    total /= 2 * n_replicas
    return total


def white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Return circular noise of sigma 1 per real component."""
    return rng.standard_normal((*shape[:-1], 2 * shape[-1]), np.float32).view(np.complex64)
