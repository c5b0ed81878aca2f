"""From the header and the readouts of MRD to NIfTI files: every corner lies where it should.

The expected places are sums over the words of MRD (position of the centre of k-space's image, directions, field of
view), written out here for each voxel, without the package's geometry.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from mrd_stream import SEQUENCE, readout

from crbsvd_plugin import mrd, run
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.mrd_header import radial_header

T, C = 2, 2
# positions and directions of MRD, and the affine of NIfTI, are single precision: 1e-5 mm each below 200 mm
ROUNDING = 5e-5
POSITION = np.array([23.5, -41.25, 60.0])  # LPS


def turned(a: float, b: float, c: float) -> np.ndarray:
    """Return read, phase and slice direction as columns, turned about all three axes."""
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


OBLIQUE = turned(0.4, -0.7, 0.25)
FLIPPED = OBLIQUE * [1, 1, -1]  # left-handed: the slice direction the other way round


def basis(folder: Path) -> str:
    """Write the trivial basis of two frames, with a dictionary of two atoms; return its name."""
    made = Basis(np.eye(T, dtype=np.complex64), np.ones(T), {"model": {"name": "mrf-fisp"}})
    made.save(folder / "b")
    atoms = np.array([[1, 0], [0.6, 0.8j]], np.complex64)
    parameters = (Parameter("T1", "s", 0.1, 5.0), Parameter("T2", "s", 0.01, 3.0))
    edge = np.zeros(2, bool)
    Dictionary(parameters, np.array([[1.0, 0.1], [2.0, 0.2]]), atoms, np.ones(2, np.float32), edge, made.digest).write(
        folder / "b.h5"
    )
    return str(folder / "b")


def point(
    path: Path, shape: tuple[int, int, int], voxel: tuple[float, float, float], directions: np.ndarray,
    positions: list[np.ndarray], where: np.ndarray,
) -> str:  # fmt: skip
    """Write Cartesian raw data of points at `where` (n_slices, 3), LPS [mm], one in each slice; complete k-space.

    A point at r has the samples exp(-2 pi i k . (r - position)), k in 1/mm along the directions.
    """
    n_x, _, n_z = shape
    told = radial_header(Geometry(shape, voxel), (C, 1, n_x), n_frames=T, n_shots=1, sequence=SEQUENCE)
    items = []
    fov = np.array(shape) * voxel
    axes = [np.arange(n) - n // 2 for n in shape]
    counter = 0
    for number, position in enumerate(positions):
        offset = directions.T @ (where[number] - position)  # mm along read, phase, slice
        for frame, k_z, k_y in itertools.product(range(T), axes[2], axes[1]):
            k = np.stack([axes[0], np.full(n_x, k_y), np.full(n_x, k_z)], axis=1)
            samples = np.exp(-2j * np.pi * (k[:, : 2 + (n_z > 1)] / fov[: 2 + (n_z > 1)]) @ offset[: 2 + (n_z > 1)])
            item = readout(
                100 * (1 + frame) * np.array([[1.0], [0.5 - 1j]]) * samples, k[:, : 2 + (n_z > 1)],
                contrast=frame, slice=number, kspace_encode_step_1=counter % 60_000, position=position,
                sample_time_us=5.0, scan_counter=counter,
            )  # fmt: skip
            item.read_dir[:], item.phase_dir[:], item.slice_dir[:] = directions.T
            items.append(item)
            counter += 1
    told.encoding[0].encodingLimits.slice.maximum = len(positions) - 1
    mrd.write_raw(path, told, items)
    return str(path)


def silent(*_: object) -> None:
    pass


def maps(raw: str, folder: Path) -> Any:
    config = run.config(basis=basis(folder), iterations=3, mask_level=0.0)
    run.maps(raw, config, str(folder / "maps"), force=False, report=silent)
    return nib.load(folder / "maps" / "M0map.nii.gz")


def expected(
    index: tuple[int, int, int], shape: tuple[int, int, int], voxel: tuple[float, ...], directions: np.ndarray,
    positions: list[np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Return where voxel (x, y, z) lies, RAS [mm]; z counts slices, or the voxels of a volume."""
    x, y, z = index
    place, across = (positions[z], 0) if shape[2] == 1 else (positions[0], z - shape[2] // 2)
    lps = place.copy()
    for axis, steps in enumerate((x - shape[0] // 2, y - shape[1] // 2, across)):
        lps = lps + steps * voxel[axis] * directions[:, axis]
    return np.array([-lps[0], -lps[1], lps[2]])


CASES: dict[str, Any] = {
    "axial": ((8, 8, 1), (2.0, 2.0, 5.0), np.eye(3), [0.0]),
    "oblique, odd": ((7, 9, 1), (2.0, 1.5, 4.0), OBLIQUE, [0.0]),
    "left-handed, odd and even": ((8, 7, 1), (2.0, 1.5, 4.0), FLIPPED, [0.0]),
    "slices with gaps": ((9, 8, 1), (1.5, 2.0, 3.0), OBLIQUE, [0.0, 4.5, 9.0, 13.5]),
    "reversed slices": ((8, 9, 1), (1.5, 2.0, 3.0), OBLIQUE, [9.0, 4.5, 0.0]),
    "overlapping slices": ((8, 8, 1), (1.5, 2.0, 3.0), FLIPPED, [0.0, 2.0]),
    "volume, even": ((8, 6, 4), (2.0, 2.5, 3.0), OBLIQUE, [0.0]),
    "volume, odd": ((7, 5, 3), (2.0, 2.5, 3.0), FLIPPED, [0.0]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_corner_and_a_point_of_known_place(case: str, tmp_path: Path, rng: np.random.Generator) -> None:
    shape, voxel, directions, heights = CASES[case]
    positions = [POSITION + height * directions[:, 2] for height in heights]
    n_z = len(heights) if shape[2] == 1 else shape[2]
    points = [tuple(int(n) for n in rng.integers(0, (*shape[:2], n_z))) for _ in heights]
    if shape[2] == 1:
        points = [(*one[:2], z) for z, one in enumerate(points)]
    places = np.array([expected(one, shape, voxel, directions, positions) for one in points])
    image = maps(point(tmp_path / "raw.h5", shape, voxel, directions, positions, places * [-1, -1, 1]), tmp_path)
    assert image.shape == (*shape[:2], n_z)
    # sform; qform where the axes are orthogonal, which they are in all of these
    for affine in (image.affine, image.header.get_qform()):
        for corner in itertools.product(*((0, n - 1) for n in image.shape)):
            np.testing.assert_allclose(
                (affine @ [*corner, 1])[:3], expected(corner, shape, voxel, directions, positions), atol=ROUNDING
            )
    # the points lie in the voxels that the file puts there
    values = image.get_fdata()
    for one, place in zip(points, places, strict=True):
        if shape[2] == 1:
            found = (*np.unravel_index(values[..., one[2]].argmax(), values.shape[:2]), one[2])
        else:
            found = np.unravel_index(values.argmax(), values.shape)
        np.testing.assert_allclose((image.affine @ [*found, 1])[:3], place, atol=ROUNDING)


def test_slices_numbered_in_the_order_of_time_are_stacked_in_that_of_place(tmp_path: Path) -> None:
    """Interleaved: 0, 2, 1, 3 from the bottom."""
    shape, voxel, heights = (8, 7, 1), (2.0, 2.0, 3.0), [0.0, 8.0, 4.0, 12.0]
    positions = [POSITION + height * OBLIQUE[:, 2] for height in heights]
    points = [(1, 2), (3, 4), (5, 1), (6, 6)]
    places = np.array(
        [expected((*one, z), shape, voxel, OBLIQUE, positions) for z, one in enumerate(points)]
    )  # here z is the number of the slice
    image = maps(point(tmp_path / "raw.h5", shape, voxel, OBLIQUE, positions, places * [-1, -1, 1]), tmp_path)
    values = image.get_fdata()
    for z, number in enumerate((0, 2, 1, 3)):
        assert np.unravel_index(values[..., z].argmax(), (8, 7)) == points[number]
        np.testing.assert_allclose((image.affine @ [*points[number], z, 1])[:3], places[number], atol=ROUNDING)


def test_sheared_stacks_keep_their_places_in_the_sform(tmp_path: Path) -> None:
    """Slices whose centres move sideways too: the qform of NIfTI cannot say that."""
    shape, voxel = (8, 7, 1), (2.0, 2.0, 3.0)
    positions = [POSITION + z * (4 * OBLIQUE[:, 2] + OBLIQUE[:, 0]) for z in range(3)]
    image = maps(point(tmp_path / "raw.h5", shape, voxel, OBLIQUE, positions, np.array(positions)), tmp_path)
    for corner in itertools.product((0, 7), (0, 6), (0, 2)):
        place = (image.affine @ [*corner, 1])[:3]
        np.testing.assert_allclose(place, expected(corner, shape, voxel, OBLIQUE, positions), atol=ROUNDING)


@pytest.mark.parametrize(
    ("heights", "tilt", "message"),
    [
        ([0.0, 4.0, 9.0], 0.0, "slice 1 lies 0.5 mm off even steps of 4.5 mm"),
        ([0.0, 4.0, 8.0], 0.1, "slices 0 and 2 are not parallel"),
    ],
)
def test_slices_that_are_no_volume_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heights: list[float], tilt: float, message: str
) -> None:
    positions = [POSITION + height * OBLIQUE[:, 2] for height in heights]
    raw = point(tmp_path / "raw.h5", (8, 7, 1), (2.0, 2.0, 3.0), OBLIQUE, positions, np.array(positions))
    if tilt:
        with mrd.open_raw(raw) as (told, items):
            changed = list(items)
        for item in changed:
            if item.idx.slice == 2:
                item.read_dir[:], item.phase_dir[:], item.slice_dir[:] = turned(0.4 + tilt, -0.7, 0.25).T
        raw = str(tmp_path / "tilted.h5")
        mrd.write_raw(raw, told, changed)
    monkeypatch.setattr(run.pipeline, "finished", lambda *_, **__: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=message):
        maps(raw, tmp_path)
    assert not (tmp_path / "maps").exists()


def test_slices_without_a_place_are_stacked_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    positions = [np.zeros(3)] * 2
    with caplog.at_level(logging.WARNING):
        image = maps(
            point(tmp_path / "raw.h5", (8, 7, 1), (2.0, 2.0, 3.0), np.eye(3), positions, np.zeros((2, 3))), tmp_path
        )
    assert "all 2 slices are said to lie in one place" in caplog.text
    np.testing.assert_allclose(image.affine[:3, 2], [0, 0, 3])


def test_images_of_bart_take_the_places_of_all_slices(tmp_path: Path) -> None:
    """Without a sidecar, --like tells the way from slice to slice too."""
    shape, voxel = (8, 7, 1), (2.0, 2.0, 3.0)
    positions = [POSITION + z * 4.5 * FLIPPED[:, 2] for z in range(3)]
    raw = point(tmp_path / "raw.h5", shape, voxel, FLIPPED, positions, np.array(positions))
    config = run.config(basis=basis(tmp_path), iterations=2)
    run.recon(raw, config, str(tmp_path / "c"), force=False, report=silent)
    (tmp_path / "c.json").unlink()
    run.fit(
        str(tmp_path / "c"), str(tmp_path / "b"), str(tmp_path / "m"), like=raw, mask_level=0.0, force=False,
        report=silent,
    )  # fmt: skip
    affine = nib.load(tmp_path / "m" / "T1map.nii.gz").affine
    for corner in itertools.product((0, 7), (0, 6), (0, 2)):
        np.testing.assert_allclose(
            (affine @ [*corner, 1])[:3], expected(corner, shape, voxel, FLIPPED, positions), atol=ROUNDING
        )


def test_a_slice_in_two_places_is_refused(tmp_path: Path) -> None:
    items = [
        readout(
            np.ones((C, 8)), np.arange(16).reshape(8, 2) / 4 - 2, contrast=frame, set=number, position=POSITION + number
        )
        for frame in range(T)
        for number in range(2)
    ]
    told = radial_header(Geometry((8, 8, 1), (2.0, 2.0, 3.0)), (C, 1, 8), n_frames=T, n_shots=1, sequence=SEQUENCE)
    told.encoding[0].encodingLimits.set.maximum = 1
    mrd.write_raw(tmp_path / "raw.h5", told, items)
    with pytest.raises(UserError, match="slice 0 lies in two places"):
        maps(str(tmp_path / "raw.h5"), tmp_path)
