"""A model of the user's own: a class or a function in a Python file, which the user names."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import derivatives, models
from .distribution import even_points
from .errors import UserError, nearest
from .model import Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AGREEMENT = 1e-4


class UserModel:
    """A class or function of the user's, as a `SignalModel`: shapes are checked, missing derivatives found.

    Parameters
    ----------
    path : path
        The Python file. It is run.
    name : str
        The class or function in it. A class has ``signal(theta)``, and may have ``signal_and_jacobian(theta)`` and
        ``parameters``; a function is the signal. Signals are (B, T), derivatives (B, P, T), for theta (B, P).
    settings : mapping, optional
        Keywords that the class is made with, or that the function takes besides theta.
    parameters : sequence of Parameter, mapping or (name, unit, low, high), optional
        If not given, those of the class, or else of the file.
    sha256 : str, optional
        What the file must have.

    Raises
    ------
    UserError
        There is no such file or object, it fails, or what it gives has not the shape it should have.
    """

    def __init__(
        self,
        path: str | Path,
        name: str,
        settings: Mapping[str, Any] | None = None,
        parameters: Sequence[Any] | None = None,
        sha256: str | None = None,
    ):
        self.path, self.name, self.settings = Path(path), f"{Path(path).name}:{name}", dict(settings or {})
        module, self.digest = _load(self.path)
        if sha256 not in (None, self.digest):
            raise UserError(f"{path} has changed since the model was made of it; restore it, or make the basis again")
        found = getattr(module, name, None)
        if not callable(found):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise UserError(
                f"{path} has no class or function {name!r}; it has {', '.join(known)}{nearest(name, known)}"
            )
        try:
            self._own = found(**self.settings) if isinstance(found, type) else found
        except Exception as error:  # noqa: BLE001 - anything may come out of code that is not ours
            raise UserError(f"{self.name} cannot be made: {_said(error)}") from None
        listed = getattr(self._own, "parameters", None) if parameters is None else parameters
        self.parameters = self._parameters(getattr(module, "parameters", None) if listed is None else listed)
        self.priors: dict[str, Any] = {k: getattr(module, k) for k in ("prior", "fit_prior") if hasattr(module, k)}
        self._signal = self._call() if isinstance(found, type) else self._of_function(found)
        self._given = getattr(self._own, "signal_and_jacobian", None)
        probe = probes(self.parameters, 3)
        self._n_frames = 0
        self._n_frames = self.signal(probe).shape[1]
        self.derivatives = "its own" if self._given is not None else self._chosen(probe)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made again from the same file where a worker needs it."""
        return (_again, (self.path, self.name.split(":")[1], self.settings, self.parameters, self.digest))

    @property
    def n_frames(self) -> int:
        """Number of frames T."""
        return self._n_frames

    @property
    def spec(self) -> dict[str, Any]:
        """The file with its hash, and all that the model was made with."""
        return {
            "name": self.name,
            "file": str(self.path),
            "sha256": self.digest,
            "settings": self.settings,
            "parameters": [asdict(parameter) for parameter in self.parameters],
        }

    def signal(self, theta: NDArray[Any]) -> NDArray[Any]:
        """Return the signals (B, T), complex128, of theta (B, P)."""
        return self._evaluated(np.asarray(theta, dtype=np.float64)).astype(np.complex128)

    def signal_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the signals (B, T) and their derivatives (B, P, T), complex128."""
        theta = np.asarray(theta, dtype=np.float64)
        if self._given is None:
            way = derivatives.complex_step if self.derivatives == "complex step" else derivatives.differences
            return self.signal(theta), way(self._evaluated, theta, self.parameters)
        try:
            pair = self._given(theta.copy())
            signal, jac = (np.asarray(array) for array in pair)
        except Exception as error:  # noqa: BLE001 - as above
            raise UserError(f"{self.name}: signal_and_jacobian fails: {_said(error)}") from None
        n = len(theta)
        self._check(signal, (n, self.n_frames), "signal_and_jacobian: the signal")
        self._check(jac, (n, len(self.parameters), self.n_frames), "signal_and_jacobian: the derivative")
        return signal.astype(np.complex128), jac.astype(np.complex128)

    def _evaluated(self, theta: NDArray[Any]) -> NDArray[Any]:
        try:
            signal = np.asarray(self._signal(theta.copy()))
        except Exception as error:  # noqa: BLE001 - as above
            raise UserError(
                f"{self.name}: the signal fails: {_said(error)}; theta has shape {theta.shape}, "
                f"the first is {theta[0].tolist()}"
            ) from None
        frames = self.n_frames or (signal.shape[-1] if signal.ndim else 0)
        self._check(signal, (len(theta), frames), "the signal")
        return signal

    def _check(self, array: NDArray[Any], shape: tuple[int, ...], what: str) -> None:
        if array.shape != shape or 0 in shape:
            raise UserError(
                f"{self.name}: {what} has shape {array.shape}, expected {shape} for theta "
                f"({shape[0]}, {len(self.parameters)}): a row each"
            )
        if array.dtype.kind not in "fciu":
            raise UserError(f"{self.name}: {what} has dtype {array.dtype}, expected real or complex numbers")

    def _call(self) -> Any:
        if not callable(getattr(self._own, "signal", None)):
            raise UserError(f"{self.name} has no method signal(theta), which gives the signals (B, T) of theta (B, P)")
        return self._own.signal

    def _of_function(self, function: Any) -> Any:
        try:
            inspect.signature(function).bind(None, **self.settings)
        except TypeError as error:
            raise UserError(f"{self.name}: {error}; expected a function of theta and of the settings in SPEC") from None
        return lambda theta: function(theta, **self.settings)

    def _parameters(self, listed: object) -> tuple[Parameter, ...]:
        expected = (
            "expected a list of crbsvd_plugin.Parameter or of (name, unit, low, high), in SI units: in the class, in "
            'the file, or in the TOML file as parameters = [{ name = "T1", unit = "s", low = 0.1, high = 5.0 }]'
        )
        if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
            raise UserError(f"{self.name} does not say what its parameters are; {expected}")
        found = []
        for item in listed:
            try:
                made = (
                    item
                    if isinstance(item, Parameter)
                    else (Parameter(**item) if isinstance(item, Mapping) else Parameter(*item))
                )
                low, high = float(made.low), float(made.high)
            except (TypeError, ValueError) as error:
                raise UserError(f"{self.name}: {item!r} is no parameter ({error}); {expected}") from None
            if not (isinstance(made.name, str) and isinstance(made.unit, str) and -np.inf < low < high < np.inf):
                raise UserError(f"{self.name}: parameter {item!r} has no finite range with low < high; {expected}")
            found.append(Parameter(made.name, made.unit, low, high, bool(made.nuisance)))
        names = [parameter.name for parameter in found]
        if len(set(names)) < len(names):
            raise UserError(f"{self.name} has parameters {names}, expected different names")
        return tuple(found)

    def _chosen(self, theta: NDArray[np.float64]) -> str:
        """Return how derivatives are found: what takes complex numbers need not be analytic, so both are compared."""
        numeric = derivatives.differences(self._evaluated, theta, self.parameters)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an imaginary part that is dropped
                analytic = derivatives.complex_step(self._evaluated, theta, self.parameters)
        except UserError:
            return "differences"
        size = np.abs(numeric).max(axis=2)
        near = np.abs(analytic - numeric).max(axis=2) <= _AGREEMENT * size
        return "complex step" if near.all() else "differences"


def _again(*arguments: Any) -> UserModel:
    model = UserModel(*arguments)
    models.remember(model)
    return model


def probes(parameters: Sequence[Parameter], n: int) -> NDArray[np.float64]:
    """Return n points (n, P) inside of the ranges, on logarithmic scales where these span more than a factor of 5."""
    u = 0.05 + 0.9 * even_points(n, len(parameters), start=0.5)
    low, high = (np.array([getattr(p, end) for p in parameters]) for end in ("low", "high"))
    wide = (low > 0) & (high > 5 * low)
    ratio = np.where(wide, high / np.where(wide, low, 1.0), 1.0)
    return np.asarray(np.where(wide, low * ratio**u, low + (high - low) * u))


class _Source(importlib.abc.SourceLoader):
    """Runs exactly the bytes whose hash is kept, and leaves no compiled file."""

    def __init__(self, path: Path, content: bytes):
        self._path, self._content = path, content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002
        return self._content


def _load(path: Path) -> tuple[ModuleType, str]:
    """Run a Python file and return its module and hash; what it imports may lie beside it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"model {path} cannot be read ({error.strerror}); check the path") from None
    digest = hashlib.sha256(content).hexdigest()
    spec = importlib.util.spec_from_loader(f"crbsvd_user_{digest[:16]}", _Source(path, content), origin=str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
        del sys.modules[spec.name]
        raise UserError(f"model {path} fails when it is loaded: {_said(error)}") from None
    finally:
        sys.path.remove(folder)
    return module, digest


def _said(error: BaseException) -> str:
    """Return an exception of the user's code in one line, with the place where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" (line {trace.tb_lineno} of {Path(trace.tb_frame.f_code.co_filename).name})" if trace is not None else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
