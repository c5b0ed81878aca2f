"""Ranges of a fit as the user gives them: NAME=LOW:HIGH, instead of those of the dictionary or of a fit prior."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..quantity import number
from .box import Box


def bounded(box: Box, texts: Sequence[str]) -> Box:
    """Return the box with the ranges that the texts give.

    Parameters
    ----------
    box : Box
        The ranges of what is not named.
    texts : sequence of str
        Such as ``m0s=0:0.5`` or ``T2s=5us:20us``, SI units where there is none; may be wider than those of `box`, but
        not than those of the model. Where both ends are the same, the parameter is held there.

    Raises
    ------
    UserError
        A text cannot be read, a name is unknown or comes twice, or a range is empty or none of the model's.
    """
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        ends = values.split(":")
        name = name.strip()
        if not name or len(ends) != 2:
            raise UserError(f"--bounds {text!r}, expected a name and both ends of a range as in m0s=0:0.5")
        if name in found:
            raise UserError(f"--bounds {text}: {name} is given twice; leave one of them out")
        unit = box.parameters[box.index(name)].unit
        low, high = (number(f"--bounds {text}", name, end, unit) for end in ends)
        found[name] = low, high
    return box.replaced(found)
