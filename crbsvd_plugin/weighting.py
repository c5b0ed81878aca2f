"""What counts how much in a basis: signals against derivatives, parameters, tissue classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import UserError, nearest

SIGNAL = "signal"
"""Name of the signals' block, beside the names of the parameters."""

ALL = "all"
"""Stands for all tissue classes, even where one of them is called so."""

Kind = Literal["svd", "loss"]
Block = tuple[str, str]
"""Tissue class and "signal" or parameter."""

_LARGEST = 1e12


@dataclass(frozen=True)
class Weighting:
    """Weights of the squared losses of every block.

    Parameters
    ----------
    crb_weight : float
        The paper's lambda, 0 (the traditional SVD) to 1.
    kind : {"svd", "loss"}
        Eq. (12), signals times 1 - lambda and derivatives times lambda; or Eq. (5), the
        squared losses weighted so.
    parameters : mapping of str to float
        Factors of the squared losses of single parameters; 1 where not given.
    classes : mapping
        Factors per tissue class, by label, or by (label, parameter): "parameter X is of
        interest in class Y only". 1 where not given.

    Raises
    ------
    UserError
        A weight is out of range.
    """

    crb_weight: float
    kind: Kind = "svd"
    parameters: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[Any, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.crb_weight <= 1:
            raise UserError(f"crb weight is {self.crb_weight}, expected 0 (signals only) to 1 (derivatives only)")
        if self.kind not in ("svd", "loss"):
            raise UserError(f"weighting is {self.kind!r}, expected 'svd' (Eq. 12) or 'loss' (Eq. 5)")
        for name, weight in [*self.parameters.items(), *self.classes.items()]:
            if not 0 <= weight <= _LARGEST:
                raise UserError(f"weight of {_said(name)} is {weight}, expected 0 to {_LARGEST:g}")

    def factors(self, blocks: Iterable[Block]) -> dict[Block, float]:
        """Return the factor of the squared loss of every block.

        Raises
        ------
        UserError
            A weight names a parameter or a class that no block has.
        """
        blocks = list(blocks)
        labels, names = (list(dict.fromkeys(column)) for column in zip(*blocks, strict=True))
        parameters = [name for name in names if name != SIGNAL]
        for name in self.parameters:
            if name not in parameters:
                raise UserError(
                    f"parameter weight of {name!r}: unknown, expected one of {parameters}{nearest(name, parameters)}"
                )
        for key in self.classes:
            label, name = key if isinstance(key, tuple) else (key, SIGNAL)
            if label not in labels or name not in names:
                hint = nearest(label, labels) if label not in labels else nearest(name, names)
                known = f"expected one of {labels}, or with {names}{hint}"
                raise UserError(f"class weight of {_said(key)}: unknown, {known}")
        power = 2 if self.kind == "svd" else 1
        factors = {}
        for label, name in blocks:
            share = (1 - self.crb_weight) ** power
            if name != SIGNAL:
                share = self.crb_weight**power * self.parameters.get(name, 1.0)
            factors[label, name] = share * self.classes.get(label, 1.0) * self.classes.get((label, name), 1.0)
        return factors

    @property
    def info(self) -> dict[str, Any]:
        """The weights as plain values, for provenance."""
        return {
            "crb_weight": self.crb_weight,
            "weighting": self.kind,
            "parameter_weights": dict(self.parameters),
            "class_weights": {_named(key): w for key, w in self.classes.items()},
        }


def _named(key: Any) -> str:
    """Return a class, or a parameter in a class, as it is written on the command line."""
    return ":".join(key) if isinstance(key, tuple) else str(key)


def _said(key: Any) -> str:
    return repr(_named(key))
