"""How long after the last readout the maps are there, and how much memory a scan takes that goes on and on."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _online
import harness
import ismrmrd
import numpy as np
import recon
from ismrmrd.xsd import ToXML

from crbsvd_plugin import compute_basis, models, phantom, threads
from crbsvd_plugin.bundle import save
from crbsvd_plugin.dictionary import compress
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.models.fisp import jiang_train
from crbsvd_plugin.mrd_header import radial_header
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.trajectory import radial

_MATRIX, _FRAMES, _SHOTS, _RANK, _COILS = 256, 1000, 3, 5, 8
_TR = 12e-3  # s, the shortest of the sequence
_PATIENCE = 1.0
_NAME = "scan"
_NOISE = 8  # readouts of noise
_LONG = 8  # times as long


def _basis(name: str) -> tuple[Any, np.ndarray]:
    """Write the basis of `recon.radial2d-cg` and a dictionary of all atoms; return the model and phi."""
    model = models.build({"name": "mrf-fisp", "flip_angles": jiang_train()[:_FRAMES].tolist()})
    prior = PRESETS["mao-mrf-table1"].thinned(3000, model.parameters)
    basis = compute_basis(model, prior, rank=_RANK, crb_weight=0.3)
    save(name, basis, compress(model, PRESETS["t1-t2"], basis))
    return model, basis.phi


def _acquisitions(problem: recon.Problem) -> Iterator[Any]:
    """Yield the readouts, after noise scans."""
    ksp = problem.noisy().astype(np.complex64)
    rng = np.random.default_rng(2)
    for number in range(_NOISE):
        white = rng.standard_normal((2, _COILS, 2**15)) * problem.sigma
        noise = ismrmrd.Acquisition.from_array(
            (white[0] + 1j * white[1]).astype(np.complex64), scan_counter=number, sample_time_us=5.0
        )
        noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        yield noise
    traj = problem.traj[..., ::-1].astype(np.float32)
    for number, frame in enumerate(problem.frame):
        item = ismrmrd.Acquisition.from_array(
            ksp[:, number], traj[number], scan_counter=_NOISE + number, sample_time_us=5.0
        )
        item.idx.contrast, item.idx.repetition = int(frame), number // _FRAMES
        yield item
    item.set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)


def _scan(folder: Path, model: Any, phi: np.ndarray) -> recon.Problem:
    """Write the scan as messages."""
    shape = (_MATRIX, _MATRIX)
    brain = phantom.brain(_MATRIX, factor=1)
    truth = brain.mix(phantom.signals_of(model, brain.theta) @ phi.conj())
    problem = recon.Problem(truth, phi, phantom.coils(_COILS, shape), radial(_SHOTS * _FRAMES, _MATRIX))
    header = radial_header(
        Geometry((*shape, 1), (1.0, 1.0, 5.0)), (_COILS, *problem.traj.shape[:2]), n_frames=_FRAMES, n_shots=_SHOTS,
        sequence={},
    )  # fmt: skip
    _online.write(folder / _NAME, ToXML(header), _acquisitions(problem))
    return problem


def _error(problem: recon.Problem, coeff: np.ndarray) -> float:
    """Relative error of images whose noise is 1 in k-space, and whose phase is that of the coils."""
    scaled = coeff * problem.sigma
    return problem.error(scaled * np.exp(-1j * np.angle(np.sum(problem.truth.conj() * scaled, axis=0))))


def _run(folder: Path, *options: str) -> tuple[dict[str, Any], np.ndarray]:
    script = Path(__file__).with_name("_online.py")
    given = [str(folder / _NAME), str(folder / "basis"), str(folder / "coeff.npy"), *options]
    output = harness.run([sys.executable, str(script), *given]).output
    return json.loads(output.splitlines()[-1]), np.load(folder / "coeff.npy")


def latency() -> list[harness.Result]:
    """256 x 256, 8 coils, 3 shots x 1000 frames of 512 samples, K = 5: at the pace of the scan, and as fast as it goes.

    Against sensitivities, iterations and fit alone, in the same process; memory and images against those of a run in
    which no readout is gridded before there are a million samples. The last two are scans of 8 and 16 times the length,
    for their memory.
    """
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = _scan(folder, *_basis(str(folder / "basis")))
        patient, images = _run(folder)
        online = ("--patience", str(_PATIENCE))
        cases = {"latency": (*online, "--pace", str(_TR)), "latency-fast": online}
        cases |= {f"latency-{n}x": (*online, "--repeat", str(n)) for n in (_LONG, 2 * _LONG)}
        for case, options in cases.items():
            found, coeff = _run(folder, *options)
            alone = sum(found["alone_s"])
            parts = ", ".join(f"{seconds:.2f}" for seconds in found["alone_s"])
            print(f"{case}: sensitivities, iterations and fit alone {parts} s; {found['readouts']}", flush=True)
            if "--repeat" not in options:
                change = np.linalg.norm(coeff - images) / np.linalg.norm(images)
                print(f"{case}: images differ by {change:.1e} from those of large batches", flush=True)
            results.append(
                harness.Result(
                    case, found["ours_s"], f"sensitivities, CG and fit alone ({threads.count()} threads)", alone,
                    alone / found["ours_s"], found["peak_mb"], patient["peak_mb"], _error(problem, coeff),
                    _error(problem, images),
                )
            )  # fmt: skip
    return results


if __name__ == "__main__":
    harness.main("online", {"latency": latency})
