r"""Real numbers that tell the direction of complex coefficients, whatever their complex scale.

    x = parts of (c'_k c'_j^*) / ||c||^2,    c' = V^H c,    k = 1 .. K, j = 1 .. m

are m columns of c c^H / ||c||^2, on which a phase or a scale of c has no influence. They are polynomials over
||c||^2: smooth also where a phase would jump. V are the principal axes of the unit-norm atoms, so that a basis of the
same subspace gives the same x, each turned so that what is real but for a common phase comes out real. One column tells
everything where c'_1 is not zero, as for MRF-FISP, whose atoms have at least half of their norm there; other sequences
get as many as it takes for every atom to have 0.3 of its norm among c'_1 .. c'_m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEEN = 0.3
_REAL = 1e-6


@dataclass(frozen=True)
class Regressors:
    """Which regressors; made by `of_atoms`.

    Parameters
    ----------
    axes : complex128 array (K, K)
        V, unitary.
    n_columns : int
        m.
    chosen : int array (F,)
        Which of the 2 K m parts are used: all that are not zero for every atom. Counted with k running faster than j,
        the real part before the imaginary.
    """

    axes: NDArray[np.complex128]
    n_columns: int
    chosen: NDArray[np.intp]

    @classmethod
    def of_atoms(cls, atoms: NDArray[Any]) -> Regressors:
        """Return those for unit-norm atoms (B, K)."""
        exact = atoms.astype(np.complex128)
        _, axes = np.linalg.eigh(exact.T @ exact.conj())
        axes = axes[:, ::-1]
        share = np.sqrt(np.cumsum(np.abs(exact @ axes.conj()) ** 2, axis=1).min(axis=0))
        # rounding, or atoms that are zero, may leave the last one below 1
        n_columns = min(int(np.count_nonzero(share < _SEEN)) + 1, len(share))
        axes = axes * _turns(exact @ axes.conj())
        every = cls(axes, n_columns, np.arange(2 * n_columns * len(axes)))
        size = np.linalg.norm(every(exact), axis=0)
        return cls(axes, n_columns, np.flatnonzero(size > _REAL * size.max()))

    def __call__(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return x (B, F), as precise as the coefficients (B, K), which are not zero."""
        unit = _unit(coeff.astype(np.result_type(coeff, np.complex64), copy=False))[0]
        # BLAS would wake its threads for a product of K columns
        along = np.einsum("bk,kj->bj", unit, self.axes.conj().astype(unit.dtype))
        products = along[:, None] * along[:, : self.n_columns, None].conj()
        return products.view(unit.real.dtype).reshape(len(coeff), -1)[:, self.chosen]

    def pulled_back(self, coeff: NDArray[Any], slopes: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return g (B, I, K) with df_i = Re(g_i^H dc) for functions of x with df_i/dx = slopes (B, I, F)."""
        n, n_functions = slopes.shape[:2]
        unit, norm = _unit(coeff.astype(np.complex128))
        c = unit @ self.axes.conj()
        parts = np.zeros((n, n_functions, 2 * self.n_columns * c.shape[1]))
        parts[..., self.chosen] = slopes
        # df = sum Re(s_jk^* dA_jk) with A_jk = c_k c_j^*
        s = parts.view(np.complex128).reshape(n, n_functions, self.n_columns, -1)
        g = np.einsum("bijk,bj->bik", s, c[:, : self.n_columns])
        g[..., : self.n_columns] += np.einsum("bijk,bk->bij", s.conj(), c)
        # of what is left, the part along c would change the norm, on which x does not depend
        along = np.einsum("bik,bk->bi", g.conj(), c).real
        return (g - along[..., None] * c[:, None]) @ self.axes.T / norm[:, None, None]


def _unit(coeff: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows of unit norm and their norms."""
    norm = np.linalg.norm(coeff, axis=1)
    return coeff / norm[:, None], norm


def _turns(inside: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Return phases (K,) of axes that make c'_k c'_1^* of atoms (B, K) as real as can be, the largest one positive."""
    products = inside * inside[:, :1].conj()
    phases = np.exp(0.5j * np.angle(np.sum(products**2, axis=0)))
    turned = products * phases.conj()
    largest = np.take_along_axis(turned.real, np.abs(turned).argmax(axis=0)[None], axis=0)[0]
    return np.asarray(phases * np.where(largest < 0, -1, 1))
