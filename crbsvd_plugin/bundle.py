"""A basis with its dictionary: from a request to the files that a reconstruction needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from . import __version__, choose, files, fingerprints, request
from .assess import assess
from .basis import FORMAT, Basis, plain
from .dictionary import SUFFIX, Dictionary, compress
from .errors import UserError
from .fit import perk_training
from .fit.perk import SUFFIX as PERK
from .fit.perk import Perk
from .fold import BasisAccumulator
from .model import SignalModel
from .prior import Prior
from .progress import Report, counted
from .training import Training
from .weighting import SIGNAL

logger = logging.getLogger(__name__)

_ASSESSED = 1000
_ANY_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class Request(request.Request):
    """What the user asks for; the fields are the options of `crbsvd basis`.

    Parameters
    ----------
    rank, crb_weight
        See `fold.BasisAccumulator.finish`.
    atoms : str
        Atoms of the dictionary: "grid" for all of the prior's, a number for about that many,
        "none" for no dictionary.
    derivatives : bool
        Keep derivatives in the dictionary.
    perk : bool
        Train a kernel regression on the dictionary, see `fit.perk`.
    max_energy_loss : float
        Warn above this share of the signals' energy lost, unless the energy loss is given.
    method : {"svd", "exact"}
        CRB-SVD, or from there on the exact bounds, see `choose.improved`.
    worst_decile : bool
        With exact bounds: of every parameter, let the worst tenth of the fingerprints lose least.
    energy_loss : float, optional
        With exact bounds: the least CRB loss with at most this share of the energy lost, whatever the crb weight.
    """

    rank: int | None = None
    crb_weight: float = 0.3
    atoms: str = "grid"
    derivatives: bool = False
    perk: bool = False
    max_energy_loss: float = 0.05
    method: Literal["svd", "exact"] = "svd"
    worst_decile: bool = False
    energy_loss: float | None = None

    @property
    def weight(self) -> float:
        """The crb weight: where the energy loss is given, signals and derivatives only have to count at all."""
        return self.crb_weight if self.energy_loss is None else _ANY_WEIGHT


@dataclass(frozen=True)
class Plan:
    """A request whose model, priors and output are known to be good.

    Parameters
    ----------
    request : Request
        What was asked for.
    model : SignalModel
        The model.
    rank : int
        Number of coefficients.
    prior : Prior
        Fingerprints of the basis.
    atoms : Prior or None
        Atoms of the dictionary.
    held_out : Prior
        Fingerprints, off the training's points, that the losses are measured on.
    name : str
        Output.
    force : bool
        Replace what is there.
    """

    request: Request
    model: SignalModel
    rank: int
    prior: Prior
    atoms: Prior | None
    held_out: Prior
    name: str
    force: bool = False

    @property
    def training(self) -> Training:
        """The training of the basis."""
        return self.request.training(self.model, self.prior.atoms(self.model.parameters))

    def estimate(self) -> str:
        """Return the expected memory and time, from a small sample, in words."""
        training = self.training
        duration = request.seconds(self.model, training.atoms, jacobian=True)
        text = f"{training.size} fingerprints of {self.model.n_frames} frames"
        if self.atoms is not None:
            atoms = self.atoms.atoms(self.model.parameters)
            duration += request.seconds(self.model, atoms, jacobian=self.request.derivatives)
            text += f", {sum(len(part.theta) for part in atoms)} atoms in the dictionary"
        memory = request.mebibytes(training)
        if self.request.method == "exact":
            # the fingerprints are simulated once more
            duration += request.seconds(self.model, training.atoms, jacobian=True)
            memory += fingerprints.mebibytes(training, worst=self.request.worst_decile)
            text += ", and a search that is not counted"
        return f"{text}: about {memory:.0f} MiB and {duration:.0f} s in this process"

    def make(self, *, report: Report) -> Basis:
        """Make the basis and the dictionary, write them, and return the basis.

        Raises
        ------
        UserError
            A weight or the rank is out of range, or the files cannot be written.
        """
        return self.finish(self.fold(report=report), report=report)

    def fold(self, *, report: Report) -> BasisAccumulator:
        """Simulate the training fingerprints; plans that differ only in weights can share the result."""
        with self.request.pool() as pool:
            return self.request.run(self.training, pool=pool, report=report)

    def finish(self, accumulator: BasisAccumulator, *, report: Report) -> Basis:
        """Make the basis of an accumulator and its dictionary, write them, and return the basis."""
        basis = self._basis(accumulator, report)
        logger.info(
            "basis from %s fingerprints in the prior %s, in %d dimensions",
            accumulator.n_atoms, self.prior.name, accumulator.subspace.dimension,
        )  # fmt: skip
        dictionary = None
        if self.atoms is not None:
            progress = counted(report, "dictionary", self.atoms.size(self.model.parameters))
            dictionary = compress(self.model, self.atoms, basis, jacobian=self.request.derivatives, progress=progress)
            logger.info("dictionary of %d atoms in the prior %s", len(dictionary.theta), self.atoms.name)
        learned = None
        if self.request.perk and dictionary is not None:
            learned = perk_training.train(dictionary, report=report)
        save(self.name, basis, dictionary, learned, force=self.force)
        return basis

    def _basis(self, accumulator: BasisAccumulator, report: Report) -> Basis:
        """Return the basis with its losses; warn where it loses much energy."""
        asked = self.request
        info = {
            "software": f"crbsvd-plugin {__version__}",
            "model": self.model.spec,
            "prior": self.prior.spec,
            "dictionary_prior": None if self.atoms is None else self.atoms.spec,
        }
        basis = asked.basis(accumulator, self.rank, asked.weight, info=info)
        if asked.method == "exact":
            basis = self._with_exact_bounds(basis, accumulator, report)
        lost = basis.info["losses"]["all"].get("signal", 0.0)
        if asked.energy_loss is None and lost > asked.max_energy_loss:
            logger.warning(
                "a crb weight of %g at rank %d loses %.1f %% of the signals' energy (more than %.1f %%): "
                "take a smaller weight or a larger rank",
                asked.crb_weight, self.rank, 100 * lost, 100 * asked.max_energy_loss,
            )  # fmt: skip
        losses = assess(self.model, self.held_out, basis, fisher=asked.fisher, report=report)
        return replace(basis, info=plain({**basis.info, "held_out": losses}))

    def _with_exact_bounds(self, basis: Basis, accumulator: BasisAccumulator, report: Report) -> Basis:
        asked = self.request
        factors = asked.weights(accumulator.labels, asked.weight).factors(accumulator.blocks)
        with asked.pool() as pool:
            found = fingerprints.prepared(
                accumulator, self.training, self.held_out.atoms(self.model.parameters), factors,
                worst=asked.worst_decile, pool=pool, report=report,
            )  # fmt: skip
        return choose.improved(basis, accumulator, found, factors, energy_loss=asked.energy_loss, report=report)


def plan(asked: Request, name: str, *, force: bool) -> Plan:
    """Check a request before any work is done.

    Raises
    ------
    UserError
        An option is out of range, or the output exists already.
    """
    spec = asked.resolved()
    asked = asked.settled(spec)
    model, rank = spec.model, spec.rank if asked.rank is None else asked.rank
    training = request.sized(spec.prior, asked.train, "--train", model)
    atoms = None if asked.atoms == "none" else request.sized(spec.fit_prior, asked.atoms, "--atoms", model)
    held_out = _held_out(spec.prior, model)
    planned = Plan(asked, model, rank, training, atoms, held_out, name, force)
    if asked.energy_loss is not None:
        _check_counted(asked, planned.training)
    asked.check(planned.training, rank=rank, crb_weights=[asked.crb_weight])
    if asked.method == "exact":
        choose.check_rank(planned.training, rank)
    elif asked.worst_decile or asked.energy_loss is not None:
        raise UserError(
            "--worst-decile and --energy-loss belong to --method exact; leave them out, or take that method"
        )
    if asked.perk:
        if atoms is None:
            raise UserError("--perk learns from the dictionary, but --atoms is none; leave one of them out")
        theta = np.concatenate([part.theta for part in atoms.atoms(model.parameters)])
        perk_training.learned(rank, model.parameters, theta)
    names = members(name, with_dictionary=atoms is not None, with_perk=asked.perk)
    asked.check_free(files.with_suffix(name, ".json"), names, kind=FORMAT, force=force)
    return planned


def _check_counted(asked: Request, training: Training) -> None:
    """Refuse weights with which there is no energy, or no CRB loss, to speak of."""
    factors = asked.factors(training, asked.weight)
    for kind, counts_signals in (("signal", True), ("parameter", False)):
        if not any(factor for (_, name), factor in factors.items() if (name == SIGNAL) == counts_signals):
            raise UserError(
                f"--energy-loss sets the signals' loss of energy against the CRB loss of parameters, but no {kind} has "
                "a weight above zero; change the weights"
            )


def _held_out(prior: Prior, model: SignalModel) -> Prior:
    """Return about a thousand fingerprints off the points of the prior, if it has room for any."""
    thin = prior.thinned(_ASSESSED, model.parameters)
    shifted = thin.shifted()
    try:
        shifted.atoms(model.parameters)
    except UserError:
        # they break the prior's order, or leave the range of the model
        return thin
    return shifted


def save(
    name: str | Path, basis: Basis, dictionary: Dictionary | None, perk: Perk | None = None, *, force: bool = False
) -> None:
    """Write a basis and, if there are such, dictionary and regression as one product: NAME.cfl .hdr .h5 .perk.h5 .json.

    Raises
    ------
    UserError
        A file exists already, or cannot be written.
    """
    names = members(name, with_dictionary=dictionary is not None, with_perk=perk is not None)
    sidecar = files.with_suffix(name, ".json")
    with files.product(sidecar, names, kind=FORMAT, force=force) as product:
        basis.write(product, name)
        if dictionary is not None:
            dictionary.write(product.path(f"{Path(name).name}{SUFFIX}"))
        if perk is not None:
            perk.write(product.path(f"{Path(name).name}{PERK}"))
        product.commit(basis.sidecar())


def members(name: str | Path, *, with_dictionary: bool, with_perk: bool = False) -> list[str]:
    """Return the names of the files besides the sidecar."""
    suffixes = [suffix for suffix, wanted in ((SUFFIX, with_dictionary), (PERK, with_perk)) if wanted]
    return [*Basis.members(name), *(f"{Path(name).name}{suffix}" for suffix in suffixes)]


def table(basis: Basis) -> str:
    """Return the losses of a basis as a text table; "-" where a parameter cannot be estimated at all.

    Of a basis with exact bounds it ends with what it costs, what CRB-SVD does, and what no basis costs less than.
    """
    losses = basis.info.get("held_out", {})
    if not losses:
        return "losses are not known"
    names = [name for name in losses["all"] if name != "signal"]
    widths = [max(11, len(f"  CRB {name}")) for name in names]
    heads = (f"{f'CRB {name}':>{width}}{'(approx.)':>11}" for name, width in zip(names, widths, strict=True))
    lines = [f"{'loss [%]':<10}{'energy':>9}" + "".join(heads)]
    for label, columns in losses.items():
        cells = f"{label:<10}{100 * columns['signal']['energy']:9.3f}"
        for name, first in zip(names, widths, strict=True):
            for figure, width in ((columns[name]["exact"], first), (columns[name]["approximate"], 11)):
                cells += f"{'-':>{width}}" if figure is None else f"{100 * figure:{width}.2f}"
        lines.append(cells)
    if "exact" in basis.info:
        lines.append(choose.told(basis.info["exact"]))
    return "\n".join(lines)
