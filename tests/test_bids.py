"""BIDS derivatives: names, units, a tree that appears whole or not at all, and other subjects that stay as they are."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cli_case
import nibabel as nib
import numpy as np
import pytest

from crbsvd_plugin import bids, display, roi
from crbsvd_plugin.bids import Entities, bids_name, save_bids
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.result import Extra, Maps
from crbsvd_plugin.mapfile import MapFile
from crbsvd_plugin.maps import save_maps
from crbsvd_plugin.model import Parameter

INFO = {"EstimationReference": "the paper", "EstimationAlgorithm": "matching", "Sources": ["raw.h5"]}
AFFINE = np.diag([-2.0, -1.5, 5.0, 1.0])
T1, T2 = Parameter("T1", "s", 0.1, 6.0), Parameter("T2", "s", 0.01, 3.0)
M0S, B1 = Parameter("m0_s", "", 0.0, 0.3), Parameter("B1", "", 0.5, 1.5, nuisance=True)
ROOT = {"dataset_description.json", "README.md", ".bidsignore"}


def result(parameters: tuple[Parameter, ...] = (T1, T2), *, seed: int = 0) -> Maps:
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5)
    theta = rng.uniform(0.1, 2, (len(parameters), *shape)).astype(np.float32)
    return Maps(
        parameters, theta, np.ones(shape, np.complex64), rng.random(shape) < 0.3, np.ones(shape, bool),
        extra={"T1std": Extra(0.1 * theta[0], "s", "predicted standard deviation of T1")},
    )  # fmt: skip


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_tree_of_a_subject(tmp_path: Path) -> None:
    tree, made = tmp_path / "derivatives" / "maps", result((T1, T2, M0S, B1))
    written = save_bids([made], AFFINE, tree, Entities("01"), info=INFO)
    stems = [
        "T1map", "T2map", "M0map", "desc-phase_M0map", "desc-std_T1map", "desc-edge_mask", "desc-m0s_map",
        "desc-B1_map",
    ]  # fmt: skip
    images = {f"sub-01/anat/sub-01_{stem}{suffix}" for stem in stems for suffix in (".nii.gz", ".json")}
    drawn = {f"sub-01/anat/sub-01_{stem}.png" for stem in ("T1map", "T2map", "M0map", "desc-m0s_map", "desc-B1_map")}
    listed = "sub-01/anat/sub-01_desc-crbsvd_maps.json"
    assert names(tree) == ROOT | images | drawn | {listed}
    assert {str(path.relative_to(tree)) for path in written} == images | drawn | {listed}
    assert written[-1] == tree / listed
    description = json.loads((tree / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0].keys() == {"Name", "Version"}
    assert {"Name", "BIDSVersion"} <= description.keys()
    sidecar = json.loads((tree / "sub-01/anat/sub-01_T1map.json").read_text())
    assert sidecar.items() >= {**INFO, "Units": "s"}.items()
    image = nib.load(tree / "sub-01/anat/sub-01_T1map.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), made.theta[0].T)
    np.testing.assert_array_equal(image.affine, AFFINE)
    edge = nib.load(tree / "sub-01/anat/sub-01_desc-edge_mask.nii.gz")
    assert edge.get_data_dtype() == np.uint8
    # every private name is explained, and left out of validation
    page, ignored = (tree / "README.md").read_text(), (tree / ".bidsignore").read_text().split()
    assert all(word in page for word in ("desc-std_T1map", "desc-edge_mask", "desc-phase_M0map", "desc-NAME_map"))
    private = {path for path in names(tree) if path.endswith(".png") or "_map." in path or "_maps.json" in path}
    assert private == {path for path in names(tree) if any(Path(path).match(pattern) for pattern in ignored)}
    # and the statistics find the deviation by its name in the tree
    mask = nib.Nifti1Image(np.ones((5, 4, 3), np.uint8), AFFINE)
    nib.save(mask, tmp_path / "mask.nii.gz")
    (row,) = roi.regions([tree / "sub-01/anat/sub-01_T1map.nii.gz"], tmp_path / "mask.nii.gz")
    assert row.predicted_sd == pytest.approx(0.1 * row.mean, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("T2starmap", "s", "T2starmap"), ("R1map", "1/s", "R1map"), ("R2starmap", "1/s", "R2starmap"),
        ("T1rhomap", "s", "T1rho"), ("R1std", "1/s", "desc-std_R1map"), ("T1rhostd", "s", "desc-std_T1rho"),
        # another unit than that of BIDS is not to pass for it
        ("T1map", "ms", "desc-T1_map"), ("PDmap", "1", "desc-PD_map"),
        ("Rxmap", "1/s", "desc-Rx_map"), ("m0sstd", "", "desc-m0sstd_map"), ("residual_2", "", "desc-residual2_map"),
        ("CONVERGEDmap", "1", "desc-converged_mask"), ("RESIDUALmap", "arbitrary", "desc-RESIDUAL_map"),
    ],
)  # fmt: skip
def test_names(name: str, unit: str, expected: str) -> None:
    assert bids_name(MapFile(name, np.zeros((1, 1)), unit, "")) == expected


def test_sessions_and_volumes_are_entities(tmp_path: Path) -> None:
    volumes = [result(seed=seed) for seed in range(11)]
    save_bids(volumes, AFFINE, tmp_path / "t", Entities("A7", "pre"), info=INFO)
    for number in (1, 2, 11):
        image = nib.load(tmp_path / f"t/sub-A7/ses-pre/anat/sub-A7_ses-pre_run-{number:02d}_T2map.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), volumes[number - 1].theta[1].T)
    assert not (tmp_path / "t/sub-A7/ses-pre/anat/sub-A7_ses-pre_T2map.nii.gz").exists()


def test_others_are_added_without_harm(tmp_path: Path) -> None:
    """A second subject, and sessions of the first; what the user changed in the root stays."""
    tree = tmp_path / "t"
    save_bids([result()], AFFINE, tree, Entities("01", "1"), info=INFO)
    (tree / "README.md").write_text("mine")
    (tree / "participants.tsv").write_text("participant_id\nsub-01\n")
    before = cli_case.listing(tree)
    whose = [Entities("02"), Entities("01", "2"), Entities("01")]
    for i, one in enumerate(whose, 1):
        save_bids([result(seed=i)], AFFINE, tree, one, info=INFO)
    after = cli_case.listing(tree)
    assert {name: after[name] for name in before} == before
    for i, one in enumerate(whose, 1):
        image = nib.load(tree / one.folder / f"{'_'.join(one.labels)}_T1map.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), result(seed=i).theta[0].T)
    assert {path.name for path in tree.iterdir()} == ROOT | {"sub-01", "sub-02", "participants.tsv"}


def test_only_the_same_maps_are_replaced_and_only_by_force(tmp_path: Path) -> None:
    tree, one, two = tmp_path / "t", Entities("01"), Entities("02")
    for whose in (one, two):
        save_bids([result((T1, T2, M0S))], AFFINE, tree, whose, info=INFO)
    (tree / "sub-01/anat/notes.txt").write_text("mine")
    before = cli_case.listing(tree)
    with pytest.raises(UserError, match=r"sub-01_desc-crbsvd_maps\.json exists already: .*--force"):
        save_bids([result(seed=1)], AFFINE, tree, one, info=INFO)
    assert cli_case.listing(tree) == before
    save_bids([result(seed=1)], AFFINE, tree, one, info=INFO, force=True)
    after = cli_case.listing(tree)
    gone = before.keys() - after.keys()
    assert gone == {f"sub-01/anat/sub-01_desc-m0s_map{suffix}" for suffix in (".nii.gz", ".json", ".png")}
    kept = {name for name in after if "sub-02" in name} | {"sub-01/anat/notes.txt", *ROOT}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    image = nib.load(tree / "sub-01/anat/sub-01_T1map.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), result(seed=1).theta[0].T)


@pytest.mark.parametrize("there", [False, True], ids=["new tree", "second subject"])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_failure_midway_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, there: bool
) -> None:
    if there:
        save_bids([result()], AFFINE, tmp_path / "deep/t", Entities("01"), info=INFO)
    before, calls = cli_case.listing(tmp_path), []

    def fail(*_: object, **__: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise error

    monkeypatch.setattr(display, "save_png", fail)
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        save_bids([result(), result()], AFFINE, tmp_path / "deep/t", Entities("02"), info=INFO)
    assert cli_case.listing(tmp_path) == before


def test_what_a_killed_run_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed where no clean-up runs, while the new tree was being made."""
    monkeypatch.setattr(display, "save_png", lambda *_, **__: os._exit(9))
    child = multiprocessing.get_context("fork").Process(
        target=save_bids, args=([result()], AFFINE, tmp_path / "t", Entities("01")), kwargs={"info": INFO}
    )
    child.start()
    child.join()
    assert child.exitcode == 9
    monkeypatch.undo()
    assert [path.name[:3] for path in tmp_path.iterdir()] == [".t."]
    save_bids([result()], AFFINE, tmp_path / "t", Entities("01"), info=INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_two_runs_that_begin_together_share_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins, and ends, while the first is at work; neither has seen a tree."""
    tree, inner = tmp_path / "t", bids.write_into

    def between(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(bids, "write_into", inner)
        save_bids([result(seed=2)], AFFINE, tree, Entities("02"), info=INFO)
        inner(*arguments, **options)

    monkeypatch.setattr(bids, "write_into", between)
    save_bids([result(seed=1)], AFFINE, tree, Entities("01"), info=INFO)
    for seed, label in ((1, "01"), (2, "02")):
        image = nib.load(tree / f"sub-{label}/anat/sub-{label}_T1map.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), result(seed=seed).theta[0].T)
    assert {path.name for path in tree.iterdir()} == ROOT | {"sub-01", "sub-02"}

    def same(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(bids, "write_into", inner)
        save_bids([result(seed=4)], AFFINE, tree, Entities("03"), info=INFO)
        inner(*arguments, **options)

    monkeypatch.setattr(bids, "write_into", same)
    with pytest.raises(UserError, match="exists already"):
        save_bids([result(seed=3)], AFFINE, tree, Entities("03"), info=INFO)
    image = nib.load(tree / "sub-03/anat/sub-03_T1map.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), result(seed=4).theta[0].T)


def test_an_empty_folder_becomes_the_tree_and_stays_the_same_folder(tmp_path: Path) -> None:
    """As containers have it: the output folder is mounted and cannot be renamed."""
    number = tmp_path.stat().st_ino
    save_bids([result()], AFFINE, tmp_path, Entities("01"), info=INFO)
    assert tmp_path.stat().st_ino == number
    assert {path.name for path in tmp_path.iterdir()} == ROOT | {"sub-01"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"notes.txt": "mine"}, "is not empty and has no dataset_description.json"),
        ({"dataset_description.json": '{"Name": "raw", "DatasetType": "raw"}'}, "is of another data set"),
        ({"dataset_description.json": '{"DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}'}, "another data"),
        ({"dataset_description.json": "{"}, "not valid JSON"),
        ({"sub-01": "a file"}, "sub-01 is a file, expected a folder"),
    ],
)
def test_folders_of_others_are_refused(tmp_path: Path, content: dict[str, str], message: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    before = cli_case.listing(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        save_bids([result()], AFFINE, tmp_path, Entities("01"), info=INFO, force=True)
    assert "\n" not in str(caught.value)
    assert cli_case.listing(tmp_path) == before


@pytest.mark.parametrize(
    ("subject", "session", "message"),
    [("sub-01", None, "say --subject 01"), ("a_b", None, "letters and digits"), ("", None, "letters"),
     ("01", "ses-2", "say --session 2"), ("../x", None, "letters"), ("01\n", None, "letters")],
)  # fmt: skip
def test_labels(subject: str, session: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Entities(subject, session)


def test_the_command_writes_what_it_writes_without(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "c", "b", "-o", "flat"]) == 0
    assert main(["fit", "c", "b", "-o", "tree", "--bids", "--subject", "01"]) == 0
    assert main(["maps", "raw.h5", "b", "-o", "tree", "--bids", "--subject", "02", "--session", "x"]) == 0
    flat, tree = here / "flat", here / "tree/sub-01/anat"
    for name, other in (("T1map", "T1map"), ("M0phase", "desc-phase_M0map"), ("EDGEmap", "desc-edge_mask")):
        one, two = nib.load(flat / f"{name}.nii.gz"), nib.load(tree / f"sub-01_{other}.nii.gz")
        np.testing.assert_array_equal(one.dataobj, two.dataobj)
        np.testing.assert_array_equal(one.affine, two.affine)
        sidecars = [json.loads(path.read_text()) for path in (flat / f"{name}.json", tree / f"sub-01_{other}.json")]
        assert sidecars[0] == sidecars[1]
    assert (here / "tree/sub-02/ses-x/anat/sub-02_ses-x_T2map.nii.gz").is_file()
    for verb in (["fit", "c", "b"], ["maps", "raw.h5", "b"]):
        before = cli_case.listing(here)
        for options, message in (
            (["--bids", "--subject", "01"], "exists already"),
            (["--bids"], "say --subject"),
            (["--subject", "01"], "say --bids too"),
            (["--session", "1"], "say --bids too"),
            (["--bids", "--subject", "01", "--session", "a-b"], "letters and digits"),
        ):
            output = "tree" if "--bids" in options else "other"
            capsys.readouterr()
            # before the work, which would fail
            given = [verb[0], "nothing", verb[2]]
            assert main([*given, "-o", output, *options]) == 2
            assert message in capsys.readouterr().err
        assert cli_case.listing(here) == before


def test_pictures_are_those_of_the_flat_folder(tmp_path: Path) -> None:
    one = replace(result(), extra={})
    save_maps(one, AFFINE, tmp_path / "flat", info=INFO)
    save_bids([one], AFFINE, tmp_path / "t", Entities("01"), info=INFO)
    picture = tmp_path / "t/sub-01/anat/sub-01_T1map.png"
    assert picture.read_bytes() == (tmp_path / "flat/T1map.png").read_bytes()
