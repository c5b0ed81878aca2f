r"""The subspace operators in SigPy's terms: a Linop, an App, and the same problem solved by SigPy.

.. math:: \min_c \tfrac12 \| W^{1/2} (A c - y) \|^2 + \tfrac\lambda2 \|c\|^2

SigPy knows no weighted inner product, so its operator is :math:`W^{1/2} A` and its data are
:math:`W^{1/2} y`, as in SigPy's own ``SenseRecon``. The normal operator is ours, :math:`A^H W A`.

References
----------
Ong and Lustig, SigPy, ISMRM 2019, p. 4819.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cartesian import CartesianOperator
from ..encoding import SubspaceOperator
from ..jit import foreign_kernels

with foreign_kernels():
    from sigpy.app import LinearLeastSquares
    from sigpy.linop import Linop

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from . import Encoding


def as_linop(operator: Encoding) -> Linop:
    """Return W^(1/2) A as a SigPy Linop, from coefficient images (K, *X) to k-space.

    Its ``.H`` is A^H W^(1/2), its ``.N`` the `normal` of the operator, A^H W A. The data that belong to it
    are `root_weighted`; without weights they are k-space as it is.

    Parameters
    ----------
    operator : SubspaceOperator or CartesianOperator
        A and W.
    """
    return _Forward(operator)


def root_weighted(operator: Encoding, ksp: NDArray[Any]) -> NDArray[Any]:
    """Return W^(1/2) y for k-space y, of the type of the operator; where weights are 0, y may be anything.

    Raises
    ------
    ValueError
        `ksp` has another shape than the operator's.
    """
    ksp = np.asarray(ksp, dtype=operator.dtype)
    if ksp.shape != tuple(operator.ksp_shape):
        raise ValueError(f"ksp has shape {ksp.shape}, expected {operator.ksp_shape}")
    return np.multiply(ksp, _root(operator), out=np.zeros_like(ksp), where=operator.weights > 0)


class _Recon(LinearLeastSquares):  # type: ignore[misc]
    """The problem of an operator and its data, for SigPy's solvers, from zero."""

    def __init__(
        self, operator: Encoding, ksp: NDArray[Any], *, lamda: float, max_iter: int, proxg: Any, show_pbar: bool
    ):
        super().__init__(
            as_linop(operator), root_weighted(operator, ksp), lamda=lamda, proxg=proxg,
            max_iter=max_iter, show_pbar=show_pbar,
        )  # fmt: skip
        if proxg is None:
            # conjugate gradients end at the rounding of the data, as ours do; SigPy's own end is a residual of
            # zero, but before that squares underflow, and then 0 / 0 is in the images
            self.alg.tol = float(np.finfo(operator.dtype).eps) * self.alg.resid


class SubspaceRecon(_Recon):
    r"""Subspace reconstruction, in the words and the order of ``sigpy.mri.app.SenseRecon``.

    .. math:: \min_c \tfrac12 \| W^{1/2} (A c - y) \|^2 + \tfrac\lambda2 \|c\|^2 + g(c)

    ``run()`` returns the coefficient images (K, *X), complex64. For other options of
    ``sigpy.app.LinearLeastSquares`` give it `as_linop` and `root_weighted`.

    Parameters
    ----------
    y : complex array (C, R, S), or (C, T, *X) without `coord`
        K-space.
    mps : complex array (C, *X)
        Sensitivity maps.
    phi : array (T, K)
        Basis: the signal is phi c.
    lamda : float
        Weight of the l2 penalty.
    weights : array (R, S), or (T, *X) without `coord`
        Weights of the samples, 0: missing. If not given, all samples of a trajectory count the same, and on
        a grid what is not zero is sampled (as SigPy has it).
    coord : array (R, S, ndim), optional
        Trajectory in cycles per field of view, in the order of X; if not given, k-space is Cartesian.
    frame : int array (R,)
        Frame of every readout; with `coord` only.
    proxg : sigpy.prox.Prox, optional
        Proximal operator of g; then accelerated gradients are the solver, else conjugate gradients.
    max_iter : int
        Largest number of iterations.
    show_pbar : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        Shapes do not fit, or one of `coord` and `frame` is missing.
    """

    def __init__(
        self,
        y: NDArray[Any],
        mps: NDArray[Any],
        phi: NDArray[Any],
        lamda: float = 0,
        weights: NDArray[Any] | None = None,
        coord: NDArray[Any] | None = None,
        *,
        frame: ArrayLike | None = None,
        proxg: Any = None,
        max_iter: int = 100,
        show_pbar: bool = True,
    ):
        operator: Encoding
        if coord is not None and frame is not None:
            operator = SubspaceOperator(coord, frame=frame, phi=phi, sens=mps, weights=weights)
        elif coord is None and frame is None:
            sampled = np.any(y, axis=0) if weights is None else weights
            operator = CartesianOperator(sampled, phi=phi, sens=mps)
        else:
            raise ValueError("coord and frame belong together, but only one of them was given")
        super().__init__(operator, y, lamda=lamda, max_iter=max_iter, proxg=proxg, show_pbar=show_pbar)


