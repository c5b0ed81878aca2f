r"""Bias of least squares to second order in the noise.

With f (2 K real numbers) the coefficients of a basis as a function of x, which are Re M0, Im M0 and theta, J = df/dx,
F = J^T J, H_k the second derivatives of f_k, and noise of standard deviation sigma in every f_k:

    E[x^ - x] = -sigma^2 / 2  F^-1 sum_k J_k tr(F^-1 H_k)

It needs no fit and no noise, so it tells which biases are the curvature of the model, and which are not.

References
----------
Box, Journal of the Royal Statistical Society B 33:171 (1971).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Derivatives = Callable[["NDArray[np.float64]"], tuple["NDArray[Any]", "NDArray[Any]"]]


@dataclass(frozen=True)
class Curvature:
    """First and second derivatives of a signal for M0 = 1.

    Parameters
    ----------
    first : complex array (P + 2, T)
        By Re M0, Im M0 and the P parameters.
    second : complex array (P + 2, P + 2, T)
        The same twice.
    """

    first: NDArray[Any]
    second: NDArray[Any]

    @classmethod
    def at(cls, derivatives: Derivatives, theta: NDArray[np.float64], steps: NDArray[np.float64]) -> Curvature:
        """Return those at theta (P,), second ones by central differences.

        Parameters
        ----------
        derivatives : callable
            Signals (B, T) and their derivatives (B, P, T) of parameters (B, P).
        theta : float64 array (P,)
            Where.
        steps : float64 array (P,)
            Of the differences.
        """
        moved = np.concatenate([theta[None], theta + np.diag(steps), theta - np.diag(steps)])
        signal, jac = derivatives(moved)
        p = len(theta)
        first = np.concatenate([signal[:1], 1j * signal[:1], jac[0]])
        second = np.zeros((p + 2, p + 2, len(signal[0])), np.complex128)
        second[0, 2:], second[1, 2:] = jac[0], 1j * jac[0]
        second[2:, 0], second[2:, 1] = jac[0], 1j * jac[0]
        between = (jac[1 : p + 1] - jac[p + 1 :]) / (2 * steps[:, None, None])
        second[2:, 2:] = (between + between.swapaxes(0, 1)) / 2
        return cls(first, second)

    def bias(self, phi: NDArray[Any]) -> NDArray[np.float64]:
        """Return the bias (P,) in the basis phi (T, K), for a sigma of one per real component; it grows as sigma^2."""
        first, second = (_parts(array @ phi.conj()) for array in (self.first, self.second))
        # of columns of unit norm, whose inverse is exact enough
        size = np.linalg.norm(first, axis=-1)
        first, second = first / size[:, None], second / size[:, None, None] / size[:, None]
        inverse = np.linalg.inv(first @ first.T)
        pull = np.einsum("ijk,ij->k", second, inverse)
        found: NDArray[np.float64] = -0.5 * inverse @ (first @ pull) / size
        return found[2:]


def _parts(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.concatenate([values.real, values.imag], axis=-1)
