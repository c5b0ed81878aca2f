"""Figures of the atoms of one tissue class: every value, and exact sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ATOMS, _SUMS = "atoms.", "sums."


class Record:
    """What is known of the atoms of one class, gathered in pieces.

    Attributes
    ----------
    atoms : dict of str to list of arrays (..., B)
        Values per atom, a piece for each call of `add`.
    sums : dict of str to array
        Sums over all atoms.
    """

    def __init__(self) -> None:
        self.atoms: dict[str, list[NDArray[Any]]] = {}
        self.sums: dict[str, NDArray[Any]] = {}

    def add(self, atoms: Mapping[str, NDArray[Any]], sums: Mapping[str, NDArray[Any]]) -> None:
        """Append the values of more atoms, and add their sums."""
        for name, values in atoms.items():
            self.atoms.setdefault(name, []).append(values)
        for name, values in sums.items():
            self.sums[name] = self.sums[name] + values if name in self.sums else values

    def column(self, name: str, *where: int) -> NDArray[Any]:
        """Return one value of every atom (B,)."""
        return np.concatenate([part[where] for part in self.atoms[name]])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything as plain arrays, for `restored`; they are not changed afterwards."""
        for name, parts in self.atoms.items():
            # joined here, too, or everything would be in memory twice
            self.atoms[name] = [np.concatenate(parts, axis=-1)] if len(parts) > 1 else parts
        atoms = {_ATOMS + name: parts[0] for name, parts in self.atoms.items()}
        return atoms | {_SUMS + name: values for name, values in self.sums.items()}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Record:
        """Return the record whose `state` this is."""
        record = cls()
        record.add(_part(state, _ATOMS), _part(state, _SUMS))
        return record


def total(records: Iterable[Record], name: str) -> NDArray[Any]:
    """Return one sum over the atoms of several records."""
    first, *others = (record.sums[name] for record in records)
    return sum(others, first)


def known_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over atoms, the last axis, of what is not NaN."""
    return np.where(np.isnan(values), 0, values).sum(axis=-1)


def quantiles(
    values: NDArray[Any], weights: NDArray[np.float64], shares: Sequence[float] = (0.5, 0.9)
) -> tuple[float, ...]:
    """Return quantiles of what is not NaN, atoms counting with their weights; NaN if nothing.

    The least value that this share of the weight does not exceed.
    """
    known = ~np.isnan(values)
    if not known.any():
        return (float("nan"),) * len(shares)
    values, weights = values[known], weights[known]
    # equal weights need no sorting
    unequal = weights if np.ptp(weights) else None
    return tuple(np.quantile(values, list(shares), weights=unequal, method="inverted_cdf").tolist())


def _part(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}
