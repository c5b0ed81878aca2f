"""Maps as images of MRD: values, places and what Meta says, after a trip through the bytes of the stream."""

from __future__ import annotations

import io
import itertools

import ismrmrd
import numpy as np
import pytest
from mrd_stream import readout

from crbsvd_plugin.display import lookup_table
from crbsvd_plugin.fit.result import Extra, Maps
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.mrd_images import images_of

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
