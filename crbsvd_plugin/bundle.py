"""A basis with its dictionary: from a request to the files that a reconstruction needs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import __version__, crb, files
from .assess import assess
from .basis import FORMAT, Basis, plain
from .dictionary import SUFFIX, Dictionary, compress
from .errors import UserError
from .fold import BasisAccumulator, Weighting, fold
from .model import SignalModel
from .prior import BATCH, Prior
from .progress import Report, counted
from .spec import Spec, resolve

logger = logging.getLogger(__name__)

_ASSESSED = 1000
_PROBED = 64


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; the fields are the options of `crbsvd basis`.

    Parameters
    ----------
    spec, settings
        The model, see `spec.resolve`.
    rank, crb_weight, weighting, fisher, conjugate
        See `fold.BasisAccumulator`.
    train, atoms : str
        Fingerprints of the basis, atoms of the dictionary: "grid" for all of the prior's,
        a number for about that many, "none" (atoms only) for no dictionary.
    max_energy_loss : float
        Warn above this share of the signals' energy lost.
    """

    spec: str
    settings: Sequence[str] = ()
    rank: int = 5
    crb_weight: float = 0.3
    weighting: Weighting = "svd"
    fisher: crb.Fisher = "real"
    conjugate: bool = False
    train: str = "20000"
    atoms: str = "grid"
    max_energy_loss: float = 0.05


