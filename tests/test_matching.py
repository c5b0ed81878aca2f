"""Matching against brute force in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from crbsvd_plugin import threads
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.fit import matching
from crbsvd_plugin.fit.index import build
from crbsvd_plugin.fit.matching import match
from crbsvd_plugin.fit.search import search
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
    """Return |d^H c|^2 (V, B) in double precision, coefficients summed in their order."""
    products = np.zeros((len(voxels), len(atoms)), complex)
    for c, d in zip(voxels.astype(complex).T, atoms.astype(complex).T, strict=True):
        products += c[:, None] * d.conj()
    return products.real**2 + products.imag**2


def check_best(voxels: np.ndarray, atoms: np.ndarray) -> None:
    """The very atom of brute force in double precision, ties to the first."""
    found = best_atoms(voxels, atoms)
    assert found.dtype == np.intp
    np.testing.assert_array_equal(found, scores(voxels, atoms).argmax(axis=1))


def best_atoms(voxels: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    return search(voxels, build(atoms))


def curve(rng: np.random.Generator, n_atoms: int, rank: int, kind: str) -> np.ndarray:
    """Return atoms on a smooth surface of two parameters, as fingerprints are: what is pruned."""
    r, w = rng.uniform(0, 1, (2, n_atoms, 1))
    phases = numbers(rng, 3, rank, kind=kind)
    atoms = phases[0] + np.sin(3 * r) * phases[1] + np.cos(2 * w + r) * phases[2]
    if kind == "complex":
        atoms *= np.exp(2j * np.pi * rng.random((n_atoms, 1)))  # a phase that differs from atom to atom changes nothing
    return (atoms / np.linalg.norm(atoms, axis=1)[:, None]).astype(np.complex64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_voxels", "n_atoms", "rank"),
    [(1, 1, 1), (37, 1, 3), (1, 53, 3), (311, 9001, 5), (40, 4097, 2), (65, 64, 4), (129, 4160, 7), (64, 65, 10)],
)
def test_best_atom_is_that_of_brute_force(
    rng: np.random.Generator, frozen: Freeze, kind: str, n_voxels: int, n_atoms: int, rank: int
) -> None:
    """Atoms everywhere, of which hardly any can be left out, and on a surface; voxels far off it and near."""
    voxels = frozen(numbers(rng, n_voxels, rank))
    check_best(voxels, dictionary(rng, n_atoms, rank, kind, frozen).coeff)
    atoms = frozen(curve(rng, n_atoms, rank, kind))
    check_best(voxels, atoms)
    # near the surface, with any phase and size
    near = numbers(rng, n_voxels, 1) * atoms[rng.integers(0, n_atoms, n_voxels)] + 0.02 * numbers(rng, n_voxels, rank)
    check_best(frozen(near.astype(np.complex64)), atoms)


@pytest.mark.parametrize("kind", KINDS)
def test_most_of_a_surface_is_not_looked_at(rng: np.random.Generator, kind: str) -> None:
    """Whatever stands in the farther half of the leaves is not noticed, though it would be the best atom."""
    atoms = curve(rng, 30_000, 5, kind)
    voxels = (atoms[::500] + 0.002 * numbers(rng, 60, 5)).astype(np.complex64)
    index = build(atoms)
    centre = index.leaves[:, :-2].transpose(0, 2, 1).reshape(-1, index.leaves.shape[1] - 2)[: len(index.atoms)]
    for voxel in voxels[:5]:
        expected = search(voxel[None], index)[0]
        c = voxel / np.linalg.norm(voxel)
        p = (c * np.exp(-0.5j * np.angle(np.sum(c**2)))).real if kind != "complex" else c.view(np.float32)
        q = np.zeros_like(p) if kind != "complex" else np.stack([c.imag, -c.real], 1).ravel()
        width = centre.shape[1] - len(p)
        closeness = (centre @ np.pad(p, (0, width))) ** 2 + (centre @ np.pad(q, (0, width))) ** 2
        far = np.argsort(closeness)[: len(closeness) // 2]
        far = far[far != 0]  # where the search begins
        spoilt = index.atoms.copy()
        spoilt[far] = 1e3
        assert search(voxel[None], replace(index, atoms=spoilt))[0] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_atoms_that_are_the_same_line_tie(rng: np.random.Generator, frozen: Freeze, kind: str) -> None:
    """The first of equal atoms, of opposite ones, and of those that i turns: their products round alike."""
    some = curve(rng, 700, 5, kind)
    turns = [1, -1, 1] if kind != "complex" else [1, -1, 1j, -1j]
    atoms = frozen(np.concatenate([turn * some for turn in turns]).astype(np.complex64))
    atoms = atoms[rng.permutation(len(atoms))]
    voxels = frozen((some[::7] * 3 + 0.01 * numbers(rng, 100, 5)).astype(np.complex64))
    check_best(voxels, atoms)
    exact = scores(voxels, atoms)
    assert np.all(np.count_nonzero(exact == exact.max(axis=1)[:, None], axis=1) >= len(turns))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_extremes(rng: np.random.Generator, frozen: Freeze, kind: str) -> None:
    atoms = curve(rng, 300, 3, kind)
    atoms[[0, 7, 200]] = 0
    voxels = numbers(rng, 80, 3)
    voxels[3], voxels[9, :2] = 0, 0
    check_best(frozen(voxels), frozen(atoms))
    for size in (1e-30, 1e30):  # whose squares single precision does not hold
        np.testing.assert_array_equal(
            best_atoms((voxels * size).astype(np.complex64), atoms)[:3], best_atoms(voxels, atoms)[:3]
        )
    check_best(voxels, np.zeros((70, 3), np.complex64))
    # at right angles to every atom
    unit = 1 if kind == "real" else 1j
    flat = (unit * np.tile(np.eye(2, 3), (50, 1))).astype(np.complex64)
    check_best(np.array([[0, 0, 1], [0, 0, 1j]], np.complex64), flat)
    assert best_atoms(np.full((2, 3), [np.nan, 0, np.inf], np.complex64), atoms).max() < len(atoms)
    assert len(best_atoms(np.zeros((0, 3), np.complex64), atoms)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_atoms_of_any_size_are_compared_as_they_are(rng: np.random.Generator, kind: str) -> None:
    atoms = curve(rng, 1500, 4, kind) * rng.uniform(0.1, 3, (1500, 1)).astype(np.float32)
    check_best(numbers(rng, 90, 4), atoms)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 300), st.sampled_from(KINDS))
def test_small_numbers_make_many_ties(seed: int, rank: int, n_atoms: int, kind: str) -> None:
    """Small whole numbers: sums are exact, equal scores and zeros are the rule, whatever the order of the tree."""
    rng = np.random.default_rng(seed)
    unit = {"complex": 1 + 0j, "real": 1, "imaginary": 1j}[kind]
    atoms = (unit * rng.integers(-1, 2, (n_atoms, rank))).astype(np.complex64)
    if kind == "complex":
        atoms += 1j * rng.integers(-1, 2, (n_atoms, rank)).astype(np.float32)
    voxels = (rng.integers(-2, 3, (20, rank)) + 1j * rng.integers(-2, 3, (20, rank))).astype(np.complex64)
    check_best(voxels, atoms)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_blocks_do_not_matter(rng: np.random.Generator, kind: str) -> None:
    atoms, voxels = curve(rng, 20_000, 5, kind), numbers(rng, 500, 5)
    index = build(atoms)
    whole = search(voxels, index)
    with threads.limit(1):
        alone = build(atoms)
        np.testing.assert_array_equal(search(voxels, alone), whole)
    for name in ("atoms", "number", "leaves", "branches"):
        assert getattr(alone, name).tobytes() == getattr(index, name).tobytes()
    np.testing.assert_array_equal(np.concatenate([search(voxels[i : i + 77], index) for i in range(0, 500, 77)]), whole)
    order = rng.permutation(500)
    np.testing.assert_array_equal(search(voxels[order], index), whole[order])


@pytest.mark.parametrize("kind", KINDS)
def test_balls_hold_their_atoms(rng: np.random.Generator, kind: str) -> None:
    atoms = curve(rng, 5000, 5, kind)
    index = build(atoms)
    assert sorted(index.number[index.number < 5000]) == list(range(5000))
    # of leaves 64 atoms, of branches 64 leaves
    for balls, size in ((index.leaves, 64), (index.branches, 64 * 64)):
        for number in range(-(-5000 // size)):
            members = index.number.ravel()[number * size : (number + 1) * size]
            members = atoms[members[members < 5000]]
            ball = balls[number // 64, :, number % 64].astype(float)
            line = ball[:-2].copy().view(complex)[:5] if kind == "complex" else ball[:5]
            cosines = np.abs(members.conj() @ line) / np.linalg.norm(members, axis=1)
            # rounding of the stored radius
            assert cosines.min() >= ball[-2] - SINGLE
            assert cosines.min() <= ball[-2] + SINGLE
            np.testing.assert_allclose(np.hypot(ball[-2], ball[-1]), 1, atol=2 * SINGLE)


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


def test_blocks_of_voxels_and_progress(
    rng: np.random.Generator, frozen: Freeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dictionary(rng, 60, 3, "complex", frozen)
    coeff = frozen(numbers(rng, 3, 5, 9))
    whole = match(coeff, known, mask_level=0)
    monkeypatch.setattr(matching, "_VOXELS", 7)
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
