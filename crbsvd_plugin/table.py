"""A dictionary with derivatives that another program has simulated: a model that knows these fingerprints only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, files
from .errors import UserError
from .model import Parameter
from .prior import Prior, Tissue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

KEYS = ("signals", "jac", "theta", "names", "units", "nuisance")
"""What a file may hold, or a TOML file may name."""

# estimates are kept in single precision
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Listed(Tissue):
    """A class of tissue whose atoms are listed.

    Parameters
    ----------
    rows : float64 array (B, P)
        All of them. `n` says how many evenly spaced ones are taken, `offset` which.
    """

    rows: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def theta(self, parameters: Sequence[Parameter]) -> NDArray[np.float64]:
        """Return the atoms (B, P)."""
        if self.rows.shape[1] != len(parameters):
            raise UserError(
                f"tissue {self.label!r} is listed for {self.rows.shape[1]} parameters, not {len(parameters)}"
            )
        if self.n is None:
            return self.rows.copy()
        stride = len(self.rows) / self.n
        first = ((np.arange(self.n) + 0.5) * stride).astype(np.int64)
        return self.rows[(first + self.offset * max(1, int(stride / 2))) % len(self.rows)]

    def thinned(self, share: float) -> Listed:
        """Return the tissue with about this share of its atoms, each of which weighs accordingly more."""
        have = len(self.rows) if self.n is None else self.n
        n = max(1, round(have * share))
        return Listed(self.label, self.values, self.weight * have / n, n, self.offset, self.rows)

    def shifted(self) -> Listed:
        """Return as many other atoms of the list; all of them if all are taken."""
        return Listed(self.label, self.values, self.weight, self.n, self.offset + 1, self.rows)

    @property
    def spec(self) -> dict[str, Any]:
        """How many atoms are taken of how many."""
        return {"label": self.label, "listed": len(self.rows), "weight": self.weight, "n": self.n}


class Table:
    """Signals and derivatives at listed parameters, as a `SignalModel`.

    Parameters
    ----------
    signals : array (N, T)
        Of M0 = 1.
    jac : array (N, P, T)
        Derivatives with respect to theta.
    theta : array (N, P)
        SI units.
    parameters : sequence of Parameter
        The P parameters.
    spec : mapping
        Where they come from, with a ``sha256`` that no other table has.
    """

    derivatives = "its own"

    def __init__(
        self,
        signals: NDArray[Any],
        jac: NDArray[Any],
        theta: NDArray[np.float64],
        parameters: Sequence[Parameter],
        spec: Mapping[str, Any],
    ):
        self._signals, self._jac, self.theta = signals, jac, theta
        self.parameters, self.spec = tuple(parameters), dict(spec)
        self._scale = np.maximum(np.abs(theta).max(axis=0), np.finfo(float).tiny)
        self._tree: Any = None

    @property
    def n_frames(self) -> int:
        """Number of frames T."""
        return int(self._signals.shape[1])

    @property
    def prior(self) -> Prior:
        """All fingerprints that are there."""
        return Prior("listed", (Listed("all", {}, rows=self.theta),))

    def signal(self, theta: NDArray[Any]) -> NDArray[Any]:
        """Return the signals (B, T), complex128, of theta (B, P), which must be in the table.

        Raises
        ------
        UserError
            A fingerprint is not there.
        """
        return np.asarray(self._signals[self._rows(theta)], dtype=np.complex128)

    def signal_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the signals (B, T) and their derivatives (B, P, T), complex128."""
        rows = self._rows(theta)
        return np.asarray(self._signals[rows], dtype=np.complex128), np.asarray(self._jac[rows], dtype=np.complex128)

    def _rows(self, theta: NDArray[Any]) -> NDArray[np.int64]:
        from scipy.spatial import KDTree

        if self._tree is None:
            self._tree = KDTree(self.theta / self._scale)
        distance, rows = self._tree.query(np.asarray(theta, dtype=np.float64) / self._scale, p=np.inf)
        if distance.size and distance.max() > _ROUNDING:
            raise UserError(
                f"{self.spec['name']} has no fingerprint at {theta[distance.argmax()].tolist()}: a table of "
                "fingerprints tells nothing between them; fit by matching, or name a model that can simulate"
            )
        return np.asarray(rows)


def parameters(
    names: Sequence[str], units: Sequence[str], theta: NDArray[np.float64], nuisance: Sequence[str], where: object
) -> tuple[Parameter, ...]:
    """Return parameters whose ranges are those of theta (N, P).

    Raises
    ------
    UserError
        A nuisance is none of them.
    """
    if unknown := [name for name in nuisance if name not in names]:
        raise UserError(f"{where}: nuisance {unknown[0]!r} is no parameter; these are {', '.join(names)}")
    ends = zip(names, units, theta.min(axis=0).tolist(), theta.max(axis=0).tolist(), strict=True)
    return tuple(Parameter(name, unit, low, high, name in nuisance) for name, unit, low, high in ends)


