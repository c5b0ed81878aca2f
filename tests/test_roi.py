"""Statistics in regions: right numbers, right voxels, and what does not belong together is refused."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from crbsvd_plugin import roi
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError

AFFINE = np.array([[-1.1, 0.2, 0.0, 30.0], [0.1, -2.0, 0.3, 40.0], [0.0, 0.4, 5.0, -20.0], [0, 0, 0, 1]])
SHAPE = (7, 5, 3)  # x, y, z
EXACT = 1e-6  # single precision, and the six digits of the table


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    return rng.choice(np.array([0, 2, 7], np.uint8), SHAPE)


@pytest.fixture
def values(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """A map with voxels that were not fitted, and one that is not finite."""
    values = rng.uniform(0.3, 2, SHAPE).astype(np.float32)
    values[rng.random(SHAPE) < 0.2] = 0
    values[tuple(np.argwhere(labels == 2)[0])] = np.nan
    return values


def rows(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_numbers_are_those_of_the_standard_library(tmp_path: Path, values: np.ndarray, labels: np.ndarray) -> None:
    found = roi.regions([save(tmp_path / "T1map.nii.gz", values)], save(tmp_path / "mask.nii", labels))
    assert [(row.map, row.label) for row in found] == [("T1map", 2), ("T1map", 7)]
    for row in found:
        # voxel by voxel
        inside = [float(v) for v, label in zip(values.flat, labels.flat, strict=True) if label == row.label]
        fitted = [v for v in inside if v == v and v != 0]
        assert (row.n_voxels, row.n_fitted) == (len(inside), len(fitted))
        assert len(fitted) < len(inside)
        low, median, high = statistics.quantiles(fitted, n=4, method="inclusive")
        expected = (median, low, high, high - low, statistics.fmean(fitted), statistics.stdev(fitted))
        np.testing.assert_allclose((row.median, row.low, row.high, row.iqr, row.mean, row.sd), expected, rtol=EXACT)
        assert np.isnan(row.predicted_sd)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("T1map.nii.gz", "T1std.nii.gz"),
        ("T1map.nii", "T1std.nii"),
        ("sub-01_run-02_T1map.nii.gz", "sub-01_run-02_desc-std_T1map.nii.gz"),
        ("sub-01_desc-m0s_map.nii.gz", "sub-01_desc-m0sstd_map.nii.gz"),
    ],
)
def test_predicted_deviation_is_the_mean_over_the_fitted_voxels(
    tmp_path: Path, rng: np.random.Generator, values: np.ndarray, labels: np.ndarray, name: str, beside: str
) -> None:
    deviation = rng.uniform(0.01, 0.1, SHAPE).astype(np.float32)
    deviation[0] = 0  # not known
    save(tmp_path / beside, deviation)
    (row, _) = roi.regions([save(tmp_path / name, values)], save(tmp_path / "mask.nii.gz", labels))
    counted = (labels == 2) & (values > 0) & (deviation > 0)
    assert row.predicted_sd == pytest.approx(deviation[counted].mean(dtype=float), rel=EXACT)


def test_zero_is_a_value_of_whole_numbers(tmp_path: Path, labels: np.ndarray) -> None:
    edge = (np.arange(labels.size).reshape(SHAPE) % 4 == 0).astype(np.uint8)
    (row, _) = roi.regions([save(tmp_path / "EDGEmap.nii.gz", edge)], save(tmp_path / "mask.nii.gz", labels))
    assert row.n_fitted == row.n_voxels
    assert row.mean == pytest.approx(edge[labels == 2].mean(), rel=EXACT)


def test_several_maps_of_a_slice_to_a_file(
    tmp_path: Path, values: np.ndarray, labels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slice with a third axis and one without are the same; a mask may be of floating-point numbers."""
    t1, t2 = save(tmp_path / "T1map.nii.gz", values[..., :1]), save(tmp_path / "T2map.nii.gz", values[..., 0] / 10)
    mask = save(tmp_path / "mask.nii.gz", labels[..., 0].astype(np.float32))
    assert main(["roi", t1, t2, mask]) == 0
    text = capsys.readouterr().out
    assert [(row["map"], row["label"]) for row in rows(text)] == [
        (name, label) for name in ("T1map", "T2map") for label in ("2", "7")
    ]
    first, third = rows(text)[0], rows(text)[2]
    assert float(first["median"]) == pytest.approx(10 * float(third["median"]), rel=1e-5)  # six digits
    assert first["predicted_sd"] == ""
    output = str(tmp_path / "new" / "table.csv")
    assert main(["roi", t1, t2, mask, "-o", output]) == 0
    assert Path(output).read_text() == text
    capsys.readouterr()
    assert main(["roi", t1, mask, "-o", output]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path(output).read_text() == text
    assert main(["roi", t1, mask, "-o", output, "--force"]) == 0
    assert len(rows(Path(output).read_text())) == 2


def test_a_region_without_fitted_voxels_has_no_numbers(tmp_path: Path) -> None:
    labels = np.zeros((4, 3), np.int16)
    labels[0, 0], labels[1, 1] = 1, 3
    values = np.zeros((4, 3), np.float32)
    values[1, 1] = 0.5
    one, three = roi.regions([save(tmp_path / "T1map.nii", values)], save(tmp_path / "mask.nii", labels))
    assert (one.n_voxels, one.n_fitted, three.median) == (1, 0, 0.5)
    assert np.isnan(one.median)
    assert np.isnan(three.sd)  # of a single voxel
    assert roi.table([one]).splitlines()[1] == "T1map,1,1,0,,,,,,,"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros(SHAPE, np.uint8)}, "is empty"),
        ({"mask": np.full(SHAPE, 0.5, np.float32)}, "holds other values than 0, 1, 2"),
        ({"mask": np.full(SHAPE, -1, np.int16)}, "holds other values than 0, 1, 2"),
        ({"mask": np.full(SHAPE, np.nan, np.float32)}, "holds other values than 0, 1, 2"),
        ({"mask": np.ones((7, 5, 4), np.uint8)}, "has 7 x 5 x 3 voxels, mask .* has 7 x 5 x 4"),
        ({"mask": np.ones((7, 5), np.uint8)}, "has 7 x 5 x 3 voxels, mask .* has 7 x 5"),
        ({"affine": AFFINE + np.array([[0, 0, 0, 0.02]] * 3 + [[0] * 4])}, "apart"),
        ({"affine": AFFINE @ np.diag([-1, 1, 1, 1])}, "mm apart"),
        ({"affine": AFFINE @ np.diag([1, 1, 1.01, 1])}, "mm apart"),
    ],
    ids=["empty", "fractions", "negative", "nan", "size", "dimensions", "shifted", "mirrored", "thicker"],
)
def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, values: np.ndarray, change: dict[str, np.ndarray], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, np.ndarray] = {"mask": np.ones(SHAPE, np.uint8), "affine": AFFINE} | change
    files = [save(tmp_path / "T1map.nii.gz", values), save(tmp_path / "mask.nii.gz", given["mask"], given["affine"])]
    with pytest.raises(UserError, match=message):
        roi.regions(files[:1], files[1])
    assert main(["roi", *files]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_rounding_of_other_programs_is_no_other_place(tmp_path: Path, values: np.ndarray, labels: np.ndarray) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] += 1e-3  # mm; a hundredth of the smallest voxel is 0.011 mm
    files = [save(tmp_path / "T1map.nii.gz", values), save(tmp_path / "mask.nii.gz", labels, moved)]
    assert len(roi.regions(files[:1], files[1])) == 2


def test_a_missing_map_and_a_missing_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = save(tmp_path / "mask.nii.gz", np.ones(SHAPE, np.uint8))
    for arguments in ([str(tmp_path / "T1map.nii.gz"), mask], [mask], []):
        assert main(["roi", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
