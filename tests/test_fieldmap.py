"""Measured B1: on other voxels, in the right unit, and what it does for the maps."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from crbsvd_plugin import bundle, models
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.config import Config
from crbsvd_plugin.dictionary import Dictionary, compress
from crbsvd_plugin.distribution import Grid
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fieldmap import FieldMap, load_b0, load_b1
from crbsvd_plugin.fit.fitter import prepared
from crbsvd_plugin.fit.fixed import match_fixed
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.prior import Prior, Tissue

TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
SLABS = Grid(0.7, 1.35, 13)  # steps of 0.05
PRIOR = Prior("b1", (Tissue("all", {"T1": Grid(0.3, 3.0, 24, "log"), "T2": Grid(0.02, 0.3, 24, "log"), "B1": SLABS}),))
ROUNDING = 1e-5  # of coefficients in single precision, whose atoms differ by 1e-3 at least


def affine(
    turn: np.ndarray, size: tuple[float, float, float], centre: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return an affine whose box of (x, y, z) voxels has its middle at `centre`."""
    made = np.eye(4)
    made[:3, :3] = turn * size
    made[:3, 3] = centre - made[:3, :3] @ ((np.array(shape) - 1) / 2)
    return made


def linear(where: np.ndarray) -> np.ndarray:
    """A B1 that is linear in space: (3, ...) RAS [mm]."""
    return 1 + np.tensordot([0.008, -0.006, 0.004], where, axes=1)


