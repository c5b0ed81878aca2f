"""What a report is made from: a basis, and what sweep, study and rank have found about it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from . import excerpt, files
from .basis import Basis, plain
from .errors import UserError
from .written import Amount, Functions, Line, Study, Sweep, Told

T = TypeVar("T")

_KINDS: dict[str, tuple[str, type[Any]]] = {
    "sweep": ("crbsvd-sweep/1", Sweep),
    "study": ("crbsvd-study/1", Study),
    "rank": ("crbsvd-rank/1", Amount),
}
COMMANDS = ("basis", *_KINDS)
"""The verbs whose results are shown."""


@dataclass(frozen=True)
class Evidence:
    """What there is to show; one of them at least.

    Parameters
    ----------
    basis : Basis, optional
        With its `name` as the user gave it.
    sweep, study, amount
        What the verbs ``sweep``, ``study`` and ``rank`` have found.
    """

    basis: Basis | None = None
    name: str | None = None
    sweep: Sweep | None = None
    study: Study | None = None
    amount: Amount | None = None

    @property
    def model(self) -> Mapping[str, Any] | None:
        """The spec of the sequence, if anything tells it."""
        return next((spec for _, spec in self.models()), None)

    def models(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield what was made for which sequence."""
        if self.basis is not None and "model" in self.basis.info:
            yield "basis", self.basis.info["model"]
        for verb, found in (("sweep", self.sweep), ("study", self.study), ("rank", self.amount)):
            if found is not None and found.model is not None:
                yield verb, found.model

    @property
    def rank(self) -> int:
        """The rank that all is about: of the basis, else the recommended one, else the largest that was studied."""
        if self.basis is not None:
            return self.basis.rank
        if self.sweep is not None:
            return self.sweep.recommended.rank
        if self.amount is not None:
            return self.amount.recommended
        assert self.study is not None
        return max(row.rank for row in self.study.rows)

    @property
    def functions(self) -> Functions | None:
        """The columns of the basis, or else of the one that the sweep recommends."""
        if self.basis is not None:
            return msgspec.convert(excerpt.functions(self.basis.phi), Functions)
        return None if self.sweep is None else self.sweep.functions


def load(paths: Sequence[str]) -> Evidence:
    """Read what the paths name: bases, and folders of `sweep`, `study` and `rank`.

    Raises
    ------
    UserError
        A path is none of these or damaged, two are of one kind, or they are of different sequences.
    """
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in paths:
        for kind, content in _read(path):
            if kind in found:
                raise UserError(f"{path} and {places[kind]} are both of the verb {kind}; a report shows one of each")
            found[kind], places[kind] = content, path
    evidence = Evidence(
        found.get("basis"), places.get("basis"), found.get("sweep"), found.get("study"), found.get("rank")
    )
    (first, one), *others = [*evidence.models()] or [("", {})]
    for kind, other in others:
        if plain(one) != plain(other):
            raise UserError(
                f"{places[first]} and {places[kind]} are of different sequences ({_difference(one, other)}); "
                "take results of one sequence"
            )
    return evidence


def _read(path: str) -> Iterator[tuple[str, Any]]:
    """Yield the kind and the content of all that a path names."""
    folder = Path(path)
    present = [kind for kind in _KINDS if (folder / f"{kind}.json").is_file()]
    for kind in present:
        sidecar = folder / f"{kind}.json"
        content, (wanted, shape) = files.read_json(sidecar, kind), _KINDS[kind]
        if content.get("format") != wanted:
            raise UserError(f"{sidecar} has format {content.get('format')!r}, expected {wanted!r}; make it again")
        files.verify(sidecar, content, kind)
        if kind == "sweep":
            content["lines"] = _table(folder / "regressions.csv")
        yield kind, _converted(content, shape, sidecar)
    if present:
        return
    if not any(files.with_suffix(path, suffix).is_file() for suffix in (".json", ".cfl")):
        raise UserError(
            f"{path} is no basis and no folder that sweep, study or rank has written; check the name, or make it with "
            f"one of: {', '.join(f'crbsvd {verb}' for verb in COMMANDS)}"
        )
    basis = Basis.load(path)
    _converted(basis.info, Told, files.with_suffix(path, ".json"))
    yield "basis", basis


def _table(path: Path) -> list[Any]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            # a table has its numbers as text
            return [_converted(row, Line, path, strict=False) for row in csv.DictReader(stream)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make the sweep again") from None


def _converted(content: object, shape: type[T], path: Path, *, strict: bool = True) -> T:
    try:
        return msgspec.convert(content, shape, strict=strict)
    except msgspec.ValidationError as error:
        raise UserError(f"{path} is not what it was written as ({error}); make it again") from None


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if one.get("name") != other.get("name"):
        return f"{one.get('name')} and {other.get('name')}"
    key = next(key for key in {**one, **other} if one.get(key) != other.get(key))
    return f"both {one.get('name')}, but with another {key}"