def read(path: Path, told: Mapping[str, Any] | None = None) -> Table:
    """Return the table in a file.

    Parameters
    ----------
    path : path
        ``.npz``, ``.mat`` or ``.h5`` with the arrays signals, jac, theta, names, units and, optionally, nuisance
        (names), shaped as `Table` has them. Or ``.npy`` or ``.cfl`` with the signals, the others being told.
    told : mapping, optional
        Where an array is if not there: ``NAME`` in the file, ``FILE`` or ``FILE:NAME`` beside it. Names, units and
        nuisance may be lists.

    Raises
    ------
    UserError
        An array is missing, or shapes do not fit.
    """
    source = _Source(path, told or {})
    signals = source.array("signals", 2)
    theta = source.array("theta", 2).astype(np.float64)
    n, t = signals.shape
    if theta.shape[0] != n:
        raise UserError(
            f"{path}: theta has shape {theta.shape} and signals {signals.shape}, expected (N, P) and (N, T)"
        )
    p = theta.shape[1]
    jac = source.array("jac", 3 if p > 1 else None)
    if p == 1 and jac.shape == (n, t):
        jac = jac[:, None]
    if jac.shape != (n, p, t):
        raise UserError(
            f"{path}: jac has shape {jac.shape}, expected (N, P, T) = {(n, p, t)}: of every fingerprint, of every "
            "parameter, the derivative of the signal"
        )
    for what, array in (("signals", signals), ("jac", jac), ("theta", theta)):
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {what} holds {np.count_nonzero(~np.isfinite(array))} non-finite values")
    names, units, nuisance = source.texts("names", p), source.texts("units", p), source.texts("nuisance", None)
    return Table(signals, jac, theta, parameters(names, units, theta, nuisance, path), source.spec)


class _Source:
    """The files of a table, and what they were told to hold."""

    def __init__(self, path: Path, told: Mapping[str, Any]):
        self.path, self._told = path, dict(told)
        self._files: dict[Path, dict[str, NDArray[Any]]] = {}

    @property
    def spec(self) -> dict[str, Any]:
        """The files with one hash, and what they were told to hold."""
        digest = hashlib.sha256("".join(files.sha256(path) for path in self._files).encode()).hexdigest()
        told = {key: list(value) if isinstance(value, list | tuple) else value for key, value in self._told.items()}
        return {"name": self.path.name, "file": str(self.path), "sha256": digest, "told": told}

    def array(self, what: str, ndim: int | None) -> NDArray[Any]:
        path, key = self._place(what)
        found = arrays.one(self._content(path), key, (what,), f"{path}: {what}")
        if found.dtype.kind not in "fciu" or (ndim is not None and found.ndim != ndim):
            raise UserError(f"{path}: {what} has shape {found.shape}, expected {ndim} axes")
        return found

    def _place(self, what: str) -> tuple[Path, str | None]:
        """Return in which file an array is, and its name there."""
        told = self._told.get(what)
        if told is None:
            if self.path.suffix in (".npy", ".cfl"):
                if what != "signals":
                    raise UserError(
                        f"{self.path} holds the signals alone: say where {what} is, as in "
                        f"--set {what}={what}{self.path.suffix}"
                    )
                return self.path, None
            return self.path, what
        if not isinstance(told, str):
            raise UserError(f"{what} is {told!r}, expected the name of an array, FILE or FILE:NAME")
        file, sign, key = told.rpartition(":") if ":" in told else (told, "", "")
        if Path(file).suffix in arrays.SUFFIXES:
            return self.path.parent / file, key if sign else None
        return self.path, told

    def _content(self, path: Path) -> dict[str, NDArray[Any]]:
        if path not in self._files:
            self._files[path] = arrays.read(path, "dictionary")
        return self._files[path]

    def texts(self, what: str, n: int | None) -> list[str]:
        told = self._told.get(what)
        if told is None:
            held = self._content(self.path).get(what)
            told = [] if held is None else [str(text).strip() for text in np.atleast_1d(held).ravel()]
        if not isinstance(told, list | tuple) or not all(isinstance(text, str) for text in told):
            raise UserError(f"{what} is {told!r}, expected a list of texts")
        if n is not None and len(told) != n:
            raise UserError(
                f"{self.path} has {len(told)} {what}, expected {n}, one for every column of theta; say so in a TOML "
                f'file: {what} = ["..", ..]'
            )
        return list(told)
