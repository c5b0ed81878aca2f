"""What bases lose: energy and Cramer-Rao bounds, per tissue and parameter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import crb
from .basis import Basis
from .batches import batch_size, iter_batches
from .gram import outer, parts_of
from .model import Batch, Parameter, SignalModel
from .prior import Prior
from .progress import Report, counted, silent
from .record import Record, known_sum, quantiles, total
from .weighting import ALL, SIGNAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

Losses = dict[str, dict[str, dict[str, float]]]
"""Tissue class -> parameter or "signal" -> figure -> value."""

Summary = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Tissue class -> parameter or "signal" -> figure -> statistic -> value."""

FIGURES = ("approximate", "exact", "retained")
"""The figures of a parameter: 1 - B_u / B_ac and 1 - B_u / B_ec (Eq. 8), and B_u / B_ec (Eq. 13)."""

# what one piece of a batch may take while it is compressed
_PIECE = 128 * 2**20


class Tally:
    """The losses of several bases at all their ranks, gathered batch by batch.

    Parameters
    ----------
    parameters : sequence of Parameter
        The model's parameters; nuisances have no figures.
    phis : sequence of arrays (T, K)
        The bases, of any ranks. One of rank K is counted at each of the ranks 1 to K.
    fisher : {"real", "complex"}
        See `crb`.
    directions : array (T, r), optional
        Orthonormal real columns in which Gram matrices of signals and orthogonalised derivatives are kept, too.

    Raises
    ------
    ValueError
        There is no basis, or they are not (T, K) arrays with the same T.

    Notes
    -----
    Means are kept as float64 sums. For medians and percentiles the losses of every atom are kept, as
    float32 (a relative error of 6e-8): 4 (1 + 2 I) bytes per atom, basis and rank, for I parameters of interest.
    ``retained`` is 1 minus the exact loss, so where next to nothing is retained its values have an error of 6e-8.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        phis: Sequence[NDArray[Any]],
        *,
        fisher: crb.Fisher = "real",
        directions: NDArray[np.float64] | None = None,
    ):
        self.parameters = tuple(parameters)
        self.directions = directions
        self.phis = [np.asarray(phi) for phi in phis]
        shapes = [phi.shape for phi in self.phis]
        if not shapes or any(len(shape) != 2 or shape[0] != shapes[0][0] or not shape[1] for shape in shapes):
            raise ValueError(f"bases have shapes {shapes}, expected (T, K) with one T for all")
        self.fisher: crb.Fisher = fisher
        self.targets = crb.interesting(self.parameters)
        self.names = [self.parameters[i].name for i in self.targets]
        # columns of all bases side by side: basis b has those from first[b] to first[b + 1]
        self._first = np.cumsum([0, *(shape[1] for shape in shapes)]).tolist()
        self._stacked = np.concatenate(self.phis, axis=1)
        self._classes: dict[str, Record] = {}

    @property
    def labels(self) -> list[str]:
        """The tissue classes met so far."""
        return list(self._classes)

    def update(self, batch: Batch) -> None:
        """Add a batch of fingerprints with derivatives.

        Raises
        ------
        ValueError
            The batch has no derivatives, a wrong shape or non-finite values.
        """
        n_frames, n_parameters = len(self._stacked), len(self.parameters)
        if batch.jac is None or batch.jac.shape[1:] != (n_parameters, n_frames):
            found = "no" if batch.jac is None else f"{batch.jac.shape[1:]}"
            raise ValueError(f"batch has {found} derivatives, expected ({n_parameters}, {n_frames}) per atom")
        step = max(1, _PIECE // (16 * n_frames * (1 + n_parameters + len(self.targets))))
        for start in range(0, len(batch.theta), step):
            part = slice(start, start + step)
            self._add(batch.label, batch.theta[part], batch.signal[part], batch.jac[part], batch.weight)

    def merge(self, other: Tally) -> None:
        """Add what another tally of the same bases holds; its atoms follow ours.

        Raises
        ------
        ValueError
            The other one has other parameters, bases or another Fisher matrix.
        """
        same = (self.parameters, self.fisher, self._first) == (other.parameters, other.fisher, other._first)
        if not (same and np.array_equal(self._stacked, other._stacked)):
            raise ValueError("tallies of different parameters, bases or fisher cannot be merged")
        for label, held in other._classes.items():
            mine, state = self._classes.setdefault(label, Record()), Record.restored(held.state())
            mine.add({name: parts[0] for name, parts in state.atoms.items()}, state.sums)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return all that `restore` needs: plain values, and arrays that are not changed afterwards."""
        arrays: dict[str, NDArray[Any]] = {}
        for i, held in enumerate(self._classes.values()):
            arrays.update({f"{i}.{name}": array for name, array in held.state().items()})
        return {"labels": self.labels}, arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become, bit for bit, the tally of the same bases whose state this is.

        Raises
        ------
        ValueError
            The arrays are those of a tally of other parameters or ranks, or of something else.
        """
        classes: dict[str, Record] = {}
        n_columns, n_targets = self._first[-1], len(self.targets)
        for i, label in enumerate(values["labels"]):
            own = {name.removeprefix(f"{i}."): array for name, array in arrays.items() if name.startswith(f"{i}.")}
            classes[label] = Record.restored(own)
            shapes = {name: parts[0].shape[:-1] for name, parts in classes[label].atoms.items()}
            losses = dict.fromkeys(FIGURES[:2], (n_columns, n_targets))
            if shapes != {"theta": (len(self.parameters),), "weight": (), "energy": (n_columns,), **losses}:
                raise ValueError(f"state has arrays {shapes} per atom, expected {n_columns} ranks of {self.names}")
        self._classes = classes

    def theta(self, label: str = ALL) -> NDArray[np.float64]:
        """Return the parameters (B, P) of the atoms of a class, or of all, in the order of `values`; SI units."""
        return np.concatenate([part.T for held in self._group(label) for part in held.atoms["theta"]])

    def weights(self, label: str = ALL) -> NDArray[np.float64]:
        """Return the weights (B,) of these atoms."""
        return np.concatenate([held.column("weight") for held in self._group(label)])

    def values(
        self, label: str, name: str, figure: str, basis: int = 0, rank: int | None = None
    ) -> NDArray[np.float32]:
        """Return one figure of every atom (B,); NaN where nothing could be estimated even uncompressed.

        Parameters
        ----------
        label : str
            A tissue class, or ``all``.
        name, figure : str
            ``signal`` and ``energy``, or a parameter of interest and one of `FIGURES`.
        basis, rank : int
            Which of the bases, and how many of its columns; all if not given.

        Raises
        ------
        ValueError
            There is no such class, parameter, figure, basis or rank.
        """
        column = self._column(basis, rank)
        if (name, figure) == (SIGNAL, "energy"):
            return np.concatenate([held.column("energy", column) for held in self._group(label)])
        if name not in self.names or figure not in FIGURES:
            raise ValueError(f"no {figure!r} of {name!r}, expected {FIGURES} of {self.names}, or energy of signal")
        loss, i = figure if figure != "retained" else "exact", self.names.index(name)
        found = np.concatenate([held.column(loss, column, i) for held in self._group(label)])
        return 1 - found if figure == "retained" else found

    def means(self, basis: int = 0, rank: int | None = None) -> Losses:
        """Return the weighted means over the atoms of each class and of ``all``.

        Parameters
        ----------
        basis, rank : int
            Which of the bases, and how many of its columns; all if not given.

        Returns
        -------
        dict
            Class -> ``signal`` or parameter -> figure -> mean: ``energy`` of the signal, `FIGURES` of a parameter.
        """
        column = self._column(basis, rank)
        found: Losses = {}
        for label in self._groups():
            held = self._group(label)
            weight = total(held, "weight")
            # 0 / 0 is the mean of nothing
            with np.errstate(invalid="ignore"):
                found[label] = {SIGNAL: {"energy": float(total(held, "energy")[column] / weight[0])}}
                means = [total(held, loss)[column] / weight[1:] for loss in FIGURES[:2]]
            for name, approximate, exact in zip(self.names, *means, strict=True):
                figures = (float(approximate), float(exact), float(1 - exact))
                found[label][name] = dict(zip(FIGURES, figures, strict=True))
        return found

    def losses(self, basis: int = 0, rank: int | None = None) -> Summary:
        """Return ``mean``, ``median`` and ``worst_decile`` of each of the `means`.

        The worst decile is the loss that the worst tenth exceeds (90th percentile), and the value of ``retained`` that
        it falls short of (10th percentile).
        """
        found: Summary = {}
        for label, columns in self.means(basis, rank).items():
            weights = self.weights(label)
            for name, means in columns.items():
                for figure, mean in means.items():
                    shares = (0.5, 0.1 if figure == "retained" else 0.9)
                    median, worst = quantiles(self.values(label, name, figure, basis, rank), weights, shares)
                    figures = found.setdefault(label, {}).setdefault(name, {})
                    figures[figure] = {"mean": mean, "median": median, "worst_decile": worst}
        return found

    def counts(self, basis: int = 0, rank: int | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """Return numbers of atoms, per class and over ``all``, for ``signal`` and each parameter.

        ``counted``; ``left_out`` of all figures: those without a signal, or whose parameter cannot be estimated
        even uncompressed; and of the counted those with a ``finite`` exact bound after compression.
        """
        column = self._column(basis, rank)
        found: dict[str, dict[str, dict[str, int]]] = {}
        for label in self._groups():
            held = self._group(label)
            n, counted, n_finite = len(self.weights(label)), total(held, "counted"), total(held, "finite")[column]
            for name, known, finite in zip([SIGNAL, *self.names], counted, [counted[0], *n_finite], strict=True):
                numbers = {"counted": int(known), "left_out": n - int(known), "finite": int(finite)}
                found.setdefault(label, {})[name] = numbers
        return found

    def totals(self, label: str, name: str, basis: int = 0, rank: int | None = None) -> tuple[float, float]:
        """Return what a basis loses of a block, with exact bounds, and all there is, by weight.

        Of the signals it is energy, of a parameter losses 1 - B_u / B_ec, each of which is of 1.
        """
        column, (held,) = self._column(basis, rank), self._group(label)
        if name == SIGNAL:
            return float(held.sums["lost"][column]), float(held.sums["whole"])
        i = self.names.index(name)
        return float(held.sums["exact"][column, i]), float(held.sums["weight"][1 + i])

    def gram(self, label: str, name: str) -> NDArray[Any]:
        """Return the Gram matrix (r, r) of a block, ``signal`` or a parameter of a class, in the directions."""
        (held,) = self._group(label)
        gram: NDArray[Any] = held.sums["gram"][[SIGNAL, *self.names].index(name)]
        return gram

    def _add(self, label: str, theta: NDArray[Any], signal: NDArray[Any], jac: NDArray[Any], weight: float) -> None:
        full = crb.orthogonalise(signal, jac, targets=self.targets, fisher=self.fisher)
        unit, s, j = (crb.coefficients(rows, self._stacked) for rows in (full.unit, signal, jac))
        whole, energy = crb.energy(signal), np.empty((self._first[-1], len(theta)))
        bounds = {figure: np.empty((*energy.shape, len(self.targets))) for figure in FIGURES[:2]}
        for start, stop in itertools.pairwise(self._first):
            part = slice(start, stop)
            energy[part] = crb.energy_loss_of_coefficients(whole, s[:, part])
            parts, ranks = (unit[..., part], s[:, part], j[..., part]), range(1, stop - start + 1)
            found = crb.bounds_of_coefficients(
                full.bound, *parts, ranks=ranks, targets=self.targets, fisher=self.fisher
            )
            bounds["approximate"][part], bounds["exact"][part] = found.approximate, found.exact
        known = np.concatenate([np.isfinite(energy[:1]).T, np.isfinite(full.bound)], axis=1)
        counted = known.sum(axis=0)
        atoms = {"theta": theta.T.copy(), "weight": np.full(len(theta), weight), "energy": energy.astype(np.float32)}
        sums = {"counted": counted, "weight": weight * counted, "energy": weight * known_sum(energy)}
        sums["lost"], sums["whole"] = weight * known_sum(energy * whole), np.array(weight * whole.sum())
        if self.directions is not None:
            rows = [signal, *np.moveaxis(full.unit, 1, 0)]
            size = self.directions.shape[1]
            kept = (parts_of(crb.coefficients(block, self.directions)) for block in rows)
            sums["gram"] = weight * np.array([outer(block, size, conjugate=False) for block in kept])
        sums["finite"] = np.isfinite(bounds["exact"]).sum(axis=1)
        for figure, bound in bounds.items():
            losses = np.moveaxis(crb.crb_loss(full.bound, bound), 1, 2)
            atoms[figure], sums[figure] = losses.astype(np.float32), weight * known_sum(losses)
        self._classes.setdefault(label, Record()).add(atoms, sums)

    def _groups(self) -> list[str]:
        return [*(label for label in self._classes if label != ALL), ALL] if self._classes else []

    def _group(self, label: str) -> list[Record]:
        if label not in self._groups():
            raise ValueError(f"no tissue class {label!r}, expected one of {self._groups()}")
        return list(self._classes.values()) if label == ALL else [self._classes[label]]

    def _column(self, basis: int, rank: int | None) -> int:
        if not 0 <= basis < len(self.phis):
            raise ValueError(f"basis is {basis}, expected 0 to {len(self.phis) - 1}")
        full = self.phis[basis].shape[1]
        if rank is not None and not 1 <= rank <= full:
            raise ValueError(f"rank is {rank}, expected 1 to {full}")
        return int(self._first[basis]) + (full if rank is None else rank) - 1


def assess(
    model: SignalModel, prior: Prior, basis: Basis, *, fisher: crb.Fisher = "real", report: Report = silent
) -> Losses:
    """Return the mean losses of a basis on the fingerprints of a prior.

    Parameters
    ----------
    model, prior
        What is simulated; every atom counts with its tissue's weight in ``all``.
    basis : Basis
        The basis.
    fisher : {"real", "complex"}
        See `crb`.
    report : callable
        Told of the progress.

    Returns
    -------
    dict
        For ``signal``: ``energy``, the mean share of energy outside of the basis (Eq. 6).
        For each parameter of interest: ``approximate`` and ``exact``, the mean losses
        1 - B_u / B_ac and 1 - B_u / B_ec (Eq. 8), and ``retained``, the mean of B_u / B_ec,
        which is the summary R of Eq. (13). Per tissue class and over ``all``.
    """
    tally = Tally(model.parameters, [basis.phi], fisher=fisher)
    size = batch_size(model.n_frames, len(model.parameters))
    atoms = prior.atoms(model.parameters)
    progress = counted(report, "losses", sum(len(part.theta) for part in atoms))
    for batch in iter_batches(model, atoms, batch_size=size, progress=progress):
        tally.update(batch)
    return tally.means()
