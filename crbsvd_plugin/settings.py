"""From what a host says to the one strict config: XML properties, JSON parameters, TOML, or a name.

A name chooses among the presets of whoever started the program, and never anything to import. A basis, and a trajectory
beside it, is chosen by name from one folder. Paths are not a host's to choose.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from . import files
from .basis import FORMAT
from .bundle import members
from .config import Config
from .errors import UserError, nearest
from .markup import parse_xml
from .trajfile import SUFFIXES

Pixels = Literal["float32", "uint16"]

_NOT_THE_HOSTS = ("kernel_cache", "bart_keep", "b1", "b0")
_NONE = ("", "none")


class Online(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pipeline is to do, and what a host is to get.

    Parameters
    ----------
    images : str
        Pixels of the maps: float32, SI units; or uint16, of which RescaleSlope and RescaleIntercept make them.
    coefficients : bool
        Also send the coefficient images, as a complex series of their own.
    """

    images: Pixels = "float32"
    coefficients: bool = False


PRESETS: dict[str, dict[str, Any]] = {
    "crbsvd": {},
    "crbsvdcoefficients": {"fit": False, "std": False, "coefficients": True},
}
"""Names that a host can ask for; a file of settings adds more."""


@dataclass(frozen=True)
class Site:
    """What whoever starts a program lays down for its hosts.

    Parameters
    ----------
    settings : mapping
        Settings of all scans, which a host may change.
    presets : mapping of name to settings
        Others, that a host asks for by name.
    bases : Path, optional
        Folder whose bases a host can choose from; None: it cannot choose.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: PRESETS)
    bases: Path | None = None

    @classmethod
    def load(cls, file: str | Path | None, bases: str | Path | None) -> Site:
        """Read a TOML file: settings, and tables ``[presets.NAME]`` of settings.

        Raises
        ------
        UserError
            The file or the folder cannot be read, or a setting is wrong.
        """
        folder = None if bases is None else Path(bases)
        if folder is not None and not folder.is_dir():
            raise UserError(f"{folder} is no folder, expected one with bases (NAME.json and so on)")
        if file is None:
            return cls(bases=folder)
        try:
            content = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{file} cannot be read as TOML ({error}); mend it") from None
        presets = content.pop("presets", {})
        if not isinstance(presets, dict) or not all(isinstance(preset, dict) for preset in presets.values()):
            raise UserError(f"{file}: presets must be tables of settings, such as [presets.fast]")
        site = cls(_named(content), PRESETS | {name: _named(preset) for name, preset in presets.items()}, folder)
        for name in ("", *presets):
            _converted({"basis": "", **site.settings, **site.presets.get(name, {})})
        return site

    def config(self, *texts: str) -> Online:
        """Return the config of one scan: the settings of this site, changed by what the host says.

        Parameters
        ----------
        texts : str
            XML (``<configuration>`` with ``<property>``), JSON (flat, or within ``parameters`` as OpenRecon does),
            TOML, or the name of a preset; later ones win.

        Raises
        ------
        UserError
            A text cannot be read, a setting is unknown or of a wrong type, or a basis is not there.
        """
        chosen: dict[str, Any] = {}
        for text in texts:
            found = _parsed(text)
            # OpenRecon names the preset among the parameters; what is typed in wins over what is picked
            for key in ("customconfig", "config"):
                name = str(found.pop(key, "")).strip()
                if name.lower() not in _NONE:
                    chosen |= self._preset(name)
                    found.pop("config", None)
            said = _named(found)
            refused = [key for key in _NOT_THE_HOSTS if key in said]
            if refused:
                raise UserError(f"config: {refused[0]} is for whoever starts this program; leave it out")
            chosen |= said
        settings = {**self.settings, **chosen}
        if not settings.get("basis"):
            raise UserError("config: no basis is named; set basis to the name of one")
        if "basis" in chosen or self.bases is not None:
            settings["basis"] = str(self._basis(str(settings["basis"])))
        trajectory = settings.get("traj_file")
        if isinstance(trajectory, str) and trajectory.strip().lower() in _NONE:
            settings["traj_file"] = None
        elif trajectory is not None and ("traj_file" in chosen or self.bases is not None):
            settings["traj_file"] = str(self._trajectory(str(trajectory)))
        return _converted(settings)

    def _preset(self, name: str) -> Mapping[str, Any]:
        if name not in self.presets:
            known = f"{', '.join(self.presets)}{nearest(name, self.presets)}"
            raise UserError(f"config: no preset is called {name!r}, expected one of: {known}")
        return self.presets[name]

    def _basis(self, name: str) -> Path:
        """Return a basis of the folder, without suffix; never one that lies elsewhere."""
        bases = self._folder(name, "basis")
        sidecar = bases / f"{name}.json"
        if not sidecar.is_file():
            known = sorted(path.stem for path in bases.glob("*.json") if _is_basis(path))
            listed = f"{', '.join(known) or 'none'}{nearest(name, known)}"
            raise UserError(f"config: there is no basis {name!r}, expected one of: {listed}")
        _check_inside(bases, [sidecar.name, *members(name, with_dictionary=True, with_perk=True)], "basis")
        return bases / name

    def _trajectory(self, name: str) -> Path:
        """Return a trajectory of the folder of bases, without suffix; never one that lies elsewhere."""
        bases = self._folder(name, "trajectory")
        names = [f"{name}{suffix}" for suffix in SUFFIXES]
        if not all((bases / one).is_file() for one in names):
            raise UserError(f"config: there is no trajectory {name!r} beside the bases, expected {' and '.join(names)}")
        _check_inside(bases, names, "trajectory")
        return bases / name

    def _folder(self, name: str, what: str) -> Path:
        """Return the folder that a host may choose from, by names that are no paths."""
        if self.bases is None:
            raise UserError(f"config: a {what} cannot be chosen here; leave it out, or start with --bases DIR")
        if "\0" in name or "/" in name or name.startswith("."):
            raise UserError(f"config: {name!r} is no name of a {what}, expected one without folders")
        return self.bases


def _check_inside(folder: Path, names: Iterable[str], what: str) -> None:
    """Refuse files that are links out of a folder."""
    inside = folder.resolve()
    for name in names:
        if not (folder / name).resolve().is_relative_to(inside):
            raise UserError(f"config: {name} is a link that leads elsewhere; put the {what} into the folder itself")


def _is_basis(sidecar: Path) -> bool:
    try:
        return files.read_json(sidecar, "basis").get("format") == FORMAT
    except UserError:
        return False


def _parsed(text: str) -> dict[str, Any]:
    """Return the settings in a text, of whatever form."""
    text = text.strip().strip("\0")
    if text.startswith("<"):
        return _of_xml(text)
    if text.startswith("{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"config: this is no valid JSON ({error})") from None
        parameters = content.get("parameters", content)
        if not isinstance(parameters, dict):
            raise UserError('config: parameters must be an object, such as {"parameters": {"lam": 0.01}}')
        return {key: value for key, value in parameters.items() if key != "version"}
    if "=" in text:
        try:
            return tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UserError(f"config: this is no valid TOML ({error})") from None
    return {"config": text} if text else {}


def _of_xml(text: str) -> dict[str, Any]:
    """Return the properties of an XML config, in both forms of Gadgetron."""
    try:
        root = parse_xml(text)
    except ValueError as error:
        raise UserError(f"config: this is no valid XML ({error})") from None
    if root.tag != "configuration":
        raise UserError(f"config: the XML is a {root.tag!r}, expected 'configuration' with properties of this gadget")
    found: dict[str, Any] = {}
    for element in root:
        if element.tag != "property":
            raise UserError(f"config: the XML has a {element.tag!r}, expected properties: <property name= value=/>")
        name = element.get("name") or element.findtext("name") or ""
        value = element.get("value")
        found[name.strip()] = element.findtext("value") or "" if value is None else value
    return found


def _named(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under their own names: hosts may not have ``_``, or write capitals."""
    names = {name.replace("_", ""): name for name in Online.__struct_fields__}
    settings = {}
    for key, value in found.items():
        name = names.get(key.replace("_", "").replace("-", "").lower())
        if name is None:
            raise UserError(f"config: nothing is called {key!r}{nearest(key, names.values())}; leave it out")
        settings[name] = value
    return settings


def _converted(settings: Mapping[str, Any]) -> Online:
    """Return the config of settings whose values may be text, as those of XML all are."""
    hints = get_type_hints(Online)
    values = {}
    for name, value in settings.items():
        allowed = get_args(hints[name])
        if isinstance(value, str):
            if NoneType in allowed and value.strip().lower() in _NONE:
                value = None
            elif any("tuple" in str(kind) for kind in (hints[name], *allowed)):
                value = [part.strip() for part in value.split(",") if part.strip()]
        values[name] = value
    try:
        config = msgspec.convert(values, Online, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"config: {error}") from None
    config.check()
    return config
