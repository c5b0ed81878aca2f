"""The header of MRD raw data: read with tolerance, asked for what counts here, and made for radial scans."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from .errors import UserError
from .geometry import Geometry
from .markup import parse_xml

if TYPE_CHECKING:
    from ismrmrd import Acquisition, AcquisitionHeader
    from ismrmrd.xsd import ismrmrdHeader

TRAJECTORY_UNIT = "trajectory_unit"
"""Name of the user parameter that tells the unit of the trajectory, which MRD leaves open."""

REVERSE = 1 << 21
"""Flag 22 of MRD, counted from 1: the readout runs backwards."""

_NAMESPACE = "http://www.ismrm.org/ISMRMRD"
_H1_AT_3T = 127_732_000


def parse_header(xml: bytes | str, name: str = "header") -> ismrmrdHeader:
    """Read an MRD header, whatever it lacks or has more than the standard.

    Parameters
    ----------
    xml : bytes or str
        The document; NULs at its end and a missing namespace are tolerated.
    name : str
        What to call it in messages.

    Raises
    ------
    UserError
        It is no XML, or no MRD header.
    """
    from ismrmrd.xsd import ismrmrdHeader
    from xsdata.exceptions import ParserError
    from xsdata.formats.dataclass.parsers import XmlParser
    from xsdata.formats.dataclass.parsers.config import ParserConfig

    try:
        root = parse_xml(xml)
    except ValueError as error:
        raise UserError(f"{name}: the MRD header is no valid XML ({error}); write the file again") from None
    for element in root.iter():
        element.tag = f"{{{_NAMESPACE}}}{element.tag.rpartition('}')[2]}"
    if root.tag != f"{{{_NAMESPACE}}}ismrmrdHeader":
        found = root.tag.rpartition("}")[2]
        raise UserError(f"{name}: the header is a {found!r}, expected 'ismrmrdHeader'; is this an MRD file?")
    config = ParserConfig(fail_on_unknown_properties=False, class_factory=_lenient)
    try:
        with warnings.catch_warnings():
            # a value that does not fit its type stays text: who needs it will say so
            warnings.simplefilter("ignore")
            header: ismrmrdHeader = XmlParser(config=config).from_bytes(ElementTree.tostring(root), ismrmrdHeader)
    except ParserError as error:
        raise UserError(f"{name}: the MRD header cannot be read ({error}); write the file again") from None
    return header


def kept(head: Acquisition | AcquisitionHeader) -> slice:
    """Return which samples of a readout are left without those to discard."""
    return slice(head.discard_pre, head.number_of_samples - head.discard_post)


def n_kept(head: Acquisition | AcquisitionHeader) -> int:
    """Return how many samples `kept` leaves."""
    return int(head.number_of_samples - head.discard_pre - head.discard_post)


def geometry_of(header: ismrmrdHeader, acquisition: Acquisition | AcquisitionHeader) -> Geometry:
    """Return where the reconstructed image of a readout lies: size from the header, place from the readout.

    Directions that are all zero, as some writers leave them, mean an axial slice.

    Raises
    ------
    UserError
        As for `size_of`.
    """
    matrix, fov = size_of(header, acquisition.encoding_space_ref)
    voxel = (fov[0] / matrix[0], fov[1] / matrix[1], fov[2] / matrix[2])
    directions = [tuple(getattr(acquisition, name)) for name in ("read_dir", "phase_dir", "slice_dir")]
    return Geometry(matrix, voxel, tuple(acquisition.position), *(directions if np.any(directions) else ()))


def size_of(header: ismrmrdHeader, encoding: int) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return voxels and field of view [mm] of the images of an encoding, both (x, y, z).

    The reconstruction space counts; where it is empty, the encoded space.

    Raises
    ------
    UserError
        The header has no such encoding, names no matrix size or field of view, or one that cannot be in millimetres.
    """
    if encoding >= len(header.encoding):
        raise UserError(f"MRD header has {len(header.encoding)} encodings, the readouts ask for number {encoding}")
    spaces = header.encoding[encoding].reconSpace, header.encoding[encoding].encodedSpace
    size = next((size for size in map(_space, spaces) if size is not None), None)
    if size is None:
        raise UserError("MRD header has neither matrixSize nor fieldOfView_mm, expected both in reconSpace; add them")
    if max(size[1]) < 1.0:
        raise UserError(f"MRD header: a field of view of {max(size[1]):.3g} mm looks like metres, expected millimetres")
    return size


