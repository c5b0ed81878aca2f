"""What a SPEC on the command line means: a model and its priors.

SPEC is the name of a built-in model or a TOML file:

    name = "mrf-fisp"
    te = "4 ms"                       # numbers are SI; a string carries its unit
    flip_angles = ["10 deg", "20 deg"]
    prior = "mao-mrf-table1"          # of the basis
    fit_prior = "t1-t2"               # of the dictionary
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import models
from .errors import UserError, nearest
from .model import SignalModel
from .prior import PRESETS, Prior

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "rad": 1.0, "deg": np.pi / 180}
_PRIORS = {"mrf-fisp": {"prior": "mao-mrf-table1", "fit_prior": "t1-t2"}}


@dataclass(frozen=True)
class Spec:
    """A model with the priors of its basis and of its dictionary."""

    model: SignalModel
    prior: Prior
    fit_prior: Prior


def resolve(text: str, settings: Sequence[str] = ()) -> Spec:
    """Return what a SPEC and its ``--set key=value`` describe.

    Parameters
    ----------
    text : str
        Name of a built-in model, or a TOML file.
    settings : sequence of str
        ``key=value``, which replace those of the file.

    Raises
    ------
    UserError
        The name, a file, a key or a value cannot be understood.
    """
    content: dict[str, Any] = {"name": text} if text in models.names() else _read(text)
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise UserError(f"--set {setting!r} has no '=', expected key=value")
        content[key.strip()] = _literal(value.strip())
    named: dict[str, Any] = {key: content.pop(key) for key in ("prior", "fit_prior") if key in content}
    model = models.build({key: _plain(value, key) for key, value in content.items()})
    chosen = _PRIORS.get(content["name"], {}) | named
    return Spec(model, _preset(chosen.get("prior"), "prior"), _preset(chosen.get("fit_prior"), "fit_prior"))


def quantity(text: str) -> float:
    """Return a number with a unit, such as ``"5 ms"`` or ``"30deg"``, in SI units.

    Raises
    ------
    UserError
        It is no number, or the unit is unknown.

    Examples
    --------
    >>> quantity("5 ms")
    0.005
    """
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz").rstrip()
    unit = text[len(number) :].strip()
    try:
        return float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        raise UserError(
            f"{text!r} is not a quantity, expected a number and one of {', '.join(_UNITS)}, as in '5 ms'"
        ) from None


def _read(text: str) -> dict[str, Any]:
    path = Path(text)
    if path.suffix != ".toml":
        raise UserError(
            f"SPEC {text!r} is unknown, expected a .toml file or one of: {', '.join(models.names())}"
            f"{nearest(text, models.names())}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"SPEC {text} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"SPEC {text} cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"SPEC {text} is not valid TOML ({error})") from None


def _literal(value: str) -> Any:
    """Read a value as TOML would; what it is not is taken as a string."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return None if value == "none" else value


def _plain(value: Any, key: str) -> Any:
    """Turn strings with units into SI numbers, in lists too."""
    if key == "name" or value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return None if value == "none" else quantity(value)
    if isinstance(value, list):
        return [_plain(item, key) for item in value]
    raise UserError(f"{key} is {value!r}, expected a number, a quantity or a list of them")


def _preset(name: object, key: str) -> Prior:
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(
            f"{key} {name!r} is unknown, expected one of: {', '.join(PRESETS)}{nearest(str(name), PRESETS)}"
        )
    return PRESETS[name]
