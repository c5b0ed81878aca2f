"""Models from outside of the package: what names them, and their priors where nothing is told.

``FILE.py:NAME`` is a class or function of the user's, see `user`; a file of arrays is a dictionary, see `table`;
``bart:COMMAND`` is BART as the simulator. Only what the user names is loaded: a SPEC is part of a command line or a
TOML file, never of a stream or of the sidecar of a basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import arrays, checkup, models, simulator, table
from .distribution import Uniform
from .errors import UserError, nearest
from .model import Parameter, SignalModel
from .prior import Prior, Tissue
from .user import UserModel, probes

_DRAWS = 20_000
_PROBED = 3


def is_named(name: object) -> bool:
    """Return whether a name is one of a model from outside of the package."""
    if not isinstance(name, str):
        return False
    return ".py:" in name or name.startswith(simulator.PREFIX) or Path(name).suffix in arrays.SUFFIXES


def is_told(name: str, key: str) -> bool:
    """Return whether the value of a key is taken as it is, where others are quantities."""
    return key in ("name", "parameters") or ".py:" not in name


def build(content: Mapping[str, Any], home: Path) -> tuple[SignalModel, dict[str, Any]]:
    """Return the model of ``name`` and its settings, seen from the folder `home`, and the priors that it tells.

    The model is checked at a few points (see `checkup`), and remembered for what is done later in this process.

    Raises
    ------
    UserError
        There is no such model, it fails, or a check finds that it is wrong.
    """
    settings = dict(content)
    if settings["name"].startswith(simulator.PREFIX):
        return _simulated(settings.pop("name"), settings)
    if Path(settings["name"]).suffix in arrays.SUFFIXES:
        return _listed(home / settings.pop("name"), settings)
    file, _, name = str(settings.pop("name")).rpartition(":")
    if not name.isidentifier():
        raise UserError(f"SPEC {content['name']!r} names no class or function, expected FILE.py:NAME")
    model = UserModel(home / file, name, parameters=settings.pop("parameters", None), settings=settings)
    for problem in checkup.examine(model, probes(model.parameters, _PROBED)).problems:
        raise UserError(f"{model.name}: {problem}; 'crbsvd check-model' says more")
    models.remember(model)
    own = {"prior": _ranges(model.parameters, "ranges"), **model.priors}
    return model, {"fit_prior": _ranges(model.parameters, "ranges"), **own}


def _simulated(name: str, settings: dict[str, Any]) -> tuple[SignalModel, dict[str, Any]]:
    nuisance = settings.pop("nuisance", [])
    if settings or not isinstance(nuisance, list):
        wrong = next(iter(settings), "nuisance")
        raise UserError(f"{name}: {wrong!r} is no setting, expected the options of BART, and nuisance = [..]")
    model = simulator.simulate(name, nuisance)
    models.remember(model)
    return model, {"prior": model.prior, "fit_prior": model.prior}


def _listed(path: Path, settings: Mapping[str, Any]) -> tuple[SignalModel, dict[str, Any]]:
    for key in settings:
        if key not in table.KEYS:
            raise UserError(
                f"{path}: {key!r} is unknown, expected one of: {', '.join(table.KEYS)}{nearest(key, table.KEYS)}"
            )
    model = table.read(path, settings)
    for problem in checkup.units(model.parameters):
        raise UserError(f"{path}: {problem}")
    models.remember(model)
    return model, {"prior": model.prior, "fit_prior": model.prior}


def _ranges(parameters: Sequence[Parameter], name: str) -> Prior:
    """Return draws from the whole ranges of the parameters: even in the logarithm where that spans a factor of 5."""
    values: dict[str, Any] = {
        p.name: Uniform(p.low, p.high, "log" if p.low > 0 and p.high > 5 * p.low else "linear") for p in parameters
    }
    return Prior(name, (Tissue("all", values, n=_DRAWS),))
