"""The truth of a phantom, and the errors of `paper_phantom.py` against it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion

import crbsvd_plugin as crb
from crbsvd_plugin.simulate import Scan

TISSUES, BRAIN = ("WM", "GM", "CSF"), "brain"
REGIONS = (*TISSUES, BRAIN)


@dataclass(frozen=True)
class Row:
    """Errors of a quantity in a region, relative to the truth.

    nrmse: ||estimate - truth|| / ||truth||. median_error, bias: median of |estimate / truth - 1|, and of
    estimate / truth - 1; NaN for coefficients, whose phase in every voxel is left free.
    """

    method: str
    delay: str
    crb_weight: float
    rank: int
    quantity: str
    region: str
    n_voxels: int
    nrmse: float
    median_error: float
    bias: float


@dataclass(frozen=True)
class Truth:
    """What there is in the phantom, on the image grid."""

    scan: Scan
    signals: np.ndarray
    maps: dict[str, np.ndarray]
    regions: dict[str, np.ndarray]
    """Pure voxels of each tissue, eroded by one, and the whole brain with its mixed voxels."""

    @classmethod
    def of(cls, scan: Scan, model: crb.SignalModel) -> Truth:
        """Return the truth of a scan with that model."""
        maps = scan.phantom.maps()
        regions = {name: binary_erosion(maps[name] >= 0.99) for name in TISSUES}
        regions[BRAIN] = sum(maps[name] for name in TISSUES) >= 0.99
        return cls(scan, crb.phantom.signals_of(model, scan.phantom.theta), maps, regions)

    def coefficients(self, basis: crb.Basis) -> np.ndarray:
        """Return the coefficient images (K, n, n) of the true signals."""
        fine = self.scan.phantom.mix(basis.project(self.signals))
        return self.scan.phantom.on_image_grid(fine.real) + 1j * self.scan.phantom.on_image_grid(fine.imag)

    def fit(self, coeff: np.ndarray, dictionary: crb.Dictionary, where: np.ndarray) -> dict[str, np.ndarray]:
        """Return T1 [s], T2 [s] and R1 [1/s] of the voxels of a region."""
        t1, t2 = crb.match(coeff[:, where], dictionary, mask_level=0).theta.astype(np.float64)[:2]
        return {"T1": t1, "T2": t2, "R1": 1 / t1}

    def values(self, where: np.ndarray) -> dict[str, np.ndarray]:
        """Return the true values of the same."""
        t1, t2 = self.maps["T1map"][where], self.maps["T2map"][where]
        return {"T1": t1, "T2": t2, "R1": 1 / t1}

    def errors(
        self, basis: crb.Basis, coeff: np.ndarray, fitted: dict[str, np.ndarray], key: tuple[str, str, float, int]
    ) -> list[Row]:
        """Return those of the values fitted in the brain, in every region, and of the coefficients (K, n, n)."""
        brain = self.regions[BRAIN]
        true = self.values(brain)
        rows = []
        for region, where in self.regions.items():
            inside = where[brain]
            for name, values in fitted.items():
                found, expected = values[inside], true[name][inside]
                deviation = found / expected - 1
                figures = _nrmse(found - expected, expected), _median(np.abs(deviation)), _median(deviation)
                rows.append(Row(*key, name, region, int(inside.sum()), *figures))
        found, expected = coeff[:, brain], self.coefficients(basis)[:, brain]
        # the phase of a voxel belongs to the sensitivities
        phase = np.exp(1j * np.angle(np.sum(expected.conj() * found, axis=0)))
        figures = _nrmse(found - phase * expected, expected), np.nan, np.nan
        return [*rows, Row(*key, "coefficients", BRAIN, int(brain.sum()), *figures)]


def _nrmse(difference: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(difference) / np.linalg.norm(expected)) if expected.size else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else float("nan")
