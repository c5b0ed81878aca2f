"""Readouts gridded as they come against all of them at once: any cut, any order, several images, what is lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from mrd_stream import header, readout
from test_pipeline import SIGNAL, C, K, N, T, direct, error, head, scan, write_basis

from crbsvd_plugin import arrival, coils, intake, pipeline, sums, threads
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.config import Config
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.group import Reconstruction
from crbsvd_plugin.pipeline import reconstruct_stream
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.sums import KernelSum, Sums

# Coefficients are the same however the stream is cut. Batches add the same NUFFTs (of 1e-5 each, the same for a sample
# wherever it goes) in another order: that is the rounding of single precision, which eight iterations amplify.
SAME = 1e-5
SHAPES = [(N, N), (13, 10)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With more of them NUFFTs add in another order in every run."""
    with threads.limit(1):
        yield


@pytest.fixture
def name(rng: np.random.Generator, tmp_path: Path) -> str:
    """Write a complex basis with its dictionary, and return its name."""
    return write_basis(rng, tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after 4 readouts, grid after 7 or more; an image has 30."""
    monkeypatch.setattr(arrival, "BLOCK_BYTES", 4 * C * 2 * N * 8)
    monkeypatch.setattr(intake, "batch_samples", lambda *_, **__: 7 * 2 * N)
    monkeypatch.setattr(sums, "_POSITIONS", 9 * 2 * N)
    monkeypatch.setattr(sums, "_FEWEST", 9 * 2 * N)


def images(items: list[Any], config: Config, told: Any = None, **options: Any) -> list[Reconstruction]:
    return list(reconstruct_stream(told or head(), items, config, **options))


def plain(name: str, **options: Any) -> Config:
    return Config(**{"basis": name, "lam": 0.5, "iterations": 8, "fit": False, **options})


def by_slice(found: list[Reconstruction]) -> dict[int, np.ndarray]:
    return {one.key["slice"]: one.coeff for one in found}


def numbered(items: list[Any]) -> list[Any]:
    for number, item in enumerate(items):
        item.scan_counter = number
    return items


def test_sums_of_batches_are_the_sums_of_all(rng: np.random.Generator) -> None:
    """In double precision: right-hand sides of every coil, their sum, and the kernel; complex basis, odd sizes."""
    shape, n_coils = (7, 9), 3
    phi = np.linalg.qr(rng.standard_normal((6, 2)) + 1j * rng.standard_normal((6, 2)))[0]
    traj, frame = rng.uniform(-3, 3, (20, 5, 2)), rng.integers(0, 6, 20)
    weights = rng.integers(0, 3, (20, 5)).astype(float)
    ksp = rng.standard_normal((n_coils, 20, 5)) + 1j * rng.standard_normal((n_coils, 20, 5))
    sens = rng.standard_normal((n_coils, *shape)) + 1j * rng.standard_normal((n_coils, *shape))
    operator = SubspaceOperator(traj, frame=frame, phi=phi, sens=sens, weights=weights, dtype=np.complex128)
    sums = Sums(shape, phi, n_coils, dtype=np.complex128)
    for rows in (slice(0, 1), slice(1, 13), slice(13, 20)):
        sums.add(ksp[:, rows], traj[rows], frame=frame[rows], weights=weights[rows])
    # the NUFFTs are right to 1e-10
    assert error(sums.right_hand_side(sens), operator.adjoint(ksp)) < 1e-9
    assert sums.kernel is not None
    assert error(sums.kernel.toeplitz.parts, operator.toeplitz.parts) < 1e-9
    for coil in range(n_coils):
        alone = SubspaceOperator(
            traj, frame=frame, phi=phi, sens=np.ones((1, *shape)), weights=weights, dtype=np.complex128
        )
        assert error(sums.right[coil], alone.adjoint(ksp[coil : coil + 1])) < 1e-9
    mixing = rng.standard_normal((n_coils, n_coils)) + 1j * rng.standard_normal((n_coils, n_coils))
    sums.mix(mixing)
    assert error(sums.right_hand_side(sens), operator.adjoint(np.tensordot(mixing, ksp, axes=1))) < 1e-9
    with pytest.raises(ValueError, match="no readouts were added"):
        _ = KernelSum(shape, 2).toeplitz


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coils": 2},
        {"misfit": True},
        {"start": "density"},
        {"preconditioner": "circulant"},
        {"regulariser": "llr", "shift": "none", "lam": 0.05, "block": 4},
        {"fov_shift": "header"},
        {"backend": "sigpy"},
        {"phase_drift": "steps"},
        {"kernel_cache": "kernels"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_batches_give_what_all_readouts_at_once_give(
    rng: np.random.Generator, name: str, small: None, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    items, config = scan(rng), plain(name, **options)
    cut = images(items, config)
    eager = images(items, config, patience=0.0)
    monkeypatch.undo()
    whole = images(items, plain(name, **options | ({"kernel_cache": None} if "kernel_cache" in options else {})))
    for found in (cut, eager):
        for one, other in zip(found, whole, strict=True):
            assert (one.key, one.sigma) == (other.key, other.sigma)
            assert error(one.coeff, other.coeff) < SAME
            if config.misfit:
                assert one.misfit["ratio"] == pytest.approx(other.misfit["ratio"], rel=1e-3)
                assert one.misfit["fitted"] == other.misfit["fitted"]
            assert one.calibration.keys() == other.calibration.keys()


def test_nothing_is_gridded_twice_and_nothing_is_kept(
    rng: np.random.Generator, name: str, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readouts that come go into the sums; the last ones get their sensitivities at once."""
    gridded: list[int] = []
    add = Sums.add

    def spy(sums: Sums, ksp: np.ndarray, *args: Any, **options: Any) -> None:
        if sums.right.shape[1] == K:  # not the low-resolution images
            gridded.append(ksp.shape[1])
        add(sums, ksp, *args, **options)

    monkeypatch.setattr(Sums, "add", spy)
    images(scan(rng, n_slices=1), plain(name))
    # cuts of 4; 8 make a batch; of 30 the last 6 are no batch
    assert gridded == [8, 8, 8]


def test_of_many_images_the_largest_is_gridded_where_all_wait_for_too_much(
    rng: np.random.Generator, name: str, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "batch_samples", lambda *_, **__: 10**9)
    items = scan(rng)
    whole = images(items, plain(name))
    monkeypatch.setattr(pipeline, "_PENDING", 40 * 2 * N * (C * 8 + 2 * 4))
    gridded: list[tuple[int, int]] = []
    flush = intake.Intake.flush

    def spy(one: intake.Intake) -> None:
        gridded.append((one.pending[0].key["slice"], sum(len(group.frame) for group in one.pending)))
        flush(one)

    monkeypatch.setattr(intake.Intake, "flush", spy)
    found = images(items, plain(name))
    # slice 1 comes first, 28 readouts in cuts of 4; with 16 of slice 0 there are too many, and then there is room again
    assert gridded == [(1, 28)]
    assert all(error(one.coeff, other.coeff) < SAME for one, other in zip(found, whole, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_coils", [1, 3])
def test_odd_sizes_and_a_single_coil(
    rng: np.random.Generator, name: str, small: None, shape: tuple[int, int], n_coils: int
) -> None:
    """Against the operator of all readouts, with random positions."""
    phi = Basis.load(name).phi
    traj = rng.uniform(-0.5, 0.5, (40, 2 * N, 2)) * shape
    frame = rng.integers(0, T, 40)
    frame[0] = T - 1
    y, x = np.meshgrid(*(np.arange(n) / n - 0.5 for n in shape), indexing="ij")
    sens = np.exp(1j * np.arange(n_coils)[:, None, None] * (1 + x) - x**2)
    image = 100 * np.exp(-8 * (x**2 + y**2))[None]
    ksp = SubspaceOperator(traj, frame=frame, phi=SIGNAL, sens=sens).forward(image)
    items = [
        readout(ksp[:, i], traj[i, :, ::-1], contrast=frame[i], scan_counter=i, sample_time_us=5.0) for i in range(40)
    ]
    (found,) = images(items, plain(name), header((shape[1], shape[0], 1), T))
    maps = coils.estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=shape)
    operator = SubspaceOperator(traj, frame=frame, phi=phi, sens=maps)
    # positions of the stream are in single precision
    assert error(found.coeff, reconstruct(operator, ksp, lam=0.5, iterations=8)) < 1e-4


def test_one_readout_is_an_image(rng: np.random.Generator, name: str) -> None:
    items = [item for item in scan(rng, n_slices=1, noise=False) if item.scan_counter == T - 1]
    (found,) = images(items, plain(name))
    assert found.readouts == {"used": 1, "twice": 0, "missing": 0, "partial": 0}
    assert error(found.coeff, direct(items, Basis.load(name).phi, 0, 0.5)) < SAME


@pytest.mark.parametrize("ends", [("slice",), ()])
def test_shuffled_and_late_readouts_go_to_their_frame(
    rng: np.random.Generator, name: str, small: None, ends: Any
) -> None:
    """Those of two slices, whose last ones have flags; at the end of the stream, noise may come whenever it likes."""
    items = numbered(scan(rng))
    for number in (30, 60):
        items[number].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    config = plain(name, ends=ends)
    expected = by_slice(images(items, config))
    noise, *rest = items
    for place in (0, len(rest) // 2, len(rest)) if not ends else (0,):
        shuffled = [rest[i] for i in rng.permutation(len(rest))]
        shuffled.insert(place, noise)
        found = by_slice(images(shuffled, config))
        assert all(error(found[i], expected[i]) < SAME for i in range(2))


def test_noise_that_comes_last_whitens_virtual_coils_too(rng: np.random.Generator, name: str, small: None) -> None:
    """All of them, which span the same as the coils: then it makes no difference."""
    noise, *rest = scan(rng)
    first, last = (by_slice(images(items, plain(name, coils=C))) for items in ([noise, *rest], [*rest, noise]))
    for number in range(2):
        one, other = first[number], last[number]
        assert error(one * np.exp(1j * np.angle(np.vdot(one, other))), other) < 1e-4  # phases of the coils' SVD


@pytest.mark.parametrize("way", ["interleaved", "sequential"])
def test_images_are_those_of_each_alone(rng: np.random.Generator, name: str, small: None, way: str) -> None:
    noise, *items = scan(rng)
    slices = [[item for item in items if item.idx.slice == i] for i in range(2)]
    if way == "interleaved":
        items = [item for pair in zip(*slices, strict=True) for item in pair]
    config = plain(name, ends=("next",) if way == "sequential" else ())
    found = by_slice(images(numbered([noise, *items]), config))
    for i in range(2):
        (alone,) = images([noise, *slices[i]], config)
        assert error(found[i], alone.coeff) < SAME


def test_the_first_image_is_there_before_the_last_readout_has_been_asked_for(
    rng: np.random.Generator, name: str
) -> None:
    asked: list[int] = []

    def items() -> Iterator[Any]:
        for number, item in enumerate(numbered(scan(rng))):
            asked.append(number)
            yield item

    stream = reconstruct_stream(head(), items(), plain(name, ends=("next",)))
    assert next(stream).key["slice"] == 1
    assert asked[-1] == 31
    assert next(stream).key["slice"] == 0
    assert asked[-1] == 60


def test_what_is_lost_is_told_and_the_rest_is_reconstructed(
    rng: np.random.Generator, name: str, small: None, caplog: pytest.LogCaptureFixture
) -> None:
    """10 % of the readouts, some of them twice and the last flag among what is lost."""
    items = numbered(scan(rng, n_slices=1))
    lost = {4, 17, 29}
    kept = [item for i, item in enumerate(items) if i not in lost]
    again = [*kept[:20], kept[5], kept[5], *kept[20:]]
    (found,) = images(again, plain(name))
    (expected,) = images(kept, plain(name))
    assert found.coeff.tobytes() == expected.coeff.tobytes()
    assert found.readouts == {"used": 27, "twice": 2, "missing": 3, "partial": 0}
    assert expected.readouts == {"used": 27, "twice": 0, "missing": 3, "partial": 0}
    assert "27 readouts; 2 that came twice are left out, 3 between the first and the last are missing" in caplog.text
    (all_of_them,) = images(items, plain(name))
    assert 1e-3 < error(found.coeff, all_of_them.coeff) < 0.5


def test_virtual_coils_are_settled_before_anything_is_gridded(
    rng: np.random.Generator, name: str, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first readouts, as many as are asked for however they are cut; all readouts go through the same."""
    monkeypatch.setattr(intake, "VIRTUAL", 18)
    seen: list[tuple[str, int]] = []
    add, make = Sums.add, intake.virtual_coils

    def adding(sums: Sums, ksp: np.ndarray, *args: Any, **options: Any) -> None:
        seen.append(("add", len(ksp)))
        add(sums, ksp, *args, **options)

    def making(group: Any, *args: Any) -> Any:
        seen.append(("make", group.ksp.shape[1]))
        return make(group, *args)

    monkeypatch.setattr(Sums, "add", adding)
    monkeypatch.setattr(intake, "virtual_coils", making)
    items = scan(rng, n_slices=1)
    (found,) = images(items, plain(name, coils=2))
    assert seen[0] == ("make", 18)
    assert seen.count(("make", 18)) == 1
    assert {n for what, n in seen if what == "add"} == {2}
    monkeypatch.setattr(arrival, "BLOCK_BYTES", 2**30)
    (whole,) = images(items, plain(name, coils=2))
    assert error(found.coeff, whole.coeff) < SAME
    assert found.calibration["energy_lost"] == pytest.approx(whole.calibration["energy_lost"], rel=1e-5)


def test_memory_does_not_grow_with_the_scan(rng: np.random.Generator, name: str, small: None) -> None:
    """Of readouts that come one by one; but for what tells them apart, some hundred bytes each."""
    n_samples = 4000

    def peak(n_readouts: int) -> int:
        def items() -> Iterator[Any]:
            noise = np.random.default_rng(0)
            for number in range(n_readouts):
                data = noise.standard_normal((C, n_samples)) + 1j
                positions = np.outer(np.linspace(-0.5, 0.5, n_samples), [np.sin(number), np.cos(number)]) * N
                yield readout(data, positions, contrast=number % T, scan_counter=number)

        tracemalloc.start()
        try:
            images(items(), plain(name, iterations=2))  # type: ignore[arg-type]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(8)  # what is made once
    short, long = peak(60), peak(240)
    assert long - short < 180 * 1000
    assert 180 * C * n_samples * 8 > 50 * (long - short)
