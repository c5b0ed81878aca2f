"""Noise scans as they come, against the whitening matrix of all their samples."""

from __future__ import annotations

from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from mrd_stream import readout
from test_pipeline import error, head, scan, write_basis

from crbsvd_plugin import threads
from crbsvd_plugin.coils import whitening_matrix
from crbsvd_plugin.config import Config
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.noise import NoiseScans
from crbsvd_plugin.pipeline import reconstruct_stream

C = 3


def drawn(rng: np.random.Generator, n: int, power: float = 1.0) -> np.ndarray:
    mixing = np.eye(C) + 0.4j * np.eye(C, k=1)
    return np.sqrt(power) * mixing @ (rng.standard_normal((C, n)) + 1j * rng.standard_normal((C, n)))


def test_readouts_of_any_length_give_what_all_samples_give(rng: np.random.Generator) -> None:
    parts = [drawn(rng, n) for n in (1, 30, 7)]
    scans = NoiseScans()
    for part in parts:
        scans.add(part, 5.0)
    assert scans.n_samples == 38
    np.testing.assert_allclose(scans.whitening(5.0), whitening_matrix(np.hstack(parts)), rtol=1e-12)


def test_each_scan_counts_with_its_own_sampling_interval(rng: np.random.Generator) -> None:
    """Noise power is that of the band, 1 / dwell; the receiver's filter takes its share of the noise scans."""
    n, share = 40_000, 0.8
    scans = NoiseScans(share)
    for dwell in (2.5, 10.0):
        scans.add(drawn(rng, n, share / dwell), dwell)
    white = scans.whitening(5.0) @ drawn(rng, n, 1 / 5.0)
    # five standard errors of the covariance of so many samples, and of that which whitens them
    assert np.abs(white @ white.conj().T / (2 * n) - np.eye(C)).max() < 5 / np.sqrt(n) + 5 / np.sqrt(2 * n)


def test_intervals_that_are_not_known_change_nothing(rng: np.random.Generator) -> None:
    noise, scans = drawn(rng, 50), NoiseScans()
    scans.add(noise[:, :20], 0.0)
    scans.add(noise[:, 20:], 4.0)
    np.testing.assert_allclose(scans.whitening(2.0), whitening_matrix(noise), rtol=1e-12)


def test_data_that_were_mixed_already_are_whitened_from_there(rng: np.random.Generator) -> None:
    """The whitening that is lower triangular is the only one, so that late noise makes no difference."""
    early, late, scans = drawn(rng, 30), drawn(rng, 50), NoiseScans()
    scans.add(early, 5.0)
    first = scans.whitening(2.5)
    scans.add(late, 5.0)
    whole = scans.whitening(2.5)
    np.testing.assert_allclose(scans.whitening(2.5, mixing=first) @ first, whole, rtol=1e-10, atol=1e-12)
    virtual = np.linalg.qr(rng.standard_normal((C, 2)) + 1j * rng.standard_normal((C, 2)))[0].conj().T
    left = scans.whitening(2.5, mixing=virtual) @ virtual
    covariance = np.hstack([early, late]) @ np.hstack([early, late]).conj().T / (2 * 80)
    # of data sampled twice as fast the noise has twice the power
    np.testing.assert_allclose(left @ covariance @ left.conj().T * 2, np.eye(2), atol=1e-12)


def test_without_noise_scans_there_is_no_matrix() -> None:
    assert NoiseScans().whitening(5.0) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda noise: noise[:, :5], "noise scan has 5 samples for 3 coils, expected at least 6"),
        (lambda noise: noise * [[1], [0], [1]], "noise scan: coil 1 holds only zeros"),
        (lambda noise: noise[[0, 1, 1]], "noise covariance is singular"),
        (lambda noise: np.where(noise == noise[1, 3], np.nan, noise), "noise scan holds 1 non-finite values"),
    ],
)
def test_what_tells_no_noise_is_refused(rng: np.random.Generator, change: object, message: str) -> None:
    def whitening() -> None:
        scans = NoiseScans()
        scans.add(change(drawn(rng, 40)), 5.0)  # type: ignore[operator]
        scans.whitening(5.0)

    with pytest.raises(UserError, match=message):
        whitening()


def test_data_that_come_prewhitened_are_those_that_are_prewhitened_here(
    rng: np.random.Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """NoiseAdjust by its formula: Cholesky of E[n n^H], twice the power for sigma = 1, the band of the data."""
    name, items, dwell = write_basis(rng, tmp_path), scan(rng, dwell=2.5), 2.5
    noise, *imaging = items
    options = {"basis": name, "lam": 0.5, "iterations": 8, "fit": False, "std": False}
    with threads.limit(1):
        here = list(reconstruct_stream(head(), [readout_of(item) for item in items], Config(**options)))
        factor = np.linalg.cholesky(noise.data @ noise.data.conj().T / noise.data.shape[1])
        matrix = np.linalg.inv(factor) * np.sqrt(2 * 5.0 / dwell)
        for item in imaging:
            item.data[:] = matrix @ item.data
        # a noise scan that has come through, of fewer coils even, says nothing
        raw = readout(noise.data[:2] * 7, flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT, sample_time_us=1.0)
        for others in ([], [raw]):
            found = list(reconstruct_stream(head(), others + imaging, Config(**options, noise="upstream")))
            assert [one.key for one in found] == [one.key for one in here]
            for one, other in zip(found, here, strict=True):
                # single precision rounds the data, 1e-7, and conjugate gradients without much of a penalty amplify it
                assert error(one.coeff, other.coeff) < 1e-4
                assert one.sigma == other.sigma > 0
        assert "no noise scan" not in caplog.text
        (first, _) = reconstruct_stream(head(), imaging, Config(**options))
    assert first.sigma == 0
    assert "no noise scan" in caplog.text


def readout_of(item: ismrmrd.Acquisition) -> ismrmrd.Acquisition:
    return ismrmrd.Acquisition(item.getHead(), item.data.copy(), item.traj.copy())


def test_noise_of_prewhitened_data_is_known_without_a_scan() -> None:
    scans = NoiseScans(0.8, source="upstream")
    scans.add(np.full((1, 5), np.nan), 1.0)
    assert scans.known
    assert scans.n_samples == 0
    assert scans.whitening(5.0) is None
    assert not NoiseScans().known
