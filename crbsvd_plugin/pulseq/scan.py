"""Pulses, readouts and gradient moments of a Pulseq file, as pypulseq reads it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# what pypulseq raises for damaged files: it raises warnings, too
_BROKEN = (
    ValueError, LookupError, RuntimeError, TypeError, AttributeError, NameError, ArithmeticError, AssertionError,
    OSError, Warning,
)  # fmt: skip
_MOST_SAMPLES = 10**7
_FORMATS = ((1, 4), (1, 5))
_REAL = 1e-3  # of the peak; shapes have six digits
_STEADY, _NONE = 1e-2, 10.0  # of the strongest gradient; Hz/m, a hundredth of a cycle/m in a pulse of 1 ms
_PHASE_DIGITS = 1e-5  # rad; phases have six digits
_AXES = "xyz"


@dataclass(frozen=True)
class Pulse:
    """An RF pulse, as if it were played in its centre.

    Parameters
    ----------
    block : int
        Number of its block in the file.
    time : float
        Its centre [s].
    angle, phase : float
        Nominal flip angle and phase [rad]; of a pulse whose phase is modulated the angle is not a number.
    use : str
        As pypulseq has it: excitation, refocusing, inversion, saturation, preparation, other, undefined.
    plane : array (3,) or None
        Gradient [Hz/m] while it plays, None if there is none: it selects the points r with plane . r = offset.
    offset : float
        Frequency [Hz].
    """

    block: int
    time: float
    angle: float
    phase: float
    use: str
    plane: NDArray[np.float64] | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class Readout:
    """An ADC.

    Parameters
    ----------
    block : int
        Number of its block in the file.
    times : array (S,)
        The samples [s].
    phase : float
        Of the receiver at time 0 of the file [rad].
    frequency : float
        By which the receiver's phase grows [Hz].
    labels : mapping
        Values of the labels there.
    """

    block: int
    times: NDArray[np.float64]
    phase: float
    frequency: float
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Scan:
    """What is in a file.

    Parameters
    ----------
    path : Path
        The file.
    pulses : list of Pulse
        In order of time.
    readouts : list of Readout
        In order of time.
    moment : function
        From times (n,) [s] to the integrals of the gradients (n, 3) until then [cycles/m].
    duration : float
        Of all [s].
    fov : array (3,) or None
        The field of view [m], if the file defines it.
    """

    path: Path
    pulses: list[Pulse]
    readouts: list[Readout]
    moment: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    duration: float
    fov: NDArray[np.float64] | None

    @classmethod
    def read(cls, path: Path) -> Scan:
        """Return the content of a file.

        Raises
        ------
        UserError
            It is missing, damaged, of another format, or has a pulse or readout of no known kind.
        """
        _check_format(path)
        try:
            import pypulseq
        except ImportError:
            raise UserError(f"{path} needs pypulseq: pip install 'crbsvd-plugin[pulseq]'") from None
        sequence = pypulseq.Sequence()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of older revisions, and of rasters that take their defaults
                sequence.read(str(path))
                blocks = [(number, sequence.get_block(number)) for number in sequence.block_events]
                waves = sequence.get_gradients()
        except _BROKEN as error:
            raise UserError(f"{path} cannot be read as a Pulseq file ({error}); export it again") from None
        pulses: list[Pulse] = []
        readouts: list[Readout] = []
        labels: dict[str, int] = {}
        start = 0.0
        for number, block in blocks:
            where = f"{path}: block {number}"
            for label in (block.label or {}).values():
                before = labels.get(label.label, 0) if label.type == "labelinc" else 0
                labels[label.label] = before + int(label.value)
            for trigger in getattr(block, "trigger", {}).values():
                if trigger.type == "trigger":
                    raise UserError(f"{where}: waits for a trigger, expected times that the file knows")
            if block.rf is not None:
                pulses.append(_pulse(block.rf, number, start, waves, where))
            if block.adc is not None:
                readouts.append(_readout(block.adc, number, start, dict(labels), where))
            start += float(block.block_duration)
        integrals = [None if wave is None else wave.antiderivative() for wave in waves]
        return cls(path, pulses, readouts, lambda t: _on_axes(integrals, t), start, _fov(sequence.definitions, path))


def wrapped(phase: float) -> float:
    """Return a phase from 0 to 2 pi; near a multiple of pi/2, as near as six digits tell, it is that."""
    quarters = round(phase / (np.pi / 2))
    if abs(phase - quarters * np.pi / 2) < _PHASE_DIGITS:
        return float(quarters % 4 * np.pi / 2)
    return float(phase % (2 * np.pi))


def _check_format(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise UserError(f"SPEC {path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"SPEC {path} cannot be read ({error.strerror}); check the path") from None
    found = re.search(r"^\[VERSION\]\s+major\s+(\d+)\s+minor\s+(\d+)", text, re.MULTILINE)
    if found is None:
        raise UserError(f"{path} is no Pulseq file: it has no section [VERSION]; check the path")
    if (int(found[1]), int(found[2])) not in _FORMATS:
        raise UserError(f"{path} has the format {found[1]}.{found[2]}, expected Pulseq 1.4 or 1.5; export it again")


def _on_axes(functions: list[Any], times: NDArray[np.float64]) -> NDArray[np.float64]:
    times = np.asarray(times, dtype=np.float64)
    return np.stack([np.zeros_like(times) if f is None else f(times) for f in functions], axis=-1)


def _pulse(rf: Any, number: int, start: float, waves: list[Any], where: str) -> Pulse:
    shape = np.asarray(rf.signal)
    size = np.abs(shape)
    if not size.max(initial=0.0) > 0:
        return Pulse(number, start + rf.delay + rf.center, 0.0, 0.0, rf.use)
    if rf.freq_ppm or rf.phase_ppm:
        raise UserError(
            f"{where}: a pulse {rf.freq_ppm:g} ppm off resonance, expected one that acts on all tissue alike"
        )
    strong = np.flatnonzero(size > 0.05 * size.max())
    lasting = start + rf.delay + np.linspace(rf.t[strong[0]], rf.t[strong[-1]], 33)
    gradient = _on_axes(waves, lasting)
    strongest = np.linalg.norm(gradient, axis=-1).max()
    if np.abs(gradient - gradient[16]).max() > max(_STEADY * strongest, _NONE):
        raise UserError(f"{where}: a gradient changes while the pulse plays, expected a steady one, or none")
    if rf.freq_offset and strongest <= _NONE:
        raise UserError(
            f"{where}: a pulse {rf.freq_offset:g} Hz off resonance without a gradient, expected one that acts on all "
            "tissue alike"
        )
    turn = shape[size.argmax()] / size.max()
    plain = shape / turn
    phase = np.angle(turn) + rf.phase_offset + 2 * np.pi * rf.freq_offset * rf.center
    # samples on a raster lie in the middle of their interval, those with times of their own at its ends
    on_raster = rf.t[0] > 0 and np.allclose(np.diff(rf.t), 2 * rf.t[0], rtol=1e-3, atol=0)
    area = plain.sum() * 2 * rf.t[0] if on_raster else np.trapezoid(plain, rf.t)
    modulated = np.abs(plain.imag).max() > _REAL * size.max()
    angle = np.nan if modulated else float(2 * np.pi * np.real(area))
    plane = gradient.mean(axis=0) if strongest > _NONE else None
    centre = float(start + rf.delay + rf.center)
    return Pulse(number, centre, angle, wrapped(phase), rf.use, plane, float(rf.freq_offset))


def _readout(adc: Any, number: int, start: float, labels: dict[str, int], where: str) -> Readout:
    if len(adc.phase_modulation) or adc.freq_ppm or adc.phase_ppm:
        raise UserError(f"{where}: the phase of the receiver is modulated, or told in ppm, expected an offset in Hz")
    if not (1 <= adc.num_samples <= _MOST_SAMPLES and adc.dwell > 0):
        raise UserError(f"{where}: an ADC of {adc.num_samples} samples, every {adc.dwell:g} s, expected at least one")
    first = start + adc.delay
    times = first + (np.arange(adc.num_samples) + 0.5) * adc.dwell
    phase = adc.phase_offset - 2 * np.pi * adc.freq_offset * first
    return Readout(number, times, float(phase), float(adc.freq_offset), labels)


def _fov(definitions: Mapping[str, Any], path: Path) -> NDArray[np.float64] | None:
    told = definitions.get("FOV")
    if told is None:
        return None
    try:
        fov = np.array(told, dtype=np.float64).ravel()
    except ValueError:
        fov = np.zeros(0)
    if fov.shape != (len(_AXES),) or not np.all((fov >= 0) & (fov < 10)):
        raise UserError(f"{path}: the definition FOV is {told}, expected three lengths in m")
    return fov
