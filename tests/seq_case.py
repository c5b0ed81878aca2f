"""Pulseq files that tests write with pypulseq: what they hold, and the angles as six digits leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pypulseq as pp

SYSTEM = pp.Opts(
    max_grad=40, grad_unit="mT/m", max_slew=150, slew_unit="T/m/s", rf_dead_time=0, rf_ringdown_time=0, adc_dead_time=0
)
FOV = (0.256, 0.2, 0.005)
_PULSE = 1e-3


def written(angles: Any, duration: float = _PULSE) -> Any:
    """Return the angles that a file has of block pulses: amplitudes [Hz] have six significant digits there."""
    return [2 * np.pi * duration * float(f"{a / (2 * np.pi * duration):g}") for a in np.atleast_1d(angles)]


def block(angle: float, use: str = "excitation", **options: Any) -> Any:
    return pp.make_block_pulse(angle, duration=_PULSE, system=SYSTEM, use=use, **options)


class Builder:
    """A sequence whose time is known: `until` waits for an instant."""

    def __init__(self) -> None:
        self.sequence, self.time = pp.Sequence(SYSTEM), 0.0

    def add(self, *events: Any) -> Builder:
        self.sequence.add_block(*events)
        self.time += pp.calc_duration(*events)
        return self

    def until(self, time: float) -> Builder:
        wait = round((time - self.time) / 1e-5) * 1e-5
        return self.add(pp.make_delay(wait)) if wait > 0 else self

    def pulse_at(self, time: float, rf: Any, *events: Any) -> Builder:
        """Play a pulse centred at a time."""
        return self.until(time - rf.delay - rf.center).add(rf, *events)

    def write(self, path: Path, *, old: bool = False, fov: Any = FOV) -> Path:
        if fov is not None:
            self.sequence.set_definition("FOV", list(fov))
        self.sequence.write(str(path), v141_compat=old, check_timing=False)
        return path


def spoke(direction: float, n_samples: int = 64, phase: float = 0.0, area: float = 64 / 0.256) -> tuple[Any, Any, Any]:
    """Return prephasing gradients, the readout and its ADC, of a spoke in the plane x, y."""
    share = {"x": np.cos(direction), "y": np.sin(direction)}
    lines = {a: pp.make_trapezoid(a, flat_area=area, flat_time=2.56e-3, system=SYSTEM) for a in share}
    readout = [pp.scale_grad(lines[a], share[a]) for a in share]
    before = [pp.make_trapezoid(g.channel, area=-g.area / 2, duration=1e-3, system=SYSTEM) for g in readout]
    adc = pp.make_adc(
        n_samples, duration=2.56e-3, delay=readout[0].rise_time, system=SYSTEM, phase_offset=phase,
    )  # fmt: skip
    return before, readout, adc


def gradient_echoes(
    angles: Any, *, phases: Any = None, tr: Any = 0.01, te: float = 0.005, ti: float | None = 0.02,
    spoiler: float = 1000.0, directions: Any = None, selective: bool = False, crusher: float = 3000.0,
) -> Builder:  # fmt: skip
    """Return a train of radial gradient echoes behind an inversion; spoiler: moment along z at the end of TR [1/m]."""
    n = len(angles)
    phases = np.zeros(n) if phases is None else phases
    directions = np.zeros(n) if directions is None else directions
    builder = Builder()
    start = 2e-3
    if ti is not None:
        builder.pulse_at(start, block(np.pi, "inversion"))
        builder.add(pp.make_trapezoid("z", area=crusher, duration=4e-3, system=SYSTEM))
        start += ti
    for angle, phase, wait, direction in zip(angles, phases, np.broadcast_to(tr, n), directions, strict=True):
        before, readout, adc = spoke(direction, phase=phase)
        if selective:
            rf, gz, back = pp.make_sinc_pulse(
                angle, duration=2e-3, slice_thickness=5e-3, time_bw_product=4, system=SYSTEM, return_gz=True,
                use="excitation", phase_offset=phase,
            )  # fmt: skip
            begin = start - rf.delay - rf.center
            builder.until(begin).add(rf, gz)
            builder.add(back)
        else:
            builder.pulse_at(start, block(angle, phase_offset=phase))
        half = pp.calc_duration(*readout) / 2
        builder.until(start + te - half - 1e-3).add(*before).until(start + te - half).add(*readout, adc)
        after = [pp.make_trapezoid("z", area=spoiler, duration=1e-3, system=SYSTEM)] if spoiler else []
        builder.add(*before, *after)
        start += wait
    return builder.until(start)


def spin_echoes(angles: Any, spacing: float = 0.01, crusher: float = 0.0, lines: Any = None) -> Builder:
    """Return a CPMG train along x; `lines`: phase encoding of each echo [1/m], rewound behind it."""
    builder = Builder()
    _, (readout, _), adc = spoke(0.0)
    lines = np.zeros(len(angles)) if lines is None else lines
    builder.pulse_at(2e-3, block(np.pi / 2, phase_offset=np.pi / 2))
    builder.add(pp.make_trapezoid("x", area=readout.area / 2 + crusher, duration=1.5e-3, system=SYSTEM))
    for i, (angle, line) in enumerate(zip(angles, lines, strict=True)):
        builder.pulse_at(2e-3 + (i + 0.5) * spacing, block(angle, "refocusing"))
        encode = [pp.make_trapezoid("y", area=sign * line, duration=1e-3, system=SYSTEM) for sign in (1, -1)]
        push = [pp.make_trapezoid("x", area=crusher, duration=1e-3, system=SYSTEM)] if crusher else []
        echo = 2e-3 + (i + 1) * spacing
        half = pp.calc_duration(readout) / 2
        builder.until(echo - half - 1e-3).add(encode[0], *push).until(echo - half).add(readout, adc)
        builder.add(encode[1], *push)
    return builder
