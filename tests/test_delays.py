"""Gradient delays: estimated from data with an inversion, against the truth and against BART."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import bart, delays, threads
from crbsvd_plugin.delays import corrected, estimate_delays, named
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.trajectory import radial, recentred

Freeze = Callable[..., np.ndarray]
N_FRAMES = 30
# Samples. The last change is below 1e-3, and Gauss-Newton goes on by less than that; noise of a thousandth of the peak
# is one of a fiftieth of the mean slope of k-space per sample, averaged over some thousand samples: another 1e-3.
ACCURATE = 3e-3
TENSORS = {
    "half a sample": [[0.5, 0.0], [0.0, 0.5]],
    "oblique": [[-0.3, 0.1], [0.1, 0.5]],
    "large": [[3.0, -0.6], [-0.6, -2.0]],
}


def koosh(n_readouts: int, matrix: int) -> np.ndarray:
    """Return spokes (R, S, 3) through the centre, in directions all over the sphere."""
    number = np.arange(n_readouts)
    z, angle = 2 * (number + 0.5) / n_readouts - 1, number * np.pi * (3 - np.sqrt(5))
    directions = np.stack([z, np.sqrt(1 - z**2) * np.sin(angle), np.sqrt(1 - z**2) * np.cos(angle)], axis=1)
    return directions[:, None] * ((np.arange(2 * matrix) - matrix) / 2)[:, None]


def recovery() -> np.ndarray:
    """Return complex signals (T, 3) after an inversion, which pass through zero at different times."""
    t = np.arange(N_FRAMES)[:, None]
    signal = 1 - 2 * np.exp(-t / np.array([8.0, 4.0, 20.0]))
    return signal * np.exp(0.3j + 0.1j * t * np.array([1.0, -1.0, 0.5]))


def scanned(
    rng: np.random.Generator,
    tensor: list[list[float]],
    *,
    shape: tuple[int, ...] = (32, 32),
    n_readouts: int = 2 * N_FRAMES,
    n_coils: int = 2,
    fov: tuple[float, ...] | None = None,
    noise: float = 1e-3,
    signal: np.ndarray | None = None,
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return data that lie off their trajectory, the coefficient images and the sensitivities that made them."""
    places = np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    y, x = places[-2:]
    z = places[0] if len(shape) == 3 else 0 * x
    body = x**2 / 0.15 + (y - 0.03) ** 2 / 0.1 + z**2 / 0.12 < 1
    spot = (x - 0.1) ** 2 + (y + 0.08) ** 2 + z**2 < 0.012
    images = np.stack([body * (1 + 0.3 * np.cos(9 * x + 5 * y)), 0.8j * spot, body * np.exp(2j * y) * (x > 0.05)])
    signal = recovery() if signal is None else signal
    phi = np.linalg.svd(signal, full_matrices=False)[0]
    coeff = np.tensordot(phi.conj().T @ signal, images, axes=1)
    angle = 2 * np.pi * np.arange(n_coils).reshape(-1, *[1] * len(shape)) / n_coils
    sens = np.exp(-((x - 0.5 * np.cos(angle)) ** 2) - (y - 0.5 * np.sin(angle)) ** 2 + 1j * angle * (1 + x))
    longest = max(shape)
    traj = (radial(n_readouts, longest) if len(shape) == 2 else koosh(n_readouts, longest)) * (
        np.array(shape) / longest
    )
    frame = np.arange(n_readouts) % len(signal)
    ksp = SubspaceOperator(corrected(traj, np.array(tensor), fov=fov), frame=frame, phi=phi, sens=sens).forward(coeff)
    ksp = ksp + noise * np.abs(ksp).max() * (rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))
    return {"ksp": ksp, "traj": traj, "frame": frame, "phi": phi}, coeff, sens


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Problems as small as these only wait for a second thread."""
    with threads.limit(1):
        yield


@pytest.mark.parametrize(
    ("name", "n_coils", "shape"),
    [("half a sample", 3, (32, 32)), ("oblique", 1, (25, 34)), ("large", 1, (32, 32)), ("large", 3, (25, 34))],
)
def test_delays_come_back(
    rng: np.random.Generator, frozen: Freeze, name: str, n_coils: int, shape: tuple[int, int]
) -> None:
    data, _, _ = scanned(rng, TENSORS[name], shape=shape, n_coils=n_coils)
    found = estimate_delays(**{key: frozen(value) for key, value in data.items()}, shape=shape)
    np.testing.assert_allclose(found, TENSORS[name], atol=ACCURATE)


def test_a_volume_has_six_delays(rng: np.random.Generator) -> None:
    tensor = [[0.5, 0.1, -0.2], [0.1, -0.3, 0.0], [-0.2, 0.0, 0.4]]
    data, _, _ = scanned(rng, tensor, shape=(12, 14, 11), n_readouts=4 * N_FRAMES, n_coils=1)
    # one readout for every 15 unknowns of a coefficient: the noise counts more than in the plane
    np.testing.assert_allclose(estimate_delays(**data, shape=(12, 14, 11)), tensor, atol=3 * ACCURATE)


def test_a_coupling_acts_on_lengths_not_on_fields_of_view(rng: np.random.Generator) -> None:
    tensor, fov = [[0.2, 0.4], [0.4, -0.3]], (100.0, 240.0)
    data, _, _ = scanned(rng, tensor, fov=fov)
    np.testing.assert_allclose(estimate_delays(**data, shape=(32, 32), fov=fov), tensor, atol=ACCURATE)
    # taken as equal, they are no symmetric tensor
    assert np.abs(estimate_delays(**data, shape=(32, 32)) - tensor).max() > 0.1


def test_a_basis_that_misses_some_of_the_signal_is_good_enough(rng: np.random.Generator) -> None:
    data, _, _ = scanned(rng, TENSORS["oblique"])
    for rank, tolerance in ((2, 0.03), (1, 0.1)):
        found = estimate_delays(**data | {"phi": data["phi"][:, :rank]}, shape=(32, 32))
        np.testing.assert_allclose(found, TENSORS["oblique"], atol=tolerance)
    # contrast alone, without delays, makes none
    data, _, _ = scanned(rng, [[0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(estimate_delays(**data, shape=(32, 32)), 0, atol=ACCURATE)


def test_missing_samples_do_not_count(rng: np.random.Generator, frozen: Freeze) -> None:
    data, _, _ = scanned(rng, TENSORS["oblique"], n_readouts=4 * N_FRAMES)
    weights = rng.uniform(0.5, 1, data["ksp"].shape[1:])
    weights[rng.random(weights.shape) < 0.1] = 0
    weights[7] = 0
    data["ksp"][:, weights == 0] = np.nan
    found = estimate_delays(**data, shape=(32, 32), weights=frozen(weights))
    # centres of energy are wrong where samples are missing, the fit is not
    np.testing.assert_allclose(found, TENSORS["oblique"], atol=ACCURATE)


@pytest.mark.parametrize("tensor", [[[0.5, 0.0], [0.0, 0.5]], [[0.5, 0.0], [0.0, -0.5]], [[0.0, 0.5], [0.5, 0.0]]])
def test_half_a_sample_is_taken_out_of_the_images(rng: np.random.Generator, tensor: list[list[float]]) -> None:
    """Coefficient images: with the trajectory as written, as corrected, and as it was."""
    shape = (31, 32)
    data, truth, sens = scanned(rng, tensor, shape=shape, n_readouts=4 * N_FRAMES, n_coils=3)
    ksp, written = data.pop("ksp"), data.pop("traj")
    tensors = np.zeros((2, 2)), estimate_delays(ksp, written, **data, shape=shape), np.array(tensor)
    as_written, as_corrected, as_was = (
        reconstruct(SubspaceOperator(corrected(written, one), **data, sens=sens), ksp, iterations=20) for one in tensors
    )
    error = np.linalg.norm(as_was - truth)
    assert np.linalg.norm(as_written - truth) > 1.3 * error
    assert np.linalg.norm(as_corrected - truth) < 1.02 * error
    # what a delay does is linear in it, to first order
    assert np.linalg.norm(as_corrected - as_was) < 2 * ACCURATE / 0.5 * np.linalg.norm(as_written - as_was)


def test_readouts_move_along_themselves(frozen: Freeze) -> None:
    """Sign and unit: a positive delay along x moves a spoke along x forwards, whichever way it runs."""
    ramp = np.arange(8) - 3.0
    traj = 0.5 * np.stack([np.stack([0 * ramp, sign * ramp], axis=1) for sign in (1, -1)] + [np.stack([ramp, ramp], 1)])
    moved = corrected(frozen(traj), np.array([[0.0, 0.25], [0.25, 1.0]])) - traj
    np.testing.assert_allclose(moved, np.array([[[0.125, 0.5]], [[-0.125, -0.5]], [[0.125, 0.625]]]) + 0 * traj)
    wide = corrected(traj, np.array([[0.0, 0.25], [0.25, 1.0]]), fov=(2.0, 1.0)) - traj
    np.testing.assert_allclose(wide[0, 0], [0.25, 0.5])


def test_delays_have_names() -> None:
    assert named(np.array([[1, 2], [2, 3]])) == {"x": 3, "y": 1, "xy": 2}
    tensor = np.array([[1, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert named(tensor) == {"x": 6, "y": 4, "z": 1, "xy": 5, "xz": 3, "yz": 2}


def test_every_kind_of_spoke_is_taken() -> None:
    """From the centre outwards, off a whole sample, in single precision, of a length of its own."""
    spokes = radial(9, 500)
    for traj in (spokes[:, 500:], spokes + 0.3 * (spokes[:, 1:2] - spokes[:, :1]), spokes.astype(np.float32)):
        assert corrected(traj, np.zeros((2, 2))) == pytest.approx(traj)
    assert corrected(spokes * np.linspace(0.5, 1, 9)[:, None, None], np.eye(2)).shape == spokes.shape


def spiral() -> np.ndarray:
    turn = np.linspace(0, 20, 64)
    return np.stack([turn * np.sin(turn), turn * np.cos(turn)], axis=1)[None] / 2


def ramped() -> np.ndarray:
    traj = radial(5, 16)
    return traj * np.abs(traj).max(axis=2, keepdims=True) / 8


@pytest.mark.parametrize(
    ("traj", "message"),
    [
        (spiral(), "readout 0 is no straight line of equal steps through the centre"),
        (ramped(), "no straight line of equal steps"),
        (radial(5, 16) + np.array([0.0, 0.5]), "no straight line of equal steps through the centre"),
        (np.concatenate([radial(3, 16), np.ones((1, 32, 2))]), "a readout stays where it is"),
        (radial(5, 16)[:, :1], "a readout stays where it is"),
        (radial(5, 16)[:, 18:], "readout 0 is no straight line of equal steps through the centre"),
        (np.insert(radial(5, 16), 0, 1.0, axis=2), "through the centre of k-space"),  # a stack of stars
    ],
)
def test_other_readouts_are_refused(traj: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        corrected(traj, np.zeros((traj.shape[2], traj.shape[2])))
    assert "\n" not in str(caught.value)


def test_too_few_directions_are_refused(rng: np.random.Generator) -> None:
    data, _, _ = scanned(rng, TENSORS["oblique"])
    two = data["frame"] * 0 + np.arange(2 * N_FRAMES) % 2
    with pytest.raises(UserError, match=r"too few directions \(they tell 2 of 5 numbers\)"):
        estimate_delays(**data | {"traj": radial(2, 32)[two]}, shape=(32, 32))


def test_an_estimate_that_does_not_settle_is_refused(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _, _ = scanned(rng, TENSORS["oblique"])
    monkeypatch.setattr(delays, "_ROUNDS", 1)
    with pytest.raises(UserError, match=r"they still change by 0\.0\d+ samples, expected less than 0\.001"):
        estimate_delays(**data, shape=(32, 32))


@pytest.mark.bart
def test_bart_finds_the_same_where_the_contrast_stays(rng: np.random.Generator) -> None:
    """RING; it prints the delay along y first (with the axes of MRD), and has the same unit and sign."""
    tensor = TENSORS["oblique"]
    data, _, _ = scanned(rng, tensor, n_readouts=41, n_coils=4, signal=np.ones((1, 3)))
    with bart.temporary_folder() as folder:
        positions = np.zeros((*data["traj"].shape[:2], 3))
        positions[..., :2] = data["traj"][..., ::-1]
        bart.write_cfl(folder / "traj", positions.T)
        bart.write_cfl(folder / "ksp", data["ksp"].T[None])
        printed = bart.run(["estdelay", "-R", "traj", "ksp"], folder=folder, threads=1)
    along_y, along_x, coupling = map(float, printed.split(":"))
    # RING interpolates the readouts by a factor of a hundred
    np.testing.assert_allclose([[along_y, coupling], [coupling, along_x]], tensor, atol=0.01)
    np.testing.assert_allclose(estimate_delays(**data, shape=(32, 32)), tensor, atol=ACCURATE)


def test_delays_of_an_object_off_the_centre(rng: np.random.Generator) -> None:
    """Data as they are about an isocentre outside of the image: recentred along the true trajectory only."""
    offset = np.array([0.7, -0.4])
    data, _, _ = scanned(rng, TENSORS["oblique"])
    true = corrected(data["traj"], np.array(TENSORS["oblique"]))
    away = data | {"ksp": recentred(data["ksp"], true, -offset)}
    found = estimate_delays(**away, shape=(32, 32), offset=offset)
    np.testing.assert_allclose(found, TENSORS["oblique"], atol=ACCURATE)
