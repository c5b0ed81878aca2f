"""Which tissues a basis is made for, and which a dictionary can recognise."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .distribution import IRRATIONAL, Distribution, Grid, even_phases, even_points
from .errors import UserError
from .model import Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray


_HEAVIEST = 1e12


@dataclass(frozen=True)
class Atoms:
    """The atoms of one tissue class.

    Parameters
    ----------
    label : str
        The class.
    theta : float64 array (B, P)
        Tissue parameters, SI units.
    weight : float
        How many atoms of the full prior each atom stands for.
    """

    label: str
    theta: NDArray[np.float64]
    weight: float = 1.0


@dataclass(frozen=True)
class Tissue:
    """One labelled class of tissue: the product of the grids of its parameters, or draws from their distributions.

    Parameters
    ----------
    label : str
        Name of the class.
    values : dict of str to Grid, Uniform or Normal
        The distribution of each parameter, by name.
    weight : float
        How many atoms of the full prior one atom stands for.
    n : int, optional
        Number of draws; the first m of n draws are the m draws. Not given: the product of the grids, where nothing
        but grids is allowed.
    offset : int
        Another one gives other draws.

    Raises
    ------
    UserError
        The weight or `n` is not positive, or `n` is missing.
    """

    label: str
    values: dict[str, Distribution]
    weight: float = 1.0
    n: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        if any(mark in self.label for mark in ":=") or not self.label or not self.label.isprintable():
            raise UserError(
                f"tissue {self.label!r}: expected a name in one line without ':' and '=', as --class-weight needs it"
            )
        if not 0 < self.weight <= _HEAVIEST:
            raise UserError(f"tissue {self.label!r} has weight {self.weight:g}, expected above 0, to {_HEAVIEST:g}")
        if self.n is not None and self.n < 1:
            raise UserError(f"tissue {self.label!r} has n = {self.n}, expected at least 1 draw")
        drawn = [name for name, values in self.values.items() if not isinstance(values, Grid)]
        if self.n is None and drawn:
            raise UserError(
                f"tissue {self.label!r} has no n, which says how many values of {drawn[0]} to draw; "
                "give it, or make all values grids"
            )

    def theta(self, parameters: Sequence[Parameter]) -> NDArray[np.float64]:
        """Return all atoms (B, P); on a product of grids the last parameter runs fastest.

        Raises
        ------
        UserError
            A parameter of the model has no values, or the values of one vary that the model lacks.
        """
        names = [parameter.name for parameter in parameters]
        missing = [name for name in names if name not in self.values]
        if missing:
            raise UserError(
                f"tissue {self.label!r} has no values of {missing[0]}, which the model needs; has {list(self.values)}"
            )
        varied = self._varied()
        unused = [name for name in varied if name not in names]
        if unused:
            raise UserError(f"tissue {self.label!r} varies {unused[0]}, which the model does not have; it has {names}")
        if self.n is None:
            grids = [self.values[name] for name in names]
            axes = np.meshgrid(*(grid.values for grid in grids if isinstance(grid, Grid)), indexing="ij")
            return np.stack([axis.ravel() for axis in axes], axis=-1)
        # the label makes the draws of two tissues different ones
        start = zlib.crc32(self.label.encode()) / 2**32 + self.offset * IRRATIONAL
        points = dict(zip(varied, even_points(self.n, len(varied), start=start).T, strict=True))
        unmoved = np.full(self.n, 0.5)
        return np.stack([self.values[name].quantile(points.get(name, unmoved)) for name in names], axis=-1)

    def thinned(self, share: float) -> Tissue:
        """Return the tissue with about this share of its atoms, each of which weighs accordingly more."""
        if self.n is not None:
            n = max(1, round(self.n * share))
            return replace(self, n=n, weight=self.weight * (self.n / n))
        factor = share ** (1 / max(len(self._varied()), 1))
        values, kept = dict(self.values), 1.0
        for name, grid in self.values.items():
            if isinstance(grid, Grid) and grid.n > 1:
                n = max(2, round(grid.n * factor))
                values[name], kept = replace(grid, n=n), kept * n / grid.n
        return replace(self, values=values, weight=self.weight / kept)

    def shifted(self) -> Tissue:
        """Return the tissue with other atoms of the same distributions; a fixed value stays."""
        values = {name: v.shifted() if isinstance(v, Grid) else v for name, v in self.values.items()}
        return replace(self, values=values, offset=self.offset + 1)

    @property
    def spec(self) -> dict[str, Any]:
        """The tissue as plain values, ready for JSON."""
        return {
            "label": self.label,
            "values": {name: values.spec for name, values in self.values.items()},
            "weight": self.weight,
            "n": self.n,
            "offset": self.offset,
        }

    def _varied(self) -> list[str]:
        return [name for name, values in self.values.items() if not (isinstance(values, Grid) and values.n == 1)]


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

    Raises
    ------
    UserError
        There is no tissue, or two have the same label.
    """

    name: str
    tissues: tuple[Tissue, ...]
    ordered: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.tissues:
            raise UserError(f"prior {self.name!r} has no tissues, expected at least one")
        labels = [tissue.label for tissue in self.tissues]
        for label in labels:
            if labels.count(label) > 1:
                raise UserError(f"prior {self.name!r} has {labels.count(label)} tissues {label!r}; rename all but one")

    @property
    def spec(self) -> dict[str, Any]:
        """The prior as plain values, for provenance."""
        tissues = [tissue.spec for tissue in self.tissues]
        return {"name": self.name, "tissues": tissues, "ordered": [list(pair) for pair in self.ordered]}

    def atoms(self, parameters: Sequence[Parameter]) -> tuple[Atoms, ...]:
        """Return the atoms of every tissue that obey the order.

        Raises
        ------
        UserError
            The prior does not fit the model: a parameter too many or too few, values where the model is not defined;
            or a tissue has no atom that obeys the order.
        """
        column = {parameter.name: i for i, parameter in enumerate(parameters)}
        for name in (name for pair in self.ordered for name in pair):
            if name not in column:
                raise UserError(f"prior {self.name!r} orders {name}, which the model lacks; it has {list(column)}")
        return tuple(
            Atoms(tissue.label, self._ordered(tissue, _checked(tissue, parameters), column), tissue.weight)
            for tissue in self.tissues
        )

    def _ordered(self, tissue: Tissue, theta: NDArray[np.float64], column: dict[str, int]) -> NDArray[np.float64]:
        for lesser, greater in self.ordered:
            theta = theta[theta[:, column[lesser]] <= theta[:, column[greater]]]
            if not len(theta):
                raise UserError(
                    f"prior {self.name!r}: no atom of {tissue.label!r} has {lesser} <= {greater}; "
                    "change their ranges, or leave out the order"
                )
        return theta

    def size(self, parameters: Sequence[Parameter]) -> int:
        """Return the number of atoms."""
        return sum(len(atoms.theta) for atoms in self.atoms(parameters))

    def symmetric(self, name: str) -> bool:
        """Return whether the values of a parameter are distributed evenly about zero in every tissue."""
        u = np.linspace(0.05, 0.45, 9)
        found = [tissue.values[name] for tissue in self.tissues if name in tissue.values]
        return len(found) == len(self.tissues) and all(
            np.allclose(values.quantile(u), -values.quantile(1 - u), rtol=1e-9, atol=0) for values in found
        )

    def thinned(self, n_atoms: int, parameters: Sequence[Parameter]) -> Prior:
        """Return the prior with about `n_atoms` atoms in all, on coarser grids or with fewer draws.

        Every tissue is thinned by the same factor, and the weights keep its share.
        A prior that is small enough already is returned as it is.

        Raises
        ------
        UserError
            `n_atoms` is not positive.
        """
        if n_atoms < 1:
            raise UserError(f"number of atoms is {n_atoms}, expected at least 1")
        whole = self.atoms(parameters)
        share = n_atoms / sum(len(part.theta) for part in whole)
        if share >= 1:
            return self
        thin = replace(self, tissues=tuple(tissue.thinned(share) for tissue in self.tissues))
        if not self.ordered:
            return thin
        # of a coarser grid another share may break the order
        tissues = [
            replace(tissue, weight=part.weight * len(part.theta) / len(left.theta))
            for tissue, part, left in zip(thin.tissues, whole, thin.atoms(parameters), strict=True)
        ]
        return replace(thin, tissues=tuple(tissues))

    def of(self, parameters: Sequence[Parameter]) -> Prior:
        """Return the prior without the values of what a model lacks, and without the pairs that it cannot order."""
        names = [parameter.name for parameter in parameters]
        tissues = tuple(
            replace(tissue, values={name: values for name, values in tissue.values.items() if name in names})
            for tissue in self.tissues
        )
        return replace(self, tissues=tissues, ordered=tuple(p for p in self.ordered if all(n in names for n in p)))

    def shifted(self) -> Prior:
        """Return the prior with other points of the same distributions.

        Grids are moved off every grid of the same ranges, and stay within them; draws have none in common.
        """
        return replace(self, tissues=tuple(tissue.shifted() for tissue in self.tissues))


