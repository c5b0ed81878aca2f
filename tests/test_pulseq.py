"""Pulseq files as sequences: their signals are those of the built-in models, and what cannot be mapped is refused.

Files have six digits, which round by 5e-6 at most. The built-in models get the angles that the files have
(`seq_case.written`), and times are on rasters that six digits hold. What remains is the echo: prephasing gradients and
readouts are rounded each by itself, so that the centre of k-space, 1.28 ms behind the start of a readout, moves by up
to 1e-5 x 1.28 ms = 1.3e-8 s, which is `ECHO`: a signal of at most 1 changes by ECHO / T2 <= 2.6e-7 the shortest T2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pypulseq as pp
import pytest
from seq_case import SYSTEM, Builder, block, gradient_echoes, spin_echoes, spoke, written

from crbsvd_plugin import models
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.models.schedule import Schedule
from crbsvd_plugin.pulseq.scan import Scan
from crbsvd_plugin.spec import resolve
from crbsvd_plugin.testing import check_model

ANGLES = np.deg2rad(np.r_[np.linspace(5, 60, 12), np.linspace(60, 20, 7)])
N = len(ANGLES)
TISSUES = np.array([[1.0, 0.08], [0.5, 0.05], [3.0, 1.5]])
BOTH = pytest.mark.parametrize("old", [False, True], ids=["1.5", "1.4"])
ECHO = 1.3e-8
ROUNDING = ECHO / 0.05


def signal(path: Path, theta: Any, *settings: str) -> Any:
    return resolve(str(path), ["accuracy=0.0", *settings]).model.signal(theta)


def named(name: str, theta: Any, **settings: Any) -> Any:
    return models.build({"name": name, **settings}).signal(theta)


@BOTH
def test_a_spoiled_train_with_inversion_is_mrf_fisp(tmp_path: Path, old: bool) -> None:
    tr = 0.01 + 1e-3 * np.arange(N) % 3e-3
    path = gradient_echoes(ANGLES, tr=tr).write(tmp_path / "scan.seq", old=old)
    train = {"flip_angles": written(ANGLES), "tr": tr.tolist(), "te": 0.005, "ti": 0.02, "recovery": None}
    expected = named("mrf-fisp", TISSUES, **train, accuracy=0.0)
    assert np.abs(signal(path, TISSUES, "b1=false") - expected).max() < ROUNDING


def test_varying_rf_phases_are_followed_by_the_receiver(tmp_path: Path) -> None:
    phases = np.deg2rad(117 * np.arange(N) * (np.arange(N) + 1) / 2 % 360)
    path = gradient_echoes(ANGLES, phases=phases).write(tmp_path / "scan.seq")
    train = {"flip_angles": written(ANGLES), "te": 0.005, "ti": 0.02, "recovery": None}
    kept = [float(f"{phase:g}") for phase in phases]
    expected = named("mrf-fisp", TISSUES, phases=kept, **train, accuracy=0.0)
    # those that six digits bring near to a multiple of pi/2 are taken as such, by at most 1e-5 rad
    assert np.abs(signal(path, TISSUES, "b1=false") - expected).max() < 1e-5 * np.abs(expected).max() + ROUNDING
    assert np.abs(np.diff(np.angle(expected[0]))).max() > 0.1


def test_b1_and_derivatives(tmp_path: Path) -> None:
    path = gradient_echoes(ANGLES, ti=None).write(tmp_path / "scan.seq")
    theta = np.c_[TISSUES, [0.8, 1.0, 1.2]]
    model = resolve(str(path), ["accuracy=0.0"]).model
    other = models.build(
        {"name": "mrf-fisp", "flip_angles": written(ANGLES), "te": 0.005, "ti": None, "recovery": None, "b1": True,
         "accuracy": 0.0}
    )  # fmt: skip
    assert [p.name for p in model.parameters if p.nuisance] == ["B1"]
    for ours, theirs in zip(model.signal_and_jacobian(theta), other.signal_and_jacobian(theta), strict=True):
        # the derivative by T2 holds a factor TE, 5 ms
        assert np.abs(ours - theirs).max() < (ROUNDING + ECHO / 0.005) * np.abs(theirs).max()


@BOTH
def test_a_slice_selective_pulse_has_its_nominal_angle(tmp_path: Path, old: bool) -> None:
    path = gradient_echoes(ANGLES, selective=True).write(tmp_path / "scan.seq", old=old)
    train = {"flip_angles": ANGLES.tolist(), "te": 0.005, "ti": 0.02, "recovery": None, "accuracy": 0.0}
    found, expected = signal(path, TISSUES, "b1=false"), named("mrf-fisp", TISSUES, **train)
    # amplitudes have six digits (5e-6 of the angle), shapes nine; ANGLES sum up to 12 rad
    assert np.abs(found - expected).max() < 1e-5


@BOTH
def test_a_balanced_train_is_bssfp_mrf_with_w0(tmp_path: Path, old: bool) -> None:
    phases = np.resize([0, np.pi], N)
    builder = gradient_echoes(ANGLES, phases=phases, spoiler=0.0, directions=2.4 * np.arange(N))
    spec = resolve(str(builder.write(tmp_path / "scan.seq", old=old)), ["b1=false"])
    assert [p.name for p in spec.model.parameters] == ["T1", "T2", "w0"]
    assert (spec.prior.name, spec.fit_prior.name, spec.rank) == ("tissue-3t", "t1-t2-w0", N)
    theta = np.c_[TISSUES, [0.0, 120.0, -300.0]]
    train = {"flip_angles": written(ANGLES), "phases": phases.tolist(), "tr": 0.01, "te": 0.005, "ti": 0.02}
    error = np.abs(spec.model.signal(theta) - named("bssfp-mrf", theta, **train)).max()
    assert error < ECHO * (1 / 0.05 + 300)


@pytest.mark.parametrize("crusher", [0.0, 400.0])
@BOTH
def test_a_cpmg_train_is_fse(tmp_path: Path, old: bool, crusher: float) -> None:
    angles = np.deg2rad([150, 120, 100, 91, 110, 140, 180])
    lines = np.array([0, 100, -300, 500, -500, 200, 0.0])
    path = spin_echoes(angles, crusher=crusher, lines=lines).write(tmp_path / "scan.seq", old=old)
    model = resolve(str(path), ["accuracy=0.0"]).model
    assert [p.name for p in model.parameters if p.nuisance] == ["T1", "B1"]
    assert not any(p.name == "w0" for p in model.parameters)
    theta = np.c_[TISSUES, [0.8, 1.0, 1.1]]
    expected = named("fse", theta[:, [1, 0, 2]], flip_angles=written(angles), echo_spacing=0.01)
    # the excitation of `fse` is pi/2 sharp, that of the file has six digits: 5e-6 rad at most
    found = model.signal(theta)
    assert np.abs(found - expected).max() < 1e-5


def test_a_readout_that_is_not_rewound_dephases(tmp_path: Path) -> None:
    builder = Builder()
    before, readout, adc = spoke(0.0)
    half = pp.calc_duration(*readout) / 2
    for i, angle in enumerate(ANGLES):
        start = 2e-3 + 0.01 * i
        builder.pulse_at(start, block(angle)).until(start + 0.005 - half - 1e-3).add(*before).add(*readout, adc)
    train = {"flip_angles": written(ANGLES), "te": 0.005, "ti": None, "recovery": None, "accuracy": 0.0}
    found = signal(builder.write(tmp_path / "scan.seq"), TISSUES, "b1=false")
    assert np.abs(found - named("mrf-fisp", TISSUES, **train)).max() < ROUNDING


def test_moments_may_be_multiples_of_a_part_of_the_smallest(tmp_path: Path) -> None:
    builder, expected = Builder(), Schedule()
    before, readout, adc = spoke(0.0)
    half = pp.calc_duration(*readout) / 2
    for i, (angle, shifts) in enumerate(zip(written(ANGLES), np.resize([2, 3, 2, 5], N), strict=True)):
        start = 2e-3 + 0.01 * i
        builder.pulse_at(start, block(angle)).until(start + 0.005 - half - 1e-3).add(*before).add(*readout, adc)
        builder.add(*before, pp.make_trapezoid("z", area=200 * shifts, duration=1e-3, system=SYSTEM))
        expected.pulse(angle, 0.0).relax(0.005).read(0.0, 0.0).relax(0.005)
        for _ in range(shifts):
            expected.shift()
    model = models.build({"name": "pulseq", "operators": expected.rows.tolist(), "b1": False, "accuracy": 0.0})
    found = signal(builder.write(tmp_path / "scan.seq"), TISSUES, "b1=false")
    assert np.abs(found - model.signal(TISSUES)).max() < ROUNDING
    # equal shifts would make another signal
    train = {"flip_angles": written(ANGLES), "te": 0.005, "ti": None, "recovery": None, "accuracy": 0.0}
    assert np.abs(found - named("mrf-fisp", TISSUES, **train)).max() > 1e-2


def test_several_echoes_of_one_pulse_are_frames(tmp_path: Path) -> None:
    builder = Builder().pulse_at(2e-3, block(np.pi / 2))
    before, readout, adc = spoke(0.0)
    half = pp.calc_duration(*readout) / 2
    for i in range(3):
        builder.until(2e-3 + (i + 1) * 0.008 - half - 1e-3).add(*before).add(*readout, adc).add(*before)
    found = signal(builder.write(tmp_path / "scan.seq"), TISSUES, "b1=false", "w0=false")
    expected = np.exp(-0.008 * np.arange(1, 4) / TISSUES[:, 1:])
    # cos of the error of 5e-6 rad is 1
    assert np.abs(np.abs(found) - expected).max() < ROUNDING


def test_a_label_tells_the_frame_and_the_last_pass_its_signal(tmp_path: Path) -> None:
    builder = Builder()
    before, readout, adc = spoke(0.0)
    half = pp.calc_duration(*readout) / 2
    spoil = pp.make_trapezoid("z", area=1000, duration=1e-3, system=SYSTEM)
    noise = [pp.make_label("NOISE", "SET", value) for value in (1, 0)]
    builder.add(adc, noise[0]).add(noise[1], pp.make_delay(1e-3))
    start = builder.time + 1e-3
    for _ in range(2):
        for frame, angle in enumerate(ANGLES):
            builder.pulse_at(start, block(angle)).until(start + 0.005 - half - 1e-3).add(*before)
            builder.add(*readout, adc, pp.make_label("ECO", "SET", frame)).add(*before, spoil)
            start += 0.01
    path = builder.write(tmp_path / "scan.seq")
    twice = np.tile(written(ANGLES), 2).tolist()
    expected = named("mrf-fisp", TISSUES, flip_angles=twice, te=0.005, ti=None, recovery=None, accuracy=0.0)
    assert np.abs(signal(path, TISSUES, "b1=false") - expected).max() < ROUNDING
    assert np.abs(signal(path, TISSUES, "b1=false", "frame=ECO") - expected[:, N:]).max() < ROUNDING
    with pytest.raises(UserError, match="no label 'SET'"):
        resolve(str(path), ["frame=SET"])
    with pytest.raises(UserError, match=r"frame is \[1\], expected adc or the name of a label"):
        resolve(str(path), ["frame=[1]"])


def test_an_adiabatic_inversion_ignores_b1(tmp_path: Path) -> None:
    builder = Builder()
    rf = pp.make_adiabatic_pulse("hypsec", duration=8e-3, system=SYSTEM, use="inversion")
    builder.add(rf).add(pp.make_trapezoid("z", area=3000, duration=4e-3, system=SYSTEM))
    start = rf.delay + rf.center + 0.03
    before, readout, adc = spoke(0.0)
    half = pp.calc_duration(*readout) / 2
    builder.pulse_at(start, block(0.5)).until(start + 0.005 - half - 1e-3).add(*before).add(*readout, adc)
    path = builder.write(tmp_path / "scan.seq")
    theta = np.c_[TISSUES, [0.8, 1.0, 1.2]]
    # the centre is that of the file, whose times are on the raster of 10 us
    first, second = (pulse.time for pulse in Scan.read(path).pulses)
    assert second - first == pytest.approx(0.03, abs=2e-5)
    z = 1 - 2 * np.exp(-(second - first) / theta[:, 0])
    echo = start + 0.005 - second - (start - second)
    expected = z * np.sin(written(0.5)[0] * theta[:, 2]) * np.exp(-echo / theta[:, 1])
    found = signal(path, np.c_[theta, np.zeros(3)][:, [0, 1, 3, 2]])[:, 0]
    # the echo may be off by the raster of 10 us: 1e-5 / 50 ms
    assert np.abs(np.abs(found) - np.abs(expected)).max() < 2e-4


def test_the_sidecar_needs_no_file_and_the_model_passes_the_checks(tmp_path: Path) -> None:
    path = gradient_echoes(ANGLES).write(tmp_path / "scan.seq")
    model = resolve(str(path), []).model
    path.unlink()
    again = models.build(model.spec)
    theta = np.c_[TISSUES, [0.8, 1.0, 1.1]]
    np.testing.assert_array_equal(model.signal(theta), again.signal(theta))
    check_model(again, theta)


def test_a_toml_file_may_name_the_scan(tmp_path: Path) -> None:
    gradient_echoes(ANGLES).write(tmp_path / "scan.seq")
    toml = tmp_path / "it.toml"
    toml.write_text('name = "scan.seq"\nprior = "mao-mrf-table1"\nb1 = false\n', encoding="utf-8")
    spec = resolve(str(toml), [])
    assert (spec.model.n_frames, spec.prior.name, len(spec.model.parameters)) == (N, "mao-mrf-table1", 2)


def _unrewound(builder: Builder) -> None:
    for i in range(3):
        before, readout, adc = spoke(1.0 * i)
        builder.add(block(0.5)).add(*before).add(*readout, adc)


def _reversed(builder: Builder) -> None:
    before, readout, adc = spoke(0.0)
    for area in (900, -900, 900):
        builder.add(block(0.5)).add(*before).add(*readout, adc)
        builder.add(*before, pp.make_trapezoid("z", area=area, duration=1e-3, system=SYSTEM))


def _little(builder: Builder) -> None:
    before, readout, adc = spoke(0.0)
    for _ in range(2):
        builder.add(block(0.5)).add(*before).add(*readout, adc)
        builder.add(*before, pp.make_trapezoid("z", area=20, duration=1e-3, system=SYSTEM))


def _chirp(builder: Builder) -> None:
    shape = np.exp(40j * np.linspace(-0.5, 0.5, 1000) ** 2)
    builder.add(pp.make_arbitrary_rf(shape, 1.0, system=SYSTEM, use="excitation")).add(spoke(0.0)[2])


def _two_dimensional(builder: Builder) -> None:
    blip = pp.make_trapezoid("x", area=100, duration=1e-3, system=SYSTEM)
    builder.add(block(0.5), blip).add(spoke(0.0)[2])


def _fat(builder: Builder) -> None:
    builder.add(block(1.5, "saturation", freq_offset=-440.0)).add(block(0.5)).add(spoke(0.0)[2])


def _two_slices(builder: Builder) -> None:
    for offset in (0.0, 4000.0):
        rf, gz, back = pp.make_sinc_pulse(
            0.5,
            duration=2e-3,
            slice_thickness=5e-3,
            system=SYSTEM,
            return_gz=True,
            use="excitation",
            freq_offset=offset,
        )
        builder.add(rf, gz).add(back).add(spoke(0.0)[2])


def _oblique(builder: Builder) -> None:
    for axis in "zy":
        gradient = pp.make_trapezoid(axis, amplitude=3e5, flat_time=2e-3, system=SYSTEM)
        back = pp.make_trapezoid(axis, area=-gradient.area / 2, duration=1e-3, system=SYSTEM)
        rf = block(0.5)
        rf.delay = 1e-3
        builder.add(rf, gradient).add(back).add(spoke(0.0)[2])


def _triggered(builder: Builder) -> None:
    builder.add(pp.make_trigger("physio1", duration=1e-3, system=SYSTEM)).add(block(0.5)).add(spoke(0.0)[2])


def _early(builder: Builder) -> None:
    builder.add(spoke(0.0)[2]).add(block(0.5))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (_unrewound, "block [47]: the gradients before this pulse leave"),
        (_reversed, "block 9: the gradients before this pulse leave"),
        (_little, r"block 5: the gradients before this pulse leave 0\.1 cycles per field of view"),
        (_chirp, r"block 1: the phase of the pulse \(use: excitation\) is modulated"),
        (_two_dimensional, "block 1: a gradient changes while the pulse plays"),
        (_fat, "block 1: a pulse -440 Hz off resonance without a gradient"),
        (_two_slices, "block 4: the pulse selects another slice than that of block 1"),
        (_oblique, "block 4: the pulse selects another slice than that of block 1"),
        (_triggered, "block 1: waits for a trigger"),
        (_early, "block 1: an ADC comes before the first pulse"),
    ],
)
def test_what_cannot_be_mapped_is_refused_with_its_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Builder], None], line: str
) -> None:
    builder = Builder()
    make(builder)
    path = builder.write(tmp_path / "scan.seq")
    assert main(["basis", str(path), "-o", str(tmp_path / "b")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    with pytest.raises(UserError, match=line):
        resolve(str(path), [])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: text.replace("minor 5", "minor 3"), "format 1.3, expected Pulseq 1.4 or 1.5"),
        (lambda text: "nothing\n", r"no section \[VERSION\]"),
        (lambda text: text.replace("[BLOCKS]", "[BLOCKZ]"), "cannot be read as a Pulseq file"),
        (lambda text: text.replace("[SHAPES]", "[SHAPES]\n\nshape_id x"), "cannot be read as a Pulseq file"),
        (lambda text: text[: text.index("[ADC]")], "cannot be read as a Pulseq file"),
        # a readout gradient without an end: pypulseq raises a warning
        (lambda text: re.sub(r"(\[TRAP\]\n.*?) +\d+\n", r"\1 nan\n", text, count=1), "cannot be read as a Pulseq"),
        (lambda text: text.replace("BlockDurationRaster 1e-05", "BlockDurationRaster 3.7"), "not finite"),
        (lambda text: re.sub(r"(\[ADC\]\n\d+) 64", r"\1 0", text), "an ADC of 0 samples"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, change: Callable[[str], str], line: str) -> None:
    # pypulseq leaves a file open that it cannot read: not ours to warn of
    path = gradient_echoes(ANGLES[:2]).write(tmp_path / "scan.seq")
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=line):
        resolve(str(path), [])


def test_no_file_and_no_pypulseq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist"):
        resolve(str(tmp_path / "none.seq"), [])
    path = gradient_echoes(ANGLES[:2]).write(tmp_path / "scan.seq")
    monkeypatch.setitem(__import__("sys").modules, "pypulseq", None)
    with pytest.raises(UserError, match=r"pip install 'crbsvd-plugin\[pulseq\]'"):
        resolve(str(path), [])


@pytest.mark.parametrize(
    ("operators", "line"),
    [
        ([], "empty"),
        ([[0, 1.0]], "triples"),
        ([[9, 1.0, 0.0], [6, 0, 0]], "stand for nothing"),
        ([[1, -1.0, 0.0], [6, 0, 0]], "negative times"),
        ([[0, 90.0, 0.0], [6, 0, 0]], "degrees"),
        ([[4, 1.5, 0.0], [6, 0, 0]], "efficiency"),
        ([[0, 1.0, 0.0]], "no readout"),
        ([[0, float("nan"), 0.0], [6, 0, 0]], "non-finite"),
    ],
)
def test_operators_of_a_sidecar_are_checked(operators: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        models.build({"name": "pulseq", "operators": operators})
