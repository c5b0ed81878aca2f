"""Pulse trains: one of our own, and those of files."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import arrays
from ...errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("alpha", "TRF")
SUFFIXES = (".mat", ".npz", ".csv")

_N_PULSES = 500
# A [degrees], k, p, j of every cycle, see `built_in`; j is None where pulses are long throughout
_CYCLES = ((150, 2, 4, 0), (50, 2, 4, None), (80, 6, 4, 1))

Train = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def built_in() -> Train:
    """Return a train of our own: 3 cycles of 500 pulses, alpha [rad] and TRF [s].

    With x = 0 .. 1 over a cycle, alpha = A sin^p(pi k x) and TRF = s + (500 us - s) sin^2(pi j x), or
    500 us throughout, where s^2 = (100 us)^2 + (alpha / 2 pi 1000 Hz)^2, so that w1 stays below 2 pi 1000 rad/s. A, k,
    p and j were chosen among 500 such cycles for the bounds of the six tissue parameters; the first pulse inverts.
    """
    x = np.arange(_N_PULSES) / _N_PULSES
    alpha, trf = np.empty((2, len(_CYCLES), _N_PULSES))
    for row, (degrees, k, p, j) in enumerate(_CYCLES):
        alpha[row] = np.deg2rad(degrees) * np.sin(np.pi * k * x) ** p
        shortest = np.hypot(100e-6, alpha[row] / (2 * np.pi * 1000))
        share = 1 if j is None else np.sin(np.pi * j * x) ** 2
        trf[row] = shortest + (500e-6 - shortest) * share
    alpha[:, 0], trf[:, 0] = np.pi, 500e-6
    return alpha, trf


def settings(name: object, folder: Path, others: Container[str]) -> dict[str, Any]:
    """Return the settings alpha and TRF of a model from the file `name`, seen from a folder.

    Raises
    ------
    UserError
        It is no name, the others hold one of the two already, or as `read`.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"train is {name!r}, expected the name of a file")
    for key in NAMES:
        if key in others:
            raise UserError(f"both train and {key} are given, expected one of them")
    return {key: values.tolist() for key, values in zip(NAMES, read(folder / name), strict=True)}


def read(path: Path) -> Train:
    """Return the angles [rad] and durations [s] of a train, (cycles, pulses), from a file.

    Parameters
    ----------
    path : Path
        ``.npz`` or ``.mat`` (of any version) with the arrays alpha and TRF, or ``.csv`` with a line of names (alpha and
        TRF, and cycle where there are several) and a line for every pulse. In ``.mat`` files a column is a cycle, as
        in MATLAB, unless that would make more cycles than pulses.

    Raises
    ------
    UserError
        The file is missing or damaged, of another kind, or lacks an array; or the two have different shapes.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"train {path} is of an unknown kind, expected one of: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"train {path} does not exist; check the path")
    try:
        content = _csv(path) if path.suffix == ".csv" else arrays.load(path, NAMES)
    except arrays.BROKEN as error:
        raise UserError(f"train {path} cannot be read ({error}); expected arrays alpha [rad] and TRF [s]") from None
    found = []
    for name in NAMES:
        if name not in content:
            raise UserError(f"train {path} has no {name}, expected arrays alpha [rad] and TRF [s]")
        values = np.atleast_2d(content[name])
        if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
            raise UserError(
                f"train {path}: {name} is {values.dtype} of shape {values.shape}, expected numbers (cycles, pulses)"
            )
        found.append(np.ascontiguousarray(values, np.float64))
    alpha, trf = found
    if alpha.shape != trf.shape:
        raise UserError(f"train {path}: alpha has shape {alpha.shape} and TRF {trf.shape}, expected the same")
    if path.suffix == ".mat" and alpha.shape[0] > alpha.shape[1]:
        alpha, trf = alpha.T.copy(), trf.T.copy()
    return alpha, trf


def _csv(path: Path) -> dict[str, NDArray[Any]]:
    table: Any = np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True, deletechars="", encoding="utf-8"))
    names = table.dtype.names or ()
    columns = {name: table[name] for name in NAMES if name in names}
    if "cycle" not in names:
        return columns
    starts = np.flatnonzero(np.diff(table["cycle"], prepend=np.nan) != 0)
    lengths = np.diff(starts, append=len(table))
    if len(set(lengths)) != 1:
        raise ValueError(f"cycles have {sorted(set(lengths.tolist()))} pulses, expected as many in each")
    return {name: values.reshape(len(starts), -1) for name, values in columns.items()}