def places(matrix: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return where the voxels (x, y, z) lie, as (3, z, y, x)."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.einsum("ij,jxyz->izyx", matrix, np.stack([x, y, z, np.ones_like(x)]))[:3]


def test_linear_map_on_turned_voxels_is_exact() -> None:
    """Coarser and oblique voxels; linear interpolation knows a linear function."""
    source, target = (12, 14, 10), (9, 7, 4)
    there = affine(TURN, (8.0, 9.0, 11.0), np.array([3.0, -4.0, 5.0]), source)
    here = affine(np.diag([-1.0, -1.0, 1.0]), (2.0, 3.0, 5.0), np.zeros(3), target)
    found = FieldMap(linear(places(there, source)), there).on(here, target[::-1])
    np.testing.assert_allclose(found, linear(places(here, target)), rtol=1e-12)


def test_the_same_voxels_give_the_same_values(rng: np.random.Generator) -> None:
    """In 2-D too, and for the affine in single precision."""
    values = rng.uniform(0.5, 1.5, (5, 7))
    here = affine(TURN, (2.0, 3.0, 5.0), np.array([100.0, -50.0, 30.0]), (7, 5, 1))
    found = FieldMap(values, here.astype(np.float32).astype(float)).on(here, (5, 7))
    np.testing.assert_allclose(found, values, rtol=1e-4)


def test_outside_and_unmeasured_voxels_have_no_value() -> None:
    """Three voxels of 4 mm; the middle one was not measured. Targets of 1 mm reach 2 mm beyond the centres."""
    field = FieldMap(np.array([[[1.0, np.nan, 2.0]]]), np.diag([4.0, 1, 1, 1]))
    target = np.diag([1.0, 1, 1, 1])
    target[0, 3] = -3
    found = field.on(target, (1, 1, 15))[0, 0]  # x = -3 ... 11
    expected = [np.nan, 1, 1, 1, 1, np.nan, np.nan, np.nan, np.nan, np.nan, 2, 2, 2, 2, np.nan]
    np.testing.assert_allclose(found, expected)


def test_a_slice_stands_for_its_thickness() -> None:
    field = FieldMap(np.full((4, 4), 1.1), affine(np.eye(3), (2.0, 2.0, 6.0), np.zeros(3), (4, 4, 1)))
    here = affine(np.eye(3), (2.0, 2.0, 2.0), np.zeros(3), (4, 4, 5))
    found = field.on(here, (5, 4, 4))
    assert np.isnan(found[[0, 4]]).all()
    np.testing.assert_allclose(found[1:4], 1.1)


def write(path: Path, values: np.ndarray, matrix: np.ndarray | None = None) -> str:
    nib.save(nib.Nifti1Image(np.asarray(values, np.float32), np.eye(4) if matrix is None else matrix), path)
    return str(path)


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_percent_are_recognised(tmp_path: Path, unit: float, caplog: pytest.LogCaptureFixture) -> None:
    values = np.array([[[0.0], [0.8]], [[np.nan], [1.3]]]) * unit
    with caplog.at_level(logging.WARNING):
        field = load_b1(write(tmp_path / "b1.nii.gz", values))
    np.testing.assert_allclose(field.values, [[np.nan, np.nan], [0.8, 1.3]], rtol=1e-6)
    assert ("taken as percent" in caplog.text) is (unit == 100)


@pytest.mark.parametrize(
    ("values", "message"),
    [([0, 0], "is empty"), ([1, -0.1], "negative"), ([6.0, 7.0], "expected about 1"), ([1e3, 900], "expected about 1")],
)
def test_other_units_are_refused(tmp_path: Path, values: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_b1(write(tmp_path / "b1.nii", np.array(values)[:, None, None]))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def b1_basis(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Basis, Dictionary]:
    """A basis of a short train with B1, and its dictionary of 13 slabs."""
    angles = np.deg2rad(10 + 50 * np.abs(np.sin(np.arange(80) * 2 * np.pi / 80)))
    model = models.build({"name": "mrf-fisp", "flip_angles": angles.tolist(), "tr": 0.02, "te": 0.004, "b1": True})
    signal = model.signal(PRIOR.atoms(model.parameters)[0].theta)
    phi = np.linalg.svd(signal, full_matrices=False)[2][:8].T
    basis = Basis(phi.astype(np.complex64), np.ones(8), {"model": model.spec})
    dictionary = compress(model, PRIOR, basis, jacobian=True)
    folder = tmp_path_factory.mktemp("b1")
    bundle.save(folder / "b", basis, dictionary)
    return folder, model, basis, dictionary


def coefficients(model: Any, basis: Basis, theta: np.ndarray, m0: np.ndarray) -> np.ndarray:
    """Return images (K, *X) of theta (3, *X)."""
    signal = model.signal(theta.reshape(3, -1).T) * m0.reshape(-1, 1)
    return basis.project(signal).T.reshape(-1, *m0.shape).astype(np.complex64)


def test_atoms_of_the_given_slab_are_found(b1_basis: Any, rng: np.random.Generator) -> None:
    """All parameters and M0 of atoms, each in its slab; a voxel without signal is not fitted."""
    _, model, basis, dictionary = b1_basis
    t1, t2, b1 = PRIOR.tissues[0].values.values()
    theta = np.stack([rng.choice(values.values, (9, 8)) for values in (t1, t2, b1)])
    m0 = np.exp(2j * np.pi * rng.random((9, 8)))
    coeff = coefficients(model, basis, theta, m0)
    coeff[:, 0, 0] = 0
    exact = match_fixed(coeff, dictionary, known={"B1": theta[2]}, mask_level=0)
    assert exact.mask.sum() == 71
    np.testing.assert_allclose(exact.theta[:, exact.mask], theta[:, exact.mask], rtol=ROUNDING)
    np.testing.assert_allclose(exact.m0[exact.mask], m0[exact.mask], rtol=1e-4)


def test_refinement_leaves_what_was_measured(b1_basis: Any, rng: np.random.Generator) -> None:
    """T1 and T2 anywhere: they come closer, while B1 stays that of the slab."""
    _, model, basis, dictionary = b1_basis
    theta = np.stack([np.exp(rng.uniform(*np.log(ends), (9, 8))) for ends in ((0.4, 2.0), (0.03, 0.2), (1.0, 1.0))])
    theta[2] = rng.choice(SLABS.values, (9, 8))
    coeff = coefficients(model, basis, theta, np.exp(2j * np.pi * rng.random((9, 8))))
    plain, found = (match_fixed(coeff, dictionary, known={"B1": theta[2]}, refine=how) for how in (False, True))
    np.testing.assert_allclose(found.theta[2], theta[2], rtol=ROUNDING)
    errors = [np.median(np.abs(np.log(maps.theta[:2] / theta[:2])), axis=(1, 2)) for maps in (plain, found)]
    # half a step is 5 %, and an error of second order a share of that: the next values are a tenth away
    assert np.all(errors[1] < 0.2 * errors[0])


def test_every_voxel_gets_the_best_atom_of_its_slab(b1_basis: Any, rng: np.random.Generator) -> None:
    """Against a search of all atoms, one voxel after the other; values between slabs go to the nearer one."""
    *_, dictionary = b1_basis
    coeff = (rng.standard_normal((8, 6, 5)) + 1j * rng.standard_normal((8, 6, 5))).astype(np.complex64)
    known = rng.uniform(0.68, 1.32, (6, 5))
    found = match_fixed(coeff, dictionary, known={"B1": known}, mask_level=0)
    slabs = SLABS.values
    for at in np.ndindex(6, 5):
        slab = slabs[np.abs(slabs - known[at]).argmin()]
        rows = np.flatnonzero(dictionary.theta[:, 2] == slab)
        best = rows[np.abs(dictionary.coeff[rows].conj() @ coeff[:, *at]).argmax()]
        np.testing.assert_array_equal(found.theta[:, *at], dictionary.theta[best].astype(np.float32))


def test_edges_are_those_of_the_other_parameters(b1_basis: Any) -> None:
    """Atoms of the outermost slabs are no edges, unless the map lies beyond these by more than half a step."""
    _, model, basis, dictionary = b1_basis
    t1, t2 = (PRIOR.tissues[0].values[name].values for name in ("T1", "T2"))
    theta = np.zeros((3, 4, 2))
    theta[:, :, 0] = np.array([t1[10], t2[10], 0.0])[:, None]
    theta[:, :, 1] = np.array([t1[0], t2[10], 0.0])[:, None]
    theta[2] = np.array([SLABS.values[0], SLABS.values[-1], SLABS.values[-1], SLABS.values[0]])[:, None]
    coeff = coefficients(model, basis, theta, np.ones((4, 2)))
    known = theta[2].copy()
    known[2] += 0.024
    known[3] -= 0.026
    found = match_fixed(coeff, dictionary, known={"B1": known}, mask_level=0)
    np.testing.assert_allclose(found.theta, theta, rtol=ROUNDING)
    np.testing.assert_array_equal(found.edge, [[False, True], [False, True], [False, True], [True, True]])


def test_voxels_without_a_value_are_not_fitted(b1_basis: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, model, basis, dictionary = b1_basis
    coeff = coefficients(model, basis, np.array([1.0, 0.1, 1.0])[:, None, None] * np.ones((3, 2, 3)), np.ones((2, 3)))
    known = np.ones((2, 3))
    known[0, 1] = np.nan
    with caplog.at_level(logging.WARNING):
        found = match_fixed(coeff, dictionary, known={"B1": known})
    np.testing.assert_array_equal(found.mask, np.isfinite(known))
    assert not found.theta[:, 0, 1].any()
    assert "1 of 6 voxels have no B1" in caplog.text
    with pytest.raises(UserError, match="has no values where the image is"):
        match_fixed(coeff, dictionary, known={"B1": np.full((2, 3), np.nan)})


def test_the_command_recovers_the_truth_where_b1_varies(b1_basis: Any, tmp_path: Path, capsys: Any) -> None:
    """Three oblique slices; B1 from a map on coarser voxels of other directions, in percent."""
    folder, model, basis, _ = b1_basis
    shape = (9, 8, 3)
    geometry = Geometry(shape, (4.0, 5.0, 6.0), (10.0, -20.0, 30.0), *(tuple(axis) for axis in TURN.T))
    b1 = linear(places(geometry.affine, shape) - [[[[-10.0]]], [[[20.0]]], [[[30.0]]]])
    assert np.ptp(b1) > 0.3
    theta = np.stack([np.full(b1.shape, 1.0), np.full(b1.shape, 0.08), b1])
    coeff = coefficients(model, basis, theta, np.full(b1.shape, 2.0))
    slice_step = tuple(6.0 * TURN[:, 2])
    first = Geometry(
        (9, 8, 1), (4.0, 5.0, 6.0), tuple(np.array(geometry.position) - slice_step), *(tuple(axis) for axis in TURN.T)
    )
    images = CoefficientImages(np.moveaxis(coeff, 0, 1)[None], first, slice_step, basis.digest, {})
    np.testing.assert_allclose(images.affine, geometry.affine, atol=1e-9)
    images.save(tmp_path / "c")
    source = (12, 14, 12)
    there = affine(np.diag([-1.0, 1.0, 1.0]), (7.0, 6.0, 8.0), np.array([-10.0, 20.0, 30.0]), source)
    field = 100 * linear(places(there, source) - [[[[-10.0]]], [[[20.0]]], [[[30.0]]]])
    given = write(tmp_path / "b1.nii.gz", field.T, there)
    arguments = ["fit", str(tmp_path / "c"), str(folder / "b"), "--mask-level", "0"]
    assert main([*arguments, "-o", str(tmp_path / "with"), "--b1", given]) == 0
    assert "taken as percent" in capsys.readouterr().err
    nominal = write(tmp_path / "one.nii.gz", np.ones(source), there)
    assert main([*arguments, "-o", str(tmp_path / "without"), "--b1", nominal]) == 0
    found = {
        (name, run): np.asarray(nib.load(tmp_path / run / f"{name}map.nii.gz").dataobj).T
        for name in ("T1", "T2", "B1") for run in ("with", "without")
    }  # fmt: skip
    # the nearest slab: half a step of 0.05
    assert np.abs(found["B1", "with"] - b1).max() < 0.0251
    for name, truth, step in (("T1", 1.0, np.log(10) / 24), ("T2", 0.08, np.log(15) / 24)):
        known, assumed = (np.abs(np.log(found[name, run] / truth)) for run in ("with", "without"))
        # atoms of T1 and T2 are a step apart, and half a step of B1 (2.5 %) moves T2 by about 5 %
        assert np.median(known) < step
        assert known.max() < 2 * step
        if name == "T2":
            assert assumed.max() > 2 * known.max()
    # least squares know no slabs
    assert main([*arguments, "-o", str(tmp_path / "nlls"), "--b1", given, "--method", "nlls"]) == 0
    for name, truth in (("T1", np.full(b1.shape, 1.0)), ("T2", np.full(b1.shape, 0.08)), ("B1", b1)):
        squares = np.asarray(nib.load(tmp_path / "nlls" / f"{name}map.nii.gz").dataobj).T
        # signals are emulated to 1e-4 of their norm, of which 1 % in T2 is some 3e-3
        np.testing.assert_allclose(squares, truth, rtol=3e-3)
    sidecar = json.loads((tmp_path / "with" / "T1map.json").read_text())
    assert sidecar["Sources"] == ["c", "b1.nii.gz"]


def test_least_squares_hold_b1_within_the_range_of_the_dictionary(b1_basis: Any) -> None:
    """A little beyond it is its end, and more than half a step beyond is flagged."""
    _, model, basis, dictionary = b1_basis
    last = SLABS.values[-1]
    known = np.array([last, last + 0.024, last + 0.026])
    theta = np.stack([np.full(3, 0.9), np.full(3, 0.07), np.full(3, last)])
    fitter = prepared(basis, dictionary, method="nlls", signals="exact", known=["B1"])
    found = fitter.fit(coefficients(model, basis, theta, np.ones(3)), known={"B1": known})
    np.testing.assert_allclose(found.theta, theta, rtol=1e-4)  # single precision, and where the steps end
    np.testing.assert_array_equal(found.edge, [False, False, True])


def test_known_parameters_need_no_coefficients(b1_basis: Any) -> None:
    _, _, basis, dictionary = b1_basis
    few = basis.truncate(3)
    assert prepared(few, dictionary.truncate(few), method="nlls", signals="exact", known=["B1"]).forward is not None
    with pytest.raises(UserError, match="3 coefficients cannot tell M0 and 3 parameters"):
        prepared(few, dictionary.truncate(few), method="nlls", signals="exact")


def test_maps_are_those_of_recon_and_fit(b1_basis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same voxels get the same B1, whichever verb is asked."""
    folder, model, _, _ = b1_basis
    monkeypatch.chdir(tmp_path)
    spec = [f"--set={key}={json.dumps(value)}" for key, value in model.spec.items() if key != "name"]
    assert main(["simulate", "mrf-fisp", "-o", "raw.h5", "--matrix", "24", "--coils", "2", "--shots", "1", *spec]) == 0
    matrix = affine(TURN, (60.0, 55.0, 70.0), np.zeros(3), (6, 6, 4))
    given = write(tmp_path / "b1.nii", 1 + (linear(places(matrix, (6, 6, 4))).T - 1) / 8, matrix)
    name, iterations = str(folder / "b"), ["--iterations", "3", "--threads", "1"]
    assert main(["recon", "raw.h5", name, "-o", "c", *iterations]) == 0
    assert main(["fit", "c", name, "-o", "apart", "--b1", given]) == 0
    assert main(["maps", "raw.h5", name, "-o", "together", "--b1", given, *iterations]) == 0
    for image in ("T1map", "T2map", "B1map", "T2std"):
        one, other = (nib.load(tmp_path / way / f"{image}.nii.gz").get_fdata() for way in ("apart", "together"))
        np.testing.assert_array_equal(one, other)
    assert not (tmp_path / "together" / "B1std.nii.gz").exists()
    assert np.ptp(nib.load("together/B1map.nii.gz").get_fdata()) > 0.2
    assert json.loads(Path("together/T1map.json").read_text())["Sources"] == ["raw.h5", "b1.nii"]


def test_two_known_parameters(rng: np.random.Generator) -> None:
    """Against a search of all atoms: B1 and the off-resonance choose the slab together."""
    parameters = tuple(Parameter(name, unit, -1e3, 1e3) for name, unit in (("T2", "s"), ("B1", ""), ("w0", "rad/s")))
    axes = np.linspace(0.1, 1, 9), np.array([0.8, 1.0, 1.3]), np.array([-30.0, -10.0, 0.0, 25.0])
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    atoms = rng.standard_normal((len(theta), 4, 2)) @ [1, 1j]
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    edge = (theta[:, 0] == 0.1) | (theta[:, 1] == 0.8) | (theta[:, 2] == 25)
    dictionary = Dictionary(parameters, theta, atoms.astype(np.complex64), np.ones(len(theta)), edge, "")
    coeff = (rng.standard_normal((4, 7, 2)) @ [1, 1j]).astype(np.complex64)
    b1, w0 = rng.uniform(0.75, 1.4, 7), rng.uniform(-39, 36, 7)
    found = match_fixed(coeff, dictionary, known={"B1": b1, "w0": w0}, mask_level=0)
    for v in range(7):
        near = [grid[np.abs(grid - value).argmin()] for grid, value in zip(axes[1:], (b1[v], w0[v]), strict=True)]
        rows = np.flatnonzero((theta[:, 1:] == near).all(axis=1))
        best = rows[np.abs(atoms[rows].conj() @ coeff[:, v]).argmax()]
        np.testing.assert_allclose(found.theta[:, v], theta[best], rtol=1e-6)
        assert found.edge[v] == (theta[best, 0] == 0.1)


@pytest.mark.parametrize(("units", "scale"), [(None, 2 * np.pi), ("Hz", 2 * np.pi), ("rad/s", 1.0)])
def test_b0_is_in_hertz_if_nothing_else_is_said(tmp_path: Path, units: str | None, scale: float) -> None:
    values = np.array([[[0.0], [-40.0]], [[np.nan], [25.0]]])
    given = write(tmp_path / "b0.nii.gz", values)
    if units:
        (tmp_path / "b0.json").write_text(json.dumps({"Units": units}))
    np.testing.assert_allclose(load_b0(given).values, values[..., 0].T * scale, rtol=1e-6)


def test_b0_in_tesla_or_empty_is_refused(tmp_path: Path) -> None:
    given = write(tmp_path / "b0.nii", np.ones((2, 2, 1)))
    (tmp_path / "b0.json").write_text('{"Units": "T"}')
    with pytest.raises(UserError, match="in 'T' by its JSON file, expected Hz or rad/s"):
        load_b0(given)
    with pytest.raises(UserError, match="is empty"):
        load_b0(write(tmp_path / "none.nii", np.full((2, 2, 1), np.nan)))


def test_maps_that_nobody_fits_with_are_refused() -> None:
    with pytest.raises(UserError, match="no maps are wanted"):
        Config(basis="b", fit=False, b0="b0.nii").check()


def test_a_dictionary_without_b1_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write(here / "b1.nii.gz", np.ones((40, 40, 3)), affine(np.eye(3), (8, 8, 50), np.zeros(3), (40, 40, 3)))
    assert main(["fit", "c", "b", "-o", "m", "--b1", given]) == 2
    err = capsys.readouterr().err
    assert "the dictionary has T1, T2 and no B1, of which a map is given" in err
    assert err.count("\n") == 1
    assert not (here / "m").exists()
