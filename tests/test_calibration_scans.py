"""Calibration readouts decide which virtual coils there are, whatever the imaging readouts say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from mrd_stream import readout
from test_pipeline import C, N, error, head, scan, write_basis

from crbsvd_plugin import arrival, intake, threads
from crbsvd_plugin.coils import whitening_matrix
from crbsvd_plugin.compression import CalibrationScans, compression_matrix, matrix_of
from crbsvd_plugin.config import Config
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.group import Reconstruction
from crbsvd_plugin.pipeline import reconstruct_stream

ONLY = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION
BOTH = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads.limit(1):
        yield


@pytest.fixture
def name(rng: np.random.Generator, tmp_path: Path) -> str:
    return write_basis(rng, tmp_path)


def images(items: list[Any], name: str, **options: Any) -> list[Reconstruction]:
    config = Config(**{"basis": name, "lam": 0.5, "iterations": 8, "fit": False, **options})
    return list(reconstruct_stream(head(), items, config))


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def calibrations(rng: np.random.Generator, number: int, flag: int = ONLY) -> tuple[list[Any], np.ndarray]:
    """Return calibration readouts of signal in two combinations of coils, lines of another trajectory, and samples.

    They are of other lengths than the imaging readouts, have no trajectory, and samples to discard.
    """
    mixing, found, kept = normal(rng, C, 2) * [50, 20], [], []
    for n in (9, 12, 12):
        data = mixing @ normal(rng, 2, n) + 0.01 * normal(rng, C, n)
        kept.append(data[:, 2:-1])
        data[:, :2], data[:, -1] = 1e6, 1e6
        found.append(readout(data, flag=flag, slice=number, discard_pre=2, discard_post=1, contrast=number))
    return found, np.hstack(kept).astype(np.complex64)


def test_sums_of_readouts_give_the_matrix_of_all_samples(rng: np.random.Generator) -> None:
    parts, scans = [normal(rng, 4, n) for n in (1, 5, 30)], CalibrationScans()
    assert scans.of(0) is None
    for part in parts[:2]:
        scans.add(part, 3)
    scans.add(parts[2], 5)
    scans.add(np.zeros((4, 2)), 7)
    for number, chosen in ((3, parts[:2]), (5, parts[2:]), (None, parts)):
        samples = np.hstack(chosen)
        products = scans.of(number)
        np.testing.assert_allclose(products, samples @ samples.conj().T, rtol=1e-12)
        matrix, lost = matrix_of(products, coils=2)
        # every sample in the centre, so that the matrix of data is that of all samples
        expected, other = compression_matrix(
            samples[:, None], np.zeros((1, samples.shape[1], 2)), coils=2, shape=(8, 8)
        )
        # of eigenvectors only the space they span is told
        np.testing.assert_allclose(matrix.conj().T @ matrix, expected.conj().T @ expected, atol=1e-10)
        assert lost == pytest.approx(other)
    assert scans.of(7) is None
    assert scans.of(4) is None
    held = scans.of(3)
    scans.add(parts[2], 3)
    np.testing.assert_allclose(held, np.hstack(parts[:2]) @ np.hstack(parts[:2]).conj().T, rtol=1e-12)


@pytest.mark.parametrize("when", ["first", "last", "cut"])
def test_images_are_those_of_data_that_went_through_the_matrix(
    rng: np.random.Generator, name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slices with calibrations of their own, whitened; against data compressed before by dense algebra."""
    noise, *imaging = scan(rng)
    whiten = whitening_matrix(noise.data)
    found, compressed = [], []
    for number in range(2):
        given, samples = calibrations(rng, number)
        found += given
        white = whiten @ samples
        _, vectors = np.linalg.eigh(white @ white.conj().T)
        matrix = vectors[:, ::-1][:, :2].conj().T @ whiten
        compressed += [
            ismrmrd.Acquisition.from_array((matrix @ item.data).astype(np.complex64), item.traj)
            for item in imaging if item.idx.slice == number
        ]  # fmt: skip
        for made, item in zip(compressed[-30:], (one for one in imaging if one.idx.slice == number), strict=True):
            for field in ("slice", "contrast", "repetition"):
                setattr(made.idx, field, getattr(item.idx, field))
            made.sample_time_us, made.scan_counter = item.sample_time_us, item.scan_counter
            made.position[:] = item.position[:]
            made.read_dir[:], made.phase_dir[:], made.slice_dir[:] = item.read_dir, item.phase_dir, item.slice_dir
    if when == "cut":
        monkeypatch.setattr(arrival, "BLOCK_BYTES", 4 * C * 2 * N * 8)
        monkeypatch.setattr(intake, "batch_samples", lambda *_, **__: 7 * 2 * N)
    order = [noise, *imaging, *found] if when == "last" else [noise, *found, *imaging]
    expected = images(compressed, name, noise="upstream")
    plain = images([noise, *imaging], name, coils=2)
    for one, other, without in zip(images(order, name, coils=2), expected, plain, strict=True):
        assert one.calibration["coils"] == 2
        phase = np.exp(1j * np.angle(np.vdot(one.coeff, other.coeff)))
        # virtual coils have any phase; NUFFTs in single precision
        assert error(one.coeff * phase, other.coeff) < 1e-4
        assert error(np.abs(without.coeff), np.abs(other.coeff)) > 1e-2


