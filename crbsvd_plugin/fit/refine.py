"""One Gauss-Newton step from the best atom, to between the atoms of a dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..dictionary import Dictionary

_BLOCK = 4096
_SINGULAR = 1e-6  # of a parameter's share of the curvature: derivatives are of single precision


def refined(
    voxels: NDArray[np.complex64], best: NDArray[np.intp], dictionary: Dictionary
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """Minimise ||c - M0 (s + J delta)||^2 over the complex M0 and a real step delta, to first order in delta.

    With the derivatives J of s, the projection P off s, and c_1 = s^H c / ||s||^2, delta solves P J delta = P c / c_1
    in the sense of least squares. The step ends at the next values that the dictionary has of any parameter; one that
    would leave the range of the dictionary stays where it is, and the others are solved for without it.

    Parameters
    ----------
    voxels : complex array (V, K)
        Coefficients c.
    best : int array (V,)
        Their best atoms.
    dictionary : Dictionary
        With derivatives.

    Returns
    -------
    theta : float64 array (P, V)
        Parameters, SI units.
    m0 : complex128 array (V,)
        M0 of the stepped signal s + J delta.
    """
    assert dictionary.jac is not None
    low, high = _limits(dictionary.theta)
    theta = np.empty((len(dictionary.parameters), len(best)))
    m0 = np.empty(len(best), np.complex128)
    for start in range(0, len(best), _BLOCK):
        part = slice(start, start + _BLOCK)
        atoms, c = best[part], voxels[part].astype(np.complex128)
        at = dictionary.theta[atoms]
        signal = dictionary.coeff[atoms].astype(np.complex128) * dictionary.norm[atoms, None]
        jac = dictionary.jac[atoms].astype(np.complex128)
        down, up = low[atoms] - at, high[atoms] - at
        step = _step(c, signal, jac, free=(down < 0) | (up > 0))
        outside = ((step < 0) & (down == 0)) | ((step > 0) & (up == 0))
        step = _step(c, signal, jac, free=((down < 0) | (up > 0)) & ~outside)
        allowed = np.where(step < 0, down, up)
        share = np.divide(allowed, step, out=np.ones_like(step), where=step != 0).min(axis=1, initial=1)
        step *= np.maximum(share, 0)[:, None]
        stepped = signal + np.einsum("vp,vpk->vk", step, jac)
        power = np.sum(np.abs(stepped) ** 2, axis=1)
        product = np.sum(stepped.conj() * c, axis=1)
        m0[part] = np.divide(product, power, out=np.zeros_like(product), where=power > 0)
        theta[:, part] = (at + step).T
    return theta, m0


def _step(c: NDArray[Any], signal: NDArray[Any], jac: NDArray[Any], *, free: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return delta (V, P), 0 where a parameter is not free or its derivative tells nothing."""
    power = np.sum(np.abs(signal) ** 2, axis=1)
    scale = np.sum(signal.conj() * c, axis=1)
    usable = (power > 0) & (np.abs(scale) > 0)
    power, scale = np.where(usable, power, 1), np.where(usable, scale, 1)
    rest = (c * (power / scale)[:, None] - signal) * usable[:, None]
    across = jac - (np.einsum("vk,vpk->vp", signal.conj(), jac) / power[:, None])[..., None] * signal[:, None]
    across *= free[..., None]
    size = np.linalg.norm(across, axis=2)
    # parameters have units: derivatives of unit norm have not
    across /= np.where(size > 0, size, 1)[..., None]
    curvature = np.einsum("vpk,vqk->vpq", across.conj(), across).real
    slope = np.einsum("vpk,vk->vp", across.conj(), rest).real
    solved = np.linalg.pinv(curvature, rcond=_SINGULAR, hermitian=True) @ slope[..., None]
    return np.asarray(solved[..., 0] / np.where(size > 0, size, 1))


def _limits(theta: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the next values (B, P) below and above those of every atom, or these where there are none.

    Draws are close together in any one parameter without being neighbours: of a parameter that has no value twice the
    next value is B^(1 - 1/P) values away, as on a grid of B points.
    """
    low, high = theta.copy(), theta.copy()
    n_varied = np.count_nonzero(theta.min(axis=0) < theta.max(axis=0))
    for column in range(theta.shape[1]):
        values, place = np.unique(theta[:, column], return_inverse=True)
        stride = round(len(theta) ** (1 - 1 / n_varied)) if 1 < len(values) == len(theta) else 1
        low[:, column] = values[np.maximum(place - stride, 0)]
        high[:, column] = values[np.minimum(place + stride, len(values) - 1)]
    return low, high
