"""Matching against brute force in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.fit import matching
from crbsvd_plugin.fit.matching import best_atoms, match
from crbsvd_plugin.model import Parameter

Freeze = Callable[..., np.ndarray]
KINDS = ["complex", "real", "imaginary"]
PARAMETERS = (Parameter("T1", "s", 0.1, 5.0), Parameter("T2", "s", 0.01, 3.0))
SINGLE = float(np.finfo(np.float32).eps)


def numbers(rng: np.random.Generator, *shape: int, kind: str = "complex") -> np.ndarray:
    """Return random numbers; a real basis gives real atoms, FISP with a real basis imaginary ones."""
    real, imaginary = rng.standard_normal(shape), rng.standard_normal(shape)
    return {"complex": real + 1j * imaginary, "real": real + 0j, "imaginary": 1j * real}[kind].astype(np.complex64)


def dictionary(rng: np.random.Generator, n_atoms: int, rank: int, kind: str, freeze: Freeze) -> Dictionary:
    atoms = numbers(rng, n_atoms, rank, kind=kind)
    atoms /= np.linalg.norm(atoms, axis=1)[:, None]
    return Dictionary(
        PARAMETERS, freeze(rng.uniform(0.1, 3, (n_atoms, 2))), freeze(atoms),
        freeze(rng.uniform(0.1, 9, n_atoms).astype(np.float32)), freeze(rng.random(n_atoms) < 0.3), "digest",
    )  # fmt: skip


def scores(voxels: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Return |d^H c|^2 (V, B) in double precision, one product at a time."""
    return np.abs(np.einsum("vk,bk->vb", voxels.astype(complex), atoms.astype(complex).conj())) ** 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_voxels", "n_atoms", "rank"), [(1, 1, 1), (37, 1, 3), (1, 53, 3), (311, 9001, 5), (40, 4097, 2)]
)
def test_best_atom_is_that_of_brute_force(
    rng: np.random.Generator, frozen: Freeze, kind: str, n_voxels: int, n_atoms: int, rank: int
) -> None:
    voxels = frozen(numbers(rng, n_voxels, rank))
    atoms = dictionary(rng, n_atoms, rank, kind, frozen).coeff
    found = best_atoms(voxels, atoms)
    exact = scores(voxels, atoms)
    best = exact.max(axis=1)
    got = np.take_along_axis(exact, found[:, None], axis=1)[:, 0]
    # in single precision a product of K terms is off by K eps, its square by twice as much, at either of two atoms
    tolerance = 4 * (rank + 1) * SINGLE
    assert np.all(got >= best * (1 - tolerance))
    # where nothing else comes as close, it is the very same atom
    runner_up = np.partition(exact, -2, axis=1)[:, -2] if n_atoms > 1 else np.zeros(n_voxels)
    clear = runner_up < best * (1 - tolerance)
    assert clear.mean() > 0.9 or rank <= 2
    np.testing.assert_array_equal(found[clear], exact.argmax(axis=1)[clear])


@pytest.mark.parametrize("kind", KINDS)
def test_conjugated_atoms_are_other_atoms(rng: np.random.Generator, frozen: Freeze, kind: str) -> None:
    atoms = dictionary(rng, 200, 4, kind, frozen).coeff
    same = best_atoms(numbers(rng, 100, 1) * atoms[:100], atoms.conj()) == np.arange(100)
    assert same.mean() < 0.5 if kind == "complex" else same.all()


@pytest.mark.parametrize("kind", KINDS)
def test_atoms_come_back_with_their_complex_scale(rng: np.random.Generator, frozen: Freeze, kind: str) -> None:
    known = dictionary(rng, 500, 3, kind, frozen)
    shape = (13, 7)
    truth = rng.integers(0, 500, shape)
    m0 = numbers(rng, *shape)
    m0 *= np.maximum(1, 0.5 / np.abs(m0))  # all above the mask
    coeff = frozen(np.moveaxis(m0[..., None] * known.norm[truth][..., None] * known.coeff[truth], -1, 0))
    found = match(coeff, known, mask_level=0)
    assert found.mask.all()
    np.testing.assert_array_equal(found.theta, np.moveaxis(known.theta[truth].astype(np.float32), -1, 0))
    np.testing.assert_allclose(found.m0, m0, rtol=20 * SINGLE)
    np.testing.assert_array_equal(found.edge, known.edge[truth])
    assert found.parameters == PARAMETERS
    assert [a.dtype for a in (found.theta, found.m0, found.edge, found.mask)] == [np.float32, np.complex64, bool, bool]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", [4096, 7])
