"""Maps on disk: geometry, units, sidecars, and that a folder of maps appears whole or not at all."""

import errno
import gzip
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from crbsvd_plugin import display, files, maps
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.result import Extra, Maps, stacked
from crbsvd_plugin.model import Parameter

INFO = {
    "EstimationReference": "the paper",
    "EstimationAlgorithm": "dictionary matching of 5 coefficients",
    "Sources": ["raw.h5"],
}
T1 = Parameter("T1", "s", 0.1, 6.0)
T2 = Parameter("T2", "s", 0.01, 3.0)
B1 = Parameter("B1", "", 0.5, 1.5, nuisance=True)


def _result(shape=(3, 5, 7), parameters=(T1, T2), seed=0):
    random = np.random.default_rng(seed)
    mask = random.random(shape) > 0.2
    theta = random.uniform(0.05, 2, (len(parameters), *shape)).astype(np.float32)
    m0 = (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)
    arrays = {"theta": theta, "m0": m0, "edge": random.random(shape) > 0.5, "mask": mask}
    for array in arrays.values():
        array.setflags(write=False)
    return Maps(parameters, **arrays)


def _oblique():
    """Right-handed, turned about all three axes, voxels of 1.1 x 0.9 x 5 mm, far from the isocentre."""
    a, b, c = 0.4, -0.7, 0.2
    turns = [
        [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]],
        [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]],
        [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]],
    ]
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.multi_dot([np.array(t) for t in turns]) * (1.1, 0.9, 5)
    affine[:3, 3] = (-101.25, 87.5, 143.0)
    affine.setflags(write=False)
    return affine


def _left_handed():
    return _oblique() @ np.diag([-1, 1, 1, 1])


