"""Where images lie: affines, conventions of MRD and NIfTI, and what a JSON file may say."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry, identity

EXACT = 1e-12


def oblique() -> Geometry:
    """Return unequal sizes, odd and even, turned about two axes."""
    a, b = 0.3, -0.7
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    read, phase, slice_ = (about_x @ about_z).T
    return Geometry((7, 10, 3), (1.0, 1.5, 4.0), (5.0, -8.0, 30.0), tuple(read), tuple(phase), tuple(slice_))


def test_voxel_in_the_middle_lies_at_the_position() -> None:
    geometry = oblique()
    centre = geometry.affine @ [7 // 2, 10 // 2, 3 // 2, 1]
    # MRD counts to the left and to the back, NIfTI to the right and to the front
    np.testing.assert_allclose(centre, [-5.0, 8.0, 30.0, 1.0], atol=EXACT * 30)


def test_axes_run_along_the_directions() -> None:
    geometry = oblique()
    for axis, (direction, size) in enumerate(
        zip((geometry.read_dir, geometry.phase_dir, geometry.slice_dir), geometry.voxel_size, strict=True)
    ):
        expected = size * np.array([-direction[0], -direction[1], direction[2]])
        np.testing.assert_allclose(geometry.affine[:3, axis], expected, atol=EXACT)
    np.testing.assert_allclose(nib.affines.voxel_sizes(geometry.affine), geometry.voxel_size, rtol=EXACT)


def test_axial_slice_is_left_posterior_superior() -> None:
    geometry = Geometry((4, 4, 1), (2.0, 2.0, 5.0))
    assert nib.orientations.aff2axcodes(geometry.affine) == ("L", "P", "S")


def test_json_round_trip() -> None:
    geometry = oblique()
    content = json.loads(json.dumps(geometry.to_dict()))
    again = Geometry.from_dict(content)
    assert again == geometry
    assert isinstance(again.shape, tuple)
    assert all(isinstance(n, int) for n in again.shape)


def test_numbers_of_numpy_become_those_of_python() -> None:
    geometry = Geometry(tuple(np.array([4, 5, 1], np.uint16)), tuple(np.float32([1, 1, 2])))
    json.dumps(geometry.to_dict())
    assert hash(geometry) == hash(Geometry((4, 5, 1), (1.0, 1.0, 2.0)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 6), (7, 3, 1)])
def test_identity_has_the_unit_affine(shape: tuple[int, int, int]) -> None:
    np.testing.assert_array_equal(identity(shape).affine, np.eye(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [4, 4]}, "shape is .* expected three numbers"),
        ({"shape": [4, 4, 0]}, "expected positive"),
        ({"shape": [4, 4, 1.5]}, "three whole numbers"),
        ({"shape": "441"}, "shape is '441'"),
        ({"voxel_size": [1, 1, -2]}, "expected positive"),
        ({"position": [0, 0, float("nan")]}, "three finite numbers"),
        ({"position": None}, "position is None"),
        ({"read_dir": [0, 0, 0]}, "no orthogonal unit vectors"),
        ({"read_dir": [0, 1, 0]}, "no orthogonal unit vectors"),
        ({"size": [1, 1, 1]}, "unknown size"),
    ],
)
def test_bad_content_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    content = Geometry((4, 4, 1), (1.0, 1.0, 2.0)).to_dict() | change
    with pytest.raises(UserError, match=message) as caught:
        Geometry.from_dict(content)
    assert "\n" not in str(caught.value)


def test_missing_key_is_named() -> None:
    content = Geometry((4, 4, 1), (1.0, 1.0, 2.0)).to_dict()
    del content["position"]
    with pytest.raises(UserError, match="position"):
        Geometry.from_dict(content)
