"""Where an image lies in the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# MRD counts millimetres to the left, posterior and superior (LPS), NIfTI to the right, anterior and superior (RAS)
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_ORTHONORMAL = 1e-3


def array_shape(matrix: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the image size X of (n_x, n_y, n_z) voxels: (y, x) for a slice, (z, y, x) for a volume."""
    return matrix[1::-1] if matrix[2] == 1 else matrix[::-1]


@dataclass(frozen=True)
class Geometry:
    """Size, place and directions of an image, in the words and the axes of MRD.

    Parameters
    ----------
    shape : tuple of 3 int
        Number of voxels (n_x, n_y, n_z). Arrays are (z, y, x) or (y, x): the other way round.
    voxel_size : tuple of 3 float
        Distance of voxel centres along x, y, z [mm].
    position : tuple of 3 float
        Where the centre of voxel n//2 lies, LPS [mm].
    read_dir, phase_dir, slice_dir : tuple of 3 float
        Unit vectors of x, y and z, LPS; orthogonal, and of either handedness.

    Raises
    ------
    UserError
        Sizes that are not positive, or directions that are not orthonormal.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    read_dir: tuple[float, float, float] = (1.0, 0.0, 0.0)
    phase_dir: tuple[float, float, float] = (0.0, 1.0, 0.0)
    slice_dir: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            # from JSON come lists, from MRD float32: here everything is tuples of Python's own numbers
            object.__setattr__(self, field.name, _triple(getattr(self, field.name), field.name))
        if min(self.shape) < 1 or min(self.voxel_size) <= 0:
            raise UserError(
                f"geometry: shape {self.shape} and voxels of {self.voxel_size} mm, expected positive numbers"
            )
        error = np.abs(self.directions.T @ self.directions - np.eye(3)).max()
        if error > _ORTHONORMAL:
            raise UserError(
                f"geometry: directions {self.read_dir}, {self.phase_dir}, {self.slice_dir} are no orthogonal unit "
                f"vectors (off by {error:.2g}); mend them in the file"
            )

    @property
    def directions(self) -> NDArray[np.float64]:
        """Columns read, phase and slice direction (3, 3), LPS."""
        return np.array([self.read_dir, self.phase_dir, self.slice_dir]).T

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix (4, 4) from voxel indices (x, y, z, 1) to RAS [mm], as NIfTI wants it."""
        affine = np.eye(4)
        affine[:3, :3] = _LPS_TO_RAS[:, None] * self.directions * self.voxel_size
        centre = np.array(self.shape) // 2
        affine[:3, 3] = _LPS_TO_RAS * self.position - affine[:3, :3] @ centre
        return affine

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, ready for JSON."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gives.

        Raises
        ------
        UserError
            A key is missing or unknown, or a value is not three numbers.
        """
        expected = {field.name for field in fields(cls)}
        if set(content) != expected:
            wrong = ", ".join(sorted(set(content) ^ expected))
            raise UserError(f"geometry: missing or unknown {wrong}; expected {', '.join(sorted(expected))}")
        return cls(**content)


def identity(shape: tuple[int, int, int]) -> Geometry:
    """Return the geometry whose affine is the unit matrix: voxels of 1 mm, for images that say nothing."""
    n_x, n_y, n_z = shape
    return Geometry(
        shape=(n_x, n_y, n_z),
        voxel_size=(1.0, 1.0, 1.0),
        position=(-float(n_x // 2), -float(n_y // 2), float(n_z // 2)),
        read_dir=(-1.0, 0.0, 0.0),
        phase_dir=(0.0, -1.0, 0.0),
        slice_dir=(0.0, 0.0, 1.0),
    )


def _triple(value: Any, name: str) -> tuple[Any, Any, Any]:
    number = int if name == "shape" else float
    try:
        given = tuple(value)
        x, y, z = (number(entry) for entry in given)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"geometry: {name} is {value!r}, expected three numbers") from None
    if isinstance(value, str) or not np.isfinite([x, y, z]).all() or (number is int and (x, y, z) != given):
        kind = "whole" if number is int else "finite"
        raise UserError(f"geometry: {name} is {value!r}, expected three {kind} numbers")
    return x, y, z
