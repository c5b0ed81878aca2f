"""A digital brain: three tissues with known T1, T2 and M0, on a grid finer than that of the images.

The anatomy is one axial slice, see `anatomy`. Relaxation times are those measured at 3 T, with a mild
smooth variation, in steps: a few hundred (T1, T2) pairs per tissue, so that the signal of each is
computed once. A voxel of several tissues gives the sum of their signals.

References
----------
T1, T2 of GM and WM: Wansapura et al., J Magn Reson Imaging 9:531 (1999),
doi 10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L. There are longer T1 in the
literature; these lie within the paper's Table I, which ends at 1.5 s.
T1, T2 of CSF (mean of subarachnoid space and frontal horns): PubMed Central PMC10696635 (2023).
Water contents: Front Neurol 10:1333 (2019), doi 10.3389/fneur.2019.01333.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import anatomy
from .errors import UserError
from .geometry import Geometry
from .model import SignalModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tissue(NamedTuple):
    """T1 [s], T2 [s] and M0 of a tissue; M0 = 1 is the mean of GM and WM."""

    name: str
    t1: float
    t2: float
    m0: float


_WATER = 0.5 * (0.837 + 0.691)
TISSUES = (
    Tissue("GM", 1.331, 0.110, 0.837 / _WATER),
    Tissue("WM", 0.832, 0.0792, 0.691 / _WATER),
    Tissue("CSF", 4.381, 2.129, 1.0 / _WATER),
)
_SPREAD = {"t1": 0.055, "t2": 0.08, "m0": 0.05}  # relative; GM stays below 1.41 s
_LEVELS = {"t1": 24, "t2": 16}
_TRUNCATION = 1e-10
_FULL = 1 - 1e-9
_THICKNESS = 5.0


@dataclass(frozen=True)
class Phantom:
    """Tissues on a fine grid F of `factor` x `matrix` voxels along every side of a slice, or of a volume.

    Fine index f lies (f - F//2) / factor voxels of the image grid away from the image centre.

    Parameters
    ----------
    fraction : array (3, *F)
        Share of GM, WM and CSF in every fine voxel; of other phantoms, of their tissues.
    theta : array (N, P)
        The pairs T1, T2 [s], or whatever `parameters` says.
    pair : int array (3, *F)
        Row of `theta` of every tissue in every fine voxel.
    m0 : array (3, *F)
        M0 of every tissue in every fine voxel, were it alone there.
    factor : int
        Fine voxels per voxel of the image grid.
    geometry : Geometry
        The image grid.
    source : str
        Where the anatomy comes from: ``mni152`` or ``analytic``; or the name of another phantom.
    parameters : tuple of str
        Names of the columns of `theta`.
    tissues : tuple of str
        Names of the shares. None at all: the regions are those of the pairs, not of tissues.
    """

    fraction: NDArray[np.float64]
    theta: NDArray[np.float64]
    pair: NDArray[np.intp]
    m0: NDArray[np.float64]
    factor: int
    geometry: Geometry
    source: str
    parameters: tuple[str, ...] = ("T1", "T2")
    tissues: tuple[str, ...] = anatomy.TISSUES

    def mix(self, values: NDArray[np.complexfloating]) -> NDArray[np.complex64]:
        """Return images (K, *F) of values (N, K) of the pairs: their sum weighted with fraction and M0."""
        from scipy import sparse

        n_tissues, n_voxels = len(self.fraction), self.fraction[0].size
        voxel = np.tile(np.arange(n_voxels), n_tissues)
        strength = (self.fraction * self.m0).ravel()
        weights = sparse.csr_array((strength, (voxel, self.pair.ravel())), shape=(n_voxels, len(self.theta)))
        images = (weights @ values).astype(np.complex64)
        return np.ascontiguousarray(images.T).reshape(-1, *self.fraction.shape[1:])

    def on_image_grid(self, fine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return averages (..., *X) of a fine image (..., *F) over voxels centred on those of the image grid."""
        from scipy.ndimage import convolve1d

        # an even factor has no fine voxel in the middle of `factor` others: take one more, the outer two by half
        footprint = np.ones(self.factor + 1 - self.factor % 2)
        if self.factor % 2 == 0:
            footprint[[0, -1]] = 0.5
        n = self.geometry.shape[0]
        first = fine.shape[-1] // 2 - self.factor * (n // 2)
        n_dims = self.fraction.ndim - 1
        for axis in range(-n_dims, 0):
            fine = convolve1d(fine, footprint / self.factor, axis=axis, mode="constant")
        kept: Any = (..., *[slice(first, None, self.factor)] * n_dims)
        return fine[kept]

    def maps(self) -> dict[str, NDArray[np.float64]]:
        """Return the truth on the image grid X: T1map, T2map [s] (or of other parameters), M0map, and tissues' shares.

        T1 and T2 of a mixed voxel are means weighted with M0, and 0 where there is nothing. Without names of tissues
        LABELS instead of shares: the row of the pair, counted from 1, in voxels that it fills, else 0.
        """
        water = self.fraction * self.m0
        m0 = self.on_image_grid(water.sum(axis=0))
        present = m0 > 1e-3
        maps = {"M0map": m0}
        for column, name in enumerate(self.parameters):
            weighted = self.on_image_grid((water * self.theta[self.pair, column]).sum(axis=0))
            maps[f"{name}map"] = np.divide(weighted, m0, out=np.zeros_like(m0), where=present)
        fractions = self.on_image_grid(self.fraction)
        if self.tissues:
            return maps | dict(zip(self.tissues, fractions, strict=True))
        full = fractions.sum(axis=0) > _FULL
        rows = self.on_image_grid((self.fraction * (self.pair + 1)).sum(axis=0))
        return maps | {"LABELS": np.where(full, np.round(rows), 0.0)}


def brain(matrix: int, *, fov: float = 240.0, factor: int = 2) -> Phantom:
    """Make the brain phantom.

    Parameters
    ----------
    matrix : int
        Voxels of the image grid along either side.
    fov : float
        Field of view [mm] along either side.
    factor : int
        Fine voxels per voxel of the image grid.
    """
    voxel = fov / matrix
    geometry = Geometry((matrix, matrix, 1), (voxel, voxel, _THICKNESS), anatomy.CENTRE_LPS)
    where = anatomy.places(matrix, fov=fov, factor=factor, n_dims=2)
    fraction, source = anatomy.fractions(where)
    theta, pair = _pairs(anatomy.wave(where, 0), anatomy.wave(where, 1))
    theta, rows = occurring(theta, pair, fraction)
    variation = 1 + _SPREAD["m0"] * anatomy.wave(where, 2)
    m0 = np.stack([tissue.m0 * variation for tissue in TISSUES])
    return Phantom(fraction, theta, rows, m0, factor, geometry, source)


def occurring(
    theta: NDArray[np.float64], pair: NDArray[np.intp], fraction: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the rows of theta that occur, and the rows among them of every tissue and voxel.

    Signals are wanted of those; where a tissue is absent, any of them does.
    """
    used, rows = np.unique(np.where(fraction > 0, pair, pair[fraction > 0].min()), return_inverse=True)
    return theta[used], rows.reshape(pair.shape)


def coils(n_coils: int, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    """Compute smooth coil sensitivities (C, *X) whose squared magnitudes sum to 1 everywhere.

    Each coil is a pair of long wires with opposite currents outside of the field of view. The
    field of one in the plane is 1 / (z - z_wire), with z = x + iy (law of Biot and Savart). In a volume they
    wind about it by a fifth of a turn, so that coils tell its slices apart; the field is that of the plane.
    """
    places = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) for n in shape), indexing="ij")
    up, y, x = [np.zeros(shape), *places][-3:]
    z = x + 1j * y
    number = np.arange(n_coils).reshape(-1, *[1] * len(shape))
    angle = 2 * np.pi * ((number + 0.25) / n_coils + 0.1 * up)
    wires = [1.6 * np.exp(1j * (angle + half)) for half in (-0.3, 0.3)]
    field = 1 / (z - wires[0]) - 1 / (z - wires[1])
    sens: NDArray[np.complex128] = field / np.sqrt((np.abs(field) ** 2).sum(axis=0))
    return sens


def signals_of(
    model: SignalModel, theta: NDArray[np.float64], parameters: Sequence[str] = ("T1", "T2")
) -> NDArray[np.complex128]:
    """Return the signals (N, T) of theta (N, P), SI units; B1 is 1 and w0 is 0 if not told.

    Raises
    ------
    UserError
        The model has a parameter that is not told, or none that is.
    """
    known = {"B1": np.ones(len(theta)), "w0": np.zeros(len(theta))} | dict(zip(parameters, theta.T, strict=True))
    names = [parameter.name for parameter in model.parameters]
    if not set(names) <= set(known) or not set(names) & set(parameters):
        told = [*parameters, *(name for name in known if name not in parameters)]
        raise UserError(
            f"simulate: the model has parameters {', '.join(names)}; the phantom knows "
            f"{', '.join(told[:-1])} and {told[-1]}"
        )
    return model.signal(np.stack([known[name] for name in names], axis=1))


def expand(
    signal: NDArray[np.complex128], *, accuracy: float = _TRUNCATION
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return phi (T, K) and coeff (N, K) with signal (N, T) = coeff phi^T, each row to that share of its norm."""
    left, singular, right = np.linalg.svd(signal, full_matrices=False)
    coeff = left * singular
    # what row n loses when all from k on is left out
    lost = np.sqrt(np.cumsum((np.abs(coeff) ** 2)[:, ::-1], axis=1)[:, ::-1])
    sufficient = (lost < accuracy * lost[:, :1]).all(axis=0)
    rank = int(np.argmax(sufficient)) if sufficient.any() else len(singular)
    return np.ascontiguousarray(right[:rank].T), np.ascontiguousarray(coeff[:, :rank])


def _pairs(wave_t1: NDArray[np.float64], wave_t2: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the pairs (N, 2) of all tissues and the rows (3, F, F) that follow the two waves."""
    level_t1, level_t2 = (_level(wave, _LEVELS[name]) for wave, name in ((wave_t1, "t1"), (wave_t2, "t2")))
    step_t1, step_t2 = _steps("t1"), _steps("t2")
    rows, pairs = [], []
    for number, tissue in enumerate(TISSUES):
        t1, t2 = np.meshgrid(tissue.t1 * step_t1, tissue.t2 * step_t2, indexing="ij")
        pairs.append(np.stack([t1.ravel(), t2.ravel()], axis=1))
        rows.append(number * t1.size + level_t1 * _LEVELS["t2"] + level_t2)
    return np.concatenate(pairs), np.stack(rows)


def _level(wave: NDArray[np.float64], n_levels: int) -> NDArray[np.intp]:
    return np.clip(((wave + 1) / 2 * n_levels).astype(np.intp), 0, n_levels - 1)


def _steps(name: str) -> NDArray[np.float64]:
    """Return relative values about 1, off any regular grid: spread by the golden ratio within their steps."""
    number = np.arange(_LEVELS[name])
    within = 0.5 + 0.5 * (np.mod((number + 1) * (np.sqrt(5) - 1) / 2, 1) - 0.5)
    return 1 + _SPREAD[name] * (2 * (number + within) / len(number) - 1)
