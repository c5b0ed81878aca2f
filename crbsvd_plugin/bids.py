"""Maps as a BIDS derivatives tree.

    DIR/dataset_description.json  README.md  .bidsignore
    DIR/sub-01/[ses-02/]anat/sub-01[_ses-02][_run-01][_desc-std]_T1map.nii.gz .json .png

A new tree, subject or session is made under a hidden name and renamed as a whole, so it appears whole or not at all,
and nothing that is there already is touched.

References
----------
Brain Imaging Data Structure 1.10, "Quantitative MRI" and "Derivatives"; Karakuzu et al., Scientific Data 9:517 (2022).
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, files
from .errors import UserError
from .mapfile import MapFile, checked_mask, map_files, write_into
from .maps import checked_affine, summary
from .staging import staging_folder, sweep, turn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .fit.result import Maps

FORMAT = "crbsvd-bids/1"
_SOFTWARE = "crbsvd-plugin"
_VERSION = "1.10.0"
_LABEL = re.compile(r"[0-9A-Za-z]+")
# name of a map's file: suffix of BIDS, and the unit that it must have there
_SUFFIXES = {
    **{f"{name}map": (f"{name}map", "s") for name in ("T1", "T2", "T2star")},
    **{f"{name}map": (f"{name}map", "1/s") for name in ("R1", "R2", "R2star")},
    **{f"{name}map": (f"{name}map", "arbitrary") for name in ("M0", "PD", "S0")},
    "T1rhomap": ("T1rho", "s"),
}
_OURS = {"EDGEmap": "desc-edge_mask", "CONVERGEDmap": "desc-converged_mask", "M0phase": "desc-phase_M0map"}
_IGNORED = ("*_desc-*_map.*", "*_desc-crbsvd_maps.json", "*.png")
_README = """# Quantitative maps

Made by crbsvd-plugin: subspace reconstruction and a fit of its coefficients, see `dataset_description.json` and
the JSON file beside each map. All values are in SI units (seconds, 1/s); 0 is where nothing was fitted.

Names that BIDS does not define:

| name | is |
| --- | --- |
| `desc-std_T1map`, `desc-std_T2map`, ... | predicted standard deviation of the map of that suffix |
| `desc-edge_mask` | 1 where the best fit lies on the edge of the dictionary: the truth may lie beyond |
| `desc-converged_mask` | 1 where least squares came to a minimum |
| `desc-phase_M0map` | phase of the complex scale M0 [rad]; `M0map` is its magnitude |
| `desc-NAME_map` | the parameter NAME of the signal model, e.g. `desc-m0s_map`: its JSON file has unit and meaning |
| `desc-NAMEstd_map` | predicted standard deviation of that one |
| `desc-crbsvd_maps.json` | what was written, with hashes |

`B1` is `desc-B1_map`, relative to the nominal flip angle: it was fitted and not measured, unlike a `TB1map` in percent.
`run-01`, `run-02`, ... are the volumes of one scan. The pictures are for looking only.
"""
_ROOT = ("dataset_description.json", "README.md", ".bidsignore")


@dataclass(frozen=True)
class Entities:
    """Whose maps they are.

    Parameters
    ----------
    subject : str
        Label of the subject: letters and digits.
    session : str, optional
        Label of the session.

    Raises
    ------
    UserError
        A label holds anything else.
    """

    subject: str
    session: str | None = None

    def __post_init__(self) -> None:
        for name, label in (("subject", self.subject), ("session", self.session)):
            if label is not None and not _LABEL.fullmatch(label):
                hint = label.removeprefix(f"{name[:3]}-")
                say = f"; say --{name} {hint}" if _LABEL.fullmatch(hint) else ""
                raise UserError(f"{name} is {label!r}, expected letters and digits only{say}")

    @property
    def labels(self) -> list[str]:
        """Its entities, in order."""
        return [f"sub-{self.subject}", *([] if self.session is None else [f"ses-{self.session}"])]

    @property
    def folder(self) -> Path:
        """Folder of the maps in the tree."""
        return Path(*self.labels, "anat")

    @property
    def sidecar(self) -> Path:
        """The list of all files, in the tree."""
        return self.folder / "_".join([*self.labels, "desc-crbsvd_maps.json"])


def entities(*, bids: bool, subject: str | None, session: str | None) -> Entities | None:
    """Return what the options --bids, --subject and --session ask for; None without --bids.

    Raises
    ------
    UserError
        They do not go together, or a label is not allowed.
    """
    if not bids:
        if subject is not None or session is not None:
            given = "--subject" if subject is not None else "--session"
            raise UserError(f"{given} is for BIDS trees: say --bids too, or leave it out")
        return None
    if subject is None:
        raise UserError("--bids needs to know whose maps they are: say --subject, e.g. --subject 01")
    return Entities(subject, session)


def save_bids(
    volumes: Sequence[Maps],
    affine: ArrayLike,
    directory: str | Path,
    whose: Entities,
    *,
    info: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the maps of one scan into a BIDS derivatives tree, which is made or added to: all of them or none.

    Parameters
    ----------
    volumes : sequence of Maps
        The volumes of the scan; several become run-01, run-02, ...
    affine : array (4, 4)
        RAS millimetres of voxel (x, y, z).
    directory : path
        The tree: new, an empty folder, or one of ours.
    whose : Entities
        Subject and session.
    info : mapping, ready for JSON
        What every sidecar repeats, as for `maps.save_maps`.
    details : mapping, ready for JSON, optional
        What the list of files alone says.
    force : bool
        Replace the maps of this subject and session; those of others are never touched.

    Returns
    -------
    list of Path
        The files written, their list last.

    Raises
    ------
    UserError
        As for `check_tree`; or two parameters would have the same file.
    """
    root, affine = Path(directory).absolute(), checked_affine(affine)
    check_tree(root, whose, force=force)
    named = [_named(map_files(maps), whose, i + 1 if len(volumes) > 1 else None) for i, maps in enumerate(volumes)]
    names = [f"{volume.name}{suffix}" for run in named for volume in run for suffix in volume.suffixes]
    with (
        _new_parts(root, whose) as base,
        files.product(base / whose.sidecar, names, kind=FORMAT, force=force) as product,
    ):
        for maps, run in zip(volumes, named, strict=True):
            write_into(product, run, affine, mask=checked_mask(maps), info=info, windows={})
        product.commit({"volumes": [summary(maps, affine, info) for maps in volumes]} | dict(details or {}))
    return [*(Path(directory) / whose.folder / name for name in names), Path(directory) / whose.sidecar]


