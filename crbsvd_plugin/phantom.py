"""A digital brain: three tissues with known T1, T2 and M0, on a grid finer than that of the images.

The anatomy is one axial slice of the MNI152 tissue maps, through basal ganglia and ventricles.
Relaxation times are those measured at 3 T, with a mild smooth variation, in steps: a few hundred
(T1, T2) pairs per tissue, so that the signal of each is computed once. A voxel of several tissues
gives the sum of their signals.

References
----------
T1, T2 of GM and WM: Wansapura et al., J Magn Reson Imaging 9:531 (1999),
doi 10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L. There are longer T1 in the
literature; these lie within the paper's Table I, which ends at 1.5 s.
T1, T2 of CSF (mean of subarachnoid space and frontal horns): PubMed Central PMC10696635 (2023).
Water contents: Front Neurol 10:1333 (2019), doi 10.3389/fneur.2019.01333.
Tissue maps: MNI ICBM152 2009a nonlinear symmetric, as they lie in the wheel of nilearn.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import UserError
from .geometry import Geometry
from .model import SignalModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)


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
_SHARPNESS = 8.0
_TRUNCATION = 1e-10
_FULL = 1 - 1e-9
_CENTRE_LPS = (0.0, 18.0, 14.0)  # mm; caudate, putamen, thalamus and both horns of the ventricles
_THICKNESS = 5.0
_MAPS = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True)
class Phantom:
    """Tissues on a fine grid F of `factor` x `matrix` voxels along either side.

    Fine index f lies (f - F//2) / factor voxels of the image grid away from the image centre.

    Parameters
    ----------
    fraction : array (3, F, F)
        Share of GM, WM and CSF in every fine voxel; of other phantoms, of their tissues.
    theta : array (N, 2)
        The pairs T1, T2 [s].
    pair : int array (3, F, F)
        Row of `theta` of every tissue in every fine voxel.
    m0 : array (3, F, F)
        M0 of every tissue in every fine voxel, were it alone there.
    factor : int
        Fine voxels per voxel of the image grid.
    geometry : Geometry
        The image grid.
    source : str
        Where the anatomy comes from: ``mni152`` or ``analytic``; or the name of another phantom.
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
    tissues: tuple[str, ...] = tuple(tissue.name for tissue in TISSUES)

    def mix(self, values: NDArray[np.complexfloating]) -> NDArray[np.complex64]:
        """Return images (K, F, F) of values (N, K) of the pairs: their sum weighted with fraction and M0."""
        from scipy import sparse

        n_tissues, n_voxels = len(self.fraction), self.fraction[0].size
        voxel = np.tile(np.arange(n_voxels), n_tissues)
        strength = (self.fraction * self.m0).ravel()
        weights = sparse.csr_array((strength, (voxel, self.pair.ravel())), shape=(n_voxels, len(self.theta)))
        images = (weights @ values).astype(np.complex64)
        return np.ascontiguousarray(images.T).reshape(-1, *self.fraction.shape[1:])

    def on_image_grid(self, fine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return averages (..., n, n) of a fine image (..., F, F) over voxels centred on those of the image grid."""
        from scipy.ndimage import convolve1d

        # an even factor has no fine voxel in the middle of `factor` others: take one more, the outer two by half
        footprint = np.ones(self.factor + 1 - self.factor % 2)
        if self.factor % 2 == 0:
            footprint[[0, -1]] = 0.5
        n = self.geometry.shape[0]
        first = fine.shape[-1] // 2 - self.factor * (n // 2)
        for axis in (-2, -1):
            fine = convolve1d(fine, footprint / self.factor, axis=axis, mode="constant")
        return fine[..., first :: self.factor, first :: self.factor]

    def maps(self) -> dict[str, NDArray[np.float64]]:
        """Return the truth on the image grid (n, n): T1map, T2map [s], M0map, and the share of every tissue.

        T1 and T2 of a mixed voxel are means weighted with M0, and 0 where there is nothing. Without names of tissues
        LABELS instead of shares: the row of the pair, counted from 1, in voxels that it fills, else 0.
        """
        water = self.fraction * self.m0
        m0 = self.on_image_grid(water.sum(axis=0))
        present = m0 > 1e-3
        maps = {"M0map": m0}
        for column, name in enumerate(("T1map", "T2map")):
            weighted = self.on_image_grid((water * self.theta[self.pair, column]).sum(axis=0))
            maps[name] = np.divide(weighted, m0, out=np.zeros_like(m0), where=present)
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

    Notes
    -----
    Without nilearn (extra ``demo``) the anatomy is made of ellipses, and a warning is logged.
    """
    voxel = fov / matrix
    geometry = Geometry((matrix, matrix, 1), (voxel, voxel, _THICKNESS), _CENTRE_LPS)
    n_fine = factor * matrix
    offset = (np.arange(n_fine) - n_fine // 2) * (voxel / factor)
    y, x = np.meshgrid(offset, offset, indexing="ij")
    shares = _mni152(y, x)
    source = "analytic" if shares is None else "mni152"
    fraction = _sharpened(_ellipses(y, x) if shares is None else shares)
    theta, pair = _pairs(_wave(y, x, 0), _wave(y, x, 1))
    # signals are wanted of pairs that occur; where a tissue is absent, any pair does
    used, rows = np.unique(np.where(fraction > 0, pair, pair[fraction > 0].min()), return_inverse=True)
    variation = 1 + _SPREAD["m0"] * _wave(y, x, 2)
    m0 = np.stack([tissue.m0 * variation for tissue in TISSUES])
    return Phantom(fraction, theta[used], rows.reshape(pair.shape), m0, factor, geometry, source)


def coils(n_coils: int, shape: tuple[int, int]) -> NDArray[np.complex128]:
    """Compute smooth coil sensitivities (C, *X) whose squared magnitudes sum to 1 everywhere.

    Each coil is a pair of long wires with opposite currents outside of the field of view. The
    field of one in the plane is 1 / (z - z_wire), with z = x + iy (law of Biot and Savart).
    """
    y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) for n in shape), indexing="ij")
    z = x + 1j * y
    angle = 2 * np.pi * (np.arange(n_coils)[:, None, None] + 0.25) / n_coils
    wires = [1.6 * np.exp(1j * (angle + half)) for half in (-0.3, 0.3)]
    field = 1 / (z - wires[0]) - 1 / (z - wires[1])
    sens: NDArray[np.complex128] = field / np.sqrt((np.abs(field) ** 2).sum(axis=0))
    return sens


