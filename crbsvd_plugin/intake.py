"""The readouts of one image, a batch at a time, on their way into sums.

A batch is whitened, turned into virtual coils and moved, and its centre of k-space goes into low-resolution images, at
once. It then waits for others until there are so many that a NUFFT is worth it, and goes into the sums of every
coil. The last ones wait for the sensitivities, which turn coils into one image and save memory: where all readouts are
no more than that, there are no sums at all. Readouts are kept only where something needs them after that.

What is found in the data must be found before: virtual coils in calibration readouts, or else in the first 256, phases
and delays in all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import threads
from .basis import Basis
from .calibration import check_range, mended, mixed, virtual_coils
from .coils import LowResolution, refuse_silent
from .config import Config
from .noise import NoiseScans
from .progress import Report, silent
from .readouts import VIRTUAL, Group, joined
from .sums import Sums, batch_samples, grid_samples
from .trajectory import recentred

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Intake:
    """What has come of one image.

    Parameters
    ----------
    basis, config
        What is to be done.
    noise : NoiseScans
        The noise scans, of which some may come later.
    cached : bool
        The kernel comes from a cache, if all positions are those of another scan: only positions are kept for it.
    eager : bool
        The last readouts shall be few, at the price of more transforms.

    Attributes
    ----------
    kept : list of Group
        Readouts that are needed again, whitened, in virtual coils and moved; without samples where only their
        positions are. Those of `pending` follow them.
    pending : list of Group
        Readouts that are not in the sums.
    sums : Sums or None
        All others; None: there are none.
    found : dict
        What was found in the data and used.
    n_samples : int
        Samples of a coil that are there.
    received : tuple of int
        Coils of the data, readouts that have come, and their samples.
    """

    def __init__(self, basis: Basis, config: Config, noise: NoiseScans, *, cached: bool = False, eager: bool = False):
        self.basis, self.config, self.noise = basis, config, noise
        self.kept: list[Group] = []
        self.pending: list[Group] = []
        self.sums: Sums | None = None
        self.found: dict[str, Any] = {}
        self.n_samples = 0
        self.received = (0, 0, 0)
        self._cached, self._eager = cached, eager
        self._held: list[Group] = []  # until it is known what they go through
        self._mixing: NDArray[Any] | None = None
        self._whiten_with = 0  # noise samples that the mixing knows
        self._mixed = False  # that is settled
        self._largest = 0.0
        self._loudest: NDArray[Any] = np.zeros(0)
        self._low: LowResolution | None = None
        self._dwell = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that are held."""
        sums = 0 if self.sums is None else self.sums.nbytes
        return sums + sum(group.nbytes for group in (*self.kept, *self.pending, *self._held))

    @property
    def n_coils(self) -> int:
        """Coils that are left; 0 as long as nothing has been used."""
        return 0 if self._low is None else len(self._low.sums.right)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the readouts that `flush` would let go."""
        return sum(group.nbytes for group in self.pending)

    def add(self, batch: Group) -> None:
        """Take readouts, whose samples may be overwritten.

        Raises
        ------
        UserError
            They do not fit, or a number is too large.
        """
        n_coils, n_readouts, n_samples = batch.ksp.shape
        self.received = (n_coils, self.received[1] + n_readouts, max(n_samples, self.received[2]))
        self._dwell = batch.dwell
        loudest = np.array([np.abs(coil).max() for coil in batch.ksp])
        self._loudest = np.maximum(loudest, self._loudest) if len(self._loudest) else loudest
        self._held.append(batch)
        if not self.config.waits and (self.config.coils is None or self.received[1] >= VIRTUAL):
            self._release()

    def flush(self) -> None:
        """Add the readouts that wait to the sums, if there are any."""
        if not self.pending or self.config.backend != "native":
            return
        batch = joined(self.pending)
        if self.sums is None:
            self.sums = Sums(batch.shape, self.basis.phi, len(batch.ksp), kernel=not self._cached)
        self.sums.add(batch.ksp, batch.traj, frame=batch.frame, weights=batch.weights)
        self.keep(batch)

    def keep(self, batch: Group) -> None:
        """Keep of readouts what is needed again."""
        if self.config.keeps_data:
            self.kept.append(batch)
        elif self._cached:
            self.kept.append(replace(batch, ksp=np.empty((0, *batch.ksp.shape[1:]), batch.ksp.dtype)))

    def close(self, report: Report = silent) -> None:
        """End the intake: nothing else will come.

        Raises
        ------
        UserError
            A coil is silent, the data are too small for single precision, or phases or delays are not to be found.
        """
        refuse_silent(self._loudest[:, None], "raw data")
        if self._held and self.config.waits:
            self._held = [joined(self._held)]
            self._release(report)
        self._release()
        check_range(self._largest)
        self._whiten_late()

    def sensitivities(self) -> NDArray[np.complex64]:
        """Return the sensitivities (C, *X) of the coils, which the data tell themselves."""
        assert self._low is not None
        if not self._eager or self.sums is None or threads.count() == 1:
            return self._low.sensitivities(self.config.sens)
        # they leave a core idle for most of the time, enough to bring the last readouts into the sums
        with ThreadPoolExecutor(1) as pool:
            settled = pool.submit(self._settle_sums, self.sums)
            sens = self._low.sensitivities(self.config.sens)
            settled.result()
        return sens

    def _release(self, report: Report | None = None) -> None:
        """Let go of the readouts that are held; with a report, these are all, and their phases and delays are found."""
        if self._held and not self._mixed:
            self._settle()
        while self._held:
            batch = self._held.pop(0)
            if self._mixing is not None:
                square = len(self._mixing) == len(batch.ksp)
                batch = replace(batch, ksp=mixed(batch.ksp, self._mixing, out=batch.ksp if square else None))
            self._largest = max(self._largest, *(float(np.abs(coil).max()) for coil in batch.ksp))
            check_range(self._largest, whole=report is not None)
            offset = batch.offset if self.config.fov_shift == "header" else np.zeros(len(batch.shape))
            if report is not None:
                batch, found = mended(
                    batch, self.basis.phi, phase_drift=self.config.phase_drift,
                    gradient_delays=self.config.gradient_delays, offset=offset, report=report,
                )  # fmt: skip
                self.found |= found
            if offset.any():
                # along the true trajectory
                batch = replace(batch, ksp=recentred(batch.ksp, batch.traj, offset))
                self.found["fov_shift"] = offset.tolist()
            self._enter(batch)

    def _settle(self) -> None:
        """Find what is done to the coils of all readouts, from those that are held."""
        self._mixed, self._whiten_with = True, self.noise.n_samples
        self._mixing = self.noise.whitening(self._dwell)
        if self.config.coils is None:
            return
        start = self._first_ones()
        if self._mixing is not None:
            start = replace(start, ksp=mixed(start.ksp, self._mixing))
            if start.calibration is not None:
                start = replace(start, calibration=self._mixing @ start.calibration @ self._mixing.conj().T)
        matrix, found = virtual_coils(start, self.config.coils)
        self._mixing = matrix if self._mixing is None else matrix @ self._mixing
        self.found |= found

    def _settle_sums(self, sums: Sums) -> None:
        self.flush()
        if sums.kernel is not None:
            sums.kernel.settle()

    def _first_ones(self) -> Group:
        """Return the readouts that virtual coils are found in."""
        some, n_readouts = [], 0
        for group in self._held:
            rows = slice(VIRTUAL - n_readouts)
            some.append(
                replace(
                    group, ksp=group.ksp[:, rows], traj=group.traj[rows], frame=group.frame[rows],
                    weights=None if group.weights is None else group.weights[rows],
                )
            )  # fmt: skip
            n_readouts += len(some[-1].frame)
            if n_readouts >= VIRTUAL:
                break
        return joined(some)

    def _enter(self, batch: Group) -> None:
        """Take readouts that are as they will be used."""
        phi, shape = self.basis.phi, batch.shape
        if self._low is None:
            self._low = LowResolution(shape, phi, len(batch.ksp))
        self._low.add(batch.ksp, batch.traj, frame=batch.frame, weights=batch.weights)
        self.n_samples += batch.n_samples
        self.pending.append(replace(batch, traj=batch.traj.astype(np.float32)))
        n_pending = sum(group.ksp[0].size for group in self.pending)
        if self._eager:  # the first ones wait for more, so that a small scan is one batch
            n_enough = grid_samples(shape) // (1 if self.sums is None else 8)
        else:
            n_enough = batch_samples(shape, phi.shape[1], len(batch.ksp), real=np.isrealobj(phi))
        if n_pending >= n_enough:
            self.flush()

    def _whiten_late(self) -> None:
        """Whiten with the noise that came later: sums of coils are linear in the coils."""
        if self.noise.n_samples == self._whiten_with or self._low is None:
            return
        mixing = self._mixing if self._mixing is not None else np.eye(len(self._low.sums.right))
        matrix = self.noise.whitening(self._dwell, mixing=mixing)
        assert matrix is not None
        self._low.sums.mix(matrix)
        if self.sums is not None:
            self.sums.mix(matrix)
        for group in (*self.kept, *self.pending):
            if len(group.ksp):
                mixed(group.ksp, matrix, out=group.ksp)
