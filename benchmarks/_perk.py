"""Accuracy and time of kernel regression beside those of matching and least squares.

MRF-FISP, K = 5: white and grey matter, fat and cerebrospinal fluid (CSF), as many voxels of each as make 65,536, with
random phases and white noise at two SNR = M0 / sigma_coeff. The others fit every 16th of these voxels, and their times
are multiplied: matching with the 123,962 atoms of the default dictionary, least squares from the best of them, all with
emulated signals. Bias and root mean square error (RMSE) are printed in percent, and the RMSE in units of the Cramer-Rao
bound, which unbiased estimates cannot go below.

Times are those in this process, from voxels to maps, the median of three after a warm-up; training, dictionary and
emulator are made before. The rate of products is printed beside that of a matrix product in single precision.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import numpy as np

from crbsvd_plugin import crb, models
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.fit import perk as regression
from crbsvd_plugin.fit import perk_training
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.emulator import emulate
from crbsvd_plugin.fit.fitter import Fitter
from crbsvd_plugin.fit.forward import Simulated
from crbsvd_plugin.fit.result import Maps
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.training import compute_basis

_VOXELS, _RANK, _SNR, _SHARE = 65_536, 5, (20.0, 50.0), 16
_TISSUES = {"WM": (0.8, 0.07), "GM": (1.4, 0.09), "fat": (0.37, 0.08), "CSF": (4.0, 2.0)}


def perk() -> list[harness.Result]:
    """Our methods beside each other, a row for each SNR; errors are relative RMSE of T1 in white and grey matter."""
    model = models.smooth(models.build({"name": "mrf-fisp"}).spec)
    prior = PRESETS["mao-mrf-table1"].thinned(3000, model.parameters)
    basis = compute_basis(model, prior, rank=_RANK, crb_weight=0.3)
    theta = np.concatenate([part.theta for part in PRESETS["t1-t2"].atoms(model.parameters)])
    forward = emulate(Simulated(model, basis.phi, Box.around(model.parameters, theta)))
    coeff = forward.value_and_jacobian(theta)[0]
    norm = np.linalg.norm(coeff, axis=1)
    unit = (coeff / norm[:, None]).astype(np.complex64)
    atoms = Dictionary(model.parameters, theta, unit, norm.astype(np.float32), np.zeros(len(norm), bool), basis.digest)
    begin = time.perf_counter()
    trained = perk_training.train(atoms)
    print(f"perk: {trained.info}, trained in {time.perf_counter() - begin:.1f} s; {len(atoms.theta)} atoms", flush=True)
    fitters = {
        "perk": Fitter(atoms, 0, perk=trained), "matching": Fitter(atoms, 0), "nlls": Fitter(atoms, 0, forward),
    }  # fmt: skip
    truth = np.repeat(np.array(list(_TISSUES.values())), _VOXELS // len(_TISSUES), axis=0)
    signal, jac = forward.value_and_jacobian(np.array(list(_TISSUES.values())))
    bound = np.sqrt(crb.bounds(signal, jac, np.eye(_RANK)).exact)
    clean = np.repeat(signal, _VOXELS // len(_TISSUES), axis=0)
    results = []
    for snr in _SNR:
        coeff = _noisy(clean, snr)
        maps, ours = _timed(partial(fitters["perk"].fit, coeff))
        error = _told("perk", snr, maps, truth, bound / snr)
        _rates(trained, coeff, maps, snr)
        for name in ("matching", "nlls"):
            found, seconds = _timed(partial(fitters[name].fit, coeff[:, ::_SHARE]))
            also = _told(name, snr, found, truth[::_SHARE], bound / snr)
            seconds *= _SHARE
            megabytes, case = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, f"perk-snr{snr:.0f}-{name[:5]}"
            results.append(harness.Result(
                case, ours, f"our {name}", seconds, seconds / ours, megabytes, megabytes, error, also
            ))  # fmt: skip
    return results


def _noisy(clean: np.ndarray, snr: float) -> np.ndarray:
    """Return coefficients (K, V) of signals (V, K) with random phases and noise."""
    rng = np.random.default_rng(1)
    turned = clean * np.exp(2j * np.pi * rng.random((len(clean), 1)))
    noise = rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape)
    return np.asarray((turned + noise / snr).T, np.complex64)


def _rates(trained: regression.Perk, coeff: np.ndarray, maps: Maps, snr: float) -> None:
    """Print how fast the sums are, and the standard deviations."""
    _, sums = _timed(partial(trained.outputs, np.ascontiguousarray(coeff.T)))
    _, std = _timed(partial(regression.spread, trained, maps, coeff, regression.Noise(1 / snr)))
    a = np.random.default_rng(0).standard_normal((2000, 2000)).astype(np.float32)
    _, product = _timed(partial(np.matmul, a, a))
    cosines = coeff.shape[1] * len(trained.turns)
    operations = 2 * cosines * (trained.weights.shape[1] + trained.frequencies.shape[1])
    print(
        f"perk: outputs {1e3 * sums:.0f} ms: {operations / sums / 1e9:.0f} Gflop/s of products and "
        f"{cosines / sums / 1e9:.1f} billion cosines a second; a matrix product has {16 / product:.0f} Gflop/s; "
        f"standard deviations {1e3 * std:.0f} ms",
        flush=True,
    )


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    found, seconds = function(), []
    for _ in range(3):
        begin = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - begin)
    return found, statistics.median(seconds)


def _told(name: str, snr: float, maps: Maps, truth: np.ndarray, bound: np.ndarray) -> float:
    """Print bias and RMSE of every tissue, and return the RMSE of T1 in white and grey matter, relative to T1."""
    theta = maps.theta.T.reshape(len(_TISSUES), -1, 2)
    truth = truth.reshape(theta.shape)
    cells = []
    errors = np.sqrt(np.mean((theta / truth - 1) ** 2, axis=1))
    bias = np.mean(theta / truth - 1, axis=1)
    for i, tissue in enumerate(_TISSUES):
        ratio = errors[i] * truth[i, 0] / bound[i]
        cells.append(
            f"{tissue} " + ", ".join(
                f"{parameter} {100 * b:+.1f} {100 * e:.1f} ({r:.2f})"
                for parameter, b, e, r in zip(("T1", "T2"), bias[i], errors[i], ratio, strict=True)
            )
        )  # fmt: skip
    print(f"SNR {snr:.0f} {name:<9}bias, RMSE [%] (in CRB): " + " | ".join(cells), flush=True)
    return float(np.sqrt(np.mean(errors[:2, 0] ** 2)))