def signals_of(model: SignalModel, theta: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return the signals (N, T) of pairs T1, T2 (N, 2) [s]; B1 is 1, whatever else refused."""
    known = {"T1": theta[:, 0], "T2": theta[:, 1], "B1": np.ones(len(theta))}
    names = [parameter.name for parameter in model.parameters]
    unknown = [name for name in names if name not in known]
    if unknown or not {"T1", "T2"} <= set(names):
        raise UserError(f"simulate: the model has parameters {', '.join(names)}; the phantom knows T1, T2 and B1")
    return model.signal(np.stack([known[name] for name in names], axis=1))


def expand(signal: NDArray[np.complex128]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return phi (T, K) and coeff (N, K) with signal (N, T) = coeff phi^T, each row to 1e-10 of its norm."""
    left, singular, right = np.linalg.svd(signal, full_matrices=False)
    coeff = left * singular
    # what row n loses when all from k on is left out
    lost = np.sqrt(np.cumsum((np.abs(coeff) ** 2)[:, ::-1], axis=1)[:, ::-1])
    sufficient = (lost < _TRUNCATION * lost[:, :1]).all(axis=0)
    rank = int(np.argmax(sufficient)) if sufficient.any() else len(singular)
    return np.ascontiguousarray(right[:rank].T), np.ascontiguousarray(coeff[:, :rank])


def _wave(y: NDArray[np.float64], x: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Return a smooth function between -1 and 1, another one for each number; y, x in mm."""
    turn = 0.7 + 2.1 * number
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    wave: NDArray[np.float64] = 0.6 * np.sin(along / 23.0 + turn) + 0.4 * np.cos(across / 31.0 - turn)
    return wave


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


def _sharpened(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn probabilities (3, F, F), means over many brains, into the fractions of one: nearly pure tissues."""
    power = shares**_SHARPNESS
    inside = shares.sum(axis=0) > 0.5
    fraction: NDArray[np.float64] = np.where(inside, power / np.maximum(power.sum(axis=0), 1e-12), 0.0)
    return fraction


def _mni152(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return GM, WM and CSF (3, F, F) at LPS positions [mm] of the slice, or None without the files."""
    import nibabel
    from scipy.ndimage import map_coordinates

    spec = importlib.util.find_spec("nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else Path()
    files = [folder / _MAPS.format(kind) for kind in ("gm", "wm", "t1")]
    if not all(file.is_file() for file in files):
        _log.warning("nilearn's tissue maps are not installed (extra 'demo'): the phantom is made of ellipses")
        return None
    ras = np.stack([-(x + _CENTRE_LPS[0]), -(y + _CENTRE_LPS[1]), np.full_like(x, _CENTRE_LPS[2]), np.ones_like(x)])
    values = []
    for file in files:
        volume = nibabel.load(file)
        index = np.tensordot(np.linalg.inv(volume.affine)[:3], ras, axes=1)
        # the template's T1 image is zero outside of the brain: it is the mask
        voxels = np.asarray(volume.dataobj) / 255 if file is not files[2] else np.asarray(volume.dataobj) > 0
        values.append(map_coordinates(voxels.astype(np.float64), index, order=1))
    gm, wm, mask = values
    return np.stack([gm, wm, np.clip(mask - gm - wm, 0, 1)])


def _ellipses(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return GM, WM and CSF (3, F, F) of nested ellipses; the later cover the earlier ones."""
    gm, wm, csf = range(3)
    # tissue, centre y and x, half axes y and x [mm]
    layers = [(csf, 0, 0, 88, 70), (gm, 0, 0, 85, 67), (wm, 0, 0, 73, 55)]
    for side in (-1, 1):
        layers += [(gm, 4, side * 27, 22, 11), (csf, -14, side * 7, 15, 6), (csf, 28, side * 18, 14, 7)]
    shares = np.zeros((3, *x.shape))
    for tissue, centre_y, centre_x, half_y, half_x in layers:
        inside = np.hypot((y - centre_y) / half_y, (x - centre_x) / half_x) < 1
        shares[:, inside] = 0
        shares[tissue, inside] = 1
    return shares
