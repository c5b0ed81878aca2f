"""Coefficient images: round trip, what BART makes of them, and files that are something else."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import bart
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry, identity
from crbsvd_plugin.images import CoefficientImages

# repetitions, slices, K, *X
SHAPES = [
    (1, 1, 3, 5, 4), (1, 1, 1, 1, 1), (3, 1, 2, 7, 5), (1, 4, 3, 6, 9), (2, 3, 2, 5, 7), (1, 1, 3, 3, 5, 4),
    (2, 1, 2, 4, 3, 7),
]  # fmt: skip


def images(rng: np.random.Generator, shape: tuple[int, ...]) -> CoefficientImages:
    coeff = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    coeff.setflags(write=False)
    n_z, n_y, n_x = (1, *shape[3:])[-3:]
    geometry = Geometry(
        (n_x, n_y, n_z), (1.5, 2.0, 4.0), (3.0, -7.0, 11.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0)
    )
    step = (-6.0, 0.0, 0.0) if shape[1] > 1 else (0.0, 0.0, 0.0)
    return CoefficientImages(coeff, geometry, step, "digest", {"sigma": 0.25, "groups": [{"set": 0}], "slices": [0]})


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(rng: np.random.Generator, tmp_path: Path, shape: tuple[int, ...]) -> None:
    written = images(rng, shape)
    written.save(tmp_path / "c_0.5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c_0.5.cfl", "c_0.5.hdr", "c_0.5.json"]
    read = CoefficientImages.load(tmp_path / "c_0.5")
    np.testing.assert_array_equal(read.coeff, written.coeff)
    assert read.coeff.dtype == np.complex64
    assert (read.geometry, read.slice_step) == (written.geometry, written.slice_step)
    assert (read.digest, read.info, read.rank) == (written.digest, written.info, shape[2])
    content = json.loads((tmp_path / "c_0.5.json").read_text())
    np.testing.assert_array_equal(content["affine"], written.affine)


@pytest.mark.parametrize("shape", SHAPES)
def test_axes_of_the_file_are_those_of_bart(rng: np.random.Generator, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Entry by entry: x varies fastest."""
    written = images(rng, shape)
    written.save(tmp_path / "c")
    array = bart.read_cfl(tmp_path / "c")
    n_rep, n_slices, rank, n_z, n_y, n_x = (*shape[:3], *(1, *shape[3:])[-3:])
    assert array.shape == (n_x, n_y, n_z, 1, 1, 1, rank, 1, 1, 1, n_rep, 1, 1, n_slices, 1, 1)
    for index in [tuple(rng.integers(0, shape)) for _ in range(20)]:
        repetition, slice_, k, *place = map(int, index)
        x, y, z = [*place[::-1], 0][:3]
        entry = array[x, y, z, 0, 0, 0, k, 0, 0, 0, repetition, 0, 0, slice_, 0, 0]
        assert entry == written.coeff[index]


