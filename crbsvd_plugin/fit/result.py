"""What a fit gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model import Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Extra:
    """A map beside those of the parameters, that says how good they are.

    Parameters
    ----------
    array : array (*X)
        Its values.
    unit : str
        Their unit, SI; 1 for none.
    description : str
        What it is, in words.
    """

    array: NDArray[Any]
    unit: str
    description: str


@dataclass(frozen=True)
class Maps:
    """Maps of tissue parameters.

    Parameters
    ----------
    parameters : tuple of Parameter
        The P parameters.
    theta : float32 array (P, *X)
        Estimates, SI units; 0 where `mask` is False.
    m0 : complex64 array (*X)
        Complex scale of the signal; 0 where `mask` is False.
    edge : bool array (*X)
        The estimate lies on the edge of the dictionary, or at a bound, so the truth may lie outside.
    mask : bool array (*X)
        False where there is nothing to fit.
    converged : bool array (*X), optional
        The fit came to a minimum; False where `mask` is. None for matching, which always ends.
    residual : float32 array (*X), optional
        ||c - M0 phi^H s(theta)||, in the unit of the coefficients c; 0 where `mask` is False.
    extra : mapping of name to Extra
        Further maps, by the name of their file.
    """

    parameters: tuple[Parameter, ...]
    theta: NDArray[np.float32]
    m0: NDArray[np.complex64]
    edge: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    converged: NDArray[np.bool_] | None = None
    residual: NDArray[np.float32] | None = None
    extra: Mapping[str, Extra] = field(default_factory=dict)


def stacked(slices: Sequence[Maps | None]) -> Maps:
    """Return the maps of slices as those of a volume, along a new axis z; None: a slice that is missing is empty.

    Raises
    ------
    ValueError
        All are missing.
    """
    like = next((one for one in slices if one is not None), None)
    if like is None:
        raise ValueError("all slices are missing")

    def along(name: str) -> Any:
        empty = np.zeros_like(getattr(like, name))
        parts = [empty if one is None else getattr(one, name) for one in slices]
        return np.stack(parts, axis=1 if name == "theta" else 0)

    def of(name: str, extra: Extra) -> Extra:
        arrays = [np.zeros_like(extra.array) if one is None else one.extra[name].array for one in slices]
        return replace(extra, array=np.stack(arrays))

    known = ("theta", "m0", "edge", "mask", "converged", "residual")
    arrays = {name: along(name) for name in known if getattr(like, name) is not None}
    return replace(like, **arrays, extra={name: of(name, extra) for name, extra in like.extra.items()})
