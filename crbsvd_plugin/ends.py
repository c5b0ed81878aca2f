"""What says that images are complete, before the stream ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

from .roles import Roles

if TYPE_CHECKING:
    from ismrmrd import Acquisition

End = Literal["measurement", "slice", "contrast", "phase", "repetition", "set", "segment", "next"]
ENDS: tuple[End, ...] = get_args(End)
# flags of MRD, counted from 1
_LAST = {
    "slice": 8, "contrast": 10, "phase": 12, "repetition": 14, "set": 16, "segment": 18, "measurement": 25,
}  # fmt: skip

Key = tuple[int, ...]
"""The values of the group counters, which tell an image from others."""


def ended(item: Acquisition, key: Key, open_keys: Iterable[Key], *, ends: Iterable[End], roles: Roles) -> list[Key]:
    """Return which of the images that are open a readout says are over.

    Parameters
    ----------
    item : Acquisition
        The readout.
    key : tuple of int
        Its image.
    open_keys : iterable of tuple of int
        The images that are not complete.
    ends : iterable of str
        What is listened to: flags (``measurement``, ``slice``, ...), or ``next``, the first readout of another image.
        The flag of a group counter is about the images with its value, any other flag about all images.
    roles : Roles
        The role of every counter.
    """
    there, found = list(open_keys), set()
    for end in ends:
        if end == "next":
            found |= {other for other in there if other != key}
        elif item.is_flag_set(_LAST[end]):
            if end not in roles.groups:
                return there
            place = roles.groups.index(end)
            found |= {other for other in there if other[place] == getattr(item.idx, end)}
    return sorted(found)