def encoded_size(header: ismrmrdHeader, encoding: int) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return points and field of view [mm] of the encoded k-space of an encoding, both (x, y, z).

    Raises
    ------
    UserError
        The header does not tell them.
    """
    size = _space(header.encoding[encoding].encodedSpace)
    if size is None:
        raise UserError("MRD header has no matrixSize and fieldOfView_mm in encodedSpace, expected both; add them")
    return size


def centres(header: ismrmrdHeader, encoding: int) -> dict[str, int]:
    """Return the centre of every counter whose limits the header tells."""
    return {name: int(pair.center) for name, pair in _limits(header, encoding).items()}


def limits(header: ismrmrdHeader, encoding: int = 0) -> dict[str, tuple[int, int]]:
    """Return the lowest and highest value of every counter whose limits the header tells."""
    return {name: (int(pair.minimum), int(pair.maximum)) for name, pair in _limits(header, encoding).items()}


def user_strings(header: ismrmrdHeader) -> dict[str, str]:
    """Return the user parameters that are text, by name."""
    parameters = header.userParameters.userParameterString if header.userParameters is not None else []
    return {parameter.name: parameter.value for parameter in parameters}


def noise_bandwidth(header: ismrmrdHeader) -> float | None:
    """Return the relative noise bandwidth of the receiver, or None if the header does not tell it."""
    system = header.acquisitionSystemInformation
    return None if system is None else system.relativeReceiverNoiseBandwidth


def radial_header(
    geometry: Geometry, ksp_shape: tuple[int, int, int], *, n_frames: int, n_shots: int, sequence: Mapping[str, Any]
) -> ismrmrdHeader:
    """Make the header of a 2-D golden-angle scan at 3 T.

    Parameters
    ----------
    geometry : Geometry
        The image.
    ksp_shape : tuple
        Coils C, readouts R and samples S.
    n_frames, n_shots : int
        Ranges of the counters ``contrast`` and ``repetition``.
    sequence : mapping
        ``TR``, ``TE``, ``TI`` [ms] and ``flipAngle_deg``: lists, empty where unknown.
    """
    from ismrmrd import xsd

    n_coils, n_readouts, n_samples = ksp_shape
    n_x, n_y, n_z = geometry.shape
    fov_x, fov_y, fov_z = (n * size for n, size in zip(geometry.shape, geometry.voxel_size, strict=True))

    def space(oversampling: int) -> Any:
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=oversampling * n_x, y=n_y, z=n_z),
            fieldOfView_mm=xsd.fieldOfViewMm(x=oversampling * fov_x, y=fov_y, z=fov_z),
        )

    highest = {"kspace_encoding_step_0": n_samples - 1, "kspace_encoding_step_1": n_readouts - 1}
    highest |= {"contrast": n_frames - 1, "repetition": n_shots - 1}
    highest |= dict.fromkeys(("kspace_encoding_step_2", "average", "slice", "phase", "set", "segment"), 0)
    centre = {"kspace_encoding_step_0": n_samples // 2}
    counters = {
        name: xsd.limitType(minimum=0, maximum=top, center=centre.get(name, 0)) for name, top in highest.items()
    }
    return xsd.ismrmrdHeader(
        version=1,
        measurementInformation=xsd.measurementInformationType(
            measurementID="1", patientPosition=xsd.patientPositionType.HFS, protocolName="crbsvd simulate"
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemVendor="crbsvd-plugin",
            systemModel="simulation",
            systemFieldStrength_T=3.0,
            relativeReceiverNoiseBandwidth=1.0,
            receiverChannels=n_coils,
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=_H1_AT_3T),
        encoding=[
            xsd.encodingType(
                encodedSpace=space(n_samples // n_x),
                reconSpace=space(1),
                encodingLimits=xsd.encodingLimitsType(**counters),
                trajectory=xsd.trajectoryType.GOLDENANGLE,
            )
        ],
        sequenceParameters=xsd.sequenceParametersType(**sequence),
        userParameters=xsd.userParametersType(
            userParameterString=[xsd.userParameterStringType(name=TRAJECTORY_UNIT, value="cycles/fov")]
        ),
    )


def _limits(header: ismrmrdHeader, encoding: int) -> dict[str, Any]:
    """Return the limits (minimum, maximum, center) that the header tells, by the name of their counter."""
    found = header.encoding[encoding].encodingLimits if encoding < len(header.encoding) else None
    pairs = {} if found is None else {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def _lenient(cls: type, values: dict[str, Any]) -> Any:
    """Build a part of the header from the elements that are there."""
    required = (f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)
    return cls(**(dict.fromkeys(required) | values))


def _space(space: Any) -> tuple[tuple[int, int, int], tuple[float, float, float]] | None:
    """Return matrix and field of view (x, y, z) of an encoding space, or None if it does not tell them."""
    matrix, fov = getattr(space, "matrixSize", None), getattr(space, "fieldOfView_mm", None)
    numbers = [getattr(part, axis, None) or 0 for part in (matrix, fov) for axis in "xyz"]
    if not all(isinstance(n, int | float) and n >= 0 for n in numbers):
        raise UserError(
            f"MRD header has a matrix or field of view of {numbers}, expected positive numbers; mend the header"
        )
    n_x, n_y, n_z, x, y, z = numbers
    if not all(numbers):
        return None
    return (int(n_x), int(n_y), int(n_z)), (float(x), float(y), float(z))
