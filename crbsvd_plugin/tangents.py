"""Compressed signals and derivatives of a model at any parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .basis import Basis
from .batches import batch_size, pieces, simulate
from .cluster import Pool
from .model import SignalModel
from .prior import Atoms

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compressed_tangents(
    theta: NDArray[np.float64],
    *,
    basis: Basis,
    progress: Callable[[int], object] | None = None,
    pool: Pool | None = None,
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return phi^H s (B, K) and phi^H ds/dtheta (B, P, K) for M0 = 1.

    Parameters
    ----------
    theta : array (B, P)
        Parameters, SI units. They may leave the range of the model by a rounding in single precision.
    basis : Basis
        phi, and the sequence.
    progress : callable, optional
        Called with the number of atoms after each batch.
    pool : Pool, optional
        Workers to spread the batches over.

    Raises
    ------
    UserError
        The basis does not say what sequence it is for, or has another number of frames, or a derivative is not finite.
    """
    model = basis.model()
    basis.check_frames(model)
    low, high = (np.array([getattr(p, end) for p in model.parameters]) for end in ("low", "high"))
    size = batch_size(model.n_frames, len(model.parameters))
    batches = pieces([Atoms("estimates", np.clip(theta, low, high), 1.0)], size=size, strided=False)
    signal, jac = [], []
    for found in (pool or Pool()).map(partial(_compressed, model=model, basis=basis), batches):
        signal.append(found[0])
        jac.append(found[1])
        if progress is not None:
            progress(len(found[0]))
    return np.concatenate(signal), np.concatenate(jac)


def _compressed(piece: Atoms, model: SignalModel, basis: Basis) -> tuple[NDArray[Any], NDArray[Any]]:
    batch = simulate(model, piece)
    return basis.project(batch.signal), basis.project(np.asarray(batch.jac))
