"""Subspace reconstruction against `bart pics`: the same files through both, as whole processes.

``normal-vs-fft`` (`_normal`) compares one normal operator with its Fourier transforms alone, in one process.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness
import numpy as np

from crbsvd_plugin import SubspaceOperator, bart, compute_basis, models, phantom, threads
from crbsvd_plugin.encoding import coefficient_noise
from crbsvd_plugin.models.fisp import jiang_train
from crbsvd_plugin.prior import PRESETS
from crbsvd_plugin.trajectory import radial

_COILS, _SNR = 8, 50.0


@dataclass(frozen=True)
class Problem:
    """A scan of true coefficient images (K, *X), readout r in frame r modulo T; with phi, sens and traj."""

    truth: np.ndarray
    phi: np.ndarray
    sens: np.ndarray
    traj: np.ndarray

    @property
    def frame(self) -> np.ndarray:
        """Frame of every readout."""
        return np.arange(len(self.traj)) % len(self.phi)

    def noisy(self) -> np.ndarray:
        """Return k-space (C, R, S) with an SNR of 50: M0 = 1 over the noise of a coefficient."""
        operator = SubspaceOperator(self.traj, frame=self.frame, phi=self.phi, sens=self.sens)
        ksp = operator.forward(self.truth)
        rng = np.random.default_rng(1)
        sigma = 1 / (coefficient_noise(self.traj, self.truth.shape[1:], n_frames=len(self.phi)) * _SNR)
        return ksp + sigma * (rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))

    def write(self, folder: Path) -> None:
        """Write basis, coils, trajectory and noisy k-space as BART files."""
        # 1 RO SPK COIL 1 T, 3 RO SPK 1 1 T, X Y Z COIL
        n_frames, rank = self.phi.shape
        spokes = (-1, n_frames, self.traj.shape[1])  # (spoke, frame, sample)
        ksp = self.noisy().astype(np.complex64).reshape(_COILS, *spokes)
        bart.write_cfl(folder / "ksp", ksp.transpose(3, 1, 0, 2)[None, :, :, :, None])
        xyz = np.zeros((3, *self.traj.shape[:2]))
        xyz[: self.traj.shape[2]] = np.moveaxis(self.traj[..., ::-1], -1, 0)
        bart.write_cfl(folder / "traj", xyz.reshape(3, *spokes).transpose(0, 3, 1, 2)[:, :, :, None, None, :])
        axes = (*self.truth.shape[:0:-1], 1)[:3]
        bart.write_cfl(folder / "sens", self.sens.astype(np.complex64).reshape(_COILS, *axes[::-1]).T)
        bart.write_cfl(folder / "basis", self.phi.reshape(1, 1, 1, 1, 1, n_frames, rank))

    def error(self, name: Path) -> float:
        """Relative error of coefficient images against the truth, in the 2-norm."""
        coeff = bart.read_cfl(name).T.reshape(self.truth.shape)
        return float(np.linalg.norm(coeff - self.truth) / np.linalg.norm(self.truth))


def _basis(n_frames: int, rank: int) -> tuple[models.fisp.MrfFisp, np.ndarray]:
    model = models.build({"name": "mrf-fisp", "flip_angles": jiang_train()[:n_frames].tolist()})
    prior = PRESETS["mao-mrf-table1"].thinned(3000, model.parameters)
    return model, compute_basis(model, prior, rank=rank, crb_weight=0.3).phi


def _slice() -> Problem:
    """256 x 256, 3 shots x 1000 frames of 512 samples, K = 5."""
    n, n_frames = 256, 1000
    model, phi = _basis(n_frames, 5)
    brain = phantom.brain(n, factor=1)
    truth = brain.mix(phantom.signals_of(model, brain.theta) @ phi.conj())
    return Problem(truth, phi, phantom.coils(_COILS, (n, n)), radial(3 * n_frames, n))


def _volume() -> Problem:
    """64 x 64 x 64, 200 frames x 40 spokes of 128 samples in a koosh ball, K = 4; tissues in nested ellipsoids."""
    n, n_frames, n_spokes = 64, 200, 40
    model, phi = _basis(n_frames, 4)
    theta = np.array([[0.8, 0.07], [1.4, 0.09], [0.37, 0.13], [4.0, 2.0]])  # s; white and grey matter, fat, CSF
    coeff = model.signal(theta) @ phi.conj()
    grid = (np.arange(n) - n // 2) / (n / 2)
    z, y, x = np.ix_(grid, grid, grid)
    radius = np.sqrt((z / 0.8) ** 2 + (y / 0.9) ** 2 + (x / 0.7) ** 2)
    truth = np.zeros((phi.shape[1], n, n, n), complex)
    for tissue, outer in zip((2, 1, 0, 3), (1.0, 0.9, 0.7, 0.25), strict=True):
        truth[:, radius < outer] = coeff[tissue][:, None]
    planes = phantom.coils(_COILS, (n, n))
    # along z, each coil fades to another side
    fading = np.exp(0.5 * np.cos(np.arange(_COILS))[:, None] * grid)
    sens = fading[:, :, None, None] * planes[:, None]
    sens = sens / np.linalg.norm(sens, axis=0)
    # 2-D golden means: Chan et al., doi 10.1002/mrm.21837
    i = np.arange(n_frames * n_spokes)
    height, turn = 2 * (i * 0.4656 % 1) - 1, 2 * np.pi * (i * 0.6823 % 1)
    flat = np.sqrt(1 - height**2)
    direction = np.stack([height, flat * np.sin(turn), flat * np.cos(turn)], axis=-1)
    return Problem(truth, phi, sens, direction[:, None] * ((np.arange(2 * n) - n) / 2)[:, None])


def _compare(case: str, problem: Problem, *, iterations: int, pairs: int) -> harness.Result:
    """Run CG in both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem.write(folder)
        ours_command = [sys.executable, str(Path(__file__).with_name("_native_pics.py")), str(folder), str(iterations)]
        peer_command = [
            bart.find(), "pics", "-l2", "-r0", f"-i{iterations}", "-w1",
            "-t", str(folder / "traj"), "-B", str(folder / "basis"),
            str(folder / "ksp"), str(folder / "sens"), str(folder / "bart"),
        ]  # fmt: skip
        n_threads = str(threads.count())
        cold = harness.run(ours_command)
        print(f"{case}: first run of ours, which may compile: {cold.seconds:.1f} s", flush=True)
        ours, peer = harness.interleaved(
            lambda: harness.run(ours_command),
            lambda: harness.run(peer_command, environment={"OMP_NUM_THREADS": n_threads}),
            pairs=pairs,
        )
        errors = [problem.error(folder / file) for file in ("native", "bart")]
    return harness.Result(
        case, ours.seconds, f"bart pics {bart.version()} ({n_threads} threads)", peer.seconds,
        peer.seconds / ours.seconds, ours.megabytes, peer.megabytes, *errors,
    )  # fmt: skip


