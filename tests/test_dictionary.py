"""Dictionaries against direct compression, and their files against tampering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin.basis import Basis
from crbsvd_plugin.batches import iter_batches
from crbsvd_plugin.dictionary import Dictionary, compress
from crbsvd_plugin.distribution import Grid, Uniform, fixed
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.prior import Prior, Tissue

Array = NDArray[Any]
TIME = np.linspace(0, 0.2, 9)
PRIOR = Prior(
    "p",
    (
        Tissue("a", {"R": Grid(2, 10, 4), "W": Grid(-30, 30, 3), "C": fixed(1)}),
        Tissue("b", {"R": Grid(50, 60, 1), "W": Grid(5, 6, 2), "C": fixed(1)}),
    ),
)


class Decay:
    """Complex exponentials; the third parameter never varies."""

    parameters = (Parameter("R", "1/s", 0, 100), Parameter("W", "rad/s", -100, 100), Parameter("C", "", 0, 2, True))
    n_frames = len(TIME)
    spec = MappingProxyType({"name": "decay"})

    def signal(self, theta: Array) -> Array:
        return self.signal_and_jacobian(theta)[0]

    def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        unit = np.exp((-theta[:, :1] + 1j * theta[:, 1:2]) * TIME)
        signal = theta[:, 2:] * unit
        return signal, np.stack([-TIME * signal, 1j * TIME * signal, unit], axis=1)


@pytest.fixture
def basis(rng: np.random.Generator) -> Basis:
    phi = np.linalg.qr(rng.standard_normal((9, 4)) + 1j * rng.standard_normal((9, 4)))[0]
    return Basis(phi, np.ones(4))


def atoms() -> Array:
    return np.concatenate([part.theta for part in PRIOR.atoms(Decay.parameters)])


@pytest.mark.parametrize("jacobian", [False, True])
def test_atoms_are_compressed_signals(basis: Basis, jacobian: bool) -> None:
    done: list[int] = []
    found = compress(Decay(), PRIOR, basis, jacobian=jacobian, progress=done.append)
    signal, jac = Decay().signal_and_jacobian(atoms())
    expected = np.stack([basis.phi.conj().T @ s for s in signal])
    np.testing.assert_array_equal(found.theta, atoms())
    np.testing.assert_allclose(found.coeff * found.norm[:, None], expected, atol=5e-7)
    np.testing.assert_allclose(np.linalg.norm(found.coeff, axis=1), 1, atol=3e-7)
    np.testing.assert_allclose(found.norm, np.linalg.norm(expected, axis=1), rtol=1e-7)
    assert [str(a.dtype) for a in (found.coeff, found.norm, found.theta)] == ["complex64", "float32", "float64"]
    if jacobian:
        assert found.jac is not None
        np.testing.assert_allclose(found.jac, np.einsum("tk,bpt->bpk", basis.phi.conj(), jac), atol=1e-6)
    else:
        assert found.jac is None
    assert sum(done) == 14
    assert (found.digest, found.rank) == (basis.digest, 4)


def test_the_edge_is_where_a_varied_parameter_ends(basis: Basis) -> None:
    found = compress(Decay(), PRIOR, basis)
    inside = np.array([[r, w] in ([4.0, -10.0], [6.0, -10.0]) for r, w in found.theta[:, :2].tolist()])
    # of 4 x 3 atoms of the first class the 2 inner ones, of the 2 of the second none
    assert np.count_nonzero(~found.edge) == 2
    np.testing.assert_array_equal(~found.edge, inside)
    single = Prior("one", (Tissue("x", {"R": Grid(2, 2, 1), "W": Grid(0, 0, 1), "C": fixed(1)}),))
    assert not compress(Decay(), single, basis).edge.any()


def test_the_edge_of_draws_is_as_thick_as_that_of_a_grid(basis: Basis) -> None:
    values = {"R": Uniform(2, 10), "W": Uniform(-30, 30), "C": fixed(1)}
    found = compress(Decay(), Prior("p", (Tissue("x", values, n=400),)), basis)
    # of 400 = 20 x 20 atoms the outermost 20 on each of four sides, of which the corners count twice
    ranks = np.argsort(np.argsort(found.theta[:, :2], axis=0), axis=0)
    np.testing.assert_array_equal(found.edge, np.any((ranks < 20) | (ranks >= 380), axis=1))
    assert 70 <= np.count_nonzero(found.edge) <= 80
    # one parameter has two ends, and one atom none
    for n, n_ends in ((9, 2), (1, 0)):
        line = Prior("p", (Tissue("x", values | {"W": fixed(3)}, n=n),))
        assert np.count_nonzero(compress(Decay(), line, basis).edge) == n_ends


def test_atoms_keep_their_order_over_many_batches(basis: Basis, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compress(Decay(), PRIOR, basis)
    monkeypatch.setitem(iter_batches.__kwdefaults__, "batch_size", 5)
    done: list[int] = []
    cut = compress(Decay(), PRIOR, basis, progress=done.append)
    assert done == [5, 5, 2, 2]
    np.testing.assert_array_equal(cut.theta, whole.theta)
    np.testing.assert_array_equal(cut.edge, whole.edge)
    np.testing.assert_allclose(cut.coeff, whole.coeff, atol=3e-7)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_truncating_equals_compressing_again(basis: Basis, rank: int) -> None:
    small = basis.truncate(rank)
    found = compress(Decay(), PRIOR, basis, jacobian=True).truncate(small)
    expected = compress(Decay(), PRIOR, small, jacobian=True)
    assert (found.digest, found.rank) == (expected.digest, rank)
    np.testing.assert_array_equal(found.theta, expected.theta)
    np.testing.assert_array_equal(found.edge, expected.edge)
    # single precision, and what is left after truncation may be a small share of the norm
    share = np.min(expected.norm / compress(Decay(), PRIOR, basis).norm)
    np.testing.assert_allclose(found.coeff, expected.coeff, atol=5e-7 / share)
    np.testing.assert_allclose(found.norm, expected.norm, rtol=5e-7 / share)
    assert found.jac is not None
    assert expected.jac is not None
    np.testing.assert_allclose(found.jac, expected.jac, atol=1e-6)
    assert [str(a.dtype) for a in (found.coeff, found.norm)] == ["complex64", "float32"]


def test_truncating_to_more_columns_is_refused(basis: Basis) -> None:
    small = compress(Decay(), PRIOR, basis.truncate(2))
    with pytest.raises(UserError, match="rank is 4, but the dictionary has 2 coefficients"):
        small.truncate(basis)


def test_a_signal_outside_of_the_basis_matches_nothing() -> None:
    basis = Basis(np.eye(9, 1), np.ones(1))
    signal = Decay().signal(atoms())

    class Late(Decay):
        def signal(self, theta: Array) -> Array:
            return np.where(np.arange(9) == 0, 0, signal[: len(theta)])

    found = compress(Late(), Prior("a", PRIOR.tissues[:1]), basis)
    assert not found.coeff.any()
    assert not found.norm.any()


@pytest.mark.parametrize("jacobian", [False, True])
def test_files_round_trip(basis: Basis, tmp_path: Path, jacobian: bool) -> None:
    made = compress(Decay(), PRIOR, basis, jacobian=jacobian)
    made.write(tmp_path / "b_0.5.h5")
    found = Dictionary.load(tmp_path / "b_0.5", basis)
    assert found.parameters == Decay.parameters
    assert found.digest == made.digest
    for name in ("theta", "coeff", "norm", "edge", *(["jac"] if jacobian else [])):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
        assert getattr(found, name).dtype == getattr(made, name).dtype
    assert (found.jac is not None) is jacobian


def test_the_dictionary_of_another_basis_is_refused(basis: Basis, tmp_path: Path) -> None:
    compress(Decay(), PRIOR, basis).write(tmp_path / "b.h5")
    for other in (basis.truncate(3), Basis(basis.phi.conj(), basis.singular_values)):
        with pytest.raises(UserError, match=r"b\.h5 was made for another basis"):
            Dictionary.load(tmp_path / "b", other)


def external_link(file: h5py.File, other: Path) -> None:
    file["coeff"] = h5py.ExternalLink(str(other), "coeff")


def dangling_link(file: h5py.File, other: Path) -> None:
    file["coeff"] = h5py.ExternalLink(str(other) + ".gone", "coeff")


def soft_link(file: h5py.File, other: Path) -> None:
    file["coeff"] = h5py.SoftLink("/theta")


def virtual_dataset(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((14, 4), "c8")
    layout[:] = h5py.VirtualSource(str(other), "coeff", (14, 4))
    file.create_virtual_dataset("coeff", layout)


def external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("coeff", (14, 4), "c8", external=[(str(other), 0, 14 * 4 * 8)])


def extra_link(file: h5py.File, other: Path) -> None:
    file["coeff"] = np.zeros((14, 4), np.complex64)
    file["more"] = h5py.ExternalLink(str(other), "coeff")


def folder(file: h5py.File, other: Path) -> None:
    file.create_group("coeff")


@pytest.mark.parametrize(
    "tamper", [external_link, dangling_link, soft_link, virtual_dataset, external_storage, extra_link, folder]
)
def test_data_in_other_files_are_refused(
    basis: Basis, tmp_path: Path, tamper: Callable[[h5py.File, Path], None]
) -> None:
    made = compress(Decay(), PRIOR, basis)
    made.write(tmp_path / "other.h5")
    made.write(tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file["coeff"]
        tamper(file, tmp_path / "other.h5")
    with pytest.raises(
        UserError, match=r"b\.h5: '(coeff|more)' (is not a plain dataset|keeps its data in other files)"
    ):
        Dictionary.load(tmp_path / "b", basis)


def test_what_is_no_dictionary_is_refused(basis: Basis, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.h5 does not exist: matching needs the dictionary"):
        Dictionary.load(tmp_path / "b", basis)
    path = tmp_path / "b.h5"
    compress(Decay(), PRIOR, basis).write(path)
    whole = path.read_bytes()
    for content in (b"", b"no HDF5", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a dictionary"):
            Dictionary.load(tmp_path / "b", basis)
    for damage, match in (
        (lambda file: file.__delitem__("norm"), "norm is missing"),
        (lambda file: file.attrs.__delitem__("basis"), "is not a dictionary"),
        (lambda file: file.__setitem__("code", [1]), "code is missing or unknown"),
        (
            lambda file: file.attrs.__setitem__("format", "crbsvd-dictionary/9"),
            "format 'crbsvd-dictionary/9', expected",
        ),
    ):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            damage(file)
        with pytest.raises(UserError, match=match):
            Dictionary.load(tmp_path / "b", basis)
