"""The demo: the whole way on a phantom. In small, with a short train; and as it ships."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import cli_case
import numpy as np
import pytest
from matplotlib.image import imread

from crbsvd_plugin import demo
from crbsvd_plugin.cli import main
from crbsvd_plugin.maps import load_map

RUNS = [f"{data}_{basis}_k{rank}" for data in ("noisy", "noise-free") for basis in ("svd", "crb") for rank in (3, 5)]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "errors.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def check_files(folder: Path, matrix: int) -> None:
    """All maps with their pictures, and the table in the file."""
    for name in RUNS:
        for parameter in ("T1map", "T2map", "M0map"):
            values, _ = load_map(folder / name / f"{parameter}.nii.gz")
            assert values.shape == (matrix, matrix)
            assert np.isfinite(values).all()
            picture = imread(folder / name / f"{parameter}.png")
            assert picture[..., :3].std() > 0.05, "an empty picture"
    found = [(row["data"], row["basis"], row["rank"], row["tissue"]) for row in rows(folder)]
    expected = [
        (data, basis, rank, tissue)
        for data in ("noisy", "noise-free")
        for basis in ("svd", "crb")
        for rank in ("3", "5")
        for tissue in ("WM", "GM", "CSF")
    ]
    assert found == expected


def check_text(text: str, folder: Path) -> None:
    """The printed rows are those of the file, in per cent; what is unfavourable is said."""
    printed = [line.split() for line in text.splitlines() if re.match(r"(noisy|noise-free) ", line)]
    assert len(printed) == 24
    for line, row in zip(printed, rows(folder), strict=True):
        assert line[:5] == [row[key] for key in ("data", "basis", "rank", "tissue", "n_voxels")]
        figures = [float(row[key]) for key in ("t1_bias", "t1_error", "t2_bias", "t2_error")]
        np.testing.assert_allclose([float(word) for word in line[5:]], 100 * np.array(figures), atol=0.0051)
    for rank in (3, 5):
        said = next(line for line in text.splitlines() if line.startswith(f"K = {rank}, with noise"))
        better, worse = said.partition("it is not for")[::2]
        noisy = {
            (row["basis"], row["tissue"]): row
            for row in rows(folder)
            if row["data"] == "noisy" and row["rank"] == str(rank)
        }
        for tissue in ("WM", "GM", "CSF"):
            for key, name in (("t1_error", "T1"), ("t2_error", "T2")):
                gain = float(noisy["crb", tissue][key]) < float(noisy["svd", tissue][key])
                assert f"{tissue} {name}" in (better if gain else worse)


def test_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cli_case.write_spec(tmp_path)
    monkeypatch.setattr(demo, "_SPEC", str(tmp_path / "spec.toml"))
    monkeypatch.setattr(demo, "_ATOMS", "1000")
    monkeypatch.setattr(demo, "_PURE", 0.5)
    folder = tmp_path / "a demo"
    assert main(["demo", str(folder), "--matrix", "32", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert "noise level is unknown" in err  # the data without noise have no noise scan
    assert "phantom: " in out
    assert "coarser grids than the 281,250 of the paper's Table I" in out
    check_files(folder, 32)
    check_text(out, folder)
    assert any(int(row["n_voxels"]) > 3 for row in rows(folder))
    before = cli_case.listing(folder)
    assert main(["demo", str(folder), "--matrix", "32"]) == 2
    assert "errors.csv exists already" in capsys.readouterr().err
    assert cli_case.listing(folder) == before


@pytest.mark.slow
def test_as_it_ships(tmp_path: Path) -> None:
    """At K = 5 and SNR 50, WM and GM: T1 within 3 %, T2 within 5 % (median absolute), bias within 1.5 %."""
    done = cli_case.run("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "crbsvd-demo"
    check_files(folder, 192)
    check_text(done.stdout, folder)
    table = {(row["data"], row["basis"], row["rank"], row["tissue"]): row for row in rows(folder)}
    for basis in ("svd", "crb"):
        for tissue in ("WM", "GM"):
            row = table["noisy", basis, "5", tissue]
            assert int(row["n_voxels"]) >= 500
            assert float(row["t1_error"]) <= 0.03
            assert float(row["t2_error"]) <= 0.05
            assert abs(float(row["t1_bias"])) <= 0.015
            assert abs(float(row["t2_bias"])) <= 0.015
            # noise only adds to the errors
            clean = table["noise-free", basis, "5", tissue]
            assert float(clean["t1_error"]) < float(row["t1_error"])
            assert float(clean["t2_error"]) < float(row["t2_error"])
    # what the CRB basis is for: at a small rank it keeps what T1 and T2 of brain tissue need
    for tissue in ("WM", "GM"):
        for key in ("t1_error", "t2_error"):
            assert float(table["noisy", "crb", "3", tissue][key]) < float(table["noisy", "svd", "3", tissue][key])
