"""How much memory is left, from files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from crbsvd_plugin import memory


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for the root: proc and cgroup, a machine with 8 GB and 1 GB of swap left."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", "MemTotal:  16000000 kB\nMemAvailable:  8000000 kB\nSwapFree: 1000000 kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_machine_limits_where_no_group_does(system: Path) -> None:
    assert memory.available() == 9_000_000 * 1024
    write(system / "proc/self/cgroup", "0::/user.slice\n")
    write(system / "cgroup/user.slice/memory.max", "max\n")
    assert memory.available() == 9_000_000 * 1024


@pytest.mark.parametrize(
    ("line", "place", "limit", "used"),
    [
        ("0::/a/b", "", "memory.max", "memory.current"),
        ("4:cpu,memory:/a/b", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
@pytest.mark.parametrize("group", ["a/b", "a", ""])
def test_a_group_limits_with_all_that_is_part_of_it(
    system: Path, group: str, line: str, place: str, limit: str, used: str
) -> None:
    """Both versions; the group may be the process's own, one above, or the root that a container sees."""
    write(system / "proc/self/cgroup", f"7:pids:/a\n{line}\n")
    folder = system / "cgroup" / place / group
    write(folder / limit, "5000000\n")
    write(folder / used, "2000000\n")
    write(folder / "memory.stat", "active_file 70\ninactive_file 300000\n")
    assert memory.available() == 3_300_000
    write(folder / used, "6000000\n")
    assert memory.available() == 0


def test_what_cannot_be_read_does_not_limit(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/a\n")
    write(system / "cgroup/a/memory.max", "many\n")
    write(system / "cgroup/a/memory.current", "1\n")
    write(system / "cgroup/a/memory.stat", "\n")
    assert memory.available() == 9_000_000 * 1024
    write(system / "proc/meminfo", "MemTotal: 1 kB\n")
    found = memory.available()
    assert found is None or found > 0  # all of the machine, where it can be asked


def test_this_machine_has_some() -> None:
    found = memory.available()
    assert found is not None
    assert found > 2**26