@pytest.mark.bart
@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((1, 1, 3, 5, 4), "4 5 1 1 1 1 3 1 1 1 1 1 1 1 1 1"),
        ((2, 3, 2, 5, 7), "7 5 1 1 1 1 2 1 1 1 2 1 1 3 1 1"),
        ((2, 1, 2, 4, 3, 7), "7 3 4 1 1 1 2 1 1 1 2 1 1 1 1 1"),
    ],
)
def test_bart_reads_them(rng: np.random.Generator, tmp_path: Path, shape: tuple[int, ...], dims: str) -> None:
    written = images(rng, shape)
    written.save(tmp_path / "c")

    def run(*command: str) -> str:
        return subprocess.run(["bart", *command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert dims.split() == run("show", "-m", "c").split()[-16:]
    # one slice and one repetition of them, cut out by BART
    run("slice", "6", "1", "13", str(shape[1] - 1), "10", str(shape[0] - 1), "c", "cut")
    cut = bart.read_cfl(tmp_path / "cut")
    np.testing.assert_array_equal(cut.reshape(cut.shape[:3]).T.reshape(shape[3:]), written.coeff[-1, -1, 1])


def test_volumes_have_slices_as_z(rng: np.random.Generator) -> None:
    several = images(rng, (2, 3, 2, 5, 7))
    assert several.volume(1).shape == (2, 3, 5, 7)
    np.testing.assert_array_equal(several.volume(1)[1, 2], several.coeff[1, 2, 1])
    assert images(rng, (1, 1, 2, 5, 7)).volume(0).shape == (2, 5, 7)
    assert images(rng, (1, 1, 2, 3, 5, 7)).volume(0).shape == (2, 3, 5, 7)


def test_affine_steps_from_slice_to_slice(rng: np.random.Generator) -> None:
    several = images(rng, (1, 3, 2, 5, 4))
    affine, one = several.affine, several.geometry.affine
    np.testing.assert_array_equal(affine[:, [0, 1, 3]], one[:, [0, 1, 3]])
    np.testing.assert_array_equal(affine[:3, 2], [6, 0, 0])  # LPS to RAS
    # the centre of the first slice lies where its geometry says
    np.testing.assert_allclose((affine @ [2, 2, 0, 1])[:3], [-3, 7, 11])
    np.testing.assert_array_equal(images(rng, (1, 1, 2, 5, 4)).affine, several.geometry.affine)


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_files_of_bart_are_taken(
    rng: np.random.Generator, tmp_path: Path, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    written = images(rng, shape)
    written.save(tmp_path / "c")
    (tmp_path / "c.json").unlink()
    with caplog.at_level(logging.WARNING):
        alone = CoefficientImages.load(tmp_path / "c")
    assert "no sidecar: its place in the patient is unknown" in caplog.text
    np.testing.assert_array_equal(alone.coeff, written.coeff)
    assert alone.geometry == identity(written.geometry.shape)
    assert (alone.digest, dict(alone.info)) == ("", {})
    caplog.clear()
    placed = CoefficientImages.load(tmp_path / "c", like=written.geometry)
    assert placed.geometry == written.geometry
    assert not caplog.text


def test_short_headers_are_taken(rng: np.random.Generator, tmp_path: Path) -> None:
    array = rng.standard_normal((4, 5, 1, 1, 1, 1, 3)).astype(np.complex64)
    bart.write_cfl(tmp_path / "pics", array)
    read = CoefficientImages.load(tmp_path / "pics")
    np.testing.assert_array_equal(read.coeff[0, 0], array.reshape(4, 5, 3).T)
    bart.write_cfl(tmp_path / "image", array[..., 0].reshape(4, 5))
    assert CoefficientImages.load(tmp_path / "image").coeff.shape == (1, 1, 1, 5, 4)


def _change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_what_is_something_else_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    name, sidecar = tmp_path / "c", tmp_path / "c.json"

    def refused(message: str, like: Geometry | None = None) -> None:
        with pytest.raises(UserError, match=message) as caught:
            CoefficientImages.load(name, like=like)
        assert "\n" not in str(caught.value)

    refused("check the name")
    images(rng, (1, 1, 2, 5, 4)).save(name)
    with pytest.raises(UserError, match="exists already"):
        images(rng, (1, 1, 2, 5, 4)).save(name)
    good = sidecar.read_text()
    _change(sidecar, format="crbsvd-basis/1")
    refused(r"has format 'crbsvd-basis/1', expected 'crbsvd-coeff/1'; are these coefficients\?")
    sidecar.write_text(good)
    _change(sidecar, geometry={})
    refused("geometry: missing or unknown")
    content = json.loads(good)
    del content["geometry"]
    sidecar.write_text(json.dumps(content))
    refused("geometry: missing or unknown")
    sidecar.write_text(good)
    with (tmp_path / "c.cfl").open("r+b") as stream:
        stream.write(b"\1")
    refused(r"the hash of .*c\.cfl does not match c\.json")
    sidecar.unlink()
    refused(r"has 4 x 5 x 1 voxels, the geometry \(5, 4, 1\): they do not belong together", identity((5, 4, 1)))
    with (tmp_path / "c.cfl").open("r+b") as stream:
        stream.truncate(300)
    refused("is truncated")
    bart.write_cfl(name, np.ones((4, 5, 1, 8), np.complex64))
    refused("has dims 4 5 1 8 1 .* expected x y z 1 1 1 K, repetitions in dim 10, slices in dim 13")
