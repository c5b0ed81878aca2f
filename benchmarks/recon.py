"""Subspace reconstruction against `bart pics`: the same files through both, as whole processes."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import _native_pics
import harness
import numpy as np

from crbsvd_plugin import SubspaceOperator, bart, compute_basis, models, phantom, threads
from crbsvd_plugin.encoding import coefficient_noise
from crbsvd_plugin.models.fisp import jiang_train
from crbsvd_plugin.prior import PRESETS
from crbsvd_plugin.recon.objective import objective
from crbsvd_plugin.recon.penalty import penalty
from crbsvd_plugin.recon.scaling import llr_width
from crbsvd_plugin.trajectory import radial

_MATRIX, _COILS, _FRAMES, _SHOTS, _RANK, _ITERATIONS = 256, 8, 1000, 3, 5, 30
_SNR = 50.0
_LAM, _BLOCK, _LLR_ITERATIONS = 0.01, 8, 50


def radial2d_cg() -> harness.Result:
    """256 x 256, 8 coils, 3 shots x 1000 frames of 512 samples, K = 5, 30 iterations of CG."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = _prepare(folder)
        ours_command = [sys.executable, str(Path(__file__).with_name("_native_pics.py")), str(folder), str(_ITERATIONS)]
        peer_command = [
            bart.find(), "pics", "-l2", "-r0", f"-i{_ITERATIONS}", "-w1",
            "-t", str(folder / "traj"), "-B", str(folder / "basis"),
            str(folder / "ksp"), str(folder / "sens"), str(folder / "bart"),
        ]  # fmt: skip
        n_threads = str(threads.count())
        cold = harness.run(ours_command)
        print(f"radial2d-cg: first run of ours, which may compile: {cold.seconds:.1f} s", flush=True)
        ours, peer = harness.interleaved(
            lambda: harness.run(ours_command),
            lambda: harness.run(peer_command, environment={"OMP_NUM_THREADS": n_threads}),
            pairs=1,
        )
        errors = [_error(folder / file, truth) for file in ("native", "bart")]
    peer_name = f"bart pics {bart.version()} ({n_threads} threads)"
    return harness.Result(
        "radial2d-cg", ours.seconds, peer_name, peer.seconds, peer.seconds / ours.seconds,
        ours.megabytes, peer.megabytes, *errors,
    )  # fmt: skip