@dataclass(frozen=True)
class Plan:
    """A request whose model, priors and output are known to be good.

    Parameters
    ----------
    request : Request
        What was asked for.
    model : SignalModel
        The model.
    training : Prior
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
    training: Prior
    atoms: Prior | None
    held_out: Prior
    name: str
    force: bool = False

    def estimate(self) -> str:
        """Return the expected memory and time, from a small sample, in words."""
        t = self.model.n_frames
        n_blocks = len(self.training.tissues) * (1 + len(crb.interesting(self.model.parameters)))
        rows = BATCH * t * 16 * 3 * (1 + len(self.model.parameters))
        seconds = _probe(self.model, self.training, jacobian=True)
        text = f"{self.training.size(self.model.parameters)} fingerprints of {t} frames"
        if self.atoms is not None:
            seconds += _probe(self.model, self.atoms, jacobian=False)
            text += f", {self.atoms.size(self.model.parameters)} atoms in the dictionary"
        return f"{text}: about {(n_blocks * t * t * 8 + rows) / 2**20:.0f} MiB and {seconds:.0f} s"

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
        progress = counted(report, "fingerprints", self.training.size(self.model.parameters))
        request = self.request
        return fold(self.model, self.training, fisher=request.fisher, conjugate=request.conjugate, progress=progress)

    def finish(self, accumulator: BasisAccumulator, *, report: Report) -> Basis:
        """Make the basis of an accumulator and its dictionary, write them, and return the basis."""
        basis = self._basis(accumulator)
        logger.info("basis from %s fingerprints in the prior %s", accumulator.n_atoms, self.training.name)
        dictionary = None
        if self.atoms is not None:
            progress = counted(report, "dictionary", self.atoms.size(self.model.parameters))
            dictionary = compress(self.model, self.atoms, basis, progress=progress)
            logger.info("dictionary of %d atoms in the prior %s", len(dictionary.theta), self.atoms.name)
        save(self.name, basis, dictionary, force=self.force)
        return basis

    def _basis(self, accumulator: BasisAccumulator) -> Basis:
        """Return the basis with its losses; warn where it loses much energy."""
        request = self.request
        info = {
            "software": f"crbsvd-plugin {__version__}",
            "model": self.model.spec,
            "prior": self.training.spec,
            "dictionary_prior": None if self.atoms is None else self.atoms.spec,
        }
        basis = accumulator.finish(request.rank, request.crb_weight, weighting=request.weighting, info=info)
        lost = basis.info["losses"]["all"]["signal"]
        if lost > request.max_energy_loss:
            logger.warning(
                "a crb weight of %g at rank %d loses %.1f %% of the signals' energy (more than %.1f %%): "
                "take a smaller weight or a larger rank",
                request.crb_weight, request.rank, 100 * lost, 100 * request.max_energy_loss,
            )  # fmt: skip
        losses = assess(self.model, self.held_out, basis, fisher=request.fisher)
        return replace(basis, info=plain({**basis.info, "held_out": losses}))


def plan(request: Request, name: str, *, force: bool) -> Plan:
    """Check a request before any work is done.

    Raises
    ------
    UserError
        An option is out of range, or the output exists already.
    """
    spec: Spec = resolve(request.spec, request.settings)
    parameters, n_frames = spec.model.parameters, spec.model.n_frames
    if not 1 <= request.rank <= n_frames:
        raise UserError(f"--rank is {request.rank}, expected 1 to the number of frames, {n_frames}")
    if not 0 <= request.crb_weight <= 1:
        raise UserError(f"--crb-weight is {request.crb_weight}, expected 0 to 1")
    training = _sized(spec.prior, request.train, "--train", spec.model)
    if training is None:
        raise UserError("--train is none, expected grid or a number")
    atoms = _sized(spec.fit_prior, request.atoms, "--atoms", spec.model)
    names = members(name, with_dictionary=atoms is not None)
    files.check_free(files.with_suffix(name, ".json"), names, kind=FORMAT, force=force)
    return Plan(request, spec.model, training, atoms, spec.prior.thinned(_ASSESSED, parameters).shifted(), name, force)


def save(name: str | Path, basis: Basis, dictionary: Dictionary | None, *, force: bool = False) -> None:
    """Write a basis and, if there is one, its dictionary as one product: NAME.cfl .hdr .h5 .json.

    Raises
    ------
    UserError
        A file exists already, or cannot be written.
    """
    names, sidecar = members(name, with_dictionary=dictionary is not None), files.with_suffix(name, ".json")
    with files.product(sidecar, names, kind=FORMAT, force=force) as product:
        basis.write(product, name)
        if dictionary is not None:
            dictionary.write(product.path(names[-1]))
        product.commit(basis.sidecar())


def members(name: str | Path, *, with_dictionary: bool) -> list[str]:
    """Return the names of the files besides the sidecar, the dictionary last."""
    return [*Basis.members(name), *([f"{Path(name).name}{SUFFIX}"] if with_dictionary else [])]


def table(basis: Basis) -> str:
    """Return the losses of a basis as a text table; "-" where a parameter cannot be estimated at all."""
    losses = basis.info.get("held_out", {})
    if not losses:
        return "losses are not known"
    names = [name for name in losses["all"] if name != "signal"]
    header = f"{'loss [%]':<10}{'energy':>9}" + "".join(f"{f'CRB {name}':>11}{'(approx.)':>11}" for name in names)
    lines = [header]
    for label, columns in losses.items():
        cells = f"{label:<10}{100 * columns['signal']['energy']:9.3f}"
        for name in names:
            for figure in (columns[name]["exact"], columns[name]["approximate"]):
                cells += f"{'-':>11}" if figure is None else f"{100 * figure:11.2f}"
        lines.append(cells)
    return "\n".join(lines)


def _sized(prior: Prior, size: str, option: str, model: SignalModel) -> Prior | None:
    if size == "none":
        return None
    if size == "grid":
        return prior
    if not size.isdecimal():
        raise UserError(f"{option} is {size!r}, expected grid, none or a number")
    return prior.thinned(int(size), model.parameters)


def _probe(model: SignalModel, prior: Prior, *, jacobian: bool) -> float:
    """Return the seconds that simulating a prior will take, from a few atoms of every tissue."""
    run = model.signal_and_jacobian if jacobian else model.signal
    seconds = 0.0
    for tissue in prior.tissues:
        theta = prior.atoms(tissue, model.parameters)
        sample = theta[np.random.default_rng(0).integers(0, len(theta), _PROBED)]
        run(sample[:1])  # compiles
        start = time.perf_counter()
        run(sample)
        seconds += (time.perf_counter() - start) / _PROBED * len(theta)
    return seconds
