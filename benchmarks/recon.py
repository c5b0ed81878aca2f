"""Subspace reconstruction against `bart pics`: the same files through both, as whole processes.

``normal-vs-fft`` (`_normal`) compares one normal operator with its Fourier transforms alone, in one process.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import _native_pics
import _normal_plot
import harness
import numpy as np

from crbsvd_plugin import SubspaceOperator, bart, compute_basis, models, phantom, threads
from crbsvd_plugin.encoding import coefficient_noise
from crbsvd_plugin.models.fisp import jiang_train
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.recon.objective import objective
from crbsvd_plugin.recon.penalty import penalty
from crbsvd_plugin.recon.scaling import llr_width
from crbsvd_plugin.trajectory import radial

_COILS, _SNR = 8, 50.0
_LAM, _BLOCK = 0.01, 8  # of radial2d-llr


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

    @property
    def sigma(self) -> float:
        """Noise of the data per real component, for an SNR of 50: M0 = 1 over the noise of a coefficient."""
        return 1 / (coefficient_noise(self.traj[..., 0].size, self.truth.shape[1:], n_frames=len(self.phi)) * _SNR)

    def noisy(self) -> np.ndarray:
        """Return k-space (C, R, S) with noise."""
        operator = SubspaceOperator(self.traj, frame=self.frame, phi=self.phi, sens=self.sens)
        ksp = operator.forward(self.truth)
        rng = np.random.default_rng(1)
        return ksp + self.sigma * (rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))

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

    def read(self, name: Path) -> np.ndarray:
        """Return coefficient images (K, *X)."""
        return bart.read_cfl(name).T.reshape(self.truth.shape)

    def error(self, coeff: np.ndarray) -> float:
        """Relative error of coefficient images against the truth, in the 2-norm."""
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


def _pics(folder: Path, *options: str) -> list[str]:
    """Return the command line of BART."""
    files = [str(folder / name) for name in ("ksp", "sens", "bart")]
    return [bart.find(), "pics", *options, "-w1", "-t", str(folder / "traj"), "-B", str(folder / "basis"), *files]


def _run(
    case: str, folder: Path, ours: Sequence[str], peer: Sequence[str], *, pairs: int
) -> tuple[harness.Usage, harness.Usage, str]:
    """Run ours (options of `_native_pics`) and BART in turn; return medians, and what BART printed last."""
    n_threads = str(threads.count())
    command = [sys.executable, str(Path(__file__).with_name("_native_pics.py")), str(folder), *ours]
    cold = harness.run(command)
    print(f"{case}: first run of ours, which may compile: {cold.seconds:.1f} s", flush=True)
    printed: list[str] = []

    def peer_run() -> harness.Usage:
        usage = harness.run(peer, environment={"OMP_NUM_THREADS": n_threads})
        printed.append(usage.output)
        return usage

    return *harness.interleaved(lambda: harness.run(command), peer_run, pairs=pairs), printed[-1]


def _result(case: str, ours: harness.Usage, peer: harness.Usage, errors: tuple[float, float]) -> harness.Result:
    return harness.Result(
        case, ours.seconds, f"bart pics {bart.version()} ({threads.count()} threads)", peer.seconds,
        peer.seconds / ours.seconds, ours.megabytes, peer.megabytes, *errors,
    )  # fmt: skip


def _conjugate_gradients(case: str, problem: Problem, *, iterations: int, pairs: int) -> harness.Result:
    """Run CG in both; judged by the error against the truth."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem.write(folder)
        peer = _pics(folder, "-l2", "-r0", f"-i{iterations}")
        *usages, _ = _run(case, folder, [str(iterations)], peer, pairs=pairs)
        native, barts = (problem.error(problem.read(folder / file)) for file in ("native", "bart"))
    return _result(case, *usages, (native, barts))


