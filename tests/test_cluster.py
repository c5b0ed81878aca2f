"""Local Dask workers: order, trees, exceptions, dead workers, and what is left afterwards."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin.cluster import Pool, connect
from crbsvd_plugin.errors import UserError

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with connect(workers=2, scheduler=None) as pool:
        yield pool


def late(n: int) -> tuple[int, int]:
    """The earlier, the slower; and who did it."""
    time.sleep(0.3 if n == 0 else 0.01)
    return n, os.getpid()


def noise(n: int) -> np.ndarray:
    """Complex numbers of sizes so different that another order of additions gives other bits."""
    rng = np.random.default_rng(n)
    return rng.standard_normal((3, 1)) * 10.0 ** rng.integers(-9, 9) * (1 + 0.3j)


def joined(left: str, right: str) -> str:
    return f"({left}{right})"


def brute(values: list[Any], merge: Callable[[Any, Any], Any]) -> Any:
    """Level by level, as one would draw it."""
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]


def test_here_and_there_the_order_is_that_of_the_items(pool: Pool) -> None:
    done: list[int] = []
    results = list(pool.map(late, range(9), progress=done.append))
    assert [n for n, _ in results] == list(range(9))
    assert len({who for _, who in results}) == 2
    assert done == [1] * 9
    with connect(workers=None, scheduler=None) as here:
        assert list(here.map(late, iter([3, 1]), progress=done.append)) == [(3, os.getpid()), (1, os.getpid())]
    assert done == [1] * 11
    assert list(pool.map(late, [])) == []
    assert list(pool.reduce(str, joined, [], group=3)) == []


@pytest.mark.parametrize("group", [1, 2, 5, 7, 11, 40])
def test_the_tree_has_the_same_shape_everywhere(pool: Pool, group: int) -> None:
    items = list(range(23))
    expected = [brute([str(n) for n in items[i : i + group]], joined) for i in range(0, 23, group)]
    for one in (pool, Pool()):
        done: list[int] = []
        assert list(one.reduce(str, joined, items, group=group, progress=done.append)) == expected
        assert sum(done) == 23
        assert len(done) == len(expected)


def test_sums_are_the_same_bits_for_any_number_of_workers(pool: Pool) -> None:
    values = [noise(n) for n in range(19)]
    expected = [brute(values[:13], add).tobytes(), brute(values[13:], add).tobytes()]
    assert sum(values[:13]).tobytes() != expected[0]  # the order does matter
    with connect(workers=1, scheduler=None) as single:
        for one in (pool, single, Pool()):
            assert [total.tobytes() for total in one.reduce(noise, add, range(19), group=13)] == expected


def test_no_group_of_nothing(pool: Pool) -> None:
    for one in (pool, Pool()):
        with pytest.raises(ValueError, match="group is 0, expected at least 1"):
            list(one.reduce(str, joined, [1], group=0))


def environment(_: int) -> tuple[set[str | None], int, set[int], bool]:
    import numba  # noqa: TID251 - its own answer
    from threadpoolctl import threadpool_info

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    pools = {one["num_threads"] for one in threadpool_info()}
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return {os.environ.get(name) for name in names}, numba.get_num_threads(), pools, ignored


def test_a_worker_has_one_thread_for_everything_and_leaves_ctrl_c_to_us(pool: Pool) -> None:
    for variables, n_numba, n_pools, ignored in pool.map(environment, range(4)):
        assert (variables, n_numba, n_pools, ignored) == ({"1"}, 1, {1}, True)


def fail(kind: str) -> None:
    if kind == "user":
        raise UserError("the third atom is not finite; narrow the prior")
    if kind == "system":
        raise FileNotFoundError(2, "nothing there", "x.h5")
    raise ZeroDivisionError("a defect")


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("user", UserError, "^the third atom is not finite; narrow the prior$"),
        ("system", FileNotFoundError, "nothing there"),
        ("defect", ZeroDivisionError, "^a defect$"),
    ],
)
def test_exceptions_arrive_as_they_are(pool: Pool, kind: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        list(pool.map(fail, [kind]))
    with pytest.raises(error, match=text):
        list(pool.reduce(fail, add, [kind] * 3, group=2))
    # and the pool goes on
    assert list(pool.map(str, [1])) == ["1"]


def broken_items() -> Iterator[int]:
    yield 1
    raise FileNotFoundError("the items' own")


def test_an_exception_of_the_items_is_not_taken_for_a_lost_connection(pool: Pool) -> None:
    with pytest.raises(FileNotFoundError, match="the items' own"):
        list(pool.map(str, broken_items()))


def mark(folder: Path, n: int) -> int:
    (folder / str(n)).touch()
    time.sleep(0.05)
    return n


def test_no_more_is_under_way_than_there_is_room_for_and_the_rest_is_dropped(pool: Pool, tmp_path: Path) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1000):
            taken.append(n)
            yield n

    results = pool.map(partial(mark, tmp_path), items())
    assert next(results) == 0
    assert next(results) == 1
    # two workers: five under way, and as many more as have been yielded (one is refilled when the next is asked for)
    assert len(taken) == 6
    results.close()  # type: ignore[attr-defined]
    # what has been begun ends, what waits does not begin
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 6
    assert list(pool.map(str, [1])) == ["1"]


def large(item: np.ndarray) -> int:
    return item.nbytes


def test_an_item_may_be_as_large_as_a_slice(pool: Pool) -> None:
    """Dask warns beyond 10 MB; warnings are errors."""
    assert list(pool.map(large, [np.zeros(2_000_000)])) == [16_000_000]


class Heavy:
    """What is bound to a function; counts its arrivals."""

    arrived = 0

    def __init__(self) -> None:
        self.values = np.arange(3e6)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        Heavy.arrived += 1


def weigh(heavy: Heavy, folder: Path, n: int) -> tuple[int, int, int]:
    """Wait, for a while, until somebody else has begun something too."""
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 5
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    return int(heavy.values[n]), os.getpid(), Heavy.arrived


def test_what_is_bound_to_a_function_travels_once(pool: Pool, tmp_path: Path) -> None:
    found = list(pool.map(partial(weigh, Heavy(), tmp_path), range(16)))
    assert [n for n, _, _ in found] == list(range(16))
    assert len({who for _, who, _ in found}) == 2
    assert {arrived for _, _, arrived in found} == {1}


def bereaved(folder: Path, values: np.ndarray, n: int) -> float:
    """Kill every worker once, each when another slice of work has begun."""
    if n in (2, 3) and not (folder / str(n)).exists():
        (folder / str(n)).touch()
        while not all((folder / str(one)).exists() for one in (2, 3)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return float(values[n])


def test_it_is_sent_again_when_all_who_had_it_have_died(pool: Pool, tmp_path: Path) -> None:
    assert list(pool.map(partial(bereaved, tmp_path, np.arange(9.0)), range(9))) == list(range(9))
    assert len(list(tmp_path.iterdir())) == 2


def speak(n: int) -> str:
    logger = logging.getLogger("crbsvd_plugin.somewhere")
    logger.warning("%s %d", "item", n)
    logger.info("more of %d", n)
    logging.getLogger("elsewhere").warning("not ours")
    return str(n)


@pytest.mark.parametrize("how", ["map", "reduce"])
def test_what_is_logged_on_a_worker_is_logged_here_in_the_order_of_the_items(
    pool: Pool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    for level in (logging.INFO, logging.WARNING):
        caplog.clear()
        with caplog.at_level(level, "crbsvd_plugin"):
            results = pool.map(speak, range(5)) if how == "map" else pool.reduce(speak, joined, range(5), group=3)
            next(results)
            # what is not there yet has said nothing
            assert "item 3" not in caplog.text
            list(results)
        expected = [
            ("crbsvd_plugin.somewhere", *entry)
            for n in range(5)
            for entry in ((logging.WARNING, f"item {n}"), (logging.INFO, f"more of {n}"))
            if entry[0] >= level
        ]
        assert [entry for entry in caplog.record_tuples if entry[0].startswith("crbsvd")] == expected


def die_once(folder: Path, n: int) -> np.ndarray:
    if n == 5 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return noise(n)


def die(n: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("how", ["map", "reduce"])
def test_a_dead_worker_is_made_up_for(pool: Pool, tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, values = partial(die_once, tmp_path), [noise(n) for n in range(11)]
    if how == "map":
        found, expected = list(pool.map(function, range(11))), values
    else:
        found = list(pool.reduce(function, add, range(11), group=8))
        expected = [brute(values[:8], add), brute(values[8:], add)]
    assert (tmp_path / "died").exists()
    assert [one.tobytes() for one in found] == [one.tobytes() for one in expected]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_work_that_kills_every_worker_ends_with_one_line(pool: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"4 workers died, one after the other, .*: use fewer workers|they lack memory"):
        list(pool.map(die, [0]))
    assert list(pool.map(str, [1])) == ["1"]
    assert capfd.readouterr() == ("", "")


PARENT = """
import os, sys, time
from crbsvd_plugin.cluster import connect
from test_cluster import late
if __name__ == "__main__":
    with connect(workers=2, scheduler=None) as pool:
        print(*{who for _, who in pool.map(late, range(9))}, flush=True)
        try:
            list(pool.map(time.sleep, [60] * 9))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


