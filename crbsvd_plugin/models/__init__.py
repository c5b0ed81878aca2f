"""Signal models: every name that a SPEC can have, and how it is built."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec
import numpy as np

from ..errors import UserError, nearest
from ..model import SignalModel

_MODELS = {
    "mrf-fisp": ("fisp", "MrfFisp"),
    "qmt-hsfp": ("qmt.hsfp", "QmtHsfp"),
    "fse": ("fse", "Fse"),
    "mese": ("fse", "Mese"),
    "ir-flash": ("ir_flash", "IrFlash"),
    "mgre": ("mgre", "Mgre"),
    "bssfp-mrf": ("bssfp", "BssfpMrf"),
}
# what no SPEC can name, since a file tells its settings
_TOLD = {"pulseq": ("operators", "Operators")}
UNITS = {
    **dict.fromkeys(("tr", "te", "ti", "recovery", "echo_spacing", "echo_times", "t1", "TRF", "delay", "time"), "s"),
    **dict.fromkeys(("flip_angles", "flip_angle", "phases", "alpha"), "rad"),
    **dict.fromkeys(("accuracy", "b1", "efficiency", "inversion_efficiency", "w0", "t1_nuisance"), ""),
    **dict.fromkeys(("before", "n_frames", "n_echoes", "pulses_per_frame", "slice_positions"), ""),
    **dict.fromkeys(("fat", "fat_shifts", "fat_amplitudes", "field"), ""),
}
"""SI unit of what is a number among the settings of built-in models and their blocks; "": of none that texts have."""
# models from outside of the package that were named in this process, by what they were made of
_NAMED: dict[str, SignalModel] = {}


def names() -> tuple[str, ...]:
    """Return the names of the built-in models."""
    return tuple(_MODELS)


def settings(name: object) -> tuple[str, ...]:
    """Return the settings that a built-in model has.

    Raises
    ------
    UserError
        The name is unknown (the nearest one is named).
    """
    return tuple(inspect.signature(_model(name)).parameters)


def build(spec: Mapping[str, Any]) -> SignalModel:
    """Build the signal model that `spec` describes.

    Parameters
    ----------
    spec : mapping
        ``name`` and any of the model's own settings, SI units; what `SignalModel.spec` gives.

    Raises
    ------
    UserError
        An unknown name or setting (the nearest one is named), or a value of a wrong type or out of range; or a model
        from outside of the package, see `remember`, that nobody has named.

    Examples
    --------
    >>> build({"name": "mrf-fisp", "te": 0.004}).n_frames
    1040
    """
    given = dict(spec)
    name = given.pop("name", None)
    if "sha256" in spec:
        return _named(spec)
    known = settings(name)
    for key in given:
        if key not in known:
            raise UserError(
                f"{name}: setting {key!r} is unknown, expected one of: {', '.join(known)}{nearest(key, known)}"
            )
    model = _model(name)
    types = get_type_hints(model.__init__)
    for key, value in given.items():
        try:
            given[key] = msgspec.convert(_plain(value), types[key])
        except msgspec.ValidationError as error:
            raise UserError(f"{name}: {key} has a wrong type: {error}") from None
    built: SignalModel = model(**given)
    return built


def remember(model: SignalModel) -> None:
    """Let `build` give this model, which is from outside of the package, for its spec.

    A sidecar never names code to run or files to read: the user has to name them in this process.
    """
    _NAMED[_key(model.spec)] = model


def available(spec: Mapping[str, Any]) -> bool:
    """Return whether `build` can give the model: built in, or named by the user in this process."""
    return "sha256" not in spec or _key(spec) in _NAMED


def _named(spec: Mapping[str, Any]) -> SignalModel:
    name = spec.get("name")
    if _key(spec) in _NAMED:
        return _NAMED[_key(spec)]
    if any(model.spec["name"] == name for model in _NAMED.values()):
        raise UserError(
            f"{name} or its settings are not those that the basis was made with (hashes differ); restore them, or make "
            "the basis again"
        )
    raise UserError(
        f"this needs the model {name}, which is no part of this program, and a basis never loads one: name it with "
        "--model, as it was named for 'crbsvd basis' (a server has none: match with the dictionary)"
    )


def _key(spec: Mapping[str, Any]) -> str:
    return json.dumps({key: _plain(value) for key, value in spec.items() if key != "file"}, sort_keys=True)


def _model(name: object) -> Any:
    """Return the class of a built-in model."""
    if not isinstance(name, str) or name not in _MODELS | _TOLD:
        raise UserError(
            f"model {name!r} is unknown, expected one of: {', '.join(_MODELS)}{nearest(str(name), _MODELS)}"
        )
    module, cls = (_MODELS | _TOLD)[name]
    return getattr(importlib.import_module(f".{module}", __name__), cls)


def smooth(spec: Mapping[str, Any]) -> SignalModel:
    """Build the signal model that `spec` describes at its full accuracy: one that leaves nothing out has no steps."""
    return build({**spec, "accuracy": 0.0} if "accuracy" in spec else spec)


def _plain(value: Any) -> Any:
    """Return numpy's numbers and arrays as Python's, in lists too."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
