"""What of the digital phantom a sampling can see: images of all signals, and voxels that are of one tissue alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import anatomy, mt_phantom, phantom
from .errors import UserError
from .model import SignalModel
from .sampling import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = 240.0
"""Field of view [mm] that holds the whole head."""
_PURE = 0.9
"""Share of the tissue in a voxel that counts as one of it."""
_MOST = 256
"""Voxels of a tissue that count: their medians are known well enough."""


@dataclass(frozen=True)
class Still:
    """Signals of all voxels, without noise.

    Parameters
    ----------
    phi : array (T, Q)
        Singular vectors of the signals of the phantom: as many as hold them all, Q.
    coeff : complex array (Q, *X)
        Their coefficients.
    sens : complex array (C, *X)
        Coil sensitivities.
    voxels : int array (V,)
        Voxels that are of one tissue, in the order of the tissues.
    tissue : array of str (V,)
        Which one it is.
    theta : array (V, P)
        Their parameters, SI units.
    m0 : array (V,)
        Their M0.
    """

    phi: NDArray[np.complex128]
    coeff: NDArray[np.complex128]
    sens: NDArray[np.complex128]
    voxels: NDArray[np.intp]
    tissue: NDArray[np.str_]
    theta: NDArray[np.float64]
    m0: NDArray[np.float64]


def still(model: SignalModel, sampling: Sampling, *, fov: float = HEAD) -> Still:
    """Put the middle of the phantom into the image of a sampling.

    With a field of view [mm] along the longest side that has the share of `HEAD` that the voxels are of those of the
    scan, a voxel is what it is there, with as many edges in it: they are what there is to leak.

    Frequencies that no sample comes near (`Sampling.covered`: the corners of k-space, of spokes) are taken out of it:
    what they would add is resolution, which no basis gives.

    Raises
    ------
    UserError
        The model has parameters that the phantom does not know, or needs a volume and this is a slice, or the other
        way round; or no voxel is of one tissue alone.
    """
    shape = sampling.shape
    names = [parameter.name for parameter in model.parameters]
    two_pools = "m0s" in names
    if (len(shape) == 3) != two_pools:
        raise UserError(
            f"the scan is of {'a volume' if len(shape) == 3 else 'a slice'}, and the phantom of this model "
            f"{'a volume with two pools' if two_pools else 'a slice with T1 and T2'}; name another scan or model"
        )
    matrix = max(shape)
    made = mt_phantom.brain(matrix, fov=fov) if two_pools else phantom.brain(matrix, fov=fov)
    phi, values = phantom.expand(phantom.signals_of(model, made.theta, made.parameters))
    # of an image that is not square, its middle
    middle: Any = (..., *(slice(matrix // 2 - n // 2, matrix // 2 - n // 2 + n) for n in shape))
    fine = made.mix(values)
    parts = [made.on_image_grid(part.astype(np.float64)) for part in (fine.real, fine.imag)]
    images = (parts[0] + 1j * parts[1])[middle]
    maps = {name: array[middle] for name, array in made.maps().items()}
    voxels = {name: _some(np.flatnonzero(maps[name] > _PURE)) for name in made.tissues}
    missing = [name for name, found in voxels.items() if not len(found)]
    if missing:
        size = " x ".join(map(str, shape))
        raise UserError(f"the middle {size} voxels of the phantom have none of pure {missing[0]}; change --matrix")
    chosen = np.concatenate(list(voxels.values()))
    known = {"B1": np.ones(shape), "w0": np.zeros(shape)} | {name: maps[f"{name}map"] for name in made.parameters}
    return Still(
        phi, _seen(images, sampling.covered()), phantom.coils(sampling.n_coils, shape), chosen,
        np.repeat(list(voxels), [len(found) for found in voxels.values()]),
        np.stack([known[name].ravel()[chosen] for name in names], axis=1), maps["M0map"].ravel()[chosen],
    )  # fmt: skip


TISSUES = anatomy.TISSUES
"""The tissues of every phantom."""


def _some(voxels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return at most `_MOST` of some voxels, evenly spread."""
    return voxels[np.linspace(0, len(voxels) - 1, min(len(voxels), _MOST)).round().astype(int)]


def _seen(images: NDArray[np.complex128], covered: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """Return images (Q, *X) without the frequencies (*X), zero at n//2, that are not covered."""
    axes = tuple(range(1, images.ndim))
    spectrum = np.fft.fftn(np.fft.ifftshift(images, axes=axes), axes=axes)
    return np.asarray(np.fft.fftshift(np.fft.ifftn(spectrum * np.fft.ifftshift(covered), axes=axes), axes=axes))
