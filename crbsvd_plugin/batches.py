"""Atoms in batches that fit into memory, and their simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .model import Batch, Parameter, SignalModel
from .prior import Atoms, Prior

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 512
"""Atoms that are in memory at once: enough for fast products, few enough for progress every few seconds."""

_FEWEST = 16
_LIMIT = 256 * 2**20


def batch_size(n_frames: int, n_parameters: int) -> int:
    """Return how many atoms to simulate at once: 512, less where these would take more than 256 MiB, at least 16.

    Parameters
    ----------
    n_frames, n_parameters : int
        T and P: an atom has a signal and P derivatives of T complex128 values.
    """
    return max(_FEWEST, min(BATCH, _LIMIT // (16 * n_frames * (1 + n_parameters))))


def pieces(atoms: Sequence[Atoms], *, size: int = BATCH, strided: bool = True) -> list[Atoms]:
    """Cut atoms into batches of one class each.

    Parameters
    ----------
    atoms : sequence of Atoms
        The classes.
    size : int
        Atoms of a batch, at most.
    strided : bool
        Piece i of n takes atoms i, i + n, i + 2n, .. of its class, so that every batch samples the whole range, and
        the pieces of the classes alternate in proportion to their numbers: what was seen after any number of
        batches stands for the whole. False: all in order.

    Raises
    ------
    UserError
        `size` is not positive.
    """
    if size < 1:
        raise UserError(f"batch size is {size}, expected at least 1")
    found: list[tuple[float, Atoms]] = []
    for part in atoms:
        n = -(-len(part.theta) // size)
        for i in range(n):
            chosen = slice(i, None, n) if strided else slice(i * size, (i + 1) * size)
            piece = Atoms(part.label, np.ascontiguousarray(part.theta[chosen]), part.weight)
            found.append(((i + 0.5) / n, piece))
    if strided:
        found.sort(key=lambda item: item[0])  # stable: ties stay in the order of the classes
    return [piece for _, piece in found]


def simulate(model: SignalModel, piece: Atoms, *, jacobian: bool = True) -> Batch:
    """Simulate the atoms of one class.

    Parameters
    ----------
    model : SignalModel
        The model.
    piece : Atoms
        The atoms, all of which are in memory at once.
    jacobian : bool
        Also simulate the derivatives.

    Raises
    ------
    UserError
        A signal or a derivative is not finite.
    """
    signal, jac = model.signal_and_jacobian(piece.theta) if jacobian else (model.signal(piece.theta), None)
    _check_finite("signals", signal, piece, model.parameters)
    if jac is not None:
        _check_finite("derivatives", jac, piece, model.parameters)
    return Batch(piece.theta, signal, jac, piece.label, piece.weight)


def iter_batches(
    model: SignalModel,
    prior: Prior | Sequence[Atoms],
    *,
    batch_size: int = BATCH,
    jacobian: bool = True,
    strided: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Batch]:
    """Simulate the atoms of a prior, batch by batch.

    Parameters
    ----------
    model : SignalModel
        The model.
    prior : Prior or sequence of Atoms
        Its atoms are simulated once each, in a fixed order.
    batch_size : int
        Atoms in memory at once.
    jacobian : bool
        Also simulate the derivatives.
    strided : bool
        Let every batch sample the whole range of its class, and let the classes alternate (see `pieces`);
        False: class by class, in the order of the atoms.
    progress : callable, optional
        Called with the number of atoms after each batch.

    Yields
    ------
    Batch
        Atoms of one tissue.

    Raises
    ------
    UserError
        The prior does not fit the model, `batch_size` is not positive, or a signal or derivative is not finite.
    """
    atoms = prior.atoms(model.parameters) if isinstance(prior, Prior) else prior
    for piece in pieces(atoms, size=batch_size, strided=strided):
        yield simulate(model, piece, jacobian=jacobian)
        if progress is not None:
            progress(len(piece.theta))


def _check_finite(what: str, values: NDArray[Any], piece: Atoms, parameters: Sequence[Parameter]) -> None:
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if finite.all():
        return
    first = piece.theta[np.argmin(finite)]
    theta = ", ".join(
        f"{p.name} = {value:.6g} {p.unit}".rstrip() for p, value in zip(parameters, first.tolist(), strict=True)
    )
    raise UserError(
        f"the {what} of {np.count_nonzero(~finite)} of {len(finite)} atoms of {piece.label!r} are not finite, "
        f"the first at {theta}; narrow the prior to where the model is defined"
    )
