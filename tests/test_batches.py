"""Cutting atoms into batches, and their simulation."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crbsvd_plugin.batches import BATCH, batch_size, iter_batches, pieces, simulate
from crbsvd_plugin.distribution import Grid, Normal, Uniform
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.prior import Atoms, Prior, Tissue

Array = NDArray[Any]
PRIOR = Prior(
    "p",
    (
        Tissue("a", {"T1": Grid(1, 2, 5), "B": Grid(0.1, 3, 5)}, 2.5),
        Tissue("b", {"T1": Uniform(3, 4), "B": Normal(0.5, 0.1)}, n=13),
        Tissue("c", {"T1": Grid(1, 2, 1), "B": Grid(1, 3, 1)}),
    ),
    ordered=(("B", "T1"),),
)


class Exponentials:
    """T = 3 complex frames whose values say which atom they are of; `broken` are not finite."""

    parameters = (Parameter("T1", "s", 1e-3, 20), Parameter("B", "", 1e-3, 20))
    n_frames = 3
    spec = MappingProxyType({"name": "exponentials"})

    def __init__(self, *, signal: Callable[[Array], Array] | None = None, jac: Callable[[Array], Array] | None = None):
        self.broken = {"signal": signal, "jac": jac}

    def signal(self, theta: Array) -> Array:
        found = np.stack([theta[:, 0], 1j * theta[:, 1], theta.sum(axis=1)], axis=1)
        if self.broken["signal"] is not None:
            found[self.broken["signal"](theta), 1] = complex(0, np.nan)
        return found

    def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        jac = theta[:, :, None] * np.array([1, 1j, 2])
        if self.broken["jac"] is not None:
            jac[self.broken["jac"](theta), 1, 2] = np.inf
        return self.signal(theta), jac


MODEL = Exponentials()
ATOMS = PRIOR.atoms(MODEL.parameters)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 13, 24, 1000])
@pytest.mark.parametrize("jacobian", [False, True])
def test_batches_hold_every_atom_once(size: int, strided: bool, jacobian: bool) -> None:
    done: list[int] = []
    batches = list(
        iter_batches(MODEL, PRIOR, batch_size=size, jacobian=jacobian, strided=strided, progress=done.append)
    )
    for atoms in ATOMS:
        own = [batch for batch in batches if batch.label == atoms.label]
        theta = np.concatenate([batch.theta for batch in own])
        if strided:
            expected = np.concatenate([atoms.theta[i :: len(own)] for i in range(len(own))])
        else:
            expected = atoms.theta
        np.testing.assert_array_equal(theta, expected)
        np.testing.assert_array_equal(np.concatenate([batch.signal for batch in own]), MODEL.signal(theta))
        assert {batch.weight for batch in own} == {atoms.weight}
        assert len(own) == -(-len(atoms.theta) // size)
    assert max(len(batch.theta) for batch in batches) <= size
    assert done == [len(batch.theta) for batch in batches]
    assert sum(done) == PRIOR.size(MODEL.parameters) == 13 + 13 + 1
    for batch in batches:
        assert (batch.jac is not None) is jacobian
        if batch.jac is not None:
            np.testing.assert_array_equal(batch.jac, MODEL.signal_and_jacobian(batch.theta)[1])
    if not strided:
        assert [batch.label for batch in batches] == sorted(batch.label for batch in batches)


def test_a_prior_and_its_atoms_give_the_same_batches(frozen: Callable[..., Array]) -> None:
    still = [Atoms(atoms.label, frozen(atoms.theta), atoms.weight) for atoms in ATOMS]
    found = [list(iter_batches(MODEL, prior, batch_size=5)) for prior in (PRIOR, still)]
    assert [(batch.label, batch.weight) for batch in found[0]] == [(batch.label, batch.weight) for batch in found[1]]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.theta, other.theta)
    # one atom, one batch
    (batch,) = iter_batches(MODEL, still[2:])
    assert batch.signal.shape == (1, 3)
    assert list(iter_batches(MODEL, [])) == []


@given(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=4), size=st.integers(1, 20))
def test_classes_alternate_in_proportion(numbers: list[int], size: int) -> None:
    atoms = [Atoms(str(i), np.arange(float(n))[:, None], 1.0 + i) for i, n in enumerate(numbers)]
    found = pieces(atoms, size=size)
    counts = {part.label: -(-len(part.theta) // size) for part in atoms}
    seen = dict.fromkeys(counts, 0)
    for number, piece in enumerate(found, start=1):
        seen[piece.label] += 1
        assert 1 <= len(piece.theta) <= size
        for label, count in counts.items():
            # A class is behind or ahead of its share by half a piece, and so are the others, whose sum it is one of
            share = count / len(found)
            assert abs(seen[label] - number * share) <= 0.5 + 0.5 * share * len(numbers) + 1e-9
    assert seen == counts
    # those of one class differ by one atom at most, and each samples the whole of it
    for part in atoms:
        own = [piece.theta[:, 0] for piece in found if piece.label == part.label]
        assert not own or max(map(len, own)) - min(map(len, own)) <= 1
        for i, theta in enumerate(own):
            np.testing.assert_array_equal(theta, np.arange(i, len(part.theta), len(own)))


def test_the_order_of_the_pieces() -> None:
    atoms = [Atoms("x", np.zeros((2, 1))), Atoms("y", np.zeros((6, 1))), Atoms("z", np.zeros((1, 1)))]
    # x at 1/4, 3/4; y at 1/12, 3/12, ..; z at 1/2
    assert [piece.label for piece in pieces(atoms, size=1)] == list("yxyyzyxyy")
    assert [piece.label for piece in pieces(atoms, size=1, strided=False)] == list("xxyyyyyyz")


def test_the_first_batches_sample_the_whole_range() -> None:
    for tissue in (
        Tissue("grid", {"T1": Grid(1, 2, 64), "B": Grid(1, 2, 64)}),
        Tissue("draws", {"T1": Uniform(1, 2), "B": Uniform(1, 2)}, n=4096),
    ):
        (atoms,) = Prior("p", (tissue,)).atoms(MODEL.parameters)
        for piece in pieces([atoms], size=300):
            counts = np.histogram2d(*piece.theta.T, bins=4, range=[[1, 2], [1, 2]])[0]
            # 18 in each of the 16 cells; random ones would be found with 18 +- 4
            assert np.all((counts > 9) & (counts < 29))


@pytest.mark.parametrize(
    ("broken", "jacobian", "match"),
    [
        (
            {"signal": lambda theta: theta[:, 0] > 1.5},
            False,
            "the signals of 6 of 13 atoms of 'a' are not finite, the first at T1 = 1.6 s, B = 0.1; narrow the prior",
        ),
        (
            {"jac": lambda theta: theta[:, 1] > 1},
            True,
            "the derivatives of 3 of 13 atoms of 'a' are not finite, the first at T1 = 1.4 s, B = 1.26; narrow the",
        ),
    ],
)
def test_what_is_not_finite_is_refused(broken: dict[str, Any], jacobian: bool, match: str) -> None:
    theta = ATOMS[0].theta
    (bad,) = (function(theta) for function in broken.values())
    assert (np.count_nonzero(bad), len(bad)) == ((3 if jacobian else 6), 13)
    with pytest.raises(UserError, match=match) as error:
        simulate(Exponentials(**broken), ATOMS[0], jacobian=jacobian)
    assert "\n" not in str(error.value)
    if jacobian:  # which nobody has asked for here
        assert simulate(Exponentials(**broken), ATOMS[0], jacobian=False).jac is None


def test_a_batch_size_that_makes_no_sense() -> None:
    with pytest.raises(UserError, match="batch size is 0, expected at least 1"):
        next(iter_batches(MODEL, PRIOR, batch_size=0))


@pytest.mark.parametrize(
    ("n_frames", "n_parameters", "expected"),
    [(1, 0, BATCH), (1040, 8, BATCH), (4000, 8, 466), (6852, 6, 349), (10**6, 9, 16)],
)
def test_batches_fit_into_memory(n_frames: int, n_parameters: int, expected: int) -> None:
    found = batch_size(n_frames, n_parameters)
    assert found == expected
    if 16 < found < BATCH:
        # 256 MiB are enough for these, and not for one more
        assert found * 16 * n_frames * (1 + n_parameters) <= 2**28 < (found + 1) * 16 * n_frames * (1 + n_parameters)
