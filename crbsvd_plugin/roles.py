"""The role of every counter of MRD.

`frame` (which row of phi), `shots` (summed into one problem: three repetitions of a pattern are three spokes per
frame) or `groups` (separate problems).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from ismrmrd import Acquisition

COUNTERS = (
    "kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set",
    "segment",
)  # fmt: skip
"""The counters of MRD that can be given a role."""


@dataclass(frozen=True)
class Roles:
    """The role of every counter.

    Parameters
    ----------
    frame : str
        The counter that is the row of phi.
    shots, groups : tuple of str
        Counters whose values are summed, or reconstructed apart.

    Raises
    ------
    UserError
        A counter is unknown or has two roles.
    """

    frame: str = "contrast"
    shots: tuple[str, ...] = ("repetition", "average", "segment", "kspace_encode_step_1", "kspace_encode_step_2")
    groups: tuple[str, ...] = ("slice", "set", "phase")

    def __post_init__(self) -> None:
        roles: dict[str, str] = {}
        for role, names in (("frame", (self.frame,)), ("shots", self.shots), ("groups", self.groups)):
            for name in names:
                if name not in COUNTERS:
                    raise UserError(f"{role}: MRD has no counter {name!r}, expected one of: {', '.join(COUNTERS)}")
                if name in roles:
                    raise UserError(f"counter {name!r} has two roles, {roles[name]} and {role}: give it one")
                roles[name] = role

    def key(self, item: Acquisition) -> tuple[int, ...]:
        """Return the values of the group counters of a readout, which tell its image from others."""
        return tuple(getattr(item.idx, name) for name in self.groups)

    @classmethod
    def named(cls, frame: str, shots: Sequence[str] | None, groups: Sequence[str] | None) -> Roles:
        """Return the roles that a user named; counters that were not named keep theirs if it is free."""
        taken = {frame, *(shots or ()), *(groups or ())}
        default = cls()
        return cls(
            frame,
            tuple(name for name in default.shots if name not in taken) if shots is None else tuple(shots),
            tuple(name for name in default.groups if name not in taken) if groups is None else tuple(groups),
        )
