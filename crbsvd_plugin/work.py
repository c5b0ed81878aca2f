"""What a session does with the items of a stream: readouts to images, or coefficient images to maps.

Every task takes the header, the items, the config and what is told of the progress, and yields lists of what goes to
the host: `ismrmrd.Image` and `wire.arrays.ImageArray`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from . import pipeline
from .errors import UserError
from .geometry import Geometry
from .group import Reconstruction
from .mrd_header import limits
from .mrd_images import BITS_STORED, coefficient_images, images_of
from .progress import Report
from .quality import fitted_maps, known_noise
from .readouts import is_imaging
from .roles import Roles
from .settings import Online
from .wire.arrays import ImageArray

if TYPE_CHECKING:
    from ismrmrd import AcquisitionHeader, ImageHeader
    from ismrmrd.xsd import ismrmrdHeader

_PATIENCE_S = 1.0  # readouts come faster than this, and gridding some takes a quarter of it

Task = Callable[["ismrmrdHeader", Iterable[Any], Online, Report], Iterator[list[Any]]]


def recon(header: ismrmrdHeader, items: Iterable[Any], config: Online, report: Report) -> Iterator[list[Any]]:
    """Reconstruct readouts; yield the maps of every group as images, and its coefficients if they are wanted."""
    if not (config.fit or config.coefficients):
        raise UserError("config: neither maps (fit) nor coefficients are wanted, so nothing would come back")
    heads, answer = _Heads(config), _Answer(header, config)
    readouts = heads.watched(_readouts(items))
    for result in pipeline.reconstruct_stream(header, readouts, config, report=report, patience=_PATIENCE_S):
        yield answer.images(result, heads.of(result.key))


def coefficients(header: ismrmrdHeader, items: Iterable[Any], config: Online, report: Report) -> Iterator[list[Any]]:
    """Reconstruct readouts; yield the coefficient images of every group in one array, S being the coefficient."""
    config = msgspec.structs.replace(config, fit=False, std=False, replicas=0)
    heads, numbers = _Heads(config), _Numbers(header)
    readouts = heads.watched(_readouts(items))
    for result in pipeline.reconstruct_stream(header, readouts, config, report=report, patience=_PATIENCE_S):
        images = coefficient_images(
            result.coeff, result.geometry, series=1, key=result.key, digest=result.digest, sigma=result.sigma,
            acquisition=heads.of(result.key), index=numbers.of(result.key),
        )  # fmt: skip
        pixels = np.stack([image.data for image in images])  # K, CHA, Z, Y, X
        data = pixels.transpose(4, 3, 2, 1, 0)[:, :, :, :, None, :, None]
        yield [
            ImageArray(
                data, [image.getHead() for image in images], [image.attribute_string.encode() for image in images]
            )
        ]


def maps(header: ismrmrdHeader, items: Iterable[Any], config: Online, report: Report) -> Iterator[list[Any]]:
    """Fit the coefficient images of arrays, as `coefficients` makes them; yield their maps as images.

    Raises
    ------
    UserError
        An array is none of coefficient images, or they belong to another basis.
    """
    if not config.fit:
        raise UserError("config: fit is false, but maps are what this gadget makes; leave it out")
    answer = _Answer(header, config)
    basis, fitter, measured = pipeline.fitting(config, report=report)
    assert fitter is not None
    for item in items:
        if not isinstance(item, ImageArray):
            raise UserError(f"a {type(item).__name__} came, expected arrays of coefficient images; mend the chain")
        for given in _given(item):
            if len(given.coeff) != basis.rank:
                raise UserError(f"images have {len(given.coeff)} coefficients, the basis {basis.rank}; set rank")
            if given.digest not in ("", basis.digest):
                raise UserError("images were reconstructed in another basis (hashes differ): name that one")
            known = {name: field.on(given.geometry.affine, given.coeff.shape[1:]) for name, field in measured.items()}
            noise = known_noise(given.sigma, None, bounded=fitter.perk is None) if config.std else None
            found = fitted_maps(given.coeff, fitter, basis, known=known, noise=noise, report=report)
            result = Reconstruction(given.key, given.coeff, given.geometry, given.sigma, found, basis.digest)
            yield answer.images(result, given.head)


TASKS: dict[str, Task] = {"recon": recon, "coefficients": coefficients, "maps": maps}


class _Heads:
    """The head of the first imaging readout of every group, for what images say of time and table."""

    def __init__(self, config: Online):
        self._counters = Roles.named(config.frame, config.shots, config.groups).groups
        self._heads: dict[tuple[int, ...], AcquisitionHeader] = {}

    def watched(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            key = tuple(getattr(item.idx, name) for name in self._counters)
            if key not in self._heads and is_imaging(item):
                self._heads[key] = item.getHead()
            yield item

    def of(self, key: dict[str, int]) -> AcquisitionHeader | None:
        return self._heads.get(tuple(key[name] for name in self._counters))


class _Answer:
    """From results to the images that a host gets."""

    def __init__(self, header: ismrmrdHeader, config: Online):
        self._config = config
        self._bits = _bits_stored(header)
        self._numbers = _Numbers(header)

    def images(self, result: Reconstruction, head: AcquisitionHeader | None) -> list[Any]:
        place: dict[str, Any] = {
            "key": result.key, "digest": result.digest, "acquisition": head, "index": self._numbers.of(result.key)
        }  # fmt: skip
        images: list[Any] = []
        if result.maps is not None:
            images += images_of(
                result.maps, result.geometry, pixels=self._config.images, bits=self._bits, **place
            )  # fmt: skip
        if self._config.coefficients:
            images += coefficient_images(
                result.coeff, result.geometry, series=len(images) + 1, sigma=result.sigma, **place
            )  # fmt: skip
        return images


class _Numbers:
    """Numbers of images in their series, from 1: no two alike, and in the order of slices where the header tells it."""

    def __init__(self, header: ismrmrdHeader):
        self._sizes = {name: top + 1 for name, (_, top) in limits(header).items()}
        self._taken: dict[int, dict[str, int]] = {}

    def of(self, key: dict[str, int]) -> int:
        number, stride = 1, 1
        for name in sorted(key, key=lambda name: name != "slice"):
            number, stride = number + stride * key[name], stride * max(self._sizes.get(name, 1), 1)
        if self._taken.setdefault(number, key) != key or number >= 2**16:
            number = (
                max(self._taken) + 1 if number < 2**16 else next(n for n in range(1, 2**16) if n not in self._taken)
            )
            self._taken[number] = key
        return number


class _Given:
    """Coefficient images of one slice or volume that came in an array."""

    def __init__(self, array: ImageArray, place: int):
        n_sets = array.data.shape[5]
        first = place * n_sets
        head = array.heads[first]
        self.head = _as_of_readout(head)
        # (X, Y, Z, S) to (S, Z, Y, X)
        coeff = np.ascontiguousarray(array.data[:, :, :, 0, 0, :, place].T)
        shape = array.data.shape[:3]
        self.coeff = coeff[:, 0] if shape[2] == 1 else coeff
        self.key = {name: getattr(head, name) for name in ("slice", "set", "phase", "repetition")}
        self.geometry = Geometry(
            shape, tuple(length / n for length, n in zip(head.field_of_view, shape, strict=True)),
            *(tuple(getattr(head, name)) for name in ("position", "read_dir", "phase_dir", "slice_dir")),
        )  # fmt: skip
        said = _meta(array.meta[first]) if array.meta else {}
        self.digest = said.get("BasisDigest", "")
        try:
            self.sigma = float(said.get("CoefficientSigma", 0))
        except ValueError:
            raise UserError(f"CoefficientSigma is {said['CoefficientSigma']!r}, expected a number") from None


def _given(array: ImageArray) -> Iterator[_Given]:
    n_coils, n_averages, n_sets, n_places = array.data.shape[3:]
    if (n_coils, n_averages) != (1, 1) or not n_sets or 0 in array.data.shape:
        raise UserError(
            f"an array of images has the sizes {array.data.shape}, expected (X, Y, Z, 1, 1, coefficients, slices)"
        )
    for place in range(n_places):
        yield _Given(array, place)


def _as_of_readout(head: ImageHeader) -> AcquisitionHeader:
    """Return the head of a readout that says what that of an image says of time and table."""
    from ismrmrd import AcquisitionHeader

    names = (
        "measurement_uid", "acquisition_time_stamp", "physiology_time_stamp", "patient_table_position", "user_int",
        "user_float",
    )  # fmt: skip
    return AcquisitionHeader(**{name: getattr(head, name) for name in names})


def _meta(text: bytes) -> dict[str, str]:
    from .markup import parse_xml

    try:
        entries = parse_xml(text).iter("meta") if text else ()
    except ValueError as error:
        raise UserError(f"the Meta of an image is no valid XML ({error})") from None
    return {entry.findtext("name") or "": entry.findtext("value") or "" for entry in entries}


def _readouts(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, ImageArray):
            raise UserError("an array of images came, expected readouts; mend the chain")
        yield item


def _bits_stored(header: ismrmrdHeader) -> int:
    numbers = header.userParameters.userParameterLong if header.userParameters is not None else []
    said = next((number.value for number in numbers if number.name == "BitsStored"), BITS_STORED)
    return said if isinstance(said, int) and 8 <= said <= 16 else BITS_STORED
