"""Plates of vials: where they are, what is in them, and the labels that tell them apart."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label

from crbsvd_plugin import models, simulate, vials
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.presets import PRESETS

MODEL = models.build({"name": "mrf-fisp", "flip_angles": [0.5, 0.9, 0.3], "tr": 0.02, "te": 0.005})


@pytest.mark.parametrize("matrix", [96, 81])
@pytest.mark.parametrize("name", ["nist-t1", "nist-t2"])
def test_fourteen_round_vials_of_known_times(name: str, matrix: int) -> None:
    made = vials.nist_plate(name, matrix, fov=240.0)
    maps = made.maps()
    voxel = 240.0 / matrix
    assert maps.keys() == {"T1map", "T2map", "M0map", "LABELS"}
    # the area of fourteen discs, from a grid whose voxels are 0.2 mm^2 or 0.5 mm^2 in size
    assert made.fraction.sum() * (voxel / 4) ** 2 == pytest.approx(14 * np.pi * 10**2, rel=0.01)
    assert maps["M0map"].sum() * voxel**2 == pytest.approx(14 * np.pi * 10**2, rel=0.01)
    # apart from each other, and each of its own
    parts, n_parts = label(maps["M0map"] > 0)
    assert n_parts == 14
    for number, (t1, t2) in enumerate(vials.NIST[name], 1):
        inside = maps["LABELS"] == number
        assert len(np.unique(parts[inside])) == 1
        np.testing.assert_allclose(maps["T1map"][inside], t1, rtol=1e-12)
        np.testing.assert_allclose(maps["T2map"][inside], t2, rtol=1e-12)
        np.testing.assert_allclose(maps["M0map"][inside], 1, rtol=1e-12)
        # voxels that are full: fewer than the disc has, and those that lie well within are there
        assert 0 < inside.sum() * voxel**2 < np.pi * 10**2
        y, x = np.argwhere(inside).T
        radius = np.hypot(y - y.mean(), x - x.mean()).max() * voxel
        assert 10 - 2.2 * voxel < radius < 10
    assert set(np.unique(maps["LABELS"])) == set(range(15))


def test_the_first_vial_is_where_it_is_said_to_be() -> None:
    """One vial 20 mm to the left, 30 mm to the front: RAS from the affine of the phantom."""
    made = vials.plate([[1.0, 0.1]], [[-30.0, 20.0]], 64, fov=160.0, radius=8.0)
    centre = np.argwhere(made.maps()["LABELS"] == 1).mean(axis=0)
    place = made.geometry.affine @ [centre[1], centre[0], 0, 1]
    # x of MRD runs to the left, y to the back
    np.testing.assert_allclose(place[:2], [-20, 30], atol=160 / 64 / 2)


def test_reference_values_of_the_plates() -> None:
    """Values of the publication by number of vial, and T2 below T1 in all."""
    np.testing.assert_array_equal(vials.NIST["nist-t2"][[0, 13]], [[0.0909, 0.00559], [2.48, 0.5813]])
    np.testing.assert_array_equal(vials.NIST["nist-t1"][[0, 13]], [[0.021719, 0.01583], [1.989, 1.465]])
    for times in vials.NIST.values():
        assert times.shape == (14, 2)
        assert np.all(times[:, 1] < times[:, 0])
        # neighbours differ by about the square root of 2, as they were mixed: a slip of the pen would not
        varied = times[:, int(times is vials.NIST["nist-t2"])]
        ratio = varied[1:] / varied[:-1]
        assert np.all((ratio > 1.3) & (ratio < 1.55))


def test_the_prior_holds_all_vials_away_from_its_edges() -> None:
    (atoms,) = PRESETS["nist"].atoms(MODEL.parameters)
    low, high = atoms.theta.min(axis=0), atoms.theta.max(axis=0)
    for times in vials.NIST.values():
        # more than the ten steps of 1.3 % that noise of 3 % may need
        assert np.all(times > 1.15 * low)
        assert np.all(times < high / 1.15)
    # the nearest atom is within half a step: 1.3 % in either
    steps = np.log(np.array([3.0, 2.0]) / [0.015, 0.004]) / [400, 480]
    for times in vials.NIST.values():
        for one in times:
            assert np.abs(np.log(atoms.theta / one) / steps).max(axis=1).min() < 0.501


def test_a_scan_of_vials_is_written_with_its_labels(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('name = "mrf-fisp"\nflip_angles = [0.5, 0.9, 0.3]\ntr = 0.02\nte = 0.005\n')
    size = ["--matrix", "48", "--coils", "2", "--shots", "2"]
    assert main(["simulate", str(spec), "-o", str(tmp_path / "v.h5"), "--phantom", "nist-t2", *size]) == 0
    labels, affine = load_map(tmp_path / "v_LABELS.nii.gz")
    np.testing.assert_array_equal(labels, vials.nist_plate("nist-t2", 48).maps()["LABELS"])
    np.testing.assert_array_equal(affine, nib.load(tmp_path / "v_T1map.nii.gz").affine)
    names = {path.name for path in tmp_path.iterdir()} - {"spec.toml"}
    assert names == {"v.h5", "v_simulation.json"} | {f"v_{n}.nii.gz" for n in ("T1map", "T2map", "M0map", "LABELS")}
    # another phantom of the same name finds it taken before the work
    assert main(["simulate", str(spec), "-o", str(tmp_path / "v.h5"), *size]) == 2


def test_data_of_vials_are_the_sum_of_their_signals() -> None:
    """The centre of k-space is the sum over the image: vial by vial, area times signal."""
    scan = simulate.acquire(MODEL, scanned="nist-t1", matrix=64, n_coils=1, n_shots=1)
    sens = simulate.phantom.coils(1, scan.phantom.fraction.shape[1:])[0]
    weights = [(sens * (scan.phantom.pair[0] == number) * scan.phantom.fraction[0]).sum() for number in range(14)]
    expected = MODEL.signal(vials.NIST["nist-t1"]).T @ weights / (4**2 * 64)
    centre = scan.ksp[0, :, scan.ksp.shape[2] // 2]
    assert np.linalg.norm(centre - expected) < 1e-4 * np.linalg.norm(expected)  # the NUFFT has 1e-5


def test_an_unknown_phantom_is_refused() -> None:
    with pytest.raises(UserError, match=r"phantom 'nist' is unknown, expected one of: brain, nist-t1, nist-t2"):
        simulate.acquire(MODEL, scanned="nist")
