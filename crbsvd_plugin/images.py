"""Coefficient images with what an image needs, and their files.

COEFF.cfl, COEFF.hdr (BART dims x y z 1 1 1 K, repetitions in dim 10, slices in dim 13) and COEFF.json.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import bart, files
from .errors import UserError
from .geometry import Geometry, identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FORMAT = "crbsvd-coeff/1"
_COEFF, _REPETITION, _SLICE = 6, 10, 13


@dataclass(frozen=True)
class CoefficientImages:
    """Coefficient images of one or more volumes.

    Parameters
    ----------
    coeff : complex64 array (n_repetitions, n_slices, K, *X)
        Coefficients; X = (y, x) for slices, or (z, y, x) for a volume (n_slices = 1).
    geometry : Geometry
        That of the first slice.
    slice_step : tuple of 3 float
        From the centre of one slice to that of the next, LPS [mm].
    digest : str
        `Basis.digest` of the basis; empty if not known.
    info : mapping
        How they were made: backend, lam, iterations, sigma, ...
    """

    coeff: NDArray[np.complex64]
    geometry: Geometry
    slice_step: tuple[float, float, float] = (0.0, 0.0, 0.0)
    digest: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return int(self.coeff.shape[2])

    def volume(self, repetition: int) -> NDArray[np.complex64]:
        """Return the coefficients (K, *X) of one repetition, slices stacked as z."""
        slices = self.coeff[repetition]
        if slices.ndim == 4 and len(slices) > 1:
            return np.moveaxis(slices, 0, 1)
        return slices[0]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix (4, 4) from voxel indices (x, y, z) of a volume to RAS [mm]."""
        affine = self.geometry.affine.copy()
        if self.coeff.shape[1] > 1 and np.any(self.slice_step):
            affine[:3, 2] = np.array([-1.0, -1.0, 1.0]) * self.slice_step
        return affine

    def save(self, name: str | Path, *, force: bool = False) -> None:
        """Write COEFF.cfl, COEFF.hdr and COEFF.json.

        Raises
        ------
        UserError
            A file exists already, or cannot be written.
        """
        names = [f"{Path(name).name}{suffix}" for suffix in (".cfl", ".hdr")]
        with files.product(files.with_suffix(name, ".json"), names, kind=FORMAT, force=force) as product:
            cfl, _ = (product.path(member) for member in names)
            bart.write_cfl(str(cfl)[: -len(".cfl")], self._as_bart())
            product.commit(
                {
                    "geometry": self.geometry.to_dict(),
                    "slice_step": list(self.slice_step),
                    "affine": self.affine.tolist(),
                    "basis": self.digest,
                    "info": dict(self.info),
                }
            )

    def _as_bart(self) -> NDArray[Any]:
        """Return the array in BART's order of axes."""
        spatial = self.coeff.reshape(*self.coeff.shape[:3], *((1,) * (6 - self.coeff.ndim)), *self.coeff.shape[3:])
        dims = np.ones(16, dtype=int)
        dims[:3] = spatial.shape[:2:-1]
        dims[[_COEFF, _REPETITION, _SLICE]] = spatial.shape[2], spatial.shape[0], spatial.shape[1]
        # slices vary slower than repetitions in BART's order
        ordered = np.ascontiguousarray(np.swapaxes(spatial, 0, 1))
        return ordered.reshape(tuple(dims[::-1])).transpose()

    @classmethod
    def load(
        cls, name: str | Path, *, like: Geometry | None = None, slice_step: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> CoefficientImages:
        """Read coefficient images: ours, or what ``bart pics`` wrote.

        Parameters
        ----------
        name : path
            Name without suffix.
        like, slice_step : Geometry and tuple of 3 float, optional
            Where the first slice lies and the way to the next, for files without a sidecar; else that is taken as
            unknown.

        Raises
        ------
        UserError
            A file is missing, truncated or changed, or its dims are not those of coefficients.
        """
        sidecar = files.with_suffix(name, ".json")
        content: dict[str, Any] = {}
        if sidecar.exists():
            content = files.read_json(sidecar, "coefficient images")
            if content.get("format") != FORMAT:
                raise UserError(
                    f"{sidecar} has format {content.get('format')!r}, expected {FORMAT!r}; are these coefficients?"
                )
            files.verify(sidecar, content, "coefficient images")
        array = bart.read_cfl(str(name))
        dims = np.array(array.shape + (1,) * (16 - array.ndim))
        used = [0, 1, 2, _COEFF, _REPETITION, _SLICE]
        if np.any(np.delete(dims, used) != 1):
            raise UserError(
                f"{name} has dims {' '.join(map(str, dims))}, "
                "expected x y z 1 1 1 K, repetitions in dim 10, slices in dim 13"
            )
        n_x, n_y, n_z, rank, n_repetitions, n_slices = (int(n) for n in dims[used])
        coeff = np.swapaxes(array.T.reshape(n_slices, n_repetitions, rank, n_z, n_y, n_x), 0, 1)
        if n_z == 1:
            coeff = coeff[:, :, :, 0]
        geometry = Geometry.from_dict(content.get("geometry", {})) if content else like
        if geometry is None:
            logger.warning("%s has no sidecar: its place in the patient is unknown (name the raw file: --like)", name)
            geometry = identity((n_x, n_y, n_z))
        if geometry.shape != (n_x, n_y, n_z):
            raise UserError(
                f"{name} has {n_x} x {n_y} x {n_z} voxels, the geometry {geometry.shape}: they do not belong together"
            )
        step = content.get("slice_step", slice_step)
        return cls(coeff, geometry, tuple(step), content.get("basis", ""), content.get("info", {}))
