"""Dictionaries and voxels of `fit.py --only match`."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from crbsvd_plugin import Parameter, compute_basis, models, phantom
from crbsvd_plugin.dictionary import Dictionary, compress
from crbsvd_plugin.presets import PRESETS

MATRIX, RANK, SNR = 256, 5, 50.0
_TRAINED, _WEIGHT = 20_000, 0.3
# phase-cycled bSSFP: T1, T2, off-resonance
_GRID, _TR, _FLIP, _CYCLES = (60, 60, 78), 5e-3, np.deg2rad(30), 16


def folder() -> Path:
    """Return the folder that keeps what takes minutes to simulate; `make clean` removes it."""
    made = Path(os.environ.get("CRBSVD_CACHE") or Path(__file__).parents[1] / ".cache") / "benchmarks"
    made.mkdir(parents=True, exist_ok=True)
    return made


def fisp() -> tuple[np.ndarray, Dictionary]:
    """Return phi (T, RANK) of MRF-FISP and the dictionary of all 281,250 atoms of Table I; kept for the next run."""
    model, prior = models.build({"name": "mrf-fisp"}), PRESETS["mao-mrf-table1"]
    settings = json.dumps([model.spec, prior.spec, RANK, _TRAINED, _WEIGHT])
    path = folder() / f"match-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        basis = compute_basis(model, prior.thinned(_TRAINED, model.parameters), rank=RANK, crb_weight=_WEIGHT)
        made = compress(model, prior, basis)
        part = path.with_suffix(".part.npz")
        np.savez(part, phi=basis.phi, theta=made.theta, coeff=made.coeff, norm=made.norm, edge=made.edge)
        part.replace(path)
    kept = np.load(path)
    return kept["phi"], Dictionary(
        model.parameters, **{key: kept[key] for key in ("theta", "coeff", "norm", "edge")}, digest=""
    )


def brain(phi: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return coefficient images (RANK, MATRIX, MATRIX) of the brain with a smooth phase and noise."""
    model, made = models.build({"name": "mrf-fisp"}), phantom.brain(MATRIX)
    fine = made.mix(phantom.signals_of(model, made.theta) @ phi.conj())
    images = made.on_image_grid(fine.real.astype(float)) + 1j * made.on_image_grid(fine.imag.astype(float))
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, MATRIX)], indexing="ij")
    return noisy(images * np.exp(1j * (0.7 + x - 0.5 * y**2)), seed)


def noisy(images: np.ndarray, seed: int) -> np.ndarray:
    """Add noise: M0 = 1 over the noise of a coefficient per real component is SNR."""
    rng = np.random.default_rng(seed)
    return (images + (rng.standard_normal(images.shape) + 1j * rng.standard_normal(images.shape)) / SNR).astype(
        np.complex64
    )


def inside(images: np.ndarray) -> np.ndarray:
    """Return which voxels `match` fits by default."""
    size = np.linalg.norm(images, axis=0)
    return size >= 0.05 * np.percentile(size, 99)


def turned(known: Dictionary, coeff: np.ndarray) -> tuple[Dictionary, np.ndarray]:
    """Return atoms and coefficients (RANK, V) in another orthonormal basis, a complex one; every atom has a phase."""
    rng = np.random.default_rng(3)
    shape = (RANK, RANK)
    unitary = np.linalg.qr(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))[0]
    phases = np.exp(2j * np.pi * rng.random((len(known.coeff), 1)))
    return _replaced(known, known.theta, phases * (known.coeff @ unitary), known.norm), (unitary.T @ coeff).astype(
        np.complex64
    )


def bssfp(n_voxels: int) -> tuple[Dictionary, np.ndarray]:
    """Return 280,800 atoms of phase-cycled bSSFP, complex, of three parameters, and noisy voxels off their grid."""
    low, high = np.array([0.3, 0.03, -80.0]), np.array([3.0, 0.3, 80.0])
    axes = [np.geomspace(a, b, n) for a, b, n in zip(low[:2], high[:2], _GRID, strict=False)]
    axes.append(np.linspace(low[2], high[2], _GRID[2]))
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    signal = _bssfp(theta)
    phi = np.linalg.svd(signal[::50], full_matrices=False)[2][:RANK].conj().T
    coeff = signal @ phi.conj()
    norm = np.linalg.norm(coeff, axis=1)
    parameters = tuple(Parameter(name, unit, -1e3, 1e3) for name, unit in (("T1", "s"), ("T2", "s"), ("df", "Hz")))
    zeros = np.zeros(0)
    empty = Dictionary(parameters, zeros, zeros, zeros, zeros, "")
    known = _replaced(empty, theta, coeff / norm[:, None], norm)
    rng = np.random.default_rng(4)
    truth = low + (high - low) * rng.random((n_voxels, 3)) ** [2, 2, 1]
    scale = np.exp(2j * np.pi * rng.random(n_voxels)) / norm.mean()
    return known, noisy((scale[:, None] * (_bssfp(truth) @ phi.conj())).T, 5)


def sphere(n_atoms: int, n_voxels: int) -> tuple[Dictionary, np.ndarray]:
    """Return atoms and voxels anywhere in 10 real dimensions: nothing can be left out."""
    rng = np.random.default_rng(6)
    atoms = rng.standard_normal((n_atoms, 10))
    norm = np.linalg.norm(atoms, axis=1)
    zeros = np.zeros(0)
    empty = Dictionary((Parameter("number", "", 0, 1e9),), zeros, zeros, zeros, zeros, "")
    known = _replaced(empty, np.arange(float(n_atoms))[:, None], atoms / norm[:, None], norm)
    return known, noisy(np.zeros((10, n_voxels)), 7)


def _bssfp(theta: np.ndarray) -> np.ndarray:
    """Return the steady state (B, _CYCLES) after the pulse, for phase increments of 0 to 2 pi."""
    t1, t2, df = theta.T[:, :, None]
    e1, e2 = np.exp(-_TR / t1), np.exp(-_TR / t2)
    turn = 2 * np.pi * (df * _TR + np.arange(_CYCLES) / _CYCLES)
    denominator = (1 - e1 * np.cos(_FLIP)) * (1 - e2 * np.cos(turn)) - e2 * (e1 - np.cos(_FLIP)) * (e2 - np.cos(turn))
    echo = np.exp(-_TR / 2 / t2 + 1j * np.pi * df * _TR)
    return (1 - e1) * np.sin(_FLIP) * (1 - e2 * np.exp(-1j * turn)) / denominator * echo


def _replaced(like: Dictionary, theta: np.ndarray, coeff: np.ndarray, norm: np.ndarray) -> Dictionary:
    edge = np.zeros(len(theta), bool)
    return Dictionary(like.parameters, theta, coeff.astype(np.complex64), norm.astype(np.float32), edge, "")
