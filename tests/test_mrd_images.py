"""Maps as images of MRD: values, places and what Meta says, after a trip through the bytes of the stream."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import ismrmrd
import numpy as np
import pytest
from mrd_stream import readout

from crbsvd_plugin.display import lookup_table
from crbsvd_plugin.fit.result import Extra, Maps
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.mrd_images import coefficient_images, images_of

TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])  # orthonormal, all axes mixed
PARAMETERS = (
    Parameter("T1", "s", 0.1, 6.0), Parameter("R2*", "1/s", 0.5, 100.0), Parameter("m0s", "", 0.0, 0.3),
)  # fmt: skip


def case(shape: tuple[int, ...]) -> tuple[Maps, Geometry]:
    rng = np.random.default_rng(1)
    mask = rng.random(shape) > 0.3
    theta = rng.uniform(0.1, 2, (3, *shape)).astype(np.float32)
    m0 = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    extra = {"T1std": Extra(0.1 * theta[0], "s", "predicted standard deviation of T1")}
    maps = Maps(PARAMETERS, theta, m0, rng.random(shape) < 0.5, mask, extra=extra)
    sizes = (*shape[::-1], 1)[:3]
    geometry = Geometry(sizes, (1.5, 2.0, 4.0), (11.0, -52.5, 30.25), *(tuple(axis) for axis in TURN.T))
    return maps, geometry


def travelled(image: ismrmrd.Image) -> ismrmrd.Image:
    """Return the image after its way through bytes, as a stream sends it."""
    stream = io.BytesIO()
    image.serialize_into(stream.write)
    stream.seek(0)
    return ismrmrd.Image.deserialize_from(stream.read)


@pytest.mark.parametrize("shape", [(5, 7), (6, 4), (3, 5, 8), (1, 1)])
def test_values_and_places_survive_the_stream(shape: tuple[int, ...]) -> None:
    maps, geometry = case(shape)
    images = [travelled(image) for image in images_of(maps, geometry, digest="d1g")]
    names = ["T1map", "R2starmap", "m0smap", "M0map", "M0phase", "EDGEmap", "T1std"]
    assert [image.meta["SeriesDescription"] for image in images] == names
    assert [image.image_series_index for image in images] == list(range(1, 8))
    values = [*maps.theta, np.abs(maps.m0), np.angle(maps.m0), maps.edge, maps.extra["T1std"].array]
    n_z = shape[0] if len(shape) == 3 else 1
    for image, expected in zip(images, values, strict=True):
        assert image.data.dtype == np.float32
        assert image.data.shape == (1, n_z, *shape[-2:])
        np.testing.assert_array_equal(image.data.reshape(shape), np.where(maps.mask, expected, 0).astype(np.float32))
        # the corners from the header alone: position is that of voxel n//2
        size = np.array(image.matrix_size[:])
        np.testing.assert_array_equal(size, geometry.shape)
        step = np.array(image.field_of_view[:]) / size
        axes = np.array([image.read_dir[:], image.phase_dir[:], image.slice_dir[:]])
        for corner in itertools.product(*((0, n - 1) for n in size)):
            lps = np.array(image.position[:]) + ((corner - size // 2) * step) @ axes
            # single precision of numbers below 100 mm: 4e-6 mm each
            np.testing.assert_allclose(lps * [-1, -1, 1], (geometry.affine @ [*corner, 1])[:3], atol=2e-5)
        np.testing.assert_array_equal([float(x) for x in image.meta["ImageRowDir"]], geometry.read_dir)
        np.testing.assert_array_equal([float(x) for x in image.meta["ImageColumnDir"]], geometry.phase_dir)
        assert image.meta["DataRole"] == "Quantitative"
        assert image.meta["BasisDigest"] == "d1g"
    kinds = {image.meta["SeriesDescription"]: image.image_type for image in images}
    assert kinds == dict.fromkeys(names, ismrmrd.IMTYPE_MAGNITUDE) | {"M0phase": ismrmrd.IMTYPE_PHASE}


def test_units_windows_and_colours() -> None:
    maps, geometry = case((5, 7))
    t1, r2, m0s, *_ = (travelled(image).meta for image in images_of(maps, geometry, windows={"T1": (0.5, 2.0)}))
    assert (t1["Units"], r2["Units"], m0s["Units"]) == ("s", "1/s", None)
    assert (float(t1["WindowCenter"]), float(t1["WindowWidth"])) == (1.25, 1.5)
    # 10 to 100 ms as rates
    assert float(r2["WindowCenter"]) - float(r2["WindowWidth"]) / 2 == pytest.approx(10)
    assert float(r2["WindowCenter"]) + float(r2["WindowWidth"]) / 2 == pytest.approx(100)
    valid = maps.theta[2][maps.mask]
    assert valid.min() < float(m0s["WindowCenter"]) < valid.max()
    assert (t1["LUTFileName"], r2["LUTFileName"]) == ("lipari.pal", "navia_r.pal")
    assert "LUTFileName" not in m0s
    # the reversed table begins with the bright end
    assert lookup_table("R2*")[1].sum() > lookup_table("R2*")[-1].sum()


def test_counters_of_the_group_and_times_of_a_readout() -> None:
    """A readout is one frame and one shot of many: the images have only the counters of their group."""
    maps, geometry = case((5, 7))
    one = readout(np.ones((2, 8)), contrast=31, repetition=2, slice=9, acquisition_time_stamp=1234, measurement_uid=7)
    one.patient_table_position[:] = (0, 0, -1200)
    (image, *_) = images_of(maps, geometry, key={"slice": 3, "set": 1, "phase": 0}, acquisition=one)
    image = travelled(image)
    assert (image.slice, image.set, image.phase, image.contrast, image.repetition) == (3, 1, 0, 0, 0)
    assert (image.image_index, image.acquisition_time_stamp, image.measurement_uid) == (4, 1234, 7)
    assert image.patient_table_position[2] == -1200
    np.testing.assert_allclose(image.position[:], geometry.position, rtol=1e-6)


def test_a_geometry_of_another_size_is_our_defect() -> None:
    maps, geometry = case((5, 7))
    with pytest.raises(ValueError, match="maps have shape"):
        images_of(maps, Geometry((5, 7, 1), geometry.voxel_size))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_whole_numbers(bits: int) -> None:
    """Slope times number plus intercept is the value to half a slope; parameters have the slope of their range."""
    maps, geometry = case((5, 7))
    within = maps.theta * np.float32([[[1]], [[1]], [[0.1]]])  # of the range of each
    maps = replace(maps, theta=np.where(maps.mask, within, np.nan).astype(np.float32))
    single, whole = images_of(maps, geometry), images_of(maps, geometry, pixels="uint16", bits=bits)
    for one, other in zip(single, map(travelled, whole), strict=True):
        assert other.data.dtype == np.uint16
        assert other.data.max() < 2**bits
        slope, intercept = float(other.meta["RescaleSlope"]), float(other.meta["RescaleIntercept"])
        np.testing.assert_allclose(other.data * slope + intercept, one.data, atol=(0.5 + 1e-6) * slope)
        # Gadgetron's way: the pixel over the ratio, after the offset
        ratio, offset = float(other.meta["GADGETRON_ScaleRatio"]), float(other.meta["GADGETRON_ScaleOffset"])
        np.testing.assert_allclose((other.data - offset) / ratio, one.data, atol=(0.5 + 1e-6) * slope)
        assert other.meta["WindowCenter"] == one.meta["WindowCenter"]
    t1, *_, edges, _ = whole
    assert float(t1.meta["RescaleSlope"]) == pytest.approx(6.0 / (2**bits - 1))
    assert not t1.data.reshape(5, 7)[~maps.mask].any()
    assert len(np.unique(edges.data)) == 2


def test_whole_numbers_clip_what_is_beyond_the_range() -> None:
    maps, geometry = case((5, 7))
    theta = maps.theta.copy()
    theta[0] = 60.0
    (t1, *_) = images_of(replace(maps, theta=theta), geometry, pixels="uint16")
    assert set(np.unique(t1.data)) == {0, 4095}


def test_an_empty_map_as_whole_numbers() -> None:
    maps, geometry = case((5, 7))
    nothing = replace(maps, mask=np.zeros((5, 7), bool))
    assert not any(image.data.any() for image in images_of(nothing, geometry, pixels="uint16")[:3])


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 8)])
def test_coefficients_are_a_complex_series(shape: tuple[int, ...]) -> None:
    _, geometry = case(shape)
    rng = np.random.default_rng(2)
    coeff = (rng.normal(size=(4, *shape)) + 1j * rng.normal(size=(4, *shape))).astype(np.complex64)
    head = readout(np.ones((1, 4)), acquisition_time_stamp=77).getHead()
    options = {"series": 9, "digest": "d1g", "sigma": 0.25, "acquisition": head, "key": {"slice": 2}, "index": 3}
    images = [travelled(image) for image in coefficient_images(coeff, geometry, **options)]
    assert [(image.image_series_index, image.contrast, image.slice) for image in images] == [
        (9, k, 2) for k in range(4)
    ]
    assert [image.image_index for image in images] == [9, 10, 11, 12]
    for k, image in enumerate(images):
        np.testing.assert_array_equal(image.data.reshape(shape), coeff[k])
        assert (image.image_type, image.acquisition_time_stamp) == (ismrmrd.IMTYPE_COMPLEX, 77)
        assert (image.meta["BasisDigest"], float(image.meta["CoefficientSigma"])) == ("d1g", 0.25)
        np.testing.assert_allclose(image.position[:], geometry.position, rtol=1e-6)


def test_words_of_gadgetron_and_fire() -> None:
    maps, geometry = case((5, 7))
    t1, r2, *_ = (travelled(image).meta for image in images_of(maps, geometry))
    assert t1["GADGETRON_DataRole"] == "T1MAP"
    assert "GADGETRON_DataRole" not in r2
    assert t1["ImageComment"] == t1["ImageComments"] == t1["GADGETRON_ImageComment"]
    assert t1["GADGETRON_WindowCenter"] == t1["WindowCenter"]
    assert t1["GADGETRON_ColorMap"] == "lipari.pal"