def radial2d_cg() -> harness.Result:
    """256 x 256, 8 coils, 3 shots x 1000 frames of 512 samples, K = 5, 30 iterations of CG."""
    return _compare("radial2d-cg", _slice(), iterations=30, pairs=3)


def koosh3d_cg() -> harness.Result:
    """64 x 64 x 64, 8 coils, 200 frames x 40 spokes of 128 samples, K = 4, 20 iterations of CG."""
    return _compare("koosh3d-cg", _volume(), iterations=20, pairs=1)


def normal_vs_fft() -> list[harness.Result]:
    """One normal operator against its pruned Fourier transforms alone; the error is that of the operator."""
    script = Path(__file__).with_name("_normal.py")
    rows = json.loads(harness.run([sys.executable, str(script)]).output.splitlines()[-1])
    for slope in rows["slopes"]:
        print(f"normal-vs-fft: {slope}", flush=True)
    return [
        harness.Result(
            "normal-vs-fft", row["ours_s"], f"{row['case']}: its pruned FFTs alone, scipy, {threads.count()} threads",
            row["peer_s"], row["peer_s"] / row["ours_s"], row["megabytes"], row["megabytes"], row["error"], 0.0,
        )
        for row in rows["cases"]
    ]  # fmt: skip


if __name__ == "__main__":
    cases = {"radial2d-cg": radial2d_cg, "koosh3d-cg": koosh3d_cg, "normal-vs-fft": normal_vs_fft}
    harness.main("recon", cases)