# --- the NIfTI files -------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [_oblique(), _left_handed()], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 7)])
def test_round_trip_keeps_axes_values_and_geometry(tmp_path, shape, affine):
    result = _result(shape)
    maps.save_maps(result, affine, tmp_path, info=INFO, pictures=False)
    image = nib.load(tmp_path / "T2map.nii.gz")
    # x y z in the file: 7 columns, 5 rows, 3 slices (or one)
    assert image.shape == (7, 5, 3 if len(shape) == 3 else 1)
    assert image.get_data_dtype() == np.float32
    corner = (2, 1, 4) if len(shape) == 3 else (1, 4)
    value = result.theta[(1, *corner)] if result.mask[corner] else 0
    assert image.get_fdata()[4, 1, corner[0] if len(shape) == 3 else 0] == value
    # sform and qform, by what they say of the far corner; single precision of 250 mm is 1.5e-5 mm
    far = np.array([6, 4, 2, 1])
    for matrix, code in (image.header.get_sform(coded=True), image.header.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(matrix @ far, affine @ far, atol=1e-3)
        np.testing.assert_allclose(matrix[:3, :3], affine[:3, :3], atol=1e-5)
    np.testing.assert_allclose(image.header.get_zooms(), (1.1, 0.9, 5), rtol=1e-6)
    assert image.header.get_xyzt_units() == ("mm", "sec")

    array, loaded = maps.load_map(tmp_path / "T2map.nii.gz")
    np.testing.assert_array_equal(array, np.where(result.mask, result.theta[1], 0))
    assert array.flags.c_contiguous
    np.testing.assert_allclose(loaded, affine, atol=1e-4)


def test_scale_edge_and_invalid_voxels(tmp_path):
    result = _result()
    theta, m0 = result.theta.copy(), result.m0.copy()
    theta[0, 0, 0, :3] = np.nan, np.inf, 1.5
    m0[0, 0, 3] = np.nan
    m0[0, 0, 4] = complex(-0.0, 0.0)  # whose angle is pi
    mask = result.mask.copy()
    mask[0, 0, :5] = True
    mask[0, 0, 5:] = False
    maps.save_maps(replace(result, theta=theta, m0=m0, mask=mask), np.eye(4), tmp_path, info=INFO, pictures=False)

    t1, magnitude, phase, edge = (
        maps.load_map(tmp_path / f"{n}.nii.gz")[0] for n in ("T1map", "M0map", "M0phase", "EDGEmap")
    )
    np.testing.assert_array_equal(t1[0, 0, [0, 1, 2, 5, 6]], [0, 0, 1.5, 0, 0])
    np.testing.assert_array_equal(magnitude[0, 0, 3:], 0)
    np.testing.assert_array_equal(phase[0, 0, 3:], 0)
    # the two files give the complex scale back; float32 holds an angle to 2e-7
    inside = mask & np.isfinite(m0)
    np.testing.assert_allclose((magnitude * np.exp(1j * phase))[inside], m0[inside], atol=2e-6)
    assert edge.dtype == np.uint8
    np.testing.assert_array_equal(edge, result.edge & mask)
    summary = json.loads((tmp_path / "maps.json").read_text())
    assert summary["voxels_not_finite"] == 3
    assert summary["voxels_fitted"] == mask.sum()
    assert summary["voxels_on_edge"] == (result.edge & mask).sum()


def test_the_same_maps_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        maps.save_maps(_result(), _oblique(), tmp_path / name, info=INFO)
    a, b = ((tmp_path / name / "maps.json").read_bytes() for name in ("a", "b"))
    assert a == b


# --- the other files -------------------------------------------------------------------------------


def test_files_and_sidecars(tmp_path):
    written = maps.save_maps(_result(parameters=(T1, T2, B1)), _oblique(), tmp_path / "new" / "maps", info=INFO)
    stems = ["T1map", "T2map", "B1map", "M0map", "M0phase", "EDGEmap"]
    names = {f"{stem}{suffix}" for stem in stems for suffix in (".nii.gz", ".json")}
    names |= {f"{stem}.png" for stem in ("T1map", "T2map", "B1map", "M0map")}
    assert {path.name for path in written} == names | {"maps.json"}
    assert {path.name for path in (tmp_path / "new" / "maps").iterdir()} == names | {"maps.json"}
    assert written[-1].name == "maps.json"

    units = {"T1map": "s", "T2map": "s", "B1map": "", "M0map": "arbitrary", "M0phase": "rad", "EDGEmap": "1"}
    for stem, unit in units.items():
        sidecar = json.loads((tmp_path / "new" / "maps" / f"{stem}.json").read_text())
        assert sidecar["Units"] == unit
        assert {key: sidecar[key] for key in INFO} == INFO
        assert sidecar["Description"]
    summary = json.loads(written[-1].read_text())
    assert set(summary["files"]) == names
    assert [p["file"] for p in summary["parameters"]] == ["T1map.nii.gz", "T2map.nii.gz", "B1map.nii.gz"]
    assert summary["shape"] == [3, 5, 7]
    np.testing.assert_array_equal(summary["affine"], _oblique())
    files.verify(written[-1], summary, "maps")


def test_pictures_use_window_and_mask(tmp_path, monkeypatch):
    calls = {}

    def record(_path, image, *, parameter, **options):
        calls[parameter] = (image, options)
        _path.write_bytes(b"")

    monkeypatch.setattr(display, "save_png", record)
    result = _result()
    maps.save_maps(result, _oblique(), tmp_path, info=INFO, windows={"T1": (0.5, 1.5)})
    assert list(calls) == ["T1", "T2", "M0"]
    assert [calls[name][1]["window"] for name in calls] == [(0.5, 1.5), None, None]
    np.testing.assert_array_equal(calls["T1"][1]["mask"], result.mask)
    np.testing.assert_array_equal(calls["M0"][1]["affine"], _oblique())


@pytest.mark.parametrize(
    ("windows", "message"),
    [({"T3": (1, 2)}, "there is no such map; the maps are T1, T2, M0"), ({"T1": (2, 1)}, "window 2 to 1 of T1")],
)
def test_bad_windows_are_refused_before_anything_is_written(tmp_path, windows, message):
    with pytest.raises(UserError, match=message):
        maps.save_maps(_result(), _oblique(), tmp_path / "out", info=INFO, windows=windows)
    assert not (tmp_path / "out").exists()


def test_names_of_files(tmp_path):
    assert [maps.file_stem(name) for name in ("T1", "T2*", "R2*", "T1rho", "k_ba [1/s]")] == [
        "T1map", "T2starmap", "R2starmap", "T1rhomap", "kba1smap",
    ]  # fmt: skip
    for names in (("T1", "t1"), ("M0",), ("*", "star"), ("../",), ("edge",)):
        result = _result(parameters=tuple(Parameter(name, "s", 0, 1) for name in names))
        with pytest.raises(UserError, match=r"would be written as .*rename it in the model"):
            maps.save_maps(result, _oblique(), tmp_path / "out", info=INFO)
    assert not (tmp_path / "out").exists()


# --- whole or not at all ---------------------------------------------------------------------------


def _snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_exception_midway_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(display, "save_png", fail)
    with pytest.raises(type(error)):
        maps.save_maps(_result(), _oblique(), tmp_path, info=INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_former_maps(tmp_path, monkeypatch):
    maps.save_maps(_result(), _oblique(), tmp_path, info=INFO)
    before = _snapshot(tmp_path)

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(display, "save_png", full)
    with pytest.raises(UserError, match="no space is left"):
        maps.save_maps(_result(seed=1), _oblique(), tmp_path, info=INFO, force=True)
    assert _snapshot(tmp_path) == before


def test_nothing_is_replaced_without_force(tmp_path):
    maps.save_maps(_result(), _oblique(), tmp_path, info=INFO, pictures=False)
    before = _snapshot(tmp_path)
    with pytest.raises(UserError, match=r"exists already: .*--force"):
        maps.save_maps(_result(seed=1), _oblique(), tmp_path, info=INFO)
    assert _snapshot(tmp_path) == before


def test_force_replaces_ours_and_leaves_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    maps.save_maps(_result(parameters=(T1, T2, B1)), _oblique(), tmp_path, info=INFO, pictures=False)
    (tmp_path / "B1map.json").write_text("mine now")
    other = _result(seed=1)
    maps.save_maps(other, _oblique(), tmp_path, info=INFO, pictures=False, force=True)
    array, _ = maps.load_map(tmp_path / "T1map.nii.gz")
    np.testing.assert_array_equal(array, np.where(other.mask, other.theta[0], 0))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    # B1 was fitted then and not now: the old map is gone, what was edited since is kept
    assert not (tmp_path / "B1map.nii.gz").exists()
    assert (tmp_path / "B1map.json").read_text() == "mine now"


def test_force_refuses_files_that_are_not_ours(tmp_path):
    (tmp_path / "T1map.nii.gz").write_text("mine")
    with pytest.raises(UserError, match=r"T1map\.nii\.gz exists and is not part of"):
        maps.save_maps(_result(), _oblique(), tmp_path, info=INFO, force=True)
    (tmp_path / "T1map.nii.gz").rename(tmp_path / "x")
    (tmp_path / "maps.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"maps\.json exists and is not of the kind crbsvd-maps/1: --force"):
        maps.save_maps(_result(), _oblique(), tmp_path, info=INFO, force=True)
    assert _snapshot(tmp_path) == {"x": b"mine", "maps.json": b'{"mine": 1}'}


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(UserError, match="is a file, expected a folder"):
            maps.save_maps(_result(), _oblique(), folder, info=INFO)


@pytest.mark.parametrize("affine", [np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_a_bad_affine_is_our_defect(tmp_path, affine):
    with pytest.raises(ValueError, match=r"affine is .* expected an invertible matrix"):
        maps.save_maps(_result(), affine, tmp_path, info=INFO)


def test_shapes_that_do_not_fit_are_our_defect(tmp_path):
    with pytest.raises(ValueError, match="maps have shapes"):
        maps.save_maps(replace(_result(), m0=np.ones((3, 5, 6))), np.eye(4), tmp_path, info=INFO)


# --- load_map --------------------------------------------------------------------------------------


def _save(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def test_masks_and_scaled_maps_of_other_programs(tmp_path):
    mask = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2
    array, _ = maps.load_map(_save(tmp_path / "mask.nii", mask))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, mask.transpose(2, 1, 0))
    # big-endian int16 with a slope, as scanners write milliseconds
    image = nib.Nifti1Image(np.arange(6, dtype=">i2").reshape(2, 3, 1, 1), np.eye(4), nib.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(0.5, 1)
    (tmp_path / "b.nii").write_bytes(image.to_bytes())
    array, _ = maps.load_map(tmp_path / "b.nii")
    assert array.dtype.isnative
    assert array.shape == (3, 2)


def test_unreadable_maps_are_refused_in_one_line(tmp_path):
    good = _save(tmp_path / "good.nii.gz", np.random.default_rng(0).random((4, 5, 6)))
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "text.txt").write_text("not an image")
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "cut.nii").write_bytes(gzip.decompress(good.read_bytes())[:-20])
    (tmp_path / "bits.nii.gz").write_bytes(gzip.compress(bytes(1000)))
    nib.save(nib.MGHImage(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "other.mgz")
    expected = {
        "none.nii.gz": "does not exist",
        "": "is a folder",
        "text.nii.gz": "not a NIfTI file|cannot be read",
        "text.txt": "not a NIfTI file",
        "cut.nii.gz": "cannot be read",
        "cut.nii": "cannot be read",
        "bits.nii.gz": "not a NIfTI file|cannot be read",
        "other.mgz": "another format",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as caught:
            maps.load_map(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array", [np.ones((2, 3, 4, 5), np.float32), np.ones(7, np.float32), np.ones((2, 3), np.complex64)]
)
def test_what_is_no_single_real_map_is_refused(tmp_path, array):
    with pytest.raises(UserError, match="expected one map of real numbers"):
        maps.load_map(_save(tmp_path / "a.nii", array))


# --- further maps, and slices ---------------------------------------------------------------------


def test_further_maps_are_written_beside_and_are_cleared_outside_of_the_mask(tmp_path):
    result = _result()
    residual = np.random.default_rng(1).uniform(1, 2, result.mask.shape)
    extra = {"RESIDUALmap": Extra(residual, "1", "what the fit leaves")}
    maps.save_maps(replace(result, extra=extra), np.eye(4), tmp_path / "out", info=INFO, pictures=False)
    found, _ = maps.load_map(tmp_path / "out" / "RESIDUALmap.nii.gz")
    np.testing.assert_array_equal(found, np.where(result.mask, residual, 0).astype(np.float32))
    sidecar = json.loads((tmp_path / "out" / "RESIDUALmap.json").read_text())
    assert (sidecar["Description"], sidecar["Units"]) == ("what the fit leaves", "1")
    for bad in ({"T1map": extra["RESIDUALmap"]}, {"m0MAP": extra["RESIDUALmap"]}):
        with pytest.raises(UserError, match="names that differ"):
            maps.save_maps(replace(result, extra=bad), np.eye(4), tmp_path / "bad", info=INFO)
    wrong = {"RESIDUALmap": Extra(residual[0], "1", "")}
    with pytest.raises(ValueError, match="RESIDUALmap"):
        maps.save_maps(replace(result, extra=wrong), np.eye(4), tmp_path / "bad", info=INFO)
    assert not (tmp_path / "bad").exists()


def test_slices_are_stacked_and_missing_ones_empty():
    extra = {"A": Extra(np.ones((5, 7)), "s", "a")}
    first, last = (replace(_result((5, 7), seed=seed), extra=extra) for seed in (1, 2))
    volume = stacked([first, None, last])
    for name, axis in (("theta", 1), ("m0", 0), ("edge", 0), ("mask", 0)):
        parts = np.moveaxis(getattr(volume, name), axis, 0)
        np.testing.assert_array_equal(parts[0], getattr(first, name))
        assert not parts[1].any()
        np.testing.assert_array_equal(parts[2], getattr(last, name))
    np.testing.assert_array_equal(volume.extra["A"].array.sum(axis=(1, 2)), [35, 0, 35])
    assert (volume.extra["A"].unit, volume.extra["A"].description) == ("s", "a")
    with pytest.raises(ValueError, match="all slices are missing"):
        stacked([None, None])
