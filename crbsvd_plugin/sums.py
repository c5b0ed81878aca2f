"""Sums over readouts that are all a reconstruction needs of them, for readouts that come a batch at a time.

    right_c,k = sum over readouts r of A_c,k^H W y,      psf_kl as in `toeplitz`,

A_c the operator of a single coil without its sensitivity, which need not be known before the last readout:
A^H W y = sum_c conj(sens_c) right_c. However long the scan, memory is that of C K images, and of the kernel.

A batch goes into the right-hand sides at once. Its positions wait for others, because they are small, and because the
transforms of a kernel, on the doubled grid, take as long as the samples of a thousand readouts.
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
_POSITIONS = 2**18  # samples; 8 MB in 3-D
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


class KernelSum:
    """The kernel of readouts that come a batch at a time.

    Parameters
    ----------
    shape : tuple of int
        Image size X.
    rank : int
        Number of coefficients K.
    """

    def __init__(self, shape: tuple[int, ...], rank: int):
        self._rank = rank
        self._enough = max(_POSITIONS, grid_samples(shape) // 2)
        self._parts: NDArray[Any] | None = None
        self._waiting: list[SubspaceOperator] = []  # which are not in it

    def add(self, operator: SubspaceOperator) -> None:
        """Add the positions and weights of an operator, of the same basis and image as those before."""
        if self._waiting and self._waiting[0].weights.shape[1] != operator.weights.shape[1]:
            self.settle()
        self._waiting.append(operator)
        if sum(one.weights.size for one in self._waiting) >= self._enough:
            self.settle()

    @property
    def nbytes(self) -> int:
        """Bytes of the sum, and of what waits to be added."""
        parts = 0 if self._parts is None else self._parts.nbytes
        return parts + sum(one.traj.nbytes + one.frame.nbytes + one.weights.nbytes for one in self._waiting)

    @property
    def toeplitz(self) -> Toeplitz:
        """The convolution with the kernel.

        Raises
        ------
        ValueError
            Nothing was added.
        """
        self.settle()
        if self._parts is None:
            raise ValueError("no readouts were added that make a kernel")
        return Toeplitz(self._parts, self._rank)

    def settle(self) -> None:
        """Bring into the sum what waits."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        operator = waiting[0] if len(waiting) == 1 else _of_all(waiting)
        self._parts = operator.kernel(out=self._parts)


def _of_all(operators: list[SubspaceOperator]) -> SubspaceOperator:
    """Return the operator of the readouts of several, as far as a kernel needs it."""
    traj, frame, weights = (
        np.concatenate([getattr(one, name) for one in operators]) for name in ("traj", "frame", "weights")
    )
    first = operators[0]
    return SubspaceOperator(traj, frame=frame, phi=first.phi, sens=first.sens[:1], weights=weights, dtype=first.dtype)


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
    dtype : dtype
        complex64, or complex128 for references.

    Attributes
    ----------
    right : complex array (C, K, *X)
        Right-hand sides of the coils.
    kernel : KernelSum or None
        None: do not sum it up.
    """

    def __init__(
        self, shape: tuple[int, ...], phi: NDArray[Any], n_coils: int, *, kernel: bool = True, dtype: Any = np.complex64
    ):
        self.phi = phi
        self.right = np.zeros((n_coils, phi.shape[1], *shape), dtype)
        self.kernel = KernelSum(shape, phi.shape[1]) if kernel else None

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
        if self.kernel is not None:
            self.kernel.add(operator)

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
        return self.right.nbytes + (0 if self.kernel is None else self.kernel.nbytes)
