"""Fold fingerprints into what every basis needs, one batch at a time.

CRB-SVD takes the leading left singular vectors of D = [(1 - lambda) S, lambda J], S the signals
and J the unit-norm orthogonalised derivatives of the parameters of interest (Eq. 12). With every
column c = U^T d of D expressed in the few dimensions U that fingerprints fill (`subspace`), they are
U times the leading eigenvectors of a weighted sum of one small Gram matrix per tissue class and
signal or parameter. Those are what is kept: additive over batches, in any order, and all weights
and the rank are chosen afterwards, at the price of one small eigenproblem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import crb
from .basis import Basis, plain, turned
from .errors import UserError
from .gram import factor, outer, parts_of, resolution
from .model import Batch, Parameter
from .subspace import MOST, TOLERANCE, Subspace
from .weighting import ALL, SIGNAL, Block, Kind, Weighting

if TYPE_CHECKING:
    from numpy.typing import NDArray

_N_VALUES = 50


class BasisAccumulator:
    r"""Gram matrices of signals and of orthogonalised derivatives, per tissue class.

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
    tolerance : float
        Share of the energy of each block (tissue class and signal or parameter) that may fall
        outside of the subspace; 0 keeps all T dimensions.
    most : int
        Dimensions of the subspace from which on it is cut to the leading half, unless that is three quarters of T.

    Notes
    -----
    Memory: 8 (T (r + 32) + n_blocks r^2) bytes, r the dimension of the subspace, twice r^2 where
    signals are neither purely real nor purely imaginary (unless conjugates are counted).

    What is guaranteed: each column of D loses once, when it is added, what falls outside of the subspace of
    that moment, t_b <= tolerance E_b of the energy E_b of block b (after m levels of merging (m + 1)^2 / 10 of
    it; `outside` reports t_b / E_b; see `Subspace` for how sure that is). With e^2 = sum_b factor_b t_b:

    - While the subspace is that of the first batch, the losses that `finish` reports are exact (E_b is summed
      before anything falls outside), and the weighted loss that CRB-SVD minimises is at most e^2 above that of
      the dense SVD: dropping rows of U^T D cannot raise a singular value.
    - Columns that came before it grew may have had parts along the new ones: a reported loss is then off by at
      most 2 (t_b / E_b)^(1/2), and the square root of the weighted loss at most 2 e above the dense one.
    - Singular values are off by at most e, and the sine of the angle between the subspaces is at most
      2 e / (sigma_K - sigma_K+1), sigma being the dense singular values and e below half of the gap (Wedin).

    Where the subspace has had to be cut, t_b may be any share of E_b, and the above says little. What is kept are the
    leading eigenvectors of sum_b G_b / E_b, in which all blocks count alike, so the strongest direction that a cut
    drops holds `floor` of that sum: less than max_b (factor_b E_b) floor of a weighted sum.

    Entry (i, j) of a Gram matrix has an error relative to |c_i| |c_j|, and the columns of U are ordered by their
    size in the batch that brought them. A real dictionary whose first batches stand for the whole (`batches` sees
    to it) follows that order: singular values are resolved as by an SVD of D. Where it does not, and in complex
    ones, small singular vectors u hold some of the large columns; against another one, v, they are resolved to
    about eps |C u| |C v| / (sigma_u^2 - sigma_v^2), C being the diagonal matrix of the norms |c_i|.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        n_frames: int,
        *,
        fisher: crb.Fisher = "real",
        conjugate: bool = False,
        tolerance: float = TOLERANCE,
        most: int = MOST,
    ):
        self.parameters = tuple(parameters)
        self.n_frames = n_frames
        self.fisher: crb.Fisher = fisher
        self.conjugate = conjugate
        self.subspace = Subspace(n_frames, tolerance=tolerance, most=most)
        self.targets = crb.interesting(self.parameters)
        self._grams: dict[Block, NDArray[Any]] = {}
        self._energy: dict[Block, float] = {}
        self._tail: dict[Block, float] = {}
        self.n_atoms: dict[str, int] = {}
        self.n_dependent: dict[str, int] = {}
        # the first atom of every class and parameter whose derivative is zero or depends on others
        self.dependent: dict[Block, list[float]] = {}

    @property
    def columns(self) -> list[str]:
        """Names of the blocks of one class: the signal and the parameters of interest."""
        return [SIGNAL, *(self.parameters[i].name for i in self.targets)]

    @property
    def labels(self) -> list[str]:
        """The tissue classes met so far."""
        return list(self.n_atoms)

    @property
    def outside(self) -> dict[Block, float]:
        """The share of the energy of every block that fell outside of the subspace."""
        return {key: self._tail[key] / energy if energy else 0.0 for key, energy in self._energy.items()}

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
        self.add(batch.label, [batch.signal, *np.moveaxis(orthogonal.unit, 1, 0)], weight=batch.weight)
        for i, name in enumerate(self.columns[1:]):
            dependent = np.flatnonzero(orthogonal.norm[:, i] == 0)
            if len(dependent):
                self.n_dependent[name] = self.n_dependent.get(name, 0) + len(dependent)
                self.dependent.setdefault((batch.label, name), batch.theta[dependent[0]].tolist())

    def add(self, label: str, blocks: Sequence[NDArray[Any]], *, weight: float = 1.0) -> None:
        """Add signals and derivatives that are orthogonalised already.

        Parameters
        ----------
        label : str
            Tissue class.
        blocks : sequence of arrays (B, T)
            The signals, and the unit-norm orthogonalised derivatives of each parameter of interest.
        weight : float
            How many fingerprints each row stands for.

        Raises
        ------
        ValueError
            Shapes do not fit, the weight is not positive and finite, or values are not finite.
        """
        if not 0 < weight < np.inf:
            raise ValueError(f"weight of a batch is {weight}, expected a positive, finite number")
        keys = [(label, name) for name in self.columns]
        if len(blocks) != len(keys) or any(block.shape != (len(blocks[0]), self.n_frames) for block in blocks):
            shapes = [block.shape for block in blocks]
            raise ValueError(f"blocks have shapes {shapes}, expected {len(keys)} of (B, {self.n_frames})")
        self._absorb(dict(zip(keys, blocks, strict=True)), weight)
        self.n_atoms[label] = self.n_atoms.get(label, 0) + len(blocks[0])

    def merge(self, other: BasisAccumulator) -> None:
        """Add what another accumulator of the same kind holds.

        Raises
        ------
        ValueError
            The other one has other parameters, frames, Fisher matrix, conjugation or tolerance.
        """
        if self._kind != other._kind:
            raise ValueError(
                "accumulators of another kind do not merge: parameters, frames, fisher, conjugate, tolerance"
            )
        # the other's Gram matrices as rows, in time: r of them instead of all fingerprints
        rows = {key: (other.subspace.columns @ factor(other._gram(key))).T for key in other._grams}
        known = {key: (self._energy.get(key, 0.0), self._tail.get(key, 0.0)) for key in rows}
        theirs = {key: (other._energy[key], other._tail[key]) for key in rows}
        self._absorb(rows, 1.0)
        for key, (energy, tail) in theirs.items():
            self._energy[key] = known[key][0] + energy
            # what was outside there and what is outside here need not be orthogonal
            here = max(self._tail[key] - known[key][1], 0.0)
            self._tail[key] = known[key][1] + (tail**0.5 + here**0.5) ** 2
        for mine, added in ((self.n_atoms, other.n_atoms), (self.n_dependent, other.n_dependent)):
            for name, count in added.items():
                mine[name] = mine.get(name, 0) + count
        self.dependent = {**other.dependent, **self.dependent}

    def finish(
        self,
        rank: int,
        crb_weight: float,
        *,
        weighting: Kind = "svd",
        parameter_weights: Mapping[str, float] | None = None,
        class_weights: Mapping[Any, float] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Basis:
        """Return the basis of the wanted rank and weights.

        Parameters
        ----------
        rank : int
            Number of coefficients K, 1 to T and to what the fingerprints support.
        crb_weight, weighting, parameter_weights, class_weights
            See `Weighting`.
        info : mapping, optional
            Provenance to be kept with the basis.

        Raises
        ------
        UserError
            A weight or the rank is out of range, or a name is unknown.
        """
        weights = Weighting(crb_weight, weighting, parameter_weights or {}, class_weights or {})
        if not self._grams:
            raise UserError("the basis has no fingerprints to be made from; is the prior empty?")
        if not 1 <= rank <= self.n_frames:
            raise UserError(f"rank is {rank}, expected 1 to the number of frames, {self.n_frames}")
        factors = weights.factors(self._grams)
        total, _, lost = self.weighed(factors)
        if not total.any():
            raise UserError("nothing is left to make a basis from: what has a weight is zero; change the weights")
        vectors, values, _ = np.linalg.svd(factor(total))
        if self.subspace.floor:
            # of a single direction, in which not all of that can be
            lost = min(lost, self.subspace.floor * max(share * self._energy[key] for key, share in factors.items()))
        floor = np.maximum(resolution(total, vectors, sum(self.n_atoms.values())), lost**0.5)
        supported = int(np.argmin([*(values > floor), False]))
        if rank > supported:
            limit = floor[: supported + 1][-1]
            raise UserError(
                f"rank is {rank}, but the fingerprints support only {supported} columns (further singular values are "
                f"below {limit / values[0]:.1g} of the first); take a smaller rank or a wider prior"
            )
        phi = turned(self.subspace.columns @ vectors[:, :rank])
        facts = {
            **weights.info,
            "fisher": self.fisher,
            "conjugate": self.conjugate,
            "n_atoms": self.n_atoms,
            "n_dependent": self.n_dependent,
            "dimension": self.subspace.dimension,
            "outside": max(self.outside.values()),
            "losses": self.losses(phi),
            **(info or {}),
        }
        return Basis(phi, values[: max(rank, _N_VALUES)], plain(facts))

    def weighed(self, factors: Mapping[Block, float]) -> tuple[NDArray[Any], float, float]:
        """Return the weighted sum of Gram matrices (r, r), of energies, and of what fell outside of the subspace."""
        gram = sum(
            (share * self._gram(key) for key, share in factors.items() if share),
            np.zeros((self.subspace.dimension,) * 2),
        )
        whole, outside = (
            sum(share * values[key] for key, share in factors.items()) for values in (self._energy, self._tail)
        )
        return gram, whole, outside

    @property
    def blocks(self) -> list[Block]:
        """The tissue classes and signals or parameters that there are Gram matrices of."""
        return list(self._grams)

    @property
    def over_complex(self) -> bool:
        """Whether bases may be complex: some fingerprints are, and their conjugates are not counted too."""
        return any(np.iscomplexobj(gram) for gram in self._grams.values())

    def leading(self, most: int) -> NDArray[np.float64]:
        """Return the directions (T, at most so many) that hold most of all blocks, each divided by its energy."""
        vectors = np.linalg.eigh(self._even())[1]
        return np.ascontiguousarray(self.subspace.columns @ vectors[:, : -most - 1 : -1])

    def losses(self, phi: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Return what phi (T, K), columns in the subspace, loses, per class and over all classes.

        ``signal``: share of the energy outside of phi (Eq. 6, summed over fingerprints before
        dividing); each parameter: mean loss of its approximate bound (Eq. 8 with B_ac).
        """
        coeff = self.subspace.columns.T @ phi
        kept: dict[str, dict[str, tuple[float, float]]] = {}
        for key, whole in self._energy.items():
            inside = float(np.real(np.sum(coeff.conj() * (self._gram(key) @ coeff))))
            # a class may be called so itself
            for group in dict.fromkeys((key[0], ALL)):
                a, b = kept.setdefault(group, {}).get(key[1], (0.0, 0.0))
                kept[group][key[1]] = (a + inside, b + whole)
        return {
            group: {name: 1 - inside / whole for name, (inside, whole) in blocks.items() if whole > 0}
            for group, blocks in kept.items()
        }

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return all that `restore` needs: plain values and arrays."""
        values = {
            "blocks": [list(key) for key in self._grams],
            "energy": list(self._energy.values()),
            "tail": list(self._tail.values()),
            "n_atoms": self.n_atoms,
            "n_dependent": self.n_dependent,
            "dependent": [[*key, theta] for key, theta in self.dependent.items()],
            "dimension": self.subspace.dimension,
            "floor": self.subspace.floor,
        }
        return plain(values), {"frame": self.subspace.frame} | {
            f"gram{i}": gram for i, gram in enumerate(self._grams.values())
        }

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become, bit for bit, the accumulator of the same kind whose state this is."""
        keys = [(str(label), str(name)) for label, name in values["blocks"]]
        self._grams = {key: arrays[f"gram{i}"] for i, key in enumerate(keys)}
        self._energy = dict(zip(keys, values["energy"], strict=True))
        self._tail = dict(zip(keys, values["tail"], strict=True))
        self.n_atoms, self.n_dependent = dict(values["n_atoms"]), dict(values["n_dependent"])
        self.dependent = {(label, name): theta for label, name, theta in values["dependent"]}
        self.subspace = Subspace.restored(
            arrays["frame"], values["dimension"], values["floor"],
            tolerance=self.subspace.tolerance, most=self.subspace.most,
        )  # fmt: skip

    @property
    def _kind(self) -> tuple[object, ...]:
        return self.parameters, self.n_frames, self.fisher, self.conjugate, self.subspace.tolerance, self.subspace.most

    def _gram(self, key: Block) -> NDArray[Any]:
        """Return the Gram matrix of a block in the subspace as it is now, (r, r)."""
        gram = self._grams[key]
        return np.pad(gram, (0, self.subspace.dimension - len(gram)))

    def _absorb(self, blocks: Mapping[Block, NDArray[Any]], weight: float) -> None:
        parts = {key: parts_of(rows) for key, rows in blocks.items()}
        coeff, energy, tail = self.subspace.project(parts, weight=weight, known=self._energy)
        for key in blocks:
            gram = outer(coeff[key], self.subspace.dimension, self.conjugate)
            self._grams[key] = weight * gram + (self._gram(key) if key in self._grams else 0)
            self._energy[key] = self._energy.get(key, 0.0) + weight * energy[key]
            self._tail[key] = self._tail.get(key, 0.0) + weight * tail[key]
        if self.subspace.full:
            self._cut()

    def _even(self) -> NDArray[np.float64]:
        """Return the sum of all Gram matrices (r, r), each of them divided by its energy."""
        total = np.zeros((self.subspace.dimension,) * 2)
        for key, energy in self._energy.items():
            if energy:
                # of complex ones the real part: columns are real, and hold rows as well as their conjugates
                total += self._gram(key).real / energy
        return total

    def _cut(self) -> None:
        """Turn everything to the leading directions of all blocks, each of them divided by its energy."""
        values, vectors = np.linalg.eigh(self._even())
        kept = np.ascontiguousarray(vectors[:, : -self.subspace.leading - 1 : -1])
        for key, gram in self._grams.items():
            rows = kept[: len(gram)]
            turned_gram = rows.T @ gram @ rows
            self._tail[key] += max(0.0, float(np.trace(gram).real - np.trace(turned_gram).real))
            self._grams[key] = turned_gram
        self.subspace.cut(kept, float(values[-self.subspace.leading - 1]))
