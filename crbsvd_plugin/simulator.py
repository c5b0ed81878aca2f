"""BART as the simulator: the fingerprints of ``bart signal`` and ``bart sim``, on the grid that their ranges span.

A range lo:hi:n of BART has the values lo + i (hi - lo) / n, i = 0 .. n - 1.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import bart, table
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREFIX = "bart:"

# option: whether it has a value; names of files are none of them
_OPTIONS = {
    "signal": {
        **dict.fromkeys(("-F", "-B", "-T", "-M", "-G", "--fat", "-I", "-s"), False),
        **dict.fromkeys(("-0", "-1", "-2", "-3", "-r", "-e", "-f", "-t", "-n", "-b", "--av-spokes"), True),
    },
    "sim": {
        **dict.fromkeys(("--ROT", "--ODE", "--STM"), False),
        **dict.fromkeys(("-1", "-2", "--T1", "--T2", "--seq", "--other"), True),
    },
}
_LONG = {"--T1": "-1", "--T2": "-2"}
# dimension of the output that a range runs along; the steady-state magnetisation takes the place of T2
_AXES = {"-1": 6, "-2": 7, "-3": 7, "-0": 8}
_MEANINGS = {"-1": ("T1", "s", 1.0), "-2": ("T2", "s", 1.0), "-3": ("Mss", "", 1.0), "-0": ("w0", "rad/s", 2 * np.pi)}
# BART's numbers are in single precision: steps are long, and the rule is of sixth order. Of 1 / T it leaves out 36 h^6,
# 2e-6, and rounding makes 1.8 6e-8 / h of the signal.
_STEP = 0.06
_WEIGHTS = {-3: -1 / 60, -2: 9 / 60, -1: -45 / 60, 1: 45 / 60, 2: -9 / 60, 3: 1 / 60}
_VARIATION = 1e-6
_THREADS = 1


@dataclass(frozen=True)
class _Range:
    option: str
    low: float
    high: float
    n: int

    @property
    def values(self) -> NDArray[np.float64]:
        return self.low + (self.high - self.low) * np.arange(self.n) / self.n

    def moved(self, k: int) -> tuple[str, NDArray[np.float64]]:
        """Return the range k steps further, and the steps of its values: 6 % of each, or of their distance."""
        if self.low > 0:
            factor = 1 + k * _STEP
            return f"{self.low * factor!r}:{self.high * factor!r}:{self.n}", _STEP * self.values
        step = _STEP * (self.high - self.low) / self.n  # one of them may be 0
        return f"{self.low + k * step!r}:{self.high + k * step!r}:{self.n}", np.full(self.n, step)


def simulate(text: str, nuisance: Sequence[str] = ()) -> table.Table:
    """Return the fingerprints of a command of BART, with derivatives: those of ``sim``, differences of ``signal``.

    Parameters
    ----------
    text : str
        ``bart:signal OPTIONS`` or ``bart:sim OPTIONS``, without the names of the outputs.
    nuisance : sequence of str
        Parameters that are no targets.

    Raises
    ------
    UserError
        BART is missing or refuses the command, or this is no such command, or no range has several values.
    """
    command, options = _parsed(text)
    ranges = {option: _range(value) for option, value in options if option in _AXES}
    swept = [r for option, value in ranges.items() if (r := _Range(option, *value)).n > 1]
    if not swept:
        raise UserError(f"{text!r} has no range with several values, expected such as -1 0.2:3:50 for T1")
    if {"-2", "-3"} <= {r.option for r in swept}:
        raise UserError(f"{text!r} has ranges of -2 and -3, of which BART sweeps the last alone; leave one of them out")
    swept.sort(key=lambda r: _AXES[r.option])
    names, units, factors = zip(*(_meaning(r.option, options) for r in swept), strict=True)
    with bart.temporary_folder() as folder:
        signals, own = _run(command, options, folder, swept)
        jac = _own(own, swept) if own is not None else _differences(command, options, folder, swept)
    grid = np.meshgrid(*(r.values for r in swept), indexing="ij")
    theta = np.stack([axis.ravel() * factor for axis, factor in zip(grid, factors, strict=True)], axis=1)
    n_frames = signals.shape[-1]
    jac = jac.reshape(len(swept), -1, n_frames).transpose(1, 0, 2) / np.array(factors)[:, None]
    for what, array in (("signals", signals), ("derivatives", jac)):
        if not np.isfinite(array).all():
            raise UserError(f"{text!r} gives {what} that are not finite; change its ranges")
    for i, (r, name) in enumerate(zip(swept, names, strict=True)):
        if np.abs(jac[:, i]).max() * np.ptp(theta[:, i]) < _VARIATION:
            raise UserError(f"{text!r}: the signal does not depend on {name}; leave the range {r.option} out")
    digest = hashlib.sha256(shlex.join(_words(command, options)).encode()).hexdigest()
    spec = {"name": text, "sha256": digest, "nuisance": list(nuisance)}
    parameters = table.parameters(names, units, theta, nuisance, text)
    return table.Table(signals.reshape(-1, n_frames).astype(np.complex128), jac, theta, parameters, spec)


def _parsed(text: str) -> tuple[str, list[tuple[str, str | None]]]:
    """Return the command and its options, all known, so that none is the name of a file."""
    try:
        command, *words = shlex.split(text.removeprefix(PREFIX))
    except ValueError as error:
        raise UserError(f"{text!r} cannot be read ({error}), expected 'bart:signal OPTIONS'") from None
    if command not in _OPTIONS:
        raise UserError(f"{text!r} is no command that simulates, expected bart:signal or bart:sim with options")
    known, found = _OPTIONS[command], []
    rest = iter(words)
    for word in rest:
        option, value = word, None
        if not word.startswith("--") and len(word) > 2:
            option, value = word[:2], word[2:]
        elif "=" in word:
            option, _, value = word.partition("=")
        if option not in known or (value is not None and not known[option]):
            raise UserError(
                f"{text!r} has {word!r}, expected options out of {', '.join(known)}, and no names of outputs"
            )
        if known[option] and value is None:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{text!r}: {option} has no value")
        found.append((_LONG.get(option, option), value))
    return command, found


def _words(command: str, options: Sequence[tuple[str, str | None]]) -> list[str]:
    return [command, *(word for option, value in options for word in (option, value) if word is not None)]


def _range(value: str | None) -> tuple[float, float, int]:
    found = re.fullmatch(r"([^:]+):([^:]+):(\d{1,9})", value or "")
    try:
        low, high, n = (float(found[1]), float(found[2]), int(found[3])) if found else (np.nan, np.nan, 0)
    except ValueError:
        low, high, n = np.nan, np.nan, 0
    if not (np.isfinite([low, high]).all() and n > 0 and (low < high or n == 1)):
        raise UserError(f"range {value!r} of BART is none, expected low:high:number as in 0.2:3:50")
    return low, high, n


def _meaning(option: str, options: Sequence[tuple[str, str | None]]) -> tuple[str, str, float]:
    """Return name and SI unit of a parameter, and how much of that unit one of BART's is."""
    if option == "-2" and ("-G", None) in options:
        return "T2star", "s", 1.0
    return {"-1": ("T1", "s", 1.0), "-2": ("T2", "s", 1.0), "-3": ("Mss", "", 1.0), "-0": ("w0", "rad/s", 2 * np.pi)}[
        option
    ]


