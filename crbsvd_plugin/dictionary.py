"""Compressed fingerprints of a prior, to match coefficient images with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import files
from .basis import Basis
from .batches import iter_batches
from .errors import UserError
from .hdf5 import Sink, dataset
from .model import Parameter, SignalModel
from .prior import Prior

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "crbsvd-dictionary/1"
SUFFIX = ".h5"
_DATASETS = ("theta", "coeff", "norm", "edge", "jac")


@dataclass(frozen=True)
class Dictionary:
    """Fingerprints compressed with one basis.

    Parameters
    ----------
    parameters : tuple of Parameter
        The P parameters.
    theta : float64 array (B, P)
        Parameters of the atoms, SI units.
    coeff : complex64 array (B, K)
        phi^H s(theta) / norm: unit norm.
    norm : float32 array (B,)
        ||phi^H s(theta)|| for M0 = 1.
    edge : bool array (B,)
        Atoms at an end of the range of a parameter; of draws, the outermost ones.
    digest : str
        `Basis.digest` of the basis.
    jac : complex64 array (B, P, K) or None
        phi^H ds/dtheta for M0 = 1.
    """

    parameters: tuple[Parameter, ...]
    theta: NDArray[np.float64]
    coeff: NDArray[np.complex64]
    norm: NDArray[np.float32]
    edge: NDArray[np.bool_]
    digest: str
    jac: NDArray[np.complex64] | None = None

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return int(self.coeff.shape[1])

    def require_derivatives(self) -> None:
        """Refuse a dictionary that was made without derivatives.

        Raises
        ------
        UserError
            `jac` is None.
        """
        if self.jac is None:
            raise UserError(
                "the dictionary has no derivatives, which refining needs; "
                "make it again with 'crbsvd basis --derivatives'"
            )

    def within(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Dictionary:
        """Return the atoms whose parameters lie in these ranges (P,).

        Raises
        ------
        UserError
            There are none.
        """
        inside: NDArray[np.bool_] = np.all((self.theta >= low) & (self.theta <= high), axis=1)
        if not inside.any():
            raise UserError(
                f"none of the {len(inside)} atoms lies within --bounds, so no fit can start; widen them, or make the "
                "dictionary with a fit_prior that has such values"
            )
        kept = {name: getattr(self, name)[inside] for name in _DATASETS if getattr(self, name) is not None}
        return replace(self, **kept)

    def truncate(self, basis: Basis) -> Dictionary:
        """Return the dictionary of a basis that consists of the first columns of this one's.

        Raises
        ------
        UserError
            `basis` has more columns than this dictionary.
        """
        rank = basis.rank
        if rank > self.rank:
            raise UserError(
                f"rank is {rank}, but the dictionary has {self.rank} coefficients: expected 1 to {self.rank}"
            )
        if rank == self.rank and basis.digest == self.digest:
            return self  # not even rounding is to differ
        jac = None if self.jac is None else self.jac[..., :rank]
        coeff, norm = _normalised(self.coeff[:, :rank])
        return Dictionary(self.parameters, self.theta, coeff, self.norm * norm, self.edge, basis.digest, jac)

    def write(self, path: Path) -> None:
        """Write the dictionary as HDF5."""
        import h5py

        with Sink(path) as sink, h5py.File(sink, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["basis"] = self.digest
            file.attrs["parameters"] = json.dumps([asdict(parameter) for parameter in self.parameters])
            for name in _DATASETS:
                if getattr(self, name) is not None:
                    file[name] = getattr(self, name)

    @classmethod
    def load(cls, name: str | Path, basis: Basis) -> Dictionary:
        """Read the dictionary that lies beside the basis NAME.

        Raises
        ------
        UserError
            There is none, it is damaged, or it was made for another basis.
        """
        import h5py

        path = files.with_suffix(name, SUFFIX)
        if not path.is_file():
            raise UserError(
                f"{path} does not exist: matching needs the dictionary of the basis; "
                "make it with 'crbsvd basis' (--atoms)"
            )
        try:
            with h5py.File(path, "r") as file:
                content = {key: dataset(file, key, path) for key in file}
                attributes = {key: file.attrs[key] for key in ("format", "basis", "parameters")}
                if odd := (content.keys() | {"jac"}) ^ set(_DATASETS):
                    raise KeyError(f"{min(odd)} is missing or unknown")
        except (OSError, KeyError) as error:
            raise UserError(f"{path} is not a dictionary ({error}); make it again") from None
        if attributes["format"] != FORMAT:
            raise UserError(f"{path} has format {attributes['format']!r}, expected {FORMAT!r}")
        if attributes["basis"] != basis.digest:
            raise UserError(f"{path} was made for another basis than {name}.cfl (hashes differ); make both again")
        parameters = tuple(Parameter(**fields) for fields in json.loads(attributes["parameters"]))
        return cls(parameters, digest=basis.digest, **content)


def _normalised(coeff: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows (B, K) of unit norm and their norms; a zero row stays zero, which matches nothing."""
    norm = np.linalg.norm(coeff, axis=1)
    return coeff / np.where(norm > 0, norm, 1)[:, None], norm


