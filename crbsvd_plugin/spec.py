"""What a SPEC on the command line means: a model and its priors.

SPEC is the name of a built-in model or a TOML file:

    name = "mrf-fisp"
    te = "4 ms"                       # numbers are SI; a string carries its unit
    flip_angles = ["10 deg", "20 deg"]
    prior = "mao-mrf-table1"          # of the basis
    fit_prior = "t1-t2"               # of the dictionary

    name = "my_model.py:MyModel"      # or a model of your own, see docs/own.md

    train = "pulses.mat"              # qmt-hsfp: alpha and TRF from a .mat, .npz or .csv file, seen from the TOML file

Each of the two priors is the name of a preset or a table, whose words are those of the sidecar of a basis:

    [prior]
    name = "brain"                    # optional
    ordered = [["T2", "T1"]]          # optional: atoms with T2 > T1 are left out
    [[prior.tissues]]
    label = "wm"
    n = 4000                          # draws; not given: the product of the values, which must be grids
    weight = 2.0                      # optional: how much an atom counts
    T1 = { kind = "normal", mean = "800 ms", sd = "100 ms", low = "0.5 s", high = "1.2 s" }   # low, high: optional
    T2 = { kind = "log-uniform", low = "20 ms", high = "200 ms" }                             # or "uniform"
    # a rate whose time is normal: R1f = { kind = "reciprocal-normal", mean = "3 s", sd = "2 s", low = "0.5 s" }
    [[prior.tissues]]
    label = "csf"
    T1 = { kind = "grid", low = 3.0, high = 5.0, n = 40, spacing = "log" }    # high is not a value itself
    T2 = 2.0                          # a fixed value
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import models, outside, pulseq
from .distribution import Distribution, Grid, Normal, Reciprocal, Uniform, fixed
from .errors import UserError, nearest
from .model import Parameter, SignalModel, defaults_of
from .models.qmt import train
from .presets import PRESETS
from .prior import Prior, Tissue
from .quantity import quantity

_MOST_ATOMS = 10**8  # a few GB of theta
# kind: what it must have, and what it may have
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "grid": (("low", "high", "n"), ("spacing",)),
    "uniform": (("low", "high"), ()),
    "log-uniform": (("low", "high"), ()),
    "normal": (("mean", "sd"), ("low", "high")),
    "reciprocal-normal": (("mean", "sd", "low"), ("high",)),
}
_RECIPROCAL = {"s": "1/s", "1/s": "s"}


@dataclass(frozen=True)
class Spec:
    """A model with the priors of its basis and of its dictionary."""

    model: SignalModel
    prior: Prior
    fit_prior: Prior

    @property
    def conjugates(self) -> bool:
        """Whether every signal of the prior has its conjugate there: the model has a parameter for that, evenly +-."""
        name = getattr(self.model, "conjugated_by", None)
        return name is not None and self.prior.symmetric(name)

    @property
    def rank(self) -> int:
        """The rank of a basis where none is asked for."""
        return min(defaults_of(self.model).rank, self.model.n_frames)

    @property
    def tolerance(self) -> float | None:
        """The share of the energy that may fall outside of the fold's subspace; None: the fold's own."""
        return defaults_of(self.model).tolerance


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
    named_so = text in models.names() or outside.is_named(text) or pulseq.is_named(text)
    content: dict[str, Any] = {"name": text} if named_so else _read(text)
    home = Path(text).parent if text.endswith(".toml") else Path()
    folder = home if "train" in content else Path()
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise UserError(f"--set {setting!r} has no '=', expected key=value")
        content[key.strip()] = _literal(value.strip())
        folder = Path() if key.strip() == "train" else folder
    if outside.is_named(content.get("name")):
        return _from_outside(content, home)
    if pulseq.is_named(content.get("name")):
        content = pulseq.settings(home / content["name"], content)
    if "train" in content and "TRF" in models.settings(content.get("name")):
        content |= train.settings(content.pop("train"), folder, content)
    named: dict[str, Any] = {key: content.pop(key) for key in ("prior", "fit_prior") if key in content}
    model = models.build({key: _plain(value, key, models.UNITS) for key, value in content.items()})
    suggested = defaults_of(model)
    chosen = {"prior": suggested.prior, "fit_prior": suggested.fit_prior} | named
    prior, fit_prior = (_prior(content, key, model.parameters) for key, content in chosen.items())
    return Spec(model, prior, fit_prior)


def _from_outside(content: dict[str, Any], home: Path) -> Spec:
    """Return a model from outside of the package; what is not told of its priors it tells itself, see `outside`."""
    told = {key: content.pop(key) for key in ("prior", "fit_prior") if key in content}
    name = content["name"]
    settings = {key: value if outside.is_told(name, key) else _plain(value, key, {}) for key, value in content.items()}
    model, own = outside.build(settings, home)
    given = own | told
    prior, fit_prior = (
        found if isinstance(found := given[key], Prior) else _prior(found, key, model.parameters)
        for key in ("prior", "fit_prior")
    )
    return Spec(model, prior, fit_prior)


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
    except (ValueError, RecursionError) as error:  # no TOML, no text, or thousands of digits or brackets
        raise UserError(f"SPEC {text} is not valid TOML ({error})") from None


def _literal(value: str) -> Any:
    """Read a value as TOML would; what it is not is taken as a string."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except ValueError:  # no TOML, or a number of thousands of digits
        return None if value == "none" else value