def test_ties_go_to_the_first(
    rng: np.random.Generator, frozen: Freeze, monkeypatch: pytest.MonkeyPatch, kind: str, blocks: int
) -> None:
    """Atoms that are there several times, in one block and over blocks; powers of two, so that sums are exact."""
    monkeypatch.setattr(matching, "_ATOMS", blocks)
    unit = {"complex": 0.5 + 0.5j, "real": 1, "imaginary": 1j}[kind]
    atoms = np.tile(unit * np.eye(4), (5, 1)).astype(np.complex64)
    voxels = (numbers(rng, 4, 1) * unit * np.eye(4)).astype(np.complex64)
    np.testing.assert_array_equal(best_atoms(frozen(voxels), frozen(atoms)), [0, 1, 2, 3])
    assert best_atoms(np.zeros((1, 4), np.complex64), atoms)[0] == 0


def test_blocks_of_voxels_and_progress(
    rng: np.random.Generator, frozen: Freeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dictionary(rng, 60, 3, "complex", frozen)
    coeff = frozen(numbers(rng, 3, 5, 9))
    whole = match(coeff, known, mask_level=0)
    monkeypatch.setattr(matching, "_VOXELS", 7)
    monkeypatch.setattr(matching, "_ATOMS", 11)
    steps: list[int] = []
    parts = match(coeff, known, mask_level=0, progress=steps.append)
    assert steps == [7, 7, 7, 7, 7, 7, 3]
    np.testing.assert_array_equal(parts.theta, whole.theta)
    np.testing.assert_allclose(parts.m0, whole.m0, rtol=20 * SINGLE)


def test_what_is_too_dark_is_not_fitted(rng: np.random.Generator, frozen: Freeze) -> None:
    known = dictionary(rng, 20, 2, "complex", frozen)
    size = np.array([0, 0.01, 0.049, 0.051, 0.5, *[1.0] * 95])
    coeff = frozen((size * known.coeff[3][:, None]).reshape(2, 4, 25).astype(np.complex64))
    found = match(coeff, known)
    np.testing.assert_array_equal(found.mask.ravel(), size > 0.05)
    assert not found.theta[:, ~found.mask].any()
    assert not found.m0[~found.mask].any()
    assert not found.edge[~found.mask].any()
    # zero: everything that is not empty
    np.testing.assert_array_equal(match(coeff, known, mask_level=0).mask.ravel(), size > 0)


def test_an_empty_image_gives_empty_maps(rng: np.random.Generator, frozen: Freeze) -> None:
    known = dictionary(rng, 20, 2, "complex", frozen)
    found = match(np.zeros((2, 3, 4), np.complex64), known)
    assert not found.mask.any()
    assert found.theta.shape == (2, 3, 4)


def test_voxels_that_are_not_finite_do_not_empty_the_rest(rng: np.random.Generator, frozen: Freeze) -> None:
    known = dictionary(rng, 20, 2, "complex", frozen)
    coeff = numbers(rng, 2, 6, 5)
    whole = match(coeff, known, mask_level=0.01)
    spoilt = coeff.copy()
    spoilt[1, 2, 3], spoilt[0, 4, 4] = np.nan, np.inf
    found = match(frozen(spoilt), known, mask_level=0.01)
    expected = whole.mask.copy()
    expected[2, 3] = expected[4, 4] = False
    np.testing.assert_array_equal(found.mask, expected)
    np.testing.assert_array_equal(found.theta[:, expected], whole.theta[:, expected])


def test_images_of_another_rank_are_refused(rng: np.random.Generator, frozen: Freeze) -> None:
    with pytest.raises(ValueError, match="coeff has 3 coefficients, the dictionary 2"):
        match(np.ones((3, 4, 4), np.complex64), dictionary(rng, 5, 2, "real", frozen))


def test_volumes_and_single_voxels(rng: np.random.Generator, frozen: Freeze) -> None:
    known = dictionary(rng, 30, 3, "complex", frozen)
    coeff = frozen(numbers(rng, 3, 2, 3, 4))
    found = match(coeff, known, mask_level=0)
    assert found.theta.shape == (2, 2, 3, 4)
    one = match(coeff[:, 1, 2, 3], known, mask_level=0)
    assert one.theta.shape == (2,)
    np.testing.assert_array_equal(one.theta, found.theta[:, 1, 2, 3])
