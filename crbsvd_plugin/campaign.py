"""All measurements of a study: which there are, in which order they are fitted, and what is kept of them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import models
from .basis import Basis
from .batches import simulate
from .bench import Bench, Way, measured
from .checkpoint import Checkpoint
from .dictionary import Dictionary, compress_each
from .estimates import Estimates
from .fit.box import Box
from .model import Batch, SignalModel
from .prior import Atoms, Prior
from .progress import Report, counted
from .training import resume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cluster import Pool

BLOCK = 256
"""Measurements with a stream of random numbers of their own."""

_BLOCKS = 32
"""Blocks that are fitted together, where that takes seconds."""


class _Block(NamedTuple):
    """Measurements of a fingerprint: all blocks but the last have `BLOCK` of them."""

    fingerprint: int
    number: int
    size: int


class _Unit(NamedTuple):
    """Blocks that are fitted together, in one of the bases at one of the ranks."""

    basis: int
    rank: int
    blocks: tuple[_Block, ...]

    @property
    def size(self) -> int:
        return sum(block.size for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Measurements of fingerprints, to be fitted in several bases.

    Parameters
    ----------
    model : SignalModel
        The model.
    truth : float64 array (B, P)
        The fingerprints, SI units.
    fit_prior : Prior
        Atoms of the dictionary.
    box : Box
        Their ranges, which are those of the fit.
    way : Way
        How measurements are fitted.
    ranks : sequence of int
        Numbers of coefficients.
    snr : float
        |M0| / sigma.
    n_measurements : int
        Of each fingerprint.
    seed : int
        Of the noise.
    """

    model: SignalModel
    truth: NDArray[np.float64]
    fit_prior: Prior
    box: Box
    way: Way
    ranks: Sequence[int]
    snr: float
    n_measurements: int
    seed: int

    def simulated(self, some: slice | list[int]) -> Batch:
        """Return signals and derivatives of some fingerprints, at the full accuracy of the model."""
        return simulate(models.smooth(self.model.spec), Atoms("study", self.truth[some]))

    def run(
        self,
        bases: Sequence[Basis],
        *,
        checkpoint: str | None,
        key: Mapping[str, Any],
        pool: Pool | None,
        report: Report,
    ) -> Estimates:
        """Fit all measurements in all bases.

        Parameters
        ----------
        bases : sequence of Basis
            The bases, each of the largest of the ranks.
        checkpoint : str, optional
            Begin of the name of the file that keeps what is done.
        key : mapping
            What made the bases, for the checkpoint.
        pool : Pool, optional
            Workers for large fits.
        report : callable
            Told of the progress.

        Raises
        ------
        UserError
            The method cannot fit this model, or the checkpoint is damaged.
        """
        units = self._units(len(bases))
        estimates = Estimates(len(bases), len(self.ranks), len(self.truth), self.n_measurements, self.truth.shape[1])

        def steps(rest: Sequence[_Unit]) -> Iterator[int]:
            dictionaries = self._dictionaries({unit.basis: bases[unit.basis] for unit in rest}, report)
            for i, group in itertools.groupby(rest, key=lambda unit: unit.basis):
                bench = Bench(self.way, bases[i], dictionaries.get(i), self.box, seed=self.seed, report=report)
                for unit in group:
                    self._fit(unit, bases[i], bench, estimates, pool)
                    yield 1

        keeper = None
        if checkpoint is not None:
            whole = self._key(bases, key)
            digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
            # whatever changes the estimates has a file of its own
            keeper = Checkpoint(f"{checkpoint}.measured-{digest[:8]}", whole)
        progress = counted(report, "measurements", sum(unit.size for unit in units))
        resume(estimates, units, steps, keeper=keeper, progress=progress, size=lambda unit: unit.size)
        return estimates

    def _units(self, n_bases: int) -> list[_Unit]:
        """Return all work, in the order in which it is done: a way of fitting is prepared once for each basis."""
        blocks = [
            _Block(f, i, min(BLOCK, self.n_measurements - start))
            for f in range(len(self.truth))
            for i, start in enumerate(range(0, self.n_measurements, BLOCK))
        ]
        # a fit of exact signals may take seconds: a checkpoint must not wait for thousands
        size = 1 if self.way.simulates(self.box) else _BLOCKS
        parts = [tuple(blocks[i : i + size]) for i in range(0, len(blocks), size)]
        return [
            _Unit(basis, rank, part) for basis in range(n_bases) for rank in range(len(self.ranks)) for part in parts
        ]

    def _dictionaries(self, bases: dict[int, Basis], report: Report) -> dict[int, Dictionary]:
        """Return the dictionary of each basis, from signals that are simulated once."""
        if not self.way.needs_dictionary or not bases:
            return {}
        progress = counted(report, "dictionary", self.fit_prior.size(self.model.parameters))
        found = compress_each(
            self.model, self.fit_prior, list(bases.values()), jacobian=self.way.refine, progress=progress
        )
        return dict(zip(bases, found, strict=True))

    def _fit(self, unit: _Unit, basis: Basis, bench: Bench, estimates: Estimates, pool: Pool | None) -> None:
        """Measure, fit and keep; the noise is the same in all bases and at all ranks."""
        rank = self.ranks[unit.rank]
        known = sorted({block.fingerprint for block in unit.blocks})
        signals = dict(zip(known, self.simulated(known).signal, strict=True))
        coeff = np.concatenate([
            measured(
                signals[block.fingerprint], basis.phi[:, :rank], 1 / self.snr, block.size,
                np.random.default_rng([self.seed, block.fingerprint, block.number]),
            )
            for block in unit.blocks
        ])  # fmt: skip
        which = np.repeat([block.fingerprint for block in unit.blocks], [block.size for block in unit.blocks])
        maps = bench.fit(coeff.T, self.truth[which], pool=pool)
        first = 0
        for block in unit.blocks:
            start = block.number * BLOCK
            measurements, part = slice(start, start + block.size), slice(first, first + block.size)
            estimates.put(unit.basis, unit.rank, block.fingerprint, measurements, maps, part)
            first = part.stop

    def _key(self, bases: Sequence[Basis], key: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a checkpoint of the measurements must agree in."""
        digest = hashlib.sha256()
        for basis in bases:
            digest.update(np.ascontiguousarray(basis.phi).tobytes())
        theta = hashlib.sha256(np.ascontiguousarray(self.truth).tobytes())
        return {
            **key,
            "bases": digest.hexdigest(),
            "fit_prior": self.fit_prior.spec,
            "studied": f"{len(self.truth)}, SHA-256 {theta.hexdigest()}",
            "ranks": list(self.ranks),
            **asdict(self.way),
            "snr": self.snr,
            "measurements": self.n_measurements,
            "seed": self.seed,
        }
