"""How many coefficients a scan should be reconstructed with: request, work and files of `crbsvd rank`."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import __version__, advice, amplification, balance, charts, crb, files, sweep
from .basis import plain
from .errors import UserError
from .progress import Report, counted
from .sampling import Sampling
from .scanned import Reading, sampling_of
from .still import HEAD, TISSUES, Still, still
from .weighting import Weighting

logger = logging.getLogger(__name__)

FORMAT = "crbsvd-rank/1"
MEMBERS = ("rank.csv", "rank.png")
_SNR = (1e-6, 1e12)  # beyond, single precision ends
_SHORT = 0.95
"""Below this share of the samples for each voxel the small scan does not stand for the large one."""


@dataclass(frozen=True, kw_only=True)
class Request(sweep.Request):
    """What the user asks for; the fields are the options of `crbsvd rank`.

    Parameters
    ----------
    scan : str
        Raw data, or a trajectory, see `scanned.sampling_of`.
    reading : Reading
        How raw data are read.
    n_coils : int, optional
        Coils, instead of those of the raw data.
    matrix : int
        Voxels along the longest side of the small image, see `sampling`.
    snr : float
        M0 / sigma_coeff where M0 = 1, see `simulate.write`.
    replicas : int
        Pseudo-replicas, at least 2.
    iterations : int
        Of the reconstruction of the scan; the small image takes `Sampling.iterations`.
    tissues : sequence of str
        Tissues of the phantom that the recommendation counts.
    seed : int
        Of the noise.
    """

    scan: str
    reading: Reading = field(default_factory=Reading)
    n_coils: int | None = None
    matrix: int = 32
    snr: float = 50.0
    replicas: int = 16
    iterations: int = 30
    tissues: Sequence[str] = TISSUES
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """Errors of all ranks, the recommended one, what the losses alone say, and whose errors count."""

    rows: Sequence[balance.Row]
    choice: balance.Choice
    losses: advice.Choice
    counted: frozenset[tuple[str, str]]

    @property
    def text(self) -> str:
        """The table, and the outcome in words."""
        lines = ["rank  tissue  parameter   noise    leak   total  [% of the parameter]"]
        for row in self.rows:
            cells = (f"{100 * value:7.2f}" for value in (row.noise, row.leak, row.total))
            if math.isfinite(row.total):
                lines.append(f"{row.rank:4d}  {row.tissue:<6}  {row.parameter:<9} {' '.join(cells)}")
        if few := {row.rank for row in self.rows if not math.isfinite(row.total)}:
            lines.append(f"Up to rank {max(few)} there are too few coefficients for some of these.")
        choice, losses = self.choice, self.losses
        lines.append(
            f"take --rank {choice.rank}: its worst error, {choice.parameter} of {choice.tissue}, is "
            f"{100 * choice.total:.2f} %."
        )
        lines.append(f"Rule: {choice.rule}.")
        kept = "keeps the budget" if losses.met else "comes nearest to the budget"
        same = "The losses alone say the same" if losses.rank == choice.rank else "This differs from the losses alone"
        lines.append(f"{same}: rank {losses.rank} {kept}, {losses.rule}.")
        other = balance.worst(self.rows, self.counted)[losses.rank]
        if losses.rank != choice.rank and math.isfinite(other.total):
            lines.append(
                f"With rank {losses.rank} the worst error, {other.parameter} of {other.tissue}, is "
                f"{100 * other.total:.2f} %."
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """A request whose model, scan and output are known to be good."""

    request: Request
    training: sweep.Plan
    whole: Sampling
    small: Sampling
    still: Still

    def make(self, *, report: Report) -> Outcome:
        """Make the basis, find the errors of all its ranks, and write table and figure.

        Raises
        ------
        UserError
            The fingerprints do not support the rank, it is too small for the parameters, or files cannot be written.
        """
        asked, model = self.request, self.training.model
        measured = self.training.measured(report=report)
        basis = dataclasses.replace(measured.bases[1.0][0], info={"model": model.spec})
        targets = crb.interesting(model.parameters)
        names = [model.parameters[i].name for i in targets]
        found = amplification.errors(
            self.small, self.still, basis, targets=targets, snr=asked.snr, n_replicas=asked.replicas,
            iterations=self.iterations, seed=asked.seed, progress=counted(report, "ranks", asked.rank),
        )  # fmt: skip
        tissue = self.still.tissue.tolist()
        choice = balance.least(found, tissue, names, counted=self.counted)
        outcome = Outcome(balance.table(found, tissue, names), choice, measured.choice, self.counted)
        self._write(outcome)
        return outcome

    @property
    def iterations(self) -> int:
        """Iterations of the small image, see `sampling`."""
        return self.small.iterations(self.whole, self.request.iterations)

    @property
    def counted(self) -> frozenset[tuple[str, str]]:
        """Tissues and parameters that the recommendation counts: those of no weight in the basis have none here."""
        parameters = [self.training.model.parameters[i] for i in crb.interesting(self.training.model.parameters)]
        wanted = [p.name for p in parameters if self.request.parameter_weights.get(p.name, 1.0) > 0]
        return frozenset((tissue, name) for tissue in self.request.tissues for name in wanted)

    def _write(self, outcome: Outcome) -> None:
        asked, model = self.request, self.training.model
        weighting = Weighting(asked.crb_weights[0], asked.weighting, asked.parameter_weights, asked.class_weights).info
        content = {
            "software": f"crbsvd-plugin {__version__}",
            "model": model.spec,
            "prior": self.training.prior.spec,
            "n_atoms": {atoms.label: len(atoms.theta) for atoms in self.training.training.atoms},
            "fisher": asked.fisher,
            "conjugate": asked.conjugate,
            **weighting,
            "scan": Path(asked.scan).name,
            "reading": asdict(asked.reading),
            "sampling": {name: _facts(one) for name, one in (("scan", self.whole), ("small", self.small))},
            "matrix": asked.matrix,
            "snr": asked.snr,
            "replicas": asked.replicas,
            "iterations": {"scan": asked.iterations, "small": self.iterations},
            "tissues": list(asked.tissues),
            "voxels": {name: int((self.still.tissue == name).sum()) for name in TISSUES},
            "seed": asked.seed,
            "unit": "relative to the value of the parameter in the voxel",
            "recommended": outcome.choice.rank,
            "rule": outcome.choice.rule,
            "choice": asdict(outcome.choice),
            "by_losses": asdict(outcome.losses),
            "rows": [asdict(row) for row in outcome.rows],
        }
        folder, force = self.training.folder, self.training.force
        with files.product(folder / "rank.json", list(MEMBERS), kind=FORMAT, force=force) as product:
            files.write_table(product.path("rank.csv"), [asdict(row) for row in outcome.rows])
            charts.rank(outcome.rows, outcome.choice, product.path("rank.png"))
            product.commit(plain(content))


def plan(asked: Request, folder: str, *, force: bool) -> Plan:
    """Check a request before any work is done but reading the scan.

    Raises
    ------
    UserError
        An option is out of range, the scan does not fit the model, or the output exists already.
    """
    if not _SNR[0] <= asked.snr <= _SNR[1]:
        raise UserError(f"--snr is {asked.snr:g}, expected {_SNR[0]:g} to {_SNR[1]:g}")
    unknown = [name for name in asked.tissues if name not in TISSUES]
    if unknown or not asked.tissues:
        raise UserError(
            f"--tissues {'names ' + repr(unknown[0]) if unknown else 'is empty'}, expected some of {', '.join(TISSUES)}"
        )
    training = sweep.drafted(asked, folder, force=force)
    asked.check_free(Path(folder) / "rank.json", list(MEMBERS), kind=FORMAT, force=force)
    whole = sampling_of(asked.scan, n_frames=training.model.n_frames, reading=asked.reading, n_coils=asked.n_coils)
    small = whole.reduced(asked.matrix)
    if small.per_voxel < _SHORT * whole.per_voxel:
        logger.warning(
            "the small scan has %.3g samples for each voxel, the scan %.3g: noise and leak come out too large; take a "
            "larger --matrix",
            small.per_voxel, whole.per_voxel,
        )  # fmt: skip
    settled = training.request
    assert isinstance(settled, Request)
    fov = HEAD * max(small.shape) / max(whole.shape)
    return Plan(settled, training, whole, small, still(training.model, small, fov=fov))


def _facts(sampling: Sampling) -> dict[str, object]:
    return {
        "shape": list(sampling.shape), "coils": sampling.n_coils, "readouts": len(sampling.frame),
        "samples": sampling.n_samples, "samples_per_voxel": sampling.per_voxel,
    }  # fmt: skip
