"""How much memory this process can still get."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
# of both versions of control groups: where they are, what they allow, what is taken
_VERSIONS = {
    "": ("", "memory.max", "memory.current"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def available() -> int | None:
    """Return the bytes that are left, of the machine and of the control groups of this process; None: not known."""
    return min((size for size in (_of_machine(), *_of_groups()) if size is not None), default=None)


def _of_machine() -> int | None:
    try:
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    except (OSError, ValueError, IndexError, KeyError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _of_groups() -> list[int]:
    """Return what the control groups of this process, and those that they are part of, leave."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        for controller in set(controllers.split(",")) & _VERSIONS.keys():
            place, limit, used = _VERSIONS[controller]
            root = _GROUPS / place
            group = root / name.lstrip("/")
            # a container may see its own group as the root
            above = [parent for parent in group.parents if parent == root or root in parent.parents]
            found += [_left(folder, limit, used) for folder in (group, *above)]
    return [size for size in found if size is not None]


def _left(group: Path, limit: str, used: str) -> int | None:
    try:
        allowed, taken, stat = ((group / name).read_text(encoding="ascii") for name in (limit, used, "memory.stat"))
        if allowed.strip() == "max":
            return None
        # files that were read are given up when memory is wanted
        spare = dict(line.split() for line in stat.splitlines()).get("inactive_file", "0")
        return max(0, int(allowed) - int(taken) + int(spare))
    except (OSError, ValueError):
        return None
