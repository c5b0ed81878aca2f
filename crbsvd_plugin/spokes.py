"""Where the samples of spokes lie that carry counters instead of a trajectory: as the header describes them.

Sample s of spoke n, which is `kspace_encode_step_1` minus the lowest one of the header's limits, lies at

    k = (s - s_0) / L_0 (cos a, sin a),    a = a_0 + n da,

along x and y: L_0 the encoded field of view along x, s_0 the `center_sample`. In a stack of stars the third axis is as
for `lines`, and so are readouts that run backwards. The header says

=========================  ======================================================================================
`trajectory`               ``goldenangle``: da is 111.246 degrees; or ``radial``, with the angle in the description
`trajectoryDescription`    may be missing for the former; else the identifier is ``goldenangle`` or ``radial``, and
                           userParameterDouble ``angle_increment_deg`` and ``first_angle_deg`` (0) are da and a_0
=========================  ======================================================================================

Anything else in a description would be another trajectory, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .lines import axis_position, samples_from_centre, trajectory_name
from .mrd_header import encoded_size, limits, n_kept
from .trajectory import GOLDEN_ANGLE

if TYPE_CHECKING:
    from ismrmrd import AcquisitionHeader
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

_NAMES = ("goldenangle", "radial")
_COUNTER = "kspace_encoding_step_1"


@dataclass(frozen=True)
class Spokes:
    """The angles [rad] of spokes, as a header describes them."""

    increment: float
    first: float = 0.0

    @classmethod
    def described(cls, header: ismrmrdHeader, encoding: int) -> Spokes | None:
        """Return what a header says of an encoding; None if that is nothing from which spokes can be computed.

        Raises
        ------
        UserError
            It describes something else.
        """
        name = trajectory_name(header, encoding)
        if name not in _NAMES:
            return None
        told = getattr(header.encoding[encoding], "trajectoryDescription", None)
        if told is None:
            return cls(GOLDEN_ANGLE) if name == "goldenangle" else None
        found = {one.name: one.value for one in (*told.userParameterDouble, *told.userParameterLong)}
        unknown = sorted(set(found) - {"angle_increment_deg", "first_angle_deg"})
        if told.identifier not in _NAMES or unknown:
            what = f"has {unknown[0]!r}" if told.identifier in _NAMES else f"is {told.identifier!r}"
            raise UserError(
                f"the trajectory description of the header {what}, expected 'goldenangle' or 'radial' with "
                "angle_increment_deg and first_angle_deg: write positions into the readouts, or name a --traj-file"
            )
        default = np.rad2deg(GOLDEN_ANGLE) if name == "goldenangle" else None
        angles = [found.get("angle_increment_deg", default), found.get("first_angle_deg", 0.0)]
        if not all(isinstance(one, int | float) and np.isfinite(one) for one in angles):
            raise UserError(
                f"the trajectory description of the header has angles of {angles}, expected angle_increment_deg and "
                "first_angle_deg in degrees; mend it"
            )
        return cls(*(float(np.deg2rad(one)) for one in angles))

    def positions(
        self,
        header: ismrmrdHeader,
        heads: list[AcquisitionHeader],
        n_samples: int,
        *,
        shape: tuple[int, ...],
        fov: tuple[float, ...],
    ) -> NDArray[np.float64]:
        """Return the positions (R, S, ndim) of the samples that are kept; the arguments are those of `line_positions`.

        Raises
        ------
        UserError
            The header tells no encoded field of view; a number is outside of the limits; or samples lie beyond the
            edge of the encoded k-space, where `center_sample` is wrong.
        """
        encoding = heads[0].encoding_space_ref
        matrix, length = encoded_size(header, encoding)
        number = self._numbers(header, heads, encoding)
        along = samples_from_centre(heads, n_samples)
        there = np.arange(n_samples) < np.array([[n_kept(head)] for head in heads])
        far = np.abs(np.where(there, along, 0)).max(axis=1)
        # one sample more than the edge: where S is odd, or s_0 the middle
        if far.max() > matrix[0] / 2 + 1:
            head = heads[int(far.argmax())]
            raise UserError(
                f"readout {head.scan_counter} reaches {far.max():g} samples from its centre ({head.center_sample}), "
                f"expected {matrix[0] / 2:g} for the encoded matrix: mend center_sample or the header"
            )
        angle = np.mod(self.first + number * self.increment, 2 * np.pi)
        k = along / length[0]
        axes: list[Any] = [k * np.cos(angle)[:, None], k * np.sin(angle)[:, None]]
        if len(shape) == 3:
            axes.append(np.broadcast_to(axis_position(header, heads, 2)[:, None] / length[2], k.shape))
        # MRD counts x, y, z
        return np.stack([axis * size for axis, size in zip(axes[::-1], fov, strict=True)], axis=-1)

    def _numbers(self, header: ismrmrdHeader, heads: list[AcquisitionHeader], encoding: int) -> NDArray[np.int64]:
        lowest, highest = limits(header, encoding).get(_COUNTER, (0, 2**16))
        number = np.array([head.idx.kspace_encode_step_1 for head in heads], dtype=np.int64)
        wrong = np.flatnonzero((number < lowest) | (number > highest))
        if len(wrong):
            raise UserError(
                f"readout {heads[wrong[0]].scan_counter} is spoke {number[wrong[0]]} (kspace_encode_step_1), the "
                f"limits in the header are {lowest} to {highest}: mend one of them, or write positions"
            )
        return number - lowest