def _at_an_end(theta: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of the atoms (B, P) of a class lie at an end of the range of a parameter.

    Draws have no outermost layer as a grid has one: of a parameter that has no value twice, the outermost
    B^(1 - 1/P) atoms on either side are taken, as many as the layer of a grid with B points has.
    """
    varied = theta[:, theta.min(axis=0) < theta.max(axis=0)]
    n, n_varied = varied.shape
    edge = np.zeros(n, dtype=np.bool_)
    for values in varied.T:
        ranked = np.sort(values)
        drawn = np.all(ranked[1:] > ranked[:-1])
        layer = round(n ** (1 - 1 / n_varied)) if drawn else 1
        edge |= (values <= ranked[layer - 1]) | (values >= ranked[-layer])
    return edge


def compress(
    model: SignalModel,
    prior: Prior,
    basis: Basis,
    *,
    jacobian: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Dictionary:
    """Simulate a prior and compress it: c = phi^H s(theta).

    Parameters
    ----------
    model : SignalModel
        The model that the basis was made for.
    prior : Prior
        The atoms; for fitting it must have no holes.
    basis : Basis
        The basis.
    jacobian : bool
        Keep the compressed derivatives too.
    progress : callable, optional
        Called with the number of atoms after each batch.

    Raises
    ------
    UserError
        The model has another number of frames than the basis, or as `batches.iter_batches`.
    """
    return compress_each(model, prior, [basis], jacobian=jacobian, progress=progress)[0]


def compress_each(
    model: SignalModel,
    prior: Prior,
    bases: Sequence[Basis],
    *,
    jacobian: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Dictionary]:
    """Simulate a prior once, and compress it with each of several bases; see `compress`."""
    for basis in bases:
        basis.check_frames(model)
    theta: list[NDArray[np.float64]] = []
    coeff: list[list[NDArray[Any]]] = [[] for _ in bases]
    jac: list[list[NDArray[Any]]] = [[] for _ in bases]
    classes = prior.atoms(model.parameters)
    for batch in iter_batches(model, classes, jacobian=jacobian, strided=False, progress=progress):
        theta.append(batch.theta)
        for i, basis in enumerate(bases):
            coeff[i].append(basis.project(batch.signal))
            if batch.jac is not None:
                jac[i].append(basis.project(batch.jac).astype(np.complex64))
    edge = np.concatenate([_at_an_end(atoms.theta) for atoms in classes])
    atoms = np.concatenate(theta)
    found = []
    for i, basis in enumerate(bases):
        coefficients, norm = _normalised(np.concatenate(coeff[i]))
        found.append(
            Dictionary(
                model.parameters,
                atoms,
                coefficients.astype(np.complex64),
                norm.astype(np.float32),
                edge,
                basis.digest,
                np.concatenate(jac[i]) if jac[i] else None,
            )
        )
    return found
