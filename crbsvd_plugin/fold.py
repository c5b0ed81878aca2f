"""Fold fingerprints into what every basis needs, one batch at a time.

CRB-SVD takes the leading left singular vectors of D = [(1 - lambda) S, lambda J], S the signals
and J the unit-norm orthogonalised derivatives of the parameters of interest (Eq. 12). They are
the leading eigenvectors of D D^H, which is a weighted sum of one T x T Gram matrix per tissue
class and signal or parameter. Those are what is kept: additive over batches, in any order, and
all weights and the rank are chosen afterwards, at the price of one eigenproblem.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import crb
from .basis import Basis, plain, turned
from .errors import UserError
from .model import Batch, Parameter, SignalModel
from .prior import Prior, iter_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SIGNAL = "signal"
"""Name of the signals' block, beside the names of the parameters."""

Weighting = Literal["svd", "loss"]
_N_VALUES = 50


class BasisAccumulator:
    """Gram matrices of signals and of orthogonalised derivatives, per tissue class.

    Parameters
    ----------
    parameters : sequence of Parameter
        The model's parameters; nuisances are projected out but have no block.
    n_frames : int
        Number of frames T.
    fisher : {"real", "complex"}
        How derivatives are orthogonalised, see `crb`.
    conjugate : bool
        Count every fingerprint and its conjugate, by half each; the basis is then real.

    Notes
    -----
    Memory: 8 T^2 bytes per class and block, twice that once a batch is neither purely real nor
    purely imaginary. A squared matrix resolves singular values above 1e-8 of the largest.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        n_frames: int,
        *,
        fisher: crb.Fisher = "real",
        conjugate: bool = False,
    ):
        self.parameters = tuple(parameters)
        self.n_frames = n_frames
        self.fisher: crb.Fisher = fisher
        self.conjugate = conjugate
        self.targets = crb.interesting(self.parameters)
        self.grams: dict[tuple[str, str], NDArray[Any]] = {}
        self.n_atoms: dict[str, int] = {}
        self.n_dependent: dict[str, int] = {}

    @property
    def columns(self) -> list[str]:
        """Names of the blocks of one class: the signal and the parameters of interest."""
        return [SIGNAL, *(self.parameters[i].name for i in self.targets)]

    @property
    def labels(self) -> list[str]:
        """The tissue classes met so far."""
        return list(self.n_atoms)

    def update(self, batch: Batch) -> None:
        """Add a batch of fingerprints with derivatives.

        Raises
        ------
        ValueError
            The batch has no derivatives, a wrong shape or non-finite values.
        """
        if batch.jac is None or batch.signal.shape[1] != self.n_frames:
            raise ValueError(f"batch of {batch.signal.shape[1]} frames, expected {self.n_frames} and derivatives")
        if batch.jac.shape[1:2] != (len(self.parameters),):
            raise ValueError(f"jac has shape {batch.jac.shape}, expected (B, P, T) with P = {len(self.parameters)}")
        orthogonal = crb.orthogonalise(batch.signal, batch.jac, targets=self.targets, fisher=self.fisher)
        blocks = [batch.signal, *np.moveaxis(orthogonal.unit, 1, 0)]
        for name, block in zip(self.columns, blocks, strict=True):
            self._add(batch.label, name, batch.weight * self._gram(block))
        self.n_atoms[batch.label] = self.n_atoms.get(batch.label, 0) + len(batch.theta)
        for i, name in enumerate(self.columns[1:]):
            dependent = np.flatnonzero(orthogonal.norm[:, i] == 0)
            if len(dependent):
                self.n_dependent[name] = self.n_dependent.get(name, 0) + len(dependent)
                logger.warning(
                    "%s: d/d%s of %d fingerprints is zero or depends on other derivatives, first at theta = %s",
                    batch.label, name, len(dependent), batch.theta[dependent[0]].tolist(),
                )  # fmt: skip

    def merge(self, other: BasisAccumulator) -> None:
        """Add what another accumulator of the same kind holds.

        Raises
        ------
        ValueError
            The other one has other parameters, frames, Fisher matrix or conjugation.
        """
        kind = (self.parameters, self.n_frames, self.fisher, self.conjugate)
        if kind != (other.parameters, other.n_frames, other.fisher, other.conjugate):
            raise ValueError("accumulators of different parameters, frames, fisher or conjugate cannot be merged")
        for (label, name), gram in other.grams.items():
            self._add(label, name, gram)
        for mine, theirs in ((self.n_atoms, other.n_atoms), (self.n_dependent, other.n_dependent)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count

    def finish(
        self,
        rank: int,
        crb_weight: float,
        *,
        weighting: Weighting = "svd",
        parameter_weights: Mapping[str, float] | None = None,
        class_weights: Mapping[str, float] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Basis:
        """Return the basis of the wanted rank and weights.

        Parameters
        ----------
        rank : int
            Number of coefficients K, 1 to T.
        crb_weight : float
            The paper's lambda, 0 (the traditional SVD) to 1.
        weighting : {"svd", "loss"}
            Eq. (12), signals times 1 - lambda and derivatives times lambda; or Eq. (5), the
            squared losses weighted so.
        parameter_weights : mapping of str to float, optional
            Factors of the squared losses of single parameters; 1 where not given.
        class_weights : mapping, optional
            Factors per tissue class, by label, or by (label, parameter): "parameter X is of
            interest in class Y only". 1 where not given.
        info : mapping, optional
            Provenance to be kept with the basis.

        Raises
        ------
        UserError
            A weight or the rank is out of range, or a name is unknown.
        """
        if not self.grams:
            raise UserError("the basis has no fingerprints to be made from; is the prior empty?")
        if not 1 <= rank <= self.n_frames:
            raise UserError(f"rank is {rank}, expected 1 to the number of frames, {self.n_frames}")
        factors = self._factors(crb_weight, weighting, parameter_weights or {}, class_weights or {})
        total = np.zeros((self.n_frames, self.n_frames))
        for key, factor in factors.items():
            if factor:
                total = total + factor * self.grams[key]
        if not total.any():
            raise UserError("nothing is left to make a basis from: what has a weight is zero; change the weights")
        values, vectors = self._leading(total, max(rank, min(_N_VALUES, self.n_frames)))
        phi = turned(vectors[:, :rank])
        facts = {
            "crb_weight": crb_weight,
            "weighting": weighting,
            "fisher": self.fisher,
            "conjugate": self.conjugate,
            "parameter_weights": dict(parameter_weights or {}),
            "class_weights": {str(key): value for key, value in (class_weights or {}).items()},
            "n_atoms": self.n_atoms,
            "n_dependent": self.n_dependent,
            "losses": self.losses(phi),
            **(info or {}),
        }
        return Basis(phi, np.sqrt(np.maximum(values, 0)), plain(facts))

    def losses(self, phi: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Return what phi (T, K) loses, per class and over all classes.

        ``signal``: share of the energy outside of phi (Eq. 6, summed over fingerprints before
        dividing); each parameter: mean loss of its approximate bound (Eq. 8 with B_ac).
        """
        kept: dict[str, dict[str, tuple[float, float]]] = {}
        for (label, name), gram in self.grams.items():
            inside = float(np.real(np.sum(phi.conj() * (gram @ phi))))
            whole = float(np.real(np.trace(gram)))
            for group in (label, "all"):
                a, b = kept.setdefault(group, {}).get(name, (0.0, 0.0))
                kept[group][name] = (a + inside, b + whole)
        return {
            group: {name: 1 - inside / whole for name, (inside, whole) in blocks.items() if whole > 0}
            for group, blocks in kept.items()
        }

    def _gram(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return sum s s^H of rows (B, T): real where all rows share one of the axes, or conjugates count half each."""
        parts = [np.ascontiguousarray(part) for part in (rows.real, rows.imag) if part.any()]
        if len(parts) == 2 and not self.conjugate:
            return np.asarray(rows.T @ rows.conj())
        return np.asarray(sum((part.T @ part for part in parts), np.zeros((self.n_frames, self.n_frames))))

    def _add(self, label: str, name: str, gram: NDArray[Any]) -> None:
        present = self.grams.get((label, name))
        self.grams[label, name] = gram.copy() if present is None else present + gram

    def _factors(
        self,
        crb_weight: float,
        weighting: Weighting,
        parameter_weights: Mapping[str, float],
        class_weights: Mapping[Any, float],
    ) -> dict[tuple[str, str], float]:
        if not 0 <= crb_weight <= 1:
            raise UserError(f"crb weight is {crb_weight}, expected 0 (signals only) to 1 (derivatives only)")
        if weighting not in ("svd", "loss"):
            raise UserError(f"weighting is {weighting!r}, expected 'svd' (Eq. 12) or 'loss' (Eq. 5)")
        for name in parameter_weights.keys() - set(self.columns[1:]):
            raise UserError(f"parameter weight of {name!r}: unknown, expected one of {self.columns[1:]}")
        for key in class_weights:
            label, name = key if isinstance(key, tuple) else (key, SIGNAL)
            if label not in self.labels or name not in self.columns:
                known = f"one of {self.labels}, or with {self.columns}"
                raise UserError(f"class weight of {key!r}: unknown, expected {known}")
        if any(not 0 <= w < np.inf for w in [*parameter_weights.values(), *class_weights.values()]):
            raise UserError("parameter and class weights must be at least 0 and finite")
        power = 2 if weighting == "svd" else 1
        shares = {name: crb_weight**power * parameter_weights.get(name, 1.0) for name in self.columns[1:]}
        shares[SIGNAL] = (1 - crb_weight) ** power
        factors = {}
        for label, name in self.grams:
            factors[label, name] = shares[name] * class_weights.get(label, 1.0) * class_weights.get((label, name), 1.0)
        return factors

    @staticmethod
    def _leading(total: NDArray[Any], n: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
        from scipy.linalg import eigh

        size = len(total)
        values, vectors = eigh(total, subset_by_index=(size - n, size - 1))
        return values[::-1], vectors[:, ::-1]


def compute_basis(
    model: SignalModel,
    prior: Prior,
    *,
    rank: int,
    crb_weight: float,
    weighting: Weighting = "svd",
    fisher: crb.Fisher = "real",
    conjugate: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Basis:
    """Simulate a prior and return its CRB-SVD basis.

    Parameters
    ----------
    model, prior
        What to simulate.
    rank, crb_weight, weighting
        As in `BasisAccumulator.finish`.
    fisher, conjugate
        As in `BasisAccumulator`.
    progress : callable, optional
        Called with the number of atoms after each batch.

    Raises
    ------
    UserError
        A weight or the rank is out of range.
    """
    accumulator = fold(model, prior, fisher=fisher, conjugate=conjugate, progress=progress)
    info = {"model": model.spec, "prior": prior.spec}
    return accumulator.finish(rank, crb_weight, weighting=weighting, info=info)


def fold(
    model: SignalModel,
    prior: Prior,
    *,
    fisher: crb.Fisher = "real",
    conjugate: bool = False,
    progress: Callable[[int], object] | None = None,
) -> BasisAccumulator:
    """Simulate a prior and return its accumulator, from which many bases can be finished."""
    accumulator = BasisAccumulator(model.parameters, model.n_frames, fisher=fisher, conjugate=conjugate)
    for batch in iter_batches(model, prior, progress=progress):
        accumulator.update(batch)
    return accumulator
