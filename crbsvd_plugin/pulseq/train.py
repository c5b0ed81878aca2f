"""The operators of the phase graphs that a Pulseq file means.

Between two pulses the gradients leave a moment m [cycles/m]. Where all m vanish the sequence is balanced: one order of
the graph is all there is. Else the smallest m, or a half, third or fourth of it, is the unit u of the orders, and every
other m must be a positive multiple of it: n shifts. Where a preparation (inversion, saturation, ...) begins or ends, a
moment of any size crushes, and so does one from a refocusing pulse to the next excitation that is no multiple.

A readout records the order -j whose position k(t) = (moment since the pulse) - j u passes the centre of k-space the
closest; of several, in the middle of the readout the nearest. That is its echo, and k(t) its trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..models.schedule import Schedule
from .scan import Pulse, Readout, Scan, wrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PREPARING = ("inversion", "saturation", "preparation")
_NOT_AN_IMAGE = ("NOISE", "NAV")  # labels of readouts that no frame has
_TILTED = np.deg2rad(90.01)  # what has no use turns further than an excitation: it refocuses
# Moments are equal where they differ by less than this share of the largest, or by this many cycles/m: files have six
# digits, and 1e-4 of the edge of k-space is a hundredth of a cycle per field of view
_EQUAL, _ZERO = 1e-4, 1e-2
_MOST_SHIFTS = 20
_CYCLES = 0.99  # what dephases less across the field of view is neither balanced nor spoiled
_TILT, _APART = 1e-3, 1e-4  # slices are the same up to rad and m


@dataclass(frozen=True)
class Echo:
    """What a readout records.

    Parameters
    ----------
    readout : Readout
        The readout.
    pulse : int
        Index of the pulse before it.
    order : int
        How many shifts since that pulse come before it, j.
    time : float
        When the order is nearest to the centre of k-space [s].
    position : array (S, 3)
        Where it is in k-space at the samples [cycles/m].
    """

    readout: Readout
    pulse: int
    order: int
    time: float
    position: NDArray[np.float64]


class Train:
    """Operators and echoes of a file.

    Parameters
    ----------
    scan : Scan
        Its content.
    frame : str
        ``adc``: every readout is a frame. Else the label whose value is the frame; of the readouts of a frame the last
        one, which is the nearest to a steady state, tells its signal.

    Raises
    ------
    UserError
        The phase graphs cannot represent it: the block and the reason.
    """

    def __init__(self, scan: Scan, frame: str):
        self._scan = scan
        if not scan.pulses:
            raise UserError(f"{scan.path} has no pulse: it gives no signal; expected the file of a whole scan")
        self._check_planes()
        self._uses = _uses(scan.pulses)
        times = np.array([pulse.time for pulse in scan.pulses])
        self._times = np.append(times, scan.duration)
        self._at = scan.moment(self._times)
        readouts = [r for r in scan.readouts if not any(r.labels.get(label) for label in _NOT_AN_IMAGE)]
        if not readouts:
            raise UserError(f"{scan.path} has no ADC that is part of an image; expected the file of a whole scan")
        before = [self._pulse_before(readout) for readout in readouts]
        moments = [
            scan.moment(readout.times) - self._at[pulse] for readout, pulse in zip(readouts, before, strict=True)
        ]
        if not all(np.isfinite(values).all() for values in (self._times, self._at, *moments)):
            raise UserError(f"{scan.path} has times or gradients that are not finite; export it again")
        between = np.diff(self._at[:-1], axis=0)
        ends = list(zip(self._uses[:-1], self._uses[1:], strict=True))
        prepares = np.array([(a in _PREPARING) != (b in _PREPARING) for a, b in ends], dtype=bool)
        rests = np.array([(a, b) == ("refocusing", "excitation") for a, b in ends], dtype=bool)
        within = between[~(prepares | rests)]
        largest = max(float(np.linalg.norm(m, axis=-1).max(initial=0.0)) for m in (*moments, within))
        self._equal = max(_EQUAL * largest, _ZERO)
        self._unit, self._shifts = self._orders(between, prepares, rests)
        self._most = max((n for n in self._shifts if n is not None), default=0)
        self.echoes = [self._echo(*found) for found in zip(readouts, before, moments, strict=True)]
        self.frames = _frames(self.echoes, frame, scan)
        self.balanced = self._unit is None
        self.spin_echoes = any(echo.order for echo in self.echoes)

    def _pulse_before(self, readout: Readout) -> int:
        first, last = np.searchsorted(self._times[:-1], readout.times[[0, -1]])
        if first == 0 or first != last:
            why = "comes before the first pulse" if first == 0 else "goes on while a pulse is played"
            raise UserError(
                f"{self._where(readout.block)}: an ADC {why}; expected one between pulses, or the label NOISE"
            )
        return int(first) - 1

    def _where(self, block: int) -> str:
        return f"{self._scan.path}: block {block}"

    def _check_planes(self) -> None:
        """Refuse several slices: what one pulse turns, another would leave alone."""
        selective = [(pulse, pulse.plane, pulse.offset) for pulse in self._scan.pulses if pulse.plane is not None]
        for pulse, plane, offset in selective[1:]:
            _, first, first_offset = selective[0]
            # plane . r = offset with normals of one length, that of the first
            scale = plane @ first / (plane @ plane)
            tilted = np.linalg.norm(scale * plane - first) > _TILT * np.linalg.norm(first)
            if tilted or abs(scale * offset - first_offset) > _APART * np.linalg.norm(first):
                raise UserError(
                    f"{self._where(pulse.block)}: the pulse selects another slice than that of block "
                    f"{selective[0][0].block}; expected the file of one slice"
                )

    def _orders(
        self, between: NDArray[np.float64], prepares: NDArray[np.bool_], rests: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64] | None, list[int | None]]:
        """Return the unit of the orders, None where balanced, and the shifts of the intervals; None: all is crushed."""
        size = np.linalg.norm(between, axis=-1)
        moved = size > self._equal
        crushed, resting = moved & prepares, moved & rests
        counted = np.flatnonzero(moved & ~crushed & ~resting)
        if not len(counted):
            return None, [None if lost else 0 for lost in moved]
        smallest = between[counted[size[counted].argmin()]]
        smallest = smallest * np.copysign(1.0, smallest @ between[counted[0]])
        fov = np.inf if self._scan.fov is None else np.where(self._scan.fov > 0, self._scan.fov, np.inf)
        # an axis without a moment, or without a length, tells nothing
        across = np.abs(smallest)
        cycles = np.where(across > self._equal, fov, 0.0) * across
        if cycles.max() < _CYCLES:
            raise UserError(
                f"{self._where(self._scan.pulses[counted[size[counted].argmin()] + 1].block)}: the gradients before "
                f"this pulse leave {cycles.max():.2g} cycles per field of view, expected none, or at least one"
            )
        fits, counts, unit = np.zeros(len(between), bool), np.zeros(len(between), int), smallest
        for divisor in (1, 2, 3, 4):
            unit = smallest / divisor
            counts = np.rint(between @ unit / (unit @ unit)).astype(int)
            near = np.linalg.norm(between - counts[:, None] * unit, axis=-1) <= self._equal
            fits = near & (counts >= 0) & (counts <= _MOST_SHIFTS)
            if fits[counted].all():
                break
        for i in counted[~fits[counted]]:
            here, there = ("(" + ", ".join(f"{x:.6g}" for x in m) + ")" for m in (between[i], smallest))
            raise UserError(
                f"{self._where(self._scan.pulses[i + 1].block)}: the gradients before this pulse leave {here} "
                f"cycles/m, no positive whole multiple of {there}, which others leave; rewind what encodes, and spoil "
                "alike in every TR"
            )
        return unit, [
            None if crushed[i] or (resting[i] and not fits[i]) else int(counts[i]) for i in range(len(between))
        ]

    def _echo(self, readout: Readout, pulse: int, moment: NDArray[np.float64]) -> Echo:
        """Return which order a readout records, and when."""
        here = self._shifts[pulse] if pulse < len(self._shifts) else None
        orders = range((self._most if here is None else here) + 1)
        unit = np.zeros(3) if self._unit is None else self._unit
        middle = readout.times.mean()
        found = []
        for order in orders:
            position = moment - order * unit
            distance, when = _closest(position, readout.times)
            nearest = distance.min()
            for d, t in zip(distance, when, strict=True):
                if d <= nearest + self._equal:
                    found.append((d, abs(t - middle), order, t))
        least = min(entry[0] for entry in found)
        _, _, order, time = min((e for e in found if e[0] <= least + self._equal), key=lambda e: (e[1], e[2]))
        return Echo(readout, pulse, order, float(time), moment - order * unit)

    def operators(self) -> NDArray[np.float64]:
        """Return the operators (n, 3), with one readout for every frame.

        Raises
        ------
        UserError
            A pulse is of no known kind, or frames come in another order.
        """
        last = dict(zip(self.frames, self.echoes, strict=True))
        recorded = sorted(last.values(), key=lambda echo: echo.time)
        if [last[frame] for frame in range(len(last))] != recorded:
            raise UserError(f"{self._scan.path}: the frames do not come in the order of their numbers in the last pass")
        schedule = Schedule()
        behind: list[list[Echo]] = [[] for _ in self._scan.pulses]
        for echo in recorded:
            behind[echo.pulse].append(echo)
        for i, pulse in enumerate(self._scan.pulses):
            self._turn(schedule, pulse, self._uses[i])
            now, done = pulse.time, 0
            for echo in behind[i]:
                if echo.order < done:
                    raise UserError(
                        f"{self._where(echo.readout.block)}: an ADC records an order that an earlier one has left"
                    )
                schedule.relax(echo.time - now)
                for _ in range(echo.order - done):
                    schedule.shift()
                receiver = echo.readout.phase + 2 * np.pi * echo.readout.frequency * echo.time
                schedule.read(0.0, wrapped(receiver))
                now, done = echo.time, echo.order
            if i < len(self._shifts):
                schedule.relax(self._times[i + 1] - now)
                shifts = self._shifts[i]
                if shifts is None:
                    schedule.spoil()
                for _ in range((shifts or 0) - done):
                    schedule.shift()
        return schedule.rows

    def _turn(self, schedule: Schedule, pulse: Pulse, use: str) -> None:
        if np.isfinite(pulse.angle):
            if abs(pulse.angle) > 2 * np.pi:
                raise UserError(
                    f"{self._where(pulse.block)}: a pulse of {np.degrees(pulse.angle):.0f} degrees, expected up to 360"
                )
            schedule.pulse(pulse.angle, pulse.phase)
        elif use == "inversion":
            schedule.invert(1.0)
        else:
            raise UserError(
                f"{self._where(pulse.block)}: the phase of the pulse (use: {use}) is modulated, expected that of an "
                "adiabatic inversion alone; others have no nominal angle"
            )


def _uses(pulses: list[Pulse]) -> list[str]:
    """Return what pulses are for; format 1.4 does not say, and pypulseq tells by the angle."""
    uses: list[str] = []
    for pulse in pulses:
        use = pulse.use
        if use not in ("excitation", "refocusing", *_PREPARING):
            use = "refocusing" if not abs(pulse.angle) < _TILTED else "excitation"
        # there is nothing to refocus yet
        if use == "refocusing" and "excitation" not in uses:
            use = "inversion"
        uses.append(use)
    return uses


def _closest(
    position: NDArray[np.float64], times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how near the straight ways between the samples come to the centre, and when: (S,) each, or more."""
    step, wait = np.diff(position, axis=0), np.diff(times)
    length = np.maximum((step**2).sum(axis=-1), np.finfo(float).tiny)
    still = (step**2).sum(axis=-1) <= _ZERO**2 * 1e-6
    share = np.where(still, 0.5, np.clip(-(position[:-1] * step).sum(axis=-1) / length, 0, 1))
    near = position[:-1] + share[:, None] * step
    every = np.concatenate([position, near])
    return np.linalg.norm(every, axis=-1), np.concatenate([times, times[:-1] + share * wait])


def _frames(echoes: list[Echo], frame: str, scan: Scan) -> list[int]:
    """Return the frame of every readout."""
    if frame == "adc":
        return list(range(len(echoes)))
    for echo in echoes:
        if frame not in echo.readout.labels:
            raise UserError(
                f"{scan.path}: block {echo.readout.block}: the ADC has no label {frame!r}, expected frame = adc or one "
                f"of: {', '.join(echo.readout.labels) or 'none'}"
            )
    frames = [echo.readout.labels[frame] for echo in echoes]
    if sorted(set(frames)) != list(range(max(frames) + 1)):
        raise UserError(
            f"{scan.path}: the label {frame} goes from {min(frames)} to {max(frames)} with gaps, expected 0 to T - 1"
        )
    return frames
