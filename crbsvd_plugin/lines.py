"""Where the samples of Cartesian lines lie, which carry counters instead of a trajectory.

Sample s of the line with the counters l_1, l_2 lies at

    k = ((s - s_0) / L_0, (l_1 - c_1) / L_1, (l_2 - c_2) / L_2)

along x, y, z: L the encoded field of view, s_0 the `center_sample` of the readout, c the `center` of the header's
limits of `kspace_encoding_step_1` and `_2`; without a limit, the middle of the encoded matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError
from .mrd_header import centres, encoded_size

if TYPE_CHECKING:
    from ismrmrd import AcquisitionHeader
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

_REVERSE = 1 << 21  # flag 22 of MRD, counted from 1


def is_cartesian(header: ismrmrdHeader, encoding: int) -> bool:
    """Return whether the header says that the readouts of an encoding are Cartesian lines."""
    name = getattr(header.encoding[encoding], "trajectory", None) if encoding < len(header.encoding) else None
    return getattr(name, "value", name) == "cartesian"


def line_positions(
    header: ismrmrdHeader, heads: list[AcquisitionHeader], *, shape: tuple[int, ...], fov: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return the positions (R, S, ndim) of the samples that are kept, in cycles per field of view, in the order of X.

    Parameters
    ----------
    header : ismrmrdHeader
        Encoded space and limits.
    heads : list of AcquisitionHeader
        Counters of the lines; all keep the same number of samples.
    shape : tuple of int
        Image size X.
    fov : tuple of float
        Field of view of the image along X [mm].

    Raises
    ------
    UserError
        The header tells no encoded field of view, or a line runs backwards.
    """
    backwards = [head.scan_counter for head in heads if head.flags & _REVERSE]
    if backwards:
        raise UserError(
            f"readout {backwards[0]} and {len(backwards) - 1} others run backwards, expected all lines in one "
            "direction (or a trajectory): turn them round, and leave out the flag"
        )
    encoding = heads[0].encoding_space_ref
    matrix, length = encoded_size(header, encoding)
    told = centres(header, encoding)
    middle = [told.get(f"kspace_encoding_step_{i}", matrix[i] // 2) for i in (1, 2)]
    first = np.array([head.discard_pre - head.center_sample for head in heads], dtype=float)
    n_samples = heads[0].number_of_samples - heads[0].discard_pre - heads[0].discard_post
    along = [
        first[:, None] + np.arange(n_samples),
        np.array([[head.idx.kspace_encode_step_1 - middle[0]] for head in heads], dtype=float),
        np.array([[head.idx.kspace_encode_step_2 - middle[1]] for head in heads], dtype=float),
    ]
    positions = np.empty((len(heads), n_samples, len(shape)))
    for axis, size in enumerate(fov):
        mrd = len(shape) - 1 - axis  # MRD counts x, y, z
        positions[..., axis] = along[mrd] * (size / length[mrd])
    return positions