def solve(
    operator: Encoding,
    ksp: NDArray[Any],
    *,
    lam: float,
    iterations: int,
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Compute coefficient images (K, *X) with SigPy's conjugate gradients, from zero.

    They end at the rounding of the data, as ours do. What ours do besides, end where without a penalty the
    curvature is that of rounding errors, SigPy's do not: hundreds of iterations on few data need a penalty.

    Parameters
    ----------
    operator : SubspaceOperator or CartesianOperator
        A and W.
    ksp : complex array
        Measured k-space y; where weights are zero, any value.
    lam : float
        Tikhonov weight lambda, as in every other backend.
    iterations : int
        Largest number of iterations.
    callback : callable, optional
        Called with the number of iterations done and the current images, which it must not change.

    Raises
    ------
    ValueError
        `ksp` has another shape than the operator's.
    """
    app = _Recon(operator, ksp, lamda=lam, max_iter=iterations, proxg=None, show_pbar=False)
    while not app.alg.done():
        app.alg.update()
        if callback is not None:
            callback(app.alg.iter, app.x)
    return np.asarray(app.x)


class _Forward(Linop):  # type: ignore[misc]
    """W^(1/2) A."""

    def __init__(self, operator: Encoding):
        self.operator = operator
        super().__init__(operator.ksp_shape, operator.coeff_shape, repr_str="Subspace")

    def _apply(self, coeff: NDArray[Any]) -> NDArray[Any]:
        ksp = self.operator.forward(coeff)
        ksp *= _root(self.operator)
        return ksp

    def _adjoint_linop(self) -> Linop:
        return _Adjoint(self.operator)

    def _normal_linop(self) -> Linop:
        return _Normal(self.operator)


class _Adjoint(Linop):  # type: ignore[misc]
    """A^H W^(1/2), as A^H W after a division by W^(1/2)."""

    def __init__(self, operator: Encoding):
        self.operator = operator
        super().__init__(operator.coeff_shape, operator.ksp_shape, repr_str="SubspaceAdjoint")

    def _apply(self, ksp: NDArray[Any]) -> NDArray[Any]:
        ksp = np.asarray(ksp, dtype=self.operator.dtype)
        present = self.operator.weights > 0
        return self.operator.adjoint(np.divide(ksp, _root(self.operator), out=np.zeros_like(ksp), where=present))

    def _adjoint_linop(self) -> Linop:
        return _Forward(self.operator)


class _Normal(Linop):  # type: ignore[misc]
    """A^H W A, which is its own adjoint."""

    def __init__(self, operator: Encoding):
        self.operator = operator
        super().__init__(operator.coeff_shape, operator.coeff_shape, repr_str="SubspaceNormal")

    def _apply(self, coeff: NDArray[Any]) -> NDArray[Any]:
        return self.operator.normal(coeff)

    def _adjoint_linop(self) -> Linop:
        return self


def _root(operator: Encoding) -> NDArray[Any]:
    """Return W^(1/2), in the precision of the operator: numpy's root of bools is of half precision."""
    return np.sqrt(operator.weights, dtype=np.zeros(0, operator.dtype).real.dtype)