def split(atoms: Sequence[Atoms], share: float = 0.33) -> tuple[tuple[Atoms, ...], tuple[Atoms, ...]]:
    """Divide every class into training and held-out atoms, both of which cover all of its range.

    Held out are the atoms of the lowest `even_phases`, which follow neither the period of a grid nor that of the draws.

    Parameters
    ----------
    atoms : sequence of Atoms
        The classes.
    share : float
        Share of each class that is held out, rounded to a whole number of atoms, but one at least on either side;
        of a class of one atom nothing is held out.

    Returns
    -------
    training, held_out : tuple of Atoms
        In the order of `atoms`; weights as they were.

    Raises
    ------
    UserError
        `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UserError(f"share of held-out atoms is {share}, expected between 0 and 1")
    training, held_out = [], []
    for part in atoms:
        n = len(part.theta)
        out = np.zeros(n, dtype=np.bool_)
        if n > 1:
            n_out = min(max(round(share * n), 1), n - 1)
            out[np.argsort(even_phases(part.theta), kind="stable")[:n_out]] = True
            held_out.append(replace(part, theta=part.theta[out]))
        training.append(replace(part, theta=part.theta[~out]))
    return tuple(training), tuple(held_out)


def _checked(tissue: Tissue, parameters: Sequence[Parameter]) -> NDArray[np.float64]:
    """Return the atoms (B, P) of a tissue, all where the model is defined."""
    theta = tissue.theta(parameters)
    for parameter, low, high in zip(parameters, theta.min(axis=0), theta.max(axis=0), strict=True):
        if low < parameter.low or high > parameter.high:
            raise UserError(
                f"tissue {tissue.label!r} has {parameter.name} from {low:.6g} to {high:.6g} {parameter.unit}".rstrip()
                + f", but the model is defined from {parameter.low:g} to {parameter.high:g}; narrow the prior"
            )
    return theta
