"""Which fingerprints a study measures: named one by one, from a table, or drawn from a prior."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError, nearest
from .fit.box import Box
from .prior import Prior
from .quantity import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDING = 1e-6  # maps are float32
_MOST = 10_000


def chosen(
    box: Box,
    fit_prior: Prior,
    *,
    at: Sequence[str] = (),
    table: str | None = None,
    random: int | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the fingerprints (B, P) to be measured, SI units.

    Parameters
    ----------
    box : Box
        Ranges of the P parameters that a fit can find; fingerprints outside of them are refused.
    fit_prior : Prior
        The atoms of the fit.
    at : sequence of str
        One fingerprint each, ``T1=0.81,T2=25ms``. What has but one value in `box` may be left out.
    table : str, optional
        CSV file with a line of names, and a line of values for each fingerprint.
    random : int, optional
        Number of draws from `fit_prior`, off its grids.
    seed : int
        Of these draws.

    Raises
    ------
    UserError
        Not exactly one of the three is given, or what is given cannot be understood or found by the fit.
    """
    given = [
        name for name, value in (("--at", at), ("--table", table), ("--random", random)) if value not in ((), None)
    ]
    if len(given) != 1:
        said = " and ".join(given) or "none is"
        raise UserError(f"fingerprints are given by one of --at, --table and --random, but {said} given; choose one")
    if random is not None:
        return _drawn(box, fit_prior, random, seed)
    if table is not None:
        entries = [(f"{table}, line {line}", pairs) for line, pairs in _lines(table)]
    else:
        entries = [(f"--at {text}", _pairs(text)) for text in at]
    found = np.array([_values(where, pairs, box) for where, pairs in entries])
    for (where, _), values in zip(entries, found, strict=True):
        _check(where, values, box, fit_prior)
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if not sign or not name.strip():
            raise UserError(f"--at {text!r}, expected names and values as in T1=0.81,T2=25ms")
        pairs.append((name.strip(), value.strip()))
    return pairs


def _lines(table: str) -> list[tuple[int, list[tuple[str, str]]]]:
    """Return the number of each line of a table, and its names with their values."""
    try:
        with Path(table).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except FileNotFoundError:
        raise UserError(f"--table {table} does not exist; check the name") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--table {table} cannot be read as CSV ({error}); check the file") from None
    if not 2 <= len(rows) <= _MOST:
        raise UserError(f"--table {table} has {len(rows)} lines, expected names, then 1 to {_MOST - 1} fingerprints")
    names = rows[0][1]
    for line, row in rows[1:]:
        if len(row) != len(names):
            raise UserError(f"--table {table}, line {line} has {len(row)} values, expected {len(names)}")
    return [(line, list(zip(names, row, strict=True))) for line, row in rows[1:]]


def _values(where: str, pairs: Sequence[tuple[str, str]], box: Box) -> list[float]:
    units = {parameter.name: parameter.unit for parameter in box.parameters}
    given: dict[str, float] = {}
    for name, text in pairs:
        if name not in units:
            raise UserError(
                f"{where}: the model has no parameter {name!r}, expected {', '.join(units)}{nearest(name, units)}"
            )
        if name in given:
            raise UserError(f"{where}: {name} is given twice; leave one of them out")
        given[name] = number(where, name, text, units[name])
    for name, lowest, highest in zip(units, box.low.tolist(), box.high.tolist(), strict=True):
        if name not in given and lowest < highest:
            raise UserError(f"{where}: {name} is missing, expected a value from {lowest:.6g} to {highest:.6g}")
        given.setdefault(name, lowest)
    return [given[name] for name in units]


def _check(where: str, values: NDArray[np.float64], box: Box, prior: Prior) -> None:
    """Refuse what the fit cannot find."""
    for parameter, value, lowest, highest in zip(box.parameters, values, box.low, box.high, strict=True):
        if not lowest - _ROUNDING * abs(lowest) <= value <= highest + _ROUNDING * abs(highest):
            raise UserError(
                f"{where}: {parameter.name} is {value:.6g} {parameter.unit}".rstrip()
                + f", but the fit has {lowest:.6g} to {highest:.6g}; "
                "choose another value, or widen the fit_prior of SPEC, or --bounds"
            )
    at = {parameter.name: value for parameter, value in zip(box.parameters, values.tolist(), strict=True)}
    for lesser, greater in prior.ordered:
        if at[lesser] > at[greater]:
            raise UserError(
                f"{where}: {lesser} is above {greater}, but the fit prior {prior.name} has no such atoms; "
                "choose other values, or leave the order out of the fit_prior of SPEC"
            )


def _drawn(box: Box, prior: Prior, n: int, seed: int) -> NDArray[np.float64]:
    """Return draws from a prior, an atom as often as its weight says; grids are shifted, so that no atom is met."""
    if not 1 <= n < _MOST:
        raise UserError(f"--random is {n}, expected 1 to {_MOST - 1}")
    try:
        atoms = prior.shifted().atoms(box.parameters)
    except UserError:
        # other points break the order of the prior, or leave the range of the model
        atoms = prior.atoms(box.parameters)
    theta = np.concatenate([part.theta for part in atoms])
    weight = np.concatenate([np.full(len(part.theta), part.weight) for part in atoms])
    # beyond the last atom no fit would find them
    inside = ((theta >= box.low) & (theta <= box.high)).all(axis=1)
    theta, weight = theta[inside], weight[inside]
    if n > len(theta):
        raise UserError(f"--random is {n}, but the fit prior {prior.name} has {len(theta)} atoms inside; take fewer")
    # no stream of the noise, whose seeds have no spawn key
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    return theta[rng.choice(len(theta), n, replace=False, p=weight / weight.sum())]