def _run(
    command: str, options: Sequence[tuple[str, str | None]], folder: Path, swept: Sequence[_Range]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64] | None]:
    """Return signals (n, .., T), axes as `swept`, and derivatives (4, n, .., T) if BART gives them."""
    outputs = ["signals", "derivatives"] if command == "sim" else ["signals"]
    bart.run([*_words(command, options), *outputs], folder=folder, threads=_THREADS)
    found = []
    for output in outputs:
        array = bart.read_cfl(folder / output)
        array = array.reshape(array.shape + (1,) * (16 - array.ndim))
        dims: tuple[int, ...] = array.shape
        expected = tuple(r.n for r in swept)
        shape = tuple(dims[_AXES[r.option]] for r in swept)
        if shape != expected or array.size != dims[4] * dims[5] * math.prod(expected):
            listed = " ".join(map(str, dims))
            raise UserError(
                f"bart {command} gave dimensions {listed}, expected {expected} fingerprints: another version?"
            )
        axes = [4, *(_AXES[r.option] for r in swept), 5]
        rest = tuple(i for i in range(array.ndim) if i not in axes)
        found.append(array.transpose(*axes, *rest).reshape(dims[4], *expected, dims[5]))
    return found[0][0], found[1] if command == "sim" else None


def _own(derivatives: NDArray[np.complex64], swept: Sequence[_Range]) -> NDArray[np.complex128]:
    """Return ds/dT (P, n, .., T) = -1/T^2 ds/dR of BART's derivatives with respect to R1, M0, R2 and B1."""
    found = []
    for i, r in enumerate(swept):
        values = r.values.reshape([-1 if k == i else 1 for k in range(len(swept))] + [1])
        found.append(-derivatives[{"-1": 0, "-2": 2}[r.option]].astype(np.complex128) / values**2)
    return np.stack(found)


def _differences(
    command: str, options: Sequence[tuple[str, str | None]], folder: Path, swept: Sequence[_Range]
) -> NDArray[np.complex128]:
    """Return derivatives (P, n, .., T) from whole grids whose ranges are moved: six runs for every parameter."""
    found = []
    for i, r in enumerate(swept):
        total: Any = 0.0
        for k, weight in _WEIGHTS.items():
            moved, step = r.moved(k)
            changed = [(option, moved if option == r.option else value) for option, value in options]
            total = total + weight * _run(command, changed, folder, swept)[0].astype(np.complex128)
        found.append(total / step.reshape([-1 if j == i else 1 for j in range(len(swept))] + [1]))
    return np.stack(found)
