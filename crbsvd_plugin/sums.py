"""Sums over readouts that are all a reconstruction needs of them, for readouts that come a batch at a time.

    right_c,k = sum over readouts r of A_c,k^H W y,      psf_kl as in `toeplitz`,

A_c the operator of a single coil without its sensitivity, which need not be known before the last readout:
A^H W y = sum_c conj(sens_c) right_c. However long the scan, memory is that of C K images, and of the kernel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .encoding import SubspaceOperator
from .toeplitz import Toeplitz

if TYPE_CHECKING:
    from numpy.typing import NDArray


_WORTH = 2**20
_FEWEST = 2**18  # a quarter of a second is no matter, and a small scan is one batch: its bits do not hang on its pace


def kernel_bytes(shape: tuple[int, ...], rank: int, *, real: bool, itemsize: int = 4) -> int:
    """Return the bytes of the convolution kernels: K (K + 1) / 2 on the doubled grid, twice for a complex basis."""
    return rank * (rank + 1) // 2 * 2 ** len(shape) * math.prod(shape) * itemsize * (1 if real else 2)


def grid_samples(shape: tuple[int, ...]) -> int:
    """Return how many samples make a batch of which the transforms of a NUFFT take no more time than the samples."""
    return max(_FEWEST, 2 ** len(shape) * math.prod(shape))


def batch_samples(shape: tuple[int, ...], rank: int, n_coils: int, *, real: bool) -> int:
    """Return how many samples of a coil should wait for each other until they are added to sums.

    So many that transforms hardly count, see `grid_samples`; and no fewer than take as much memory as the sums would.
    """
    sample = 8 * n_coils + 4 * len(shape)
    sums = 8 * n_coils * rank * math.prod(shape) + kernel_bytes(shape, rank, real=real)
    return max(_WORTH, grid_samples(shape), -(-sums // sample))


class Sums:
    """The sums, zero at first.

    Parameters
    ----------
    shape : tuple of int
        Image size X.
    phi : array (T, K)
        Basis.
    n_coils : int
        Coils C.
    kernel : bool
        Sum up the kernel too.
    dtype : dtype
        complex64, or complex128 for references.

    Attributes
    ----------
    right : complex array (C, K, *X)
        Right-hand sides of the coils.
    """

    def __init__(
        self, shape: tuple[int, ...], phi: NDArray[Any], n_coils: int, *, kernel: bool = True, dtype: Any = np.complex64
    ):
        self.phi = phi
        self.right = np.zeros((n_coils, phi.shape[1], *shape), dtype)
        self._kernel = kernel
        self._parts: NDArray[Any] | None = None

    def add(
        self,
        ksp: NDArray[Any],
        traj: NDArray[Any],
        *,
        frame: NDArray[np.intp],
        weights: NDArray[Any] | None = None,
    ) -> None:
        """Add readouts, given as for `SubspaceOperator`."""
        n_coils, _, *shape = self.right.shape
        # no sensitivities, and no memory for them
        ones = np.broadcast_to(self.right.dtype.type(1), (n_coils, *shape))
        operator = SubspaceOperator(traj, frame=frame, phi=self.phi, sens=ones, weights=weights, dtype=self.right.dtype)
        operator.add_adjoint(ksp, self.right)
        if self._kernel:
            self._parts = operator.kernel(out=self._parts)

    def mix(self, matrix: NDArray[Any]) -> None:
        """Replace the coils by combinations of them, with a matrix (C, C): as if their data had been."""
        self.right = np.tensordot(matrix.astype(self.right.dtype), self.right, axes=1)

    def right_hand_side(self, sens: NDArray[Any]) -> NDArray[Any]:
        """Return A^H W y (K, *X) for sensitivities (C, *X)."""
        total = np.zeros_like(self.right[0])
        for coil, images in zip(sens, self.right, strict=True):
            total += coil.conj() * images
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of the sums."""
        return self.right.nbytes + (0 if self._parts is None else self._parts.nbytes)

    @property
    def kernel(self) -> NDArray[Any]:
        """The transformed kernel, as `Toeplitz` takes it.

        Raises
        ------
        ValueError
            Nothing was added, or no kernel is summed up.
        """
        if self._parts is None:
            raise ValueError("no readouts were added that make a kernel")
        return self._parts

    @property
    def toeplitz(self) -> Toeplitz:
        """The convolution with the kernel; raises as `kernel`."""
        return Toeplitz(self.kernel, self.phi.shape[1])
