"""Phases of the shots: estimated from data with an inversion, against the truth and the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_delays import N_FRAMES, koosh, recovery, scanned

from crbsvd_plugin import drift, threads
from crbsvd_plugin.drift import estimate_phases, readout_phases, shots_of
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.trajectory import centre, recentred

Freeze = Callable[..., np.ndarray]
NOISE = 1e-3
STEPS = [0.0, 2.8, -1.3, 0.4, 3.0]  # rad; more than half a turn apart
SLOPE = [0.0, 0.9, 2.1, 4.2, 3.4]  # more than a turn in all, less than half a turn from one to the next


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Problems as small as these only wait for a second thread."""
    with threads.limit(1):
        yield


def drifted(
    rng: np.random.Generator, phases: list[float], kind: Any, *, noise: float = NOISE, **options: Any
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return data whose shots have these phases, with a pause after each, as from `scanned`."""
    shape = options.pop("shape", (32, 32))
    data, coeff, sens = scanned(
        rng, np.zeros((len(shape),) * 2).tolist(), shape=shape, n_readouts=len(phases) * N_FRAMES, noise=0.0, **options
    )
    number = np.arange(len(data["frame"]))
    data["time"] = number + 11.0 * (number // N_FRAMES)
    turned = readout_phases(np.array(phases), frame=data["frame"], time=data["time"], kind=kind)
    ksp = data["ksp"] * np.exp(1j * turned)[:, None]
    white = rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape)
    data["ksp"] = (ksp + noise * np.abs(ksp).max() * white).astype(np.complex64)
    return data, coeff, sens


def accuracy(data: dict[str, Any], shape: tuple[int, ...], kind: Any, noise: float = NOISE) -> np.ndarray:
    """Return what noise may change (shots,) [rad]: 5 standard deviations, and what is left when it settles.

    Known images would leave the covariance sigma^2 (B^T diag(energy) B)^-1, B from phases of shots to those of
    readouts. They are fitted too, and take a part of the information; with three quarters of it gone the deviation
    doubles. Rounds end at changes of 1e-4, and shrink by a half at least.
    """
    _, kept, present = centre(data["traj"], shape)
    energy = (np.abs(data["ksp"][:, :, kept]) ** 2 * present).sum(axis=(0, 2))
    n_shots = int(shots_of(data["frame"], data["time"]).max()) + 1
    mixing = np.stack(
        [readout_phases(one, frame=data["frame"], time=data["time"], kind=kind) for one in np.eye(n_shots)], axis=1
    )
    covariance = np.linalg.inv(mixing.T @ (energy[:, None] * mixing))
    difference = np.diag(covariance) + covariance[0, 0] - 2 * covariance[0]
    return 2 * 5 * noise * np.abs(data["ksp"]).max() * np.sqrt(np.maximum(difference, 0)) + 2e-4


def apart(found: np.ndarray, expected: Any, kind: str) -> np.ndarray:
    """Return how far phases are apart; for steps but for whole turns."""
    return np.abs(found - expected if kind == "linear" else np.angle(np.exp(1j * (found - expected))))


CASES = [(1, (25, 34)), (3, (32, 32))]


@pytest.mark.parametrize(("n_coils", "shape"), CASES)
@pytest.mark.parametrize(("kind", "phases"), [("steps", STEPS), ("linear", SLOPE)])
def test_phases_come_back(
    rng: np.random.Generator, frozen: Freeze, kind: str, phases: list[float], n_coils: int, shape: tuple[int, int]
) -> None:
    data, _, _ = drifted(rng, phases, kind, n_coils=n_coils, shape=shape)
    tolerance = accuracy(data, shape, kind)
    found = estimate_phases(**{key: frozen(value) for key, value in data.items()}, shape=shape, kind=kind)
    assert (apart(found, phases, kind) <= tolerance).all()
    # 0.1 to 0.3 degrees
    assert tolerance.max() < 5e-3
    # half a second later, the same scan of another phase: it is the image's
    turned = data | {"ksp": data["ksp"] * np.exp(0.7j).astype(np.complex64)}
    assert (apart(estimate_phases(**turned, shape=shape, kind=kind), phases, kind) <= tolerance).all()


@pytest.mark.parametrize("kind", ["steps", "linear"])
def test_phases_of_a_volume(rng: np.random.Generator, kind: str) -> None:
    shape, phases = (12, 14, 11), [0.0, 0.3, -0.4, 0.2]
    data, _, _ = drifted(rng, phases, kind, shape=shape, n_coils=1)
    found = estimate_phases(**data, shape=shape, kind=kind)
    assert (apart(found, phases, kind) <= accuracy(data, shape, kind)).all()


def test_hundreds_of_short_shots(rng: np.random.Generator) -> None:
    """Cycles of ten readouts each, as in steady-state sequences; breathing goes through them."""
    signal, n_shots = recovery()[:30:3], 200
    breath = 0.4 * np.sin(np.arange(n_shots) / 5)
    shape, frame = (12, 12, 12), np.arange(10 * n_shots) % 10
    data, _, _ = scanned(rng, np.zeros((3, 3)).tolist(), shape=shape, n_readouts=len(frame), n_coils=1, signal=signal)
    data |= {"time": np.arange(len(frame)) * 1.0, "traj": koosh(len(frame), 12)[rng.permutation(len(frame))]}
    operator = SubspaceOperator(data["traj"], frame=frame, phi=data["phi"], sens=np.ones((1, *shape)))
    blob = np.exp(-20 * sum(x**2 for x in np.meshgrid(*[(np.arange(12) - 6) / 12] * 3, indexing="ij")))
    ksp = operator.forward(np.stack([blob, 0.3j * blob * (blob > 0.5), 0.1 * blob]))
    ksp = ksp * np.exp(1j * breath[shots_of(frame, data["time"])])[:, None]
    white = rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape)
    data["ksp"] = (ksp + NOISE * np.abs(ksp).max() * white).astype(np.complex64)
    found = estimate_phases(**data, shape=shape, kind="steps")
    assert (apart(found, breath, "steps") <= accuracy(data, shape, "steps")).all()


def test_little_signal_and_much_noise(rng: np.random.Generator) -> None:
    """A fifth of the peak: single samples tell nothing any more."""
    data, _, _ = drifted(rng, [0.0, 0.5, 1.0], "steps", noise=0.02, n_coils=1)
    found = estimate_phases(**data, shape=(32, 32), kind="steps")
    assert (apart(found, [0.0, 0.5, 1.0], "steps") <= accuracy(data, (32, 32), "steps", 0.02)).all()


@pytest.mark.parametrize("kind", ["steps", "linear"])
def test_without_a_drift_nothing_is_harmed(rng: np.random.Generator, kind: str) -> None:
    shape = (32, 32)
    data, truth, sens = drifted(rng, [0.0] * 4, kind, n_coils=3)
    found = estimate_phases(**data, shape=shape, kind=kind)
    tolerance = accuracy(data, shape, kind)
    assert (np.abs(found) <= tolerance).all()
    ksp, time = data.pop("ksp"), data.pop("time")
    operator = SubspaceOperator(data.pop("traj"), **data, sens=sens)
    turns = np.exp(-1j * readout_phases(found, frame=data["frame"], time=time, kind=kind))[:, None]
    before, after = (reconstruct(operator, one, lam=0.1, iterations=20) for one in (ksp, ksp * turns))
    # data that turn by so much change by so much
    assert np.linalg.norm(after - before) < 2 * tolerance.max() * np.linalg.norm(before)
    assert np.linalg.norm(after - truth) < (1 + 1e-3) * np.linalg.norm(before - truth)


@pytest.mark.parametrize(
    ("kind", "phases"), [("steps", [0.0, 2.0, -2.0, 1.0]), ("linear", [0.0, 0.35, 0.7, 1.05])]
)  # fmt: skip
def test_a_drift_is_taken_out_of_the_images(rng: np.random.Generator, kind: Any, phases: list[float]) -> None:
    """Coefficient images of the data as they are, as corrected, and as they would be without: but for one phase."""
    shape = (31, 32)
    data, truth, sens = drifted(rng, phases, kind, shape=shape, n_coils=3)
    found = estimate_phases(**data, shape=shape, kind=kind)
    ksp, time = data.pop("ksp"), data.pop("time")
    operator = SubspaceOperator(data.pop("traj"), **data, sens=sens)

    def error(one: np.ndarray) -> float:
        turned = readout_phases(one, frame=data["frame"], time=time, kind=kind)
        coeff = reconstruct(operator, ksp * np.exp(-1j * turned)[:, None], iterations=20)
        coeff *= np.exp(-1j * np.angle(np.vdot(truth, coeff)))
        return float(np.linalg.norm(coeff - truth))

    as_was = error(np.array(phases))
    assert error(np.zeros(len(phases))) > 1.3 * as_was
    assert error(found) < 1.02 * as_was


def test_steps_and_lines_are_told_apart(rng: np.random.Generator) -> None:
    """A line leaves half a step to either side of the middle of a shot, which steps do not take out."""
    data, _, _ = drifted(rng, SLOPE, "linear")
    phases = {kind: estimate_phases(**data, shape=(32, 32), kind=kind) for kind in ("steps", "linear")}
    truth = readout_phases(np.array(SLOPE), frame=data["frame"], time=data["time"], kind="linear")
    rest = {
        kind: np.angle(np.exp(1j * (truth - readout_phases(one, frame=data["frame"], time=data["time"], kind=kind))))
        for kind, one in phases.items()
    }
    spread = {kind: np.std(np.unwrap(one)) for kind, one in rest.items()}
    assert spread["linear"] < 1e-3
    assert spread["steps"] > 0.1


@pytest.mark.parametrize("rank", [2, 1])
def test_a_basis_that_misses_some_of_the_signal_is_good_enough(rng: np.random.Generator, rank: int) -> None:
    """What it misses is the same in every shot, up to where the spokes lie."""
    data, _, _ = drifted(rng, [0.0, 0.5, -0.3], "steps")
    found = estimate_phases(**data | {"phi": data["phi"][:, :rank]}, shape=(32, 32), kind="steps")
    np.testing.assert_allclose(found, [0.0, 0.5, -0.3], atol={2: 0.01, 1: 0.03}[rank])


def test_missing_samples_do_not_count(rng: np.random.Generator, frozen: Freeze) -> None:
    data, _, _ = drifted(rng, STEPS, "steps")
    weights = rng.uniform(0.5, 1, data["ksp"].shape[1:])
    weights[rng.random(weights.shape) < 0.1] = 0
    weights[7] = 0
    tolerance = 2 * accuracy(data, (32, 32), "steps")
    data["ksp"][:, weights == 0] = np.nan
    found = estimate_phases(**data, shape=(32, 32), kind="steps", weights=frozen(weights))
    assert (apart(found, STEPS, "steps") <= tolerance).all()


def test_the_order_of_the_readouts_does_not_matter(rng: np.random.Generator) -> None:
    data, _, _ = drifted(rng, STEPS, "steps")
    order = rng.permutation(len(data["frame"]))
    shuffled = data | {key: data[key][order] for key in ("traj", "frame", "time")} | {"ksp": data["ksp"][:, order]}
    one, other = (estimate_phases(**given, shape=(32, 32), kind="steps") for given in (data, shuffled))
    # sums in another order in single precision
    np.testing.assert_allclose(one, other, atol=2e-4)


def test_an_object_off_the_centre(rng: np.random.Generator) -> None:
    data, _, _ = drifted(rng, STEPS, "steps")
    offset = np.array([0.7, -0.4])
    away = data | {"ksp": recentred(data["ksp"], data["traj"], -offset)}
    found = estimate_phases(**away, shape=(32, 32), kind="steps", offset=offset)
    assert (apart(found, STEPS, "steps") <= accuracy(data, (32, 32), "steps")).all()


def test_a_shot_begins_where_the_frames_fall_back() -> None:
    # two readouts of every frame; a shot that lacks its first frame; one of a single readout
    frame = np.array([0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 0, 0, 1, 1, 2, 0])
    shot = np.array([0] * 6 + [1] * 4 + [2] * 5 + [3])
    np.testing.assert_array_equal(shots_of(frame, np.arange(16.0)), shot)
    order = np.random.default_rng(3).permutation(16)
    np.testing.assert_array_equal(shots_of(frame[order], order * 2.5), shot[order])


def test_lines_go_through_the_middles_of_the_shots_and_on() -> None:
    frame, time = np.tile(np.arange(3), 3), np.array([0.0, 1, 2, 10, 11, 12, 15, 16, 17])
    phases = np.array([0.0, 1.0, 3.0])
    steps = readout_phases(phases, frame=frame, time=time, kind="steps")
    np.testing.assert_array_equal(steps, np.repeat(phases, 3))
    lines = readout_phases(phases, frame=frame, time=time, kind="linear")
    expected = np.where(time < 11, (time - 1) / 10, 1 + (time - 11) * 2 / 5)
    np.testing.assert_allclose(lines, expected, atol=1e-14)


def on_a_circle(traj: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Move chosen readouts to three cycles per field of view from the centre."""
    circle = 3 * (traj + 0.1) / np.linalg.norm(traj + 0.1, axis=2, keepdims=True)
    return np.where(chosen[:, None, None], circle, traj)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: {"frame": np.sort(data["frame"])}, "pass through the frames once, expected several shots"),
        (
            lambda data: {"ksp": data["ksp"] * (data["time"] > 40)[:, None]},
            "shot 0 of 5 has no signal at the centre of k-space",
        ),
        (
            lambda data: {"traj": on_a_circle(data["traj"], data["time"] > 160)},
            "shot 4 of 5 has no signal at the centre of k-space",
        ),
        (lambda data: {"traj": data["traj"] + 40.0}, "no sample lies in the centre of k-space"),
    ],
)
def test_what_tells_no_phase_is_refused(rng: np.random.Generator, change: Any, message: str) -> None:
    data, _, _ = drifted(rng, STEPS, "steps")
    with pytest.raises(UserError, match=message) as caught:
        estimate_phases(**data | change(data), shape=(32, 32), kind="steps")
    assert "\n" not in str(caught.value)


def test_an_estimate_that_does_not_settle_is_refused(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _, _ = drifted(rng, SLOPE, "linear")
    monkeypatch.setattr(drift, "_ROUNDS", 1)
    with pytest.raises(UserError, match=r"phases of 5 shots are not to be found: they still change by 0\.\d+ rad"):
        estimate_phases(**data, shape=(32, 32), kind="linear")