def radial2d_llr() -> harness.Result:
    """256 x 256 as radial2d-cg, low rank of fixed 8 x 8 blocks, 50 iterations of FISTA; judged by the objective."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = _prepare(folder)
        ours_command = [
            sys.executable, str(Path(__file__).with_name("_native_pics.py")), str(folder), str(_LLR_ITERATIONS),
            "--regulariser", "llr", "--lam", str(_LAM),
        ]  # fmt: skip
        width = llr_width((_MATRIX, _MATRIX), _RANK, _BLOCK, overlap=False)
        peer_command = [
            bart.find(), "pics", "-d4", "-R", f"L:7:7:{_LAM / width:.9g}", "-b", str(_BLOCK), "-n", "-e", "-w1",
            f"-i{_LLR_ITERATIONS}", "-t", str(folder / "traj"), "-B", str(folder / "basis"),
            str(folder / "ksp"), str(folder / "sens"), str(folder / "bart"),
        ]  # fmt: skip
        n_threads = str(threads.count())
        harness.run(ours_command)  # which may compile
        printed: list[str] = []

        def peer_run() -> harness.Usage:
            usage = harness.run(peer_command, environment={"OMP_NUM_THREADS": n_threads})
            printed.append(usage.output)
            return usage

        ours, peer = harness.interleaved(lambda: harness.run(ours_command), peer_run, pairs=1)
        operator, ksp = _native_pics.read(folder)
        function = penalty("llr", operator.shape, block=_BLOCK, shift="none")
        images = {file: bart.read_cfl(folder / file).squeeze().transpose(2, 1, 0) for file in ("native", "bart")}
        # BART ends with a gradient step; it gets the proximal map that belongs to it, and is judged by what is better
        (highest,) = re.findall(r"Maximum eigenvalue: (\S+)", printed[-1])
        images["finished"] = function.prox(images["bart"], 0.95 / float(highest) * _LAM)
        values = {file: objective(operator, ksp, coeff, penalty=function, lam=_LAM) for file, coeff in images.items()}
        print(f"radial2d-llr: BART's objective {values['bart']:.8g}, with its last map {values['finished']:.8g}")
        bart.write_cfl(folder / "finished", images["finished"].transpose(2, 1, 0))
        errors = " and ".join(f"{_error(folder / file, truth):.5f}" for file in ("native", "finished"))
        print(f"radial2d-llr: errors against the truth, ours and BART's with its last map: {errors}", flush=True)
    peer_name = f"bart pics {bart.version()} ({n_threads} threads)"
    return harness.Result(
        "radial2d-llr", ours.seconds, peer_name, peer.seconds, peer.seconds / ours.seconds,
        ours.megabytes, peer.megabytes, values["native"], min(values["bart"], values["finished"]),
    )  # fmt: skip


def _prepare(folder: Path) -> np.ndarray:
    """Write basis, coils, trajectory and noisy k-space as BART files; return the true coefficients (K, y, x)."""
    model = models.build({"name": "mrf-fisp", "flip_angles": jiang_train()[:_FRAMES].tolist()})
    prior = PRESETS["mao-mrf-table1"].thinned(3000, model.parameters)
    basis = compute_basis(model, prior, rank=_RANK, crb_weight=0.3)
    brain = phantom.brain(_MATRIX, factor=1)
    truth = brain.mix(basis.project(phantom.signals_of(model, brain.theta)))
    sens = phantom.coils(_COILS, (_MATRIX, _MATRIX))
    sens = sens / np.linalg.norm(sens, axis=0)
    n_readouts = _SHOTS * _FRAMES
    traj = radial(n_readouts, _MATRIX)
    frame = np.arange(n_readouts) % _FRAMES
    ksp = SubspaceOperator(traj, frame=frame, phi=basis.phi, sens=sens).forward(truth)
    rng = np.random.default_rng(1)
    # SNR = M0 / sigma_coeff with M0 = 1
    sigma = 1 / (coefficient_noise(traj, (_MATRIX, _MATRIX), n_frames=_FRAMES) * _SNR)
    ksp = ksp + sigma * (rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))

    def by_frame(array: np.ndarray) -> np.ndarray:
        """(..., R, S) with r = shot T + t -> (..., shot, t, S)."""
        return array.reshape(*array.shape[:-2], _SHOTS, _FRAMES, array.shape[-1])

    # BART: 1 RO SPK COIL 1 T, 3 RO SPK 1 1 T, X Y 1 COIL, 1 1 1 1 1 T K
    bart.write_cfl(folder / "ksp", by_frame(ksp.astype(np.complex64)).transpose(3, 1, 0, 2)[None, :, :, :, None])
    xyz = np.concatenate([traj[..., ::-1], np.zeros_like(traj[..., :1])], axis=-1)
    spokes = by_frame(np.moveaxis(xyz, -1, 0))
    bart.write_cfl(folder / "traj", spokes.transpose(0, 3, 1, 2)[:, :, :, None, None, :])
    bart.write_cfl(folder / "sens", sens.astype(np.complex64).transpose(2, 1, 0)[:, :, None])
    bart.write_cfl(folder / "basis", basis.phi.reshape(1, 1, 1, 1, 1, _FRAMES, _RANK))
    return truth


def _error(name: Path, truth: np.ndarray) -> float:
    """Relative error of coefficient images against the truth, in the 2-norm."""
    coeff = bart.read_cfl(name).squeeze().transpose(2, 1, 0)
    return float(np.linalg.norm(coeff - truth) / np.linalg.norm(truth))


if __name__ == "__main__":
    harness.main("recon", {"radial2d-cg": radial2d_cg, "radial2d-llr": radial2d_llr})