def radial2d_cg() -> harness.Result:
    """256 x 256, 8 coils, 3 shots x 1000 frames of 512 samples, K = 5, 30 iterations of CG."""
    return _conjugate_gradients("radial2d-cg", _slice(), iterations=30, pairs=3)


def koosh3d_cg() -> harness.Result:
    """64 x 64 x 64, 8 coils, 200 frames x 40 spokes of 128 samples, K = 4, 20 iterations of CG."""
    return _conjugate_gradients("koosh3d-cg", _volume(), iterations=20, pairs=1)


def radial2d_llr() -> harness.Result:
    """256 x 256 as radial2d-cg, low rank of fixed 8 x 8 blocks, 50 iterations of FISTA; judged by the objective."""
    problem, iterations = _slice(), 50
    rank, *shape = problem.truth.shape
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem.write(folder)
        lam = _LAM / llr_width(tuple(shape), rank, _BLOCK, overlap=False)
        peer = _pics(folder, "-d4", "-R", f"L:7:7:{lam:.9g}", "-b", str(_BLOCK), "-n", "-e", f"-i{iterations}")
        ours = [str(iterations), "--regulariser", "llr", "--lam", str(_LAM)]
        *usages, printed = _run("radial2d-llr", folder, ours, peer, pairs=1)
        operator, ksp = _native_pics.read(folder)
        function = penalty("llr", operator.shape, block=_BLOCK, shift="none")
        images = {file: problem.read(folder / file) for file in ("native", "bart")}
    # BART ends with a gradient step; it gets the proximal map that belongs to it, and is judged by what is better
    (highest,) = re.findall(r"Maximum eigenvalue: (\S+)", printed)
    images["finished"] = function.prox(images["bart"], 0.95 / float(highest) * _LAM)
    values = {file: objective(operator, ksp, coeff, penalty=function, lam=_LAM) for file, coeff in images.items()}
    print(f"radial2d-llr: BART's objective {values['bart']:.8g}, with its last map {values['finished']:.8g}")
    errors = " and ".join(f"{problem.error(images[file]):.5f}" for file in ("native", "finished"))
    print(f"radial2d-llr: errors against the truth, ours and BART's with its last map: {errors}", flush=True)
    return _result("radial2d-llr", *usages, (values["native"], min(values["bart"], values["finished"])))


def normal_vs_fft(plot: Path | None) -> list[harness.Result]:
    """One normal operator against its pruned Fourier transforms alone; the error is that of the operator."""
    script = Path(__file__).with_name("_normal.py")
    measured = json.loads(harness.run([sys.executable, str(script)]).output.splitlines()[-1])
    rows, megabytes = measured["cases"], measured["megabytes"]  # of the process, which holds all cases
    for letter, _, at in _normal_plot.AXES:
        shown = _normal_plot.varied(rows, at)
        ours, peer = (_normal_plot.slope(shown, at, key) for key in ("ours_s", "peer_s"))
        sizes = ", ".join(str(_normal_plot.count(row, at)) for row in shown)
        print(f"normal-vs-fft: cost ~ {letter}^{ours:.2f}, FFTs alone {letter}^{peer:.2f}, over {letter} = {sizes}")
    if plot is not None:
        _normal_plot.draw(rows, plot, n_threads=threads.count())
    return [
        harness.Result(
            "normal-vs-fft", row["ours_s"], f"{row['case']}: its pruned FFTs alone, scipy, {threads.count()} threads",
            row["peer_s"], row["peer_s"] / row["ours_s"], megabytes, megabytes, row["error"], 0.0,
        )
        for row in rows
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="normal-vs-fft: draw the cost against K, C and N")
    options, _ = parser.parse_known_args()
    functions = (radial2d_cg, radial2d_llr, koosh3d_cg)
    cases = {function.__name__.replace("_", "-"): function for function in functions}
    harness.main("recon", {**cases, "normal-vs-fft": lambda: normal_vs_fft(options.plot)}, options=parser)