def test_readouts_for_calibration_and_imaging_do_both(rng: np.random.Generator, name: str) -> None:
    noise, *imaging = scan(rng, n_slices=1)
    for item in imaging[10:20]:
        item.set_flag(BOTH)
    (found,) = images([noise, *imaging], name, coils=2)
    assert found.readouts["used"] == 30
    samples = whitening_matrix(noise.data) @ np.hstack([item.data for item in imaging[10:20]])
    energy = np.linalg.eigvalsh(samples @ samples.conj().T)
    assert found.calibration["energy_lost"] == pytest.approx(energy[0] / energy.sum(), rel=1e-3)
    for item in imaging:
        item.clear_flag(BOTH)
    (without,) = images([noise, *imaging], name, coils=2)
    assert without.calibration["energy_lost"] != pytest.approx(energy[0] / energy.sum(), rel=1e-2)


def test_only_what_has_come_with_the_first_readouts_counts(
    rng: np.random.Generator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By count, so that the virtual coils are the same however fast the stream comes, or is cut."""
    for module in (arrival, intake):
        monkeypatch.setattr(module, "VIRTUAL", 18)
    noise, *imaging = scan(rng, n_slices=1)
    early, late = (calibrations(rng, 0)[0] for _ in range(2))
    orders = ([*imaging[:17], *early, *imaging[17:]], [*imaging[:17], *early, *imaging[17:18], *late, *imaging[18:]])
    (one,), (other,) = (images([noise, *order], name, coils=2) for order in orders)
    assert one.coeff.tobytes() == other.coeff.tobytes()
    (without,) = images([noise, *imaging], name, coils=2)
    (too_late,) = images([noise, *imaging[:18], *late, *imaging[18:]], name, coils=2)
    assert too_late.coeff.tobytes() == without.coeff.tobytes()
    assert one.coeff.tobytes() != without.coeff.tobytes()


def test_calibration_readouts_that_do_not_fit_are_refused_where_they_are_needed(
    rng: np.random.Generator, name: str
) -> None:
    items = scan(rng, n_slices=1)
    for wrong, message in (
        (readout(np.full((C, 4), np.nan), flag=ONLY), "calibration readout holds non-finite values"),
        (readout(np.ones((C + 1, 4)), flag=ONLY), r"readouts have \[3, 4\] coils"),
    ):
        with pytest.raises(UserError, match=message):
            images([wrong, *items], name, coils=2)
        images([wrong, *items], name)
    with pytest.raises(UserError, match="coils is 4, expected a whole number from 1 to 3"):
        images([*calibrations(rng, 0)[0], *items], name, coils=4)