def check_tree(directory: str | Path, whose: Entities, *, force: bool) -> None:
    """Refuse a folder that is no tree of ours, or one that has these maps already (`force`: that has other files).

    Raises
    ------
    UserError
        It is so, or it cannot be written.
    """
    root = Path(directory).absolute()
    for level in (root, *(root / level for level in _levels(whose))):
        sweep(level)
        if level.exists() and not level.is_dir():
            raise UserError(f"output {level} is a file, expected a folder; choose another name")
    description = root / _ROOT[0]
    if description.is_file():
        content = files.read_json(description, "BIDS tree")
        by = content.get("GeneratedBy")
        names = [one.get("Name") for one in by if isinstance(one, dict)] if isinstance(by, list) else []
        if content.get("DatasetType") != "derivative" or _SOFTWARE not in names:
            raise UserError(f"{description} is of another data set, expected derivatives of ours; choose a new folder")
    elif root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
        raise UserError(f"{root} is not empty and has no {_ROOT[0]}, expected a BIDS tree of ours; choose a new folder")
    files.check_free(root / whose.sidecar, [], kind=FORMAT, force=force)


def bids_name(volume: MapFile) -> str:
    """Return description and suffix of a map: ``T1map``, ``desc-std_T1map``, ``desc-m0s_map``."""
    if volume.name in _OURS:
        return _OURS[volume.name]
    suffix, unit = _SUFFIXES.get(volume.name, ("", ""))
    if suffix and unit == volume.unit:
        return suffix
    suffix, unit = _SUFFIXES.get(f"{volume.name.removesuffix('std')}map", ("", ""))
    if suffix and unit == volume.unit and volume.name.endswith("std"):
        return f"desc-std_{suffix}"
    return f"desc-{re.sub('[^0-9A-Za-z]', '', volume.name.removesuffix('map'))}_map"


def _named(volumes: list[MapFile], whose: Entities, run: int | None) -> list[MapFile]:
    """Return the maps under their names in the tree."""
    before = [*whose.labels, *([] if run is None else [f"run-{run:02d}"])]
    return [replace(volume, name="_".join([*before, bids_name(volume)])) for volume in volumes]


def _levels(whose: Entities) -> list[Path]:
    """Return the folders of a scan in the tree, from the outermost."""
    return [Path(*whose.folder.parts[: i + 1]) for i in range(len(whose.folder.parts))]


@contextmanager
def _new_parts(root: Path, whose: Entities) -> Iterator[Path]:
    """Give the root under which to write: a hidden one whose new parts move into the tree if all went well."""
    new = next((level for level in (root, *(root / one for one in _levels(whose))) if not level.exists()), None)
    if new is None:
        yield root
        return
    with staging_folder(new) as staging:
        tree = staging / "tree"
        (tree / whose.folder).mkdir(parents=True)
        _write_root(tree)
        yield tree
        _move(tree, root, whose)


def _move(tree: Path, root: Path, whose: Entities) -> None:
    if not root.exists():
        with suppress(FileExistsError):
            _rename(tree, root)
            return
    with turn(root):  # another run may have been as fast
        for name in _ROOT:
            if not (root / name).exists():
                os.replace(tree / name, root / name)
        for level in _levels(whose):
            with suppress(FileExistsError):
                _rename(tree / level, root / level)
                return
    raise UserError(f"{root / whose.folder} exists already: choose another name, or say --force to replace it")


def _rename(folder: Path, name: Path) -> None:
    """Rename a folder to a name that is free, or that of an empty folder."""
    try:
        os.replace(folder, name)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise FileExistsError(error.errno, error.strerror, str(name)) from None


def _write_root(tree: Path) -> None:
    description = {
        "Name": "Quantitative maps of crbsvd-plugin",
        "BIDSVersion": _VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _SOFTWARE, "Version": __version__}],
    }
    for name, text in zip(_ROOT, (json.dumps(description, indent=1), _README, "\n".join(_IGNORED)), strict=True):
        (tree / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