def _plain(value: Any, key: str, units: Mapping[str, str], where: str = "") -> Any:
    """Turn strings with units into SI numbers, in lists and in tables of lists too; a unit that is known must fit."""
    if key in ("name", "kind") or value is None or isinstance(value, bool | int | float):
        return value
    where = where or key
    if isinstance(value, str):
        try:
            return None if value == "none" else quantity(value, si=units.get(key))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if isinstance(value, list):
        return [
            {k: _plain(v, k, units, f"{where}[{i}]: {k}") for k, v in item.items()}
            if isinstance(item, dict)
            else _plain(item, key, units, f"{where}[{i}]")
            for i, item in enumerate(value)
        ]
    raise UserError(f"{where} is {value!r}, expected a number, a quantity or a list of them")


def _prior(content: object, key: str, parameters: Sequence[Parameter]) -> Prior:
    """Return what the model has of a preset by its name, or the prior of a table, which is known to fit the model."""
    if not isinstance(content, Mapping):
        if not isinstance(content, str) or content not in PRESETS:
            raise UserError(
                f"{key} {content!r} is unknown, expected a table or one of: {', '.join(PRESETS)}"
                f"{nearest(str(content), PRESETS)}"
            )
        return PRESETS[content].of(parameters)
    _check_keys(content, key, ["tissues"], ["name", "ordered"])
    name, ordered, tissues = content.get("name", key), content.get("ordered", []), content["tissues"]
    if not isinstance(name, str):
        raise UserError(f"{key}: name is {name!r}, expected a text in quotes")
    if not isinstance(tissues, list) or not all(isinstance(tissue, Mapping) for tissue in tissues):
        raise UserError(f"{key}: tissues is {tissues!r}, expected tables, each under [[{key}.tissues]]")
    if not isinstance(ordered, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(entry, str) for entry in pair) for pair in ordered
    ):
        raise UserError(f'{key}: ordered is {ordered!r}, expected pairs of parameters, as in [["T2", "T1"]]')
    _check_known((entry for pair in ordered for entry in pair), f"{key}: ordered", [p.name for p in parameters])
    pairs = tuple((lesser, greater) for lesser, greater in ordered)
    prior = Prior(name, tuple(_tissue(tissue, key, parameters) for tissue in tissues), pairs)
    if len(tissues) > 1 and "all" in (tissue.label for tissue in prior.tissues):
        raise UserError(f"{key}: label 'all' stands for all tissues together, expected another one")
    prior.size(parameters)  # refuses what does not fit now, and not after the first hour
    return prior


def _tissue(content: Mapping[str, Any], key: str, parameters: Sequence[Parameter]) -> Tissue:
    where = f"{key}: tissue {content.get('label', '')!r}"
    _check_keys(content, where, ["label", *(parameter.name for parameter in parameters)], ["n", "weight"])
    label, n, weight = content["label"], content.get("n"), content.get("weight", 1.0)
    if not isinstance(label, str):
        raise UserError(f"{where}: label is {label!r}, expected a text in quotes")
    values = {p.name: _distribution(content[p.name], f"{where}: {p.name}", p.unit) for p in parameters}
    found = Tissue(label, values, _number(weight, f"{where}: weight"), n if n is None else _whole(n, f"{where}: n"))
    n_atoms = found.n or math.prod(grid.n for grid in values.values() if isinstance(grid, Grid))
    if n_atoms > _MOST_ATOMS:
        raise UserError(f"{where} has {n_atoms} atoms, expected at most {_MOST_ATOMS}; take a smaller n")
    return found


def _distribution(content: object, where: str, unit: str) -> Distribution:
    if not isinstance(content, Mapping):
        value = _number(content, where, unit)
        if not np.isfinite(value):
            raise UserError(f"{where} is {value}, expected a finite number")
        return fixed(value)
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(
            f"{where}: kind {kind!r} is unknown, expected one of: {', '.join(_KINDS)}{nearest(str(kind), _KINDS)}"
        )
    needed, optional = _KINDS[kind]
    _check_keys(content, f"{where}: {kind}", ["kind", *needed], optional)
    if kind == "reciprocal-normal":  # all that it has is of the reciprocal
        unit = _RECIPROCAL.get(unit, unit)
    of = {k: _number(v, f"{where}: {k}", unit) for k, v in content.items() if k not in ("kind", "n", "spacing")}
    try:
        if kind in ("normal", "reciprocal-normal"):
            normal = Normal(of["mean"], of["sd"], of.get("low", -np.inf), of.get("high", np.inf))
            return normal if kind == "normal" else Reciprocal(normal)
        if kind == "grid":
            n = _whole(content["n"], f"{where}: n")
            return Grid(of["low"], of["high"], n, content.get("spacing", "linear"))
        return Uniform(of["low"], of["high"], "log" if kind == "log-uniform" else "linear")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _number(value: object, where: str, unit: str = "") -> float:
    """Return a plain number as it is, and a quantity in `unit`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: the number is too large, expected less than 1.8e308") from None
    try:
        return quantity(value if isinstance(value, str) else repr(value), si=unit)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _whole(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{where} is {value!r}, expected a whole number")
    return value


def _check_keys(content: Mapping[str, Any], where: str, needed: Sequence[str], optional: Sequence[str]) -> None:
    _check_known(content, where, [*needed, *optional])
    missing = [key for key in needed if key not in content]
    if missing:
        raise UserError(f"{where} has no {missing[0]}, expected {', '.join(needed)}")


def _check_known(names: Iterable[str], where: str, known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where} has {name!r}, expected one of: {', '.join(known)}{nearest(name, known)}")
