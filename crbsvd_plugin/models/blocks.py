"""Preparations between the pulses of a train: inversion, T2 preparation, delay.

In the TOML file of a sequence, in the order of time where several come before the same pulse:

    [[blocks]]
    before = 0              # index of the pulse that follows
    kind = "inversion"
    delay = "21 ms"         # rest between the preparation and what comes next
    efficiency = 0.95

    [[blocks]]
    before = 50
    kind = "delay"
    time = "0.6 s"

    [[blocks]]
    before = 50
    kind = "t2-preparation"
    te = "50 ms"
    delay = "5 ms"

Each ends without transverse magnetisation, as crushers leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import UserError
from .schedule import Schedule

_LONGEST = 1e4  # s


class _Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    before: int


class Inversion(_Block, frozen=True, kw_only=True, tag="inversion"):
    """Longitudinal magnetisation becomes minus `efficiency` times itself, whatever B1 and w0 (adiabatic)."""

    efficiency: float = 1.0
    delay: float = 0.0

    def add(self, schedule: Schedule) -> None:
        """Append an inversion and a rest."""
        schedule.invert(self.efficiency).relax(self.delay)


class T2Preparation(_Block, frozen=True, kw_only=True, tag="t2-preparation"):
    """Longitudinal magnetisation decays by exp(-te / T2), whatever B1 and w0 (adiabatic or composite pulses)."""

    te: float
    delay: float = 0.0

    def add(self, schedule: Schedule) -> None:
        """Append the preparation and a rest."""
        schedule.prepare(self.te).relax(self.delay)


class Delay(_Block, frozen=True, kw_only=True, tag="delay"):
    """A rest, as to the next heartbeat."""

    time: float

    def add(self, schedule: Schedule) -> None:
        """Append a rest without transverse magnetisation."""
        schedule.spoil().relax(self.time)


Block = Inversion | T2Preparation | Delay


def check(blocks: Sequence[Block], n_pulses: int, name: str) -> tuple[Block, ...]:
    """Return the blocks of the model `name`, known to be possible.

    Raises
    ------
    UserError
        A pulse that is not there, a time or an efficiency out of range.
    """
    for i, block in enumerate(blocks):
        where = f"{name}: blocks[{i}]"
        if not 0 <= block.before < n_pulses:
            raise UserError(f"{where}: before is {block.before}, expected 0 to {n_pulses - 1}, the index of a pulse")
        for key, value in msgspec.structs.asdict(block).items():
            highest = {"before": n_pulses, "efficiency": 1.0}.get(key, _LONGEST)
            if not 0 <= value <= highest:
                raise UserError(f"{where}: {key} is {value}, expected 0 to {highest:g}")
    return tuple(blocks)


def plain(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Return the blocks as plain values, ready for JSON."""
    return [msgspec.to_builtins(block) for block in blocks]
