"""A temporal basis with its provenance, and its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import bart, files, models
from .errors import UserError
from .model import SignalModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "crbsvd-basis/1"
_REAL = 1e-6


@dataclass(frozen=True)
class Basis:
    """Orthonormal temporal basis: s = phi c, c = phi^H s.

    Parameters
    ----------
    phi : array (T, K)
        Orthonormal columns, float64 or complex128.
    singular_values : array
        Leading singular values of the weighted matrix that phi was made from, at least K.
    info : mapping
        Provenance, ready for JSON: model spec, prior, weights, losses; empty if unknown.

    Raises
    ------
    UserError
        phi is not finite, or its columns are not orthonormal.
    """

    phi: NDArray[Any]
    singular_values: NDArray[np.float64]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.phi.ndim != 2 or not 1 <= self.phi.shape[1] <= self.phi.shape[0]:
            raise UserError(f"basis has shape {self.phi.shape}, expected (T, K) with K from 1 to T")
        if not np.isfinite(self.phi).all():
            raise UserError(f"basis holds {np.count_nonzero(~np.isfinite(self.phi))} non-finite values; make it again")
        gram = self.phi.conj().T @ self.phi
        worst = float(np.abs(gram - np.eye(self.rank)).max())
        if worst > 1e-4:
            raise UserError(f"basis columns are not orthonormal (off by {worst:.2g}); expected phi^H phi = 1")

    @property
    def n_frames(self) -> int:
        """Number of frames T."""
        return int(self.phi.shape[0])

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return int(self.phi.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 of phi as BART stores it: which basis coefficients belong to."""
        return hashlib.sha256(np.asfortranarray(self.phi.astype("<c8")).tobytes(order="F")).hexdigest()

    def project(self, signal: NDArray[Any]) -> NDArray[Any]:
        """Return the coefficients c = phi^H s (..., K) of signals (..., T)."""
        return np.asarray(signal @ self.phi.conj())

    def expand(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return the signals s = phi c (..., T) of coefficients (..., K)."""
        return np.asarray(coeff @ self.phi.T)

    def truncate(self, rank: int) -> Basis:
        """Return the basis of the first `rank` columns.

        Raises
        ------
        UserError
            `rank` is not between 1 and the rank of this basis.
        """
        if not 1 <= rank <= self.rank:
            raise UserError(f"rank is {rank}, but the basis has {self.rank} columns: expected 1 to {self.rank}")
        if rank == self.rank:
            return self
        # losses were computed for the full rank and are not those of fewer columns
        info = {key: value for key, value in self.info.items() if key not in ("losses", "held_out")}
        return replace(self, phi=self.phi[:, :rank], info=info)

    def check_frames(self, model: SignalModel) -> None:
        """Refuse a model whose signals this basis cannot be of.

        Raises
        ------
        UserError
            It has another number of frames.
        """
        if model.n_frames != self.n_frames:
            raise UserError(
                f"the model has {model.n_frames} frames, the basis {self.n_frames}: they do not belong together; make "
                "the basis again for this sequence"
            )

    def model(self) -> SignalModel:
        """Build the signal model that this basis was made for.

        Raises
        ------
        UserError
            As `sequence`, or it is a model from outside of the package that nobody has named, see `models.remember`.
        """
        return models.build(self.sequence)

    @property
    def sequence(self) -> Mapping[str, Any]:
        """The spec of the model that this basis was made for.

        Raises
        ------
        UserError
            The basis has no sidecar, so that its sequence is not known.
        """
        if "model" not in self.info:
            raise UserError(
                "the basis has no sidecar (.json), which says what sequence it is for; make it with 'crbsvd basis'"
            )
        spec: Mapping[str, Any] = self.info["model"]
        return spec

    def save(self, name: str | Path, *, force: bool = False) -> None:
        """Write NAME.cfl, NAME.hdr (BART, dims 1 1 1 1 1 T K) and NAME.json.

        Raises
        ------
        UserError
            A file exists already, or cannot be written.
        """
        sidecar = files.with_suffix(name, ".json")
        with files.product(sidecar, self.members(name), kind=FORMAT, force=force) as product:
            self.write(product, name)
            product.commit(self.sidecar())

    @staticmethod
    def members(name: str | Path) -> list[str]:
        """Return the names of the files besides the sidecar."""
        return [f"{Path(name).name}{suffix}" for suffix in (".cfl", ".hdr")]

    def write(self, product: files.Product, name: str | Path) -> None:
        """Write the files besides the sidecar into a product."""
        cfl, _ = (product.path(member) for member in self.members(name))
        bart.write_cfl(str(cfl)[: -len(".cfl")], self.phi.reshape((1,) * 5 + self.phi.shape))

    def sidecar(self) -> dict[str, Any]:
        """Return what the sidecar says."""
        return {
            "n_frames": self.n_frames,
            "rank": self.rank,
            "digest": self.digest,
            "singular_values": self.singular_values.tolist(),
            "info": dict(self.info),
        }

    @classmethod
    def load(cls, name: str | Path) -> Basis:
        """Read a basis; without a sidecar, just phi.

        Raises
        ------
        UserError
            A file is missing, truncated, of another shape, or does not match its hash.
        """
        sidecar = files.with_suffix(name, ".json")
        content: dict[str, Any] = {}
        if sidecar.exists():
            content = files.read_json(sidecar, "basis")
            if content.get("format") != FORMAT:
                raise UserError(f"{sidecar} has format {content.get('format')!r}, expected {FORMAT!r}; is it a basis?")
            files.verify(sidecar, content, "basis")
        array = bart.read_cfl(str(name))
        shape = array.shape + (1,) * (7 - array.ndim)
        if any(n != 1 for i, n in enumerate(shape) if i not in (5, 6)):
            raise UserError(f"basis {name} has dims {' '.join(map(str, shape))}, expected 1 1 1 1 1 T K")
        phi = np.array(array.reshape(shape[5], shape[6], order="F"), dtype=np.complex128)
        values, info = _told(content, sidecar)
        basis = cls(phi if phi.imag.any() else phi.real.copy(), values, info)
        # a copied sidecar lists, and verifies, files of another name
        if content and basis.digest != content.get("digest"):
            raise UserError(f"basis {name}: its hash does not match {sidecar}; restore or make it again")
        return basis


def _told(content: Mapping[str, Any], sidecar: Path) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Return what a sidecar says of singular values, and ``info``."""
    values, info = content.get("singular_values", []), content.get("info", {})
    numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    if not numbers or not isinstance(info, dict):
        raise UserError(f"{sidecar} is not what it was written as; restore or make the basis again")
    return np.array(values, dtype=np.float64), info


def turned(columns: NDArray[Any]) -> NDArray[Any]:
    """Turn every column (T, K) by a phase, so that sum(phi^2) is real and not negative.

    The largest entry is made positive. What is real then (the imaginary part of every column has a
    norm below 1e-6, as for FISP, whose signals are purely imaginary) is returned as a real array.
    """
    if np.iscomplexobj(columns):
        squares = np.sum(columns**2, axis=0)
        columns = columns * np.exp(-0.5j * np.angle(squares))
        if np.linalg.norm(columns.imag, axis=0).max() < _REAL:
            # unit norm is restored: the dropped part may be as large as the threshold
            columns = columns.real / np.linalg.norm(columns.real, axis=0)
    largest = np.take_along_axis(columns.real, np.abs(columns).argmax(axis=0)[None], axis=0)
    return np.asarray(columns * np.where(largest < 0, -1, 1))


def plain(value: object) -> Any:
    """Return `value` as JSON would give it back, None for what is not finite; used to keep `info` comparable."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