def alive(pid: int) -> bool:
    try:
        # a process that has ended stays until its parent asks for it
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_workers_end_with_their_parent(how: signal.Signals, tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables, cwd=tmp_path,
        text=True, start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert all(alive(pid) for pid in workers)
        time.sleep(0.3)
        if how == signal.SIGKILL:
            parent.kill()
        else:
            os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to all of them
        try:
            out, err = parent.communicate(timeout=60)
        finally:
            parent.kill()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    if how == signal.SIGINT:
        assert (parent.returncode, out, err) == (0, "interrupted\n", "")


def test_everything_is_as_it_was_afterwards() -> None:
    import distributed  # noqa: F401 - its loggers are made when it is loaded

    loggers = [logging.getLogger(name) for name in ("distributed", "tornado")]
    levels = [[handler.level for handler in logger.handlers] for logger in loggers]
    variables, before = dict(os.environ), {thread.name for thread in threading.enumerate()}
    with connect(workers=1, scheduler=None) as one:
        assert list(one.map(str, [1])) == ["1"]
    assert dict(os.environ) == variables
    assert [[handler.level for handler in logger.handlers] for logger in loggers] == levels
    # Dask keeps one thread for reading large messages, for good
    after = {thread.name for thread in threading.enumerate()}
    assert {name for name in after - before if not name.startswith("Dask-Offload")} == set()
