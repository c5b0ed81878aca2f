"""Where the samples of Cartesian lines lie, which carry counters instead of a trajectory.

Sample s of the line with the counters l_1, l_2 lies at

    k = ((s - s_0) / L_0, (l_1 - c_1) / L_1, (l_2 - c_2) / L_2)

along x, y, z: L the encoded field of view, s_0 the `center_sample` of the readout, c the `center` of the header's
limits of `kspace_encoding_step_1` and `_2`; without a limit, the middle of the encoded matrix.

A line of S samples with the flag for a readout that runs backwards is turned round: its sample s is sample S - 1 - s of
a line that runs forwards, and `center_sample` counts there, so that lines of both directions have the same one, as
converters write it. Samples to be discarded are the first and last of the acquisition, so they go before that. A
trajectory that comes with the samples, or that a file has for them, is in their order, and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .mrd_header import REVERSE, centres, encoded_size

if TYPE_CHECKING:
    from ismrmrd import AcquisitionHeader
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray


def trajectory_name(header: ismrmrdHeader, encoding: int) -> str | None:
    """Return the kind of trajectory that the header says an encoding has."""
    name = getattr(header.encoding[encoding], "trajectory", None) if encoding < len(header.encoding) else None
    return getattr(name, "value", name)


def is_cartesian(header: ismrmrdHeader, encoding: int) -> bool:
    """Return whether the header says that the readouts of an encoding are Cartesian lines."""
    return trajectory_name(header, encoding) == "cartesian"


def line_positions(
    header: ismrmrdHeader,
    heads: list[AcquisitionHeader],
    n_samples: int,
    *,
    shape: tuple[int, ...],
    fov: tuple[float, ...],
) -> NDArray[np.float64]:
    """Return the positions (R, S, ndim) of the samples that are kept, in cycles per field of view, in the order of X.

    Parameters
    ----------
    header : ismrmrdHeader
        Encoded space and limits.
    heads : list of AcquisitionHeader
        Counters of the lines.
    n_samples : int
        Samples S that the longest of them keeps; where others have less, the line goes on.
    shape : tuple of int
        Image size X.
    fov : tuple of float
        Field of view of the image along X [mm].

    Raises
    ------
    UserError
        The header tells no encoded field of view.
    """
    encoding = heads[0].encoding_space_ref
    _, length = encoded_size(header, encoding)
    along = [
        samples_from_centre(heads, n_samples), *(axis_position(header, heads, axis)[:, None] for axis in (1, 2)),
    ]  # fmt: skip
    positions = np.empty((len(heads), n_samples, len(shape)))
    for axis, size in enumerate(fov):
        mrd = len(shape) - 1 - axis  # MRD counts x, y, z
        positions[..., axis] = along[mrd] * (size / length[mrd])
    return positions


def axis_position(header: ismrmrdHeader, heads: list[AcquisitionHeader], axis: int) -> NDArray[np.float64]:
    """Return where readouts (R,) lie along an encoded axis, 1 or 2: steps beyond the centre."""
    encoding = heads[0].encoding_space_ref
    matrix, _ = encoded_size(header, encoding)
    middle = centres(header, encoding).get(f"kspace_encoding_step_{axis}", matrix[axis] // 2)
    return np.array([getattr(head.idx, f"kspace_encode_step_{axis}") - middle for head in heads], dtype=np.float64)


def samples_from_centre(heads: list[AcquisitionHeader], n_samples: int) -> NDArray[np.float64]:
    """Return how many samples (R, S) those that are kept lie beyond the centre of k-space, in the forward direction."""
    stored = np.array([head.discard_pre for head in heads])[:, None] + np.arange(n_samples)
    last = np.array([[head.number_of_samples - 1] for head in heads])
    backwards = np.array([[bool(head.flags & REVERSE)] for head in heads])
    centre = np.array([[head.center_sample] for head in heads])
    return np.where(backwards, last - stored, stored) - centre.astype(np.float64)
