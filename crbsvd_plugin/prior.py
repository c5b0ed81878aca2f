"""Which tissues a basis is made for, and which a dictionary can recognise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import UserError
from .model import Batch, Parameter, SignalModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = (5**0.5 - 1) / 2

BATCH = 2048
"""Atoms that are in memory at once."""


@dataclass(frozen=True)
class Grid:
    """A half-open grid of one parameter: n values from `low`, `high` not included.

    Parameters
    ----------
    low, high : float
        Range, in the unit of the parameter.
    n : int
        Number of values; 1 gives `low` alone.
    spacing : {"linear", "log"}
        Equal differences or equal ratios.
    """

    low: float
    high: float
    n: int
    spacing: Literal["linear", "log"] = "linear"

    def shifted(self) -> Grid:
        """Return the grid 0.618 steps further up; one of a single value as it is.

        That share, the golden ratio, is irrational: no grid of the same range has one of the points.
        """
        if self.n == 1:
            return self
        if self.spacing == "log":
            ratio = (self.high / self.low) ** (_GOLDEN / self.n)
            return replace(self, low=self.low * ratio, high=self.high * ratio)
        step = (self.high - self.low) * (_GOLDEN / self.n)
        return replace(self, low=self.low + step, high=self.high + step)

    @property
    def values(self) -> NDArray[np.float64]:
        """The n values, increasing."""
        steps = np.arange(self.n) / self.n
        if self.spacing == "log":
            return np.asarray(self.low * (self.high / self.low) ** steps)
        return self.low + (self.high - self.low) * steps


@dataclass(frozen=True)
class Tissue:
    """One labelled class of tissue: the product of the grids of its parameters.

    Parameters
    ----------
    label : str
        Name of the class.
    grids : dict of str to Grid
        The grid of each parameter, by name.
    weight : float
        How many atoms of the full prior one atom stands for.
    """

    label: str
    grids: dict[str, Grid]
    weight: float = 1.0

    def theta(self, parameters: tuple[Parameter, ...]) -> NDArray[np.float64]:
        """Return all atoms (B, P), the last parameter running fastest.

        Raises
        ------
        UserError
            A parameter of the model has no grid, or a grid varies a parameter that the model lacks.
        """
        names = [parameter.name for parameter in parameters]
        missing = [name for name in names if name not in self.grids]
        if missing:
            raise UserError(
                f"prior {self.label!r} has no values of {missing[0]}, which the model needs; has {list(self.grids)}"
            )
        unused = [name for name, grid in self.grids.items() if name not in names and grid.n > 1]
        if unused:
            raise UserError(f"prior {self.label!r} varies {unused[0]}, which the model does not have; it has {names}")
        axes = np.meshgrid(*(self.grids[name].values for name in names), indexing="ij")
        return np.stack([axis.ravel() for axis in axes], axis=-1)


@dataclass(frozen=True)
class Prior:
    """A mixture of tissues.

    Parameters
    ----------
    name : str
        Name of the prior, for provenance.
    tissues : tuple of Tissue
        The classes.
    ordered : tuple of (str, str)
        Pairs of parameters (lesser, greater): atoms that break the order are left out.
    """

    name: str
    tissues: tuple[Tissue, ...]
    ordered: tuple[tuple[str, str], ...] = field(default=())

    @property
    def spec(self) -> dict[str, Any]:
        """The prior as plain values, for provenance."""
        return asdict(self)

    def atoms(self, tissue: Tissue, parameters: tuple[Parameter, ...]) -> NDArray[np.float64]:
        """Return the atoms (B, P) of one tissue that obey the order."""
        theta = tissue.theta(parameters)
        column = {parameter.name: i for i, parameter in enumerate(parameters)}
        for lesser, greater in self.ordered:
            theta = theta[theta[:, column[lesser]] <= theta[:, column[greater]]]
        return theta

    def size(self, parameters: tuple[Parameter, ...]) -> int:
        """Return the number of atoms."""
        return sum(len(self.atoms(tissue, parameters)) for tissue in self.tissues)

    def thinned(self, n_atoms: int, parameters: tuple[Parameter, ...]) -> Prior:
        """Return the prior on coarser grids with about `n_atoms` atoms in all.

        Every grid is thinned by the same factor, and the weights keep each tissue's share.
        A prior that is small enough already is returned as it is.

        Raises
        ------
        UserError
            `n_atoms` is not positive.
        """
        if n_atoms < 1:
            raise UserError(f"number of atoms is {n_atoms}, expected at least 1")
        share = n_atoms / self.size(parameters)
        if share >= 1:
            return self
        tissues = []
        for tissue in self.tissues:
            n_varied = sum(grid.n > 1 for grid in tissue.grids.values())
            factor = share ** (1 / max(n_varied, 1))
            grids = {
                name: replace(grid, n=max(2, round(grid.n * factor))) if grid.n > 1 else grid
                for name, grid in tissue.grids.items()
            }
            kept = np.prod([grids[name].n / tissue.grids[name].n for name in grids])
            tissues.append(replace(tissue, grids=grids, weight=float(tissue.weight / kept)))
        return replace(self, tissues=tuple(tissues))

    def shifted(self) -> Prior:
        """Return the prior with its points moved off every grid of the same ranges, and still within them."""
        tissues = (
            replace(tissue, grids={name: grid.shifted() for name, grid in tissue.grids.items()})
            for tissue in self.tissues
        )
        return replace(self, tissues=tuple(tissues))


_MAO_TABLE1 = Prior(
    "mao-mrf-table1",
    (
        Tissue("gm+wm", {"T1": Grid(0.5, 1.5, 500), "T2": Grid(0.010, 0.200, 500), "B1": Grid(1, 1, 1)}),
        Tissue("fat", {"T1": Grid(0.25, 0.55, 125), "T2": Grid(0.060, 0.140, 125), "B1": Grid(1, 1, 1)}),
        Tissue("csf", {"T1": Grid(3.0, 5.0, 125), "T2": Grid(1.5, 2.5, 125), "B1": Grid(1, 1, 1)}),
    ),
)
# The prior of the basis has a hole between 1.5 and 3 s, which a fit must not have
_RELAXATION = Prior(
    "t1-t2",
    (
        Tissue(
            "all",
            {"T1": Grid(0.1, 5.5, 400, "log"), "T2": Grid(0.005, 3.0, 400, "log"), "B1": Grid(1, 1, 1)},
        ),
    ),
    ordered=(("T2", "T1"),),
)
PRESETS = {prior.name: prior for prior in (_MAO_TABLE1, _RELAXATION)}
"""Priors by name: Table I of the paper for MRF-FISP, and relaxation times without holes."""


def iter_batches(
    model: SignalModel,
    prior: Prior,
    *,
    batch_size: int = BATCH,
    jacobian: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Batch]:
    """Simulate the atoms of a prior, batch by batch, tissue by tissue.

    Parameters
    ----------
    model : SignalModel
        The model.
    prior : Prior
        Its `size` atoms are simulated once each, in a fixed order.
    batch_size : int
        Atoms in memory at once.
    jacobian : bool
        Also simulate the derivatives.
    progress : callable, optional
        Called with the number of atoms after each batch.

    Yields
    ------
    Batch
        Atoms of one tissue.
    """
    for tissue in prior.tissues:
        theta = prior.atoms(tissue, model.parameters)
        for start in range(0, len(theta), batch_size):
            part = theta[start : start + batch_size]
            if jacobian:
                signal, jac = model.signal_and_jacobian(part)
                yield Batch(part, signal, jac, tissue.label, tissue.weight)
            else:
                yield Batch(part, model.signal(part), None, tissue.label, tissue.weight)
            if progress is not None:
                progress(len(part))
