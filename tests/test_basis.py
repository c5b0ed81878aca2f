"""The basis: its columns, its hash, its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin import bart
from crbsvd_plugin.basis import Basis, plain, turned
from crbsvd_plugin.errors import UserError

Array = NDArray[Any]
INFO = {"model": {"name": "mrf-fisp", "flip_angles": [0.1, 0.2]}, "crb_weight": 0.3}


def unitary(rng: np.random.Generator, t: int = 11, k: int = 3, *, real: bool = False) -> Array:
    return np.linalg.qr(rng.standard_normal((t, k)) + (0 if real else 1j) * rng.standard_normal((t, k)))[0]


def make(rng: np.random.Generator, t: int = 11, k: int = 3, *, real: bool = False) -> Basis:
    return Basis(unitary(rng, t, k, real=real), np.geomspace(1, 1e-3, k + 2), INFO)


def test_columns_are_turned_until_the_sum_of_squares_is_real(
    rng: np.random.Generator, frozen: Callable[..., Array]
) -> None:
    phi = unitary(rng, 13, 5)
    found = turned(frozen(phi))
    for k in range(5):
        square = np.sum(found[:, k] ** 2)
        assert abs(square.imag) < 1e-14
        assert square.real >= 0
        assert found[np.abs(found[:, k]).argmax(), k].real > 0
        factor = np.vdot(phi[:, k], found[:, k])
        assert abs(abs(factor) - 1) < 1e-14
        np.testing.assert_allclose(found[:, k], factor * phi[:, k], atol=1e-15)
    # whatever phases the columns had before
    phases = np.exp(1j * rng.uniform(0, 2 * np.pi, 5))
    np.testing.assert_allclose(turned(phi * phases), found, atol=1e-13)
    np.testing.assert_allclose(turned(found), found, atol=1e-14)


@pytest.mark.parametrize("angle", [0.0, 0.5 * np.pi, 1.0, -2.5])
def test_columns_that_can_be_real_are_stored_real(rng: np.random.Generator, angle: float) -> None:
    phi = unitary(rng, real=True)
    found = turned(phi * np.exp(1j * angle))
    assert found.dtype == np.float64
    signs = np.sign(phi[np.abs(phi).argmax(axis=0), np.arange(3)])
    np.testing.assert_allclose(found, phi * signs, atol=1e-15)
    assert turned(phi + 1e-8j * rng.standard_normal(phi.shape)).dtype == np.float64
    assert turned(phi + 1e-4j * rng.standard_normal(phi.shape)).dtype == np.complex128
    np.testing.assert_allclose(turned(phi), found, atol=1e-15)
    # many small parts are no smaller than one large part of the same norm
    tall = np.linalg.qr(rng.standard_normal((4000, 2)))[0]
    assert turned(tall + 9e-7j * np.sign(rng.standard_normal(tall.shape))).dtype == np.complex128
    nearly = turned(phi + 3e-7j * rng.standard_normal(phi.shape))
    np.testing.assert_allclose(np.linalg.norm(nearly, axis=0), 1, atol=1e-15)


def test_project_and_expand_do_not_conjugate_the_expansion(rng: np.random.Generator) -> None:
    basis = make(rng)
    coeff = rng.standard_normal((2, 5, 3)) + 1j * rng.standard_normal((2, 5, 3))
    signal = basis.expand(coeff)
    np.testing.assert_allclose(signal[1, 4], basis.phi @ coeff[1, 4], atol=1e-14)
    np.testing.assert_allclose(basis.project(signal), coeff, atol=1e-14)
    np.testing.assert_allclose(basis.project(signal)[0, 0], basis.phi.conj().T @ signal[0, 0], atol=1e-14)


@pytest.mark.parametrize("shape", [(11, 3), (1, 1), (7, 7), (5, 1)])
@pytest.mark.parametrize("real", [False, True])
def test_files_round_trip(rng: np.random.Generator, tmp_path: Path, shape: tuple[int, int], real: bool) -> None:
    basis = make(rng, *shape, real=real)
    basis.save(tmp_path / "deep" / "b")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["b.cfl", "b.hdr", "b.json"]
    found = Basis.load(tmp_path / "deep" / "b")
    np.testing.assert_array_equal(found.phi, basis.phi.astype(np.complex64))
    if real:
        assert found.phi.dtype == np.float64
    np.testing.assert_array_equal(found.singular_values, basis.singular_values)
    assert found.info == INFO
    assert found.digest == basis.digest
    assert (found.n_frames, found.rank) == shape
    # as BART reads it
    header = (tmp_path / "deep" / "b.hdr").read_text().splitlines()
    assert header[1].split() == ["1"] * 5 + [str(n) for n in shape]
    raw = np.fromfile(tmp_path / "deep" / "b.cfl", "<c8").reshape(shape[::-1]).T
    np.testing.assert_array_equal(raw, basis.phi.astype(np.complex64))


def test_a_dot_in_the_name_is_no_suffix(rng: np.random.Generator, tmp_path: Path) -> None:
    bases = {name: make(rng) for name in ("basis_0.5", "basis_0.6", "basis")}
    for name, basis in bases.items():
        basis.save(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 9
    for name, basis in bases.items():
        assert Basis.load(tmp_path / name).digest == basis.digest


def test_a_basis_of_other_tools_needs_no_sidecar(rng: np.random.Generator, tmp_path: Path) -> None:
    phi = unitary(rng)
    bart.write_cfl(tmp_path / "b", phi.reshape(1, 1, 1, 1, 1, 11, 3))
    found = Basis.load(tmp_path / "b")
    np.testing.assert_array_equal(found.phi, phi.astype(np.complex64))
    assert found.info == {}
    with pytest.raises(UserError, match="no sidecar"):
        found.model()
    bart.write_cfl(tmp_path / "one", (phi[:, :1] / np.linalg.norm(phi[:, 0])).reshape(1, 1, 1, 1, 1, 11))
    assert Basis.load(tmp_path / "one").phi.shape == (11, 1)
    bart.write_cfl(tmp_path / "flat", phi)
    with pytest.raises(UserError, match="dims 11 3 1 1 1 1 1, expected 1 1 1 1 1 T K"):
        Basis.load(tmp_path / "flat")
    bart.write_cfl(tmp_path / "late", phi.reshape(1, 1, 1, 1, 1, 11, 1, 3))
    with pytest.raises(UserError, match="expected 1 1 1 1 1 T K"):
        Basis.load(tmp_path / "late")


@pytest.mark.parametrize("suffix", ["cfl", "hdr"])
def test_a_changed_or_missing_file_is_found(rng: np.random.Generator, tmp_path: Path, suffix: str) -> None:
    make(rng).save(tmp_path / "b")
    path = tmp_path / f"b.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"hash of .*b\.{suffix} does not match b\.json"):
        Basis.load(tmp_path / "b")
    path.unlink()
    with pytest.raises(UserError, match=rf"b\.{suffix} is missing, but b\.json lists it"):
        Basis.load(tmp_path / "b")
    (tmp_path / "b.json").unlink()
    with pytest.raises(UserError, match=rf"cannot read .*b\.{suffix}"):
        Basis.load(tmp_path / "b")


def test_a_truncated_file_is_found_without_a_sidecar_too(rng: np.random.Generator, tmp_path: Path) -> None:
    make(rng).save(tmp_path / "b")
    data = (tmp_path / "b.cfl").read_bytes()
    (tmp_path / "b.cfl").write_bytes(data[:-8])
    with pytest.raises(UserError, match="does not match"):
        Basis.load(tmp_path / "b")
    (tmp_path / "b.json").unlink()
    with pytest.raises(UserError, match=r"truncated: it has 256 bytes, expected 264 for the dimensions 1 1 1 1 1 11 3"):
        Basis.load(tmp_path / "b")
    with pytest.raises(UserError, match="cannot read"):
        Basis.load(tmp_path / "nothing")


def test_a_sidecar_copied_to_another_basis_is_found(rng: np.random.Generator, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(rng).save(tmp_path / name)
    shutil.copy(tmp_path / "a.json", tmp_path / "b.json")
    with pytest.raises(UserError, match=r"b: its hash does not match .*b\.json"):
        Basis.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds a list"),
        ("{}", "has format None"),
        ('{"format": "crbsvd-dictionary/1"}', "is it a basis"),
        ('{"format": "crbsvd-basis/1", "files": {"../b.cfl": "0"}}', "expected a plain file name"),
    ],
)
def test_a_bad_sidecar_is_refused(rng: np.random.Generator, tmp_path: Path, text: str, match: str) -> None:
    make(rng).save(tmp_path / "b")
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UserError, match=match):
        Basis.load(tmp_path / "b")


def test_nothing_is_overwritten_without_force(rng: np.random.Generator, tmp_path: Path) -> None:
    old, new = make(rng), make(rng)
    old.save(tmp_path / "b")
    with pytest.raises(UserError, match="exists already"):
        new.save(tmp_path / "b")
    assert Basis.load(tmp_path / "b").digest == old.digest
    new.save(tmp_path / "b", force=True)
    assert Basis.load(tmp_path / "b").digest == new.digest
    assert len(list(tmp_path.iterdir())) == 3


def test_force_replaces_files_of_its_own_manifest_only(rng: np.random.Generator, tmp_path: Path) -> None:
    (tmp_path / "b.cfl").write_bytes(b"measured for an hour")
    for force in (False, True):
        with pytest.raises(UserError, match=r"b\.cfl exists"):
            make(rng).save(tmp_path / "b", force=force)
    assert (tmp_path / "b.cfl").read_bytes() == b"measured for an hour"
    # a sidecar that does not list it makes it no more ours
    (tmp_path / "b.json").write_text(json.dumps({"format": "crbsvd-basis/1", "files": {"b.hdr": "0"}}))
    with pytest.raises(UserError, match="not part of"):
        make(rng).save(tmp_path / "b", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.cfl", "b.json"]
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "b.cfl").unlink()
    make(rng).save(tmp_path / "b", force=True)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_truncate_keeps_the_first_columns(rng: np.random.Generator) -> None:
    basis = Basis(unitary(rng), np.ones(5), {**INFO, "losses": {"all": {}}, "held_out": {"all": {}}})
    small = basis.truncate(2)
    np.testing.assert_array_equal(small.phi, basis.phi[:, :2])
    assert basis.truncate(3).digest == basis.digest
    assert small.digest != basis.digest
    # what was measured with all columns is not true of fewer
    assert small.info == INFO
    for rank in (0, 4, -1):
        with pytest.raises(UserError, match=f"rank is {rank}, but the basis has 3 columns: expected 1 to 3"):
            basis.truncate(rank)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda phi: phi.T, r"shape \(3, 11\), expected \(T, K\)"),
        (lambda phi: phi[:, :0], r"shape \(11, 0\)"),
        (lambda phi: phi[:, 0], r"shape \(11,\)"),
        (lambda phi: np.where(np.arange(11)[:, None] == 2, np.nan, phi), "3 non-finite values"),
        (lambda phi: 2 * phi, "not orthonormal"),
        (lambda phi: phi[:, [0, 1, 1]], "not orthonormal"),
    ],
)
def test_what_is_no_basis_is_refused(rng: np.random.Generator, change: Callable[[Array], Array], match: str) -> None:
    with pytest.raises(UserError, match=match):
        Basis(change(unitary(rng)), np.ones(3))


def test_info_is_what_json_gives_back() -> None:
    value = {"a": (1, 2.5), "b": {"c": float("nan"), "d": [float("inf"), None]}}
    assert plain(value) == {"a": [1, 2.5], "b": {"c": None, "d": [None, None]}}
