"""Numbers with units, as texts of users have them, in SI units."""

from __future__ import annotations

import math
import re

import numpy as np

from .errors import UserError

# unit: its size, and the SI unit of what it measures
_UNITS = {
    "s": (1.0, "s"),
    "ms": (1e-3, "s"),
    "us": (1e-6, "s"),
    "rad": (1.0, "rad"),
    "deg": (np.pi / 180, "rad"),
    "1/s": (1.0, "1/s"),
    "rad/s": (1.0, "rad/s"),
    "Hz": (2 * np.pi, "rad/s"),  # of an off-resonance; rates are in 1/s
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S+)")


def quantity(text: str, *, si: str | None = None) -> float:
    """Return a number with a unit, such as ``"5 ms"`` or ``"30deg"``, in SI units.

    Parameters
    ----------
    text : str
        The number and s, ms, us, rad, deg, 1/s, rad/s or Hz (2 pi rad/s).
    si : str, optional
        SI unit of what is expected: ``"s"`` refuses degrees.

    Raises
    ------
    UserError
        It is no number, or the unit is unknown or measures something else.

    Examples
    --------
    >>> quantity("5 ms")
    0.005
    """
    found = _QUANTITY.fullmatch(text.strip())
    units = {name: size for name, (size, measured) in _UNITS.items() if si in (None, measured)}
    if found is None or found[2] not in units:
        known = f"number and one of {', '.join(units)}, as in '5 {next(iter(units))}'" if units else "plain number"
        raise UserError(f"{text!r} is not a quantity, expected a {known}")
    return float(found[1]) * units[found[2]]


def number(where: str, name: str, text: str, unit: str) -> float:
    """Return the value of a parameter of that SI unit, which a text has with a unit or without.

    Raises
    ------
    UserError
        It is no finite number; the line begins with `where`, and `name`.
    """
    try:
        value = float(text)
    except ValueError:
        try:
            value = quantity(text, si=unit)
        except UserError as error:
            raise UserError(f"{where}: {name}: {error}") from None
    if not math.isfinite(value):
        raise UserError(f"{where}: {name} is {text}, expected a finite number")
    return value
