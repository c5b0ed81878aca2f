"""Schedulers that run already: those that work, those that do not answer, and those that compute something else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import add
from pathlib import Path

import pytest
from test_cluster import brute, late, noise

from crbsvd_plugin.cluster import connect, session, workers
from crbsvd_plugin.errors import UserError

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[1]
# a scheduler and its workers in one process, where something may be another version
SMALL = """
import asyncio, sys
import numpy
numpy.__version__ = sys.argv[3] or numpy.__version__
if sys.argv[4]:
    sys.modules[sys.argv[4]] = None  # as if it were not installed
import dask
dask.config.set({"distributed.logging": {"distributed": "critical"}})
from distributed import Scheduler, Worker
options = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
async def main():
    async with Scheduler(port=0, **options) as scheduler:
        for _ in range(int(sys.argv[1])):
            await Worker(scheduler.address, nthreads=int(sys.argv[2]), **options)
        print(scheduler.address, flush=True)
        await scheduler.finished()
asyncio.run(main())
"""


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def small(n_workers: int, *, n_threads: int = 1, numpy: str = "", missing: str = "") -> Iterator[tuple[str, int]]:
    """Give address and process of a scheduler with its workers."""
    with running("-c", SMALL, str(n_workers), str(n_threads), numpy, missing) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid


def refusal(scheduler: str, timeout: float = 1.0) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as info, connect(workers=None, scheduler=scheduler, timeout=timeout):
        pytest.fail("it was let in")
    # closing takes a moment, and the machine may be busy
    assert time.monotonic() - start < timeout + 4
    assert "\n" not in str(info.value)
    # nothing runs on
    assert "cluster" not in {thread.name for thread in threading.enumerate()}
    return str(info.value)


def test_the_programs_of_dask_make_a_pool(tmp_path: Path) -> None:
    file = str(tmp_path / "scheduler.json")
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
    worker = ("worker", "--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", str(tmp_path))
    with ExitStack() as stack:
        for command in (scheduler, worker, worker):
            stack.enter_context(running("-m", "dask", *command, "--scheduler-file", file))
        deadline = time.monotonic() + 30
        while not Path(file).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        address = json.loads(Path(file).read_text())["address"]
        with connect(workers=None, scheduler=address, timeout=30) as pool:
            found = list(pool.map(late, range(6)))
            assert [n for n, _ in found] == list(range(6))
            assert os.getpid() not in {who for _, who in found}
            (total,) = pool.reduce(noise, add, range(7), group=7)
        assert total.tobytes() == brute([noise(n) for n in range(7)], add).tobytes()
        # it is somebody else's: it stays
        with connect(workers=None, scheduler=address.removeprefix("tcp://")) as pool:
            assert list(pool.map(str, [1])) == ["1"]


def test_no_worker_in_time() -> None:
    with small(0) as (address, _):
        assert refusal(address) == (
            f"--scheduler: {address} has no worker after 1 s; start some, or wait until they have started"
        )


def test_another_version_of_numpy() -> None:
    with small(1, numpy="1.2.3") as (address, _):
        text = refusal(address, timeout=5)
    assert "the worker at tcp://127.0.0.1:" in text
    assert "runs numpy 1.2.3, here it is " in text
    assert text.endswith("; install the same in both")


def test_without_this_package() -> None:
    with small(1, missing="crbsvd_plugin") as (address, _):
        text = refusal(address, timeout=5)
    assert "cannot load crbsvd-plugin" in text
    assert text.endswith("; install the same there")


def test_workers_with_several_threads() -> None:
    with small(1, n_threads=3) as (address, _):
        assert "has 3 threads, expected 1; start it with --nthreads 1" in refusal(address, timeout=5)


def test_versions_are_asked_of_workers_that_come_later() -> None:
    with pytest.raises(UserError, match=r"a worker on .* runs numpy .*, here it is 0\.1; install"):
        workers._run({**workers.versions(), "numpy": "0.1"}, 0, (1,), str)
    assert workers._run(workers.versions(), 0, (1,), str).value == "1"


def test_a_closed_port() -> None:
    with socket.socket() as taken:
        # bound and not listening: nobody else gets it meanwhile
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        expected = "does not answer within 1 s; check the address, and that a Dask scheduler runs there"
        assert refusal(address) == f"--scheduler: {address} {expected}"


@pytest.fixture
def listening() -> Iterator[Callable[[bytes], str]]:
    """A server that says the same to everyone, or nothing."""
    with ExitStack() as stack:

        def listen(banner: bytes) -> str:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                while True:
                    try:
                        one = stack.enter_context(server.accept()[0])
                    except OSError:
                        return
                    if banner:
                        one.sendall(banner)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            # closing alone does not wake a thread that waits in accept
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            return f"127.0.0.1:{server.getsockname()[1]}"

        yield listen


def test_a_server_that_never_answers(listening: Callable[[bytes], str]) -> None:
    assert "does not answer within 1 s; check the address" in refusal(listening(b""))


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(64)])
def test_a_server_of_something_else(listening: Callable[[bytes], str], banner: bytes) -> None:
    text = refusal(listening(banner))
    assert "is no Dask scheduler" in text or "does not answer within 1 s" in text


@pytest.mark.parametrize("address", ["", "nonsense", "foo://bar:1", "tcp://:x"])
def test_what_is_no_address(address: str) -> None:
    assert refusal(address).startswith(f"--scheduler: {address!r} is no address of a scheduler (")


def test_a_scheduler_that_ends_and_workers_that_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small(1) as (address, pid), connect(workers=None, scheduler=address) as pool:
        results = pool.map(time.sleep, [0.1] + [60] * 5)
        next(results)
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(UserError, match="the connection to the Dask scheduler was lost; look whether"):
            next(results)
    monkeypatch.setattr(workers, "_POLL", 0.1)
    monkeypatch.setattr(workers, "_PATIENCE", 0.5)
    with small(0) as (address, _), ExitStack() as stack:
        options = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", str(tmp_path))
        worker = stack.enter_context(running("-m", "dask", "worker", address, *options))
        pool = stack.enter_context(connect(workers=None, scheduler=address, timeout=30))
        results = pool.map(time.sleep, [0.1] + [60] * 5)
        next(results)
        worker.kill()
        with pytest.raises(UserError, match=r"no worker has been left for 0\.5 s; start some .* with a checkpoint"):
            next(results)


@pytest.mark.parametrize(
    ("n", "scheduler", "text"),
    [
        (2, "tcp://127.0.0.1:1", "--workers and --scheduler are both given; give only one of them"),
        (0, None, "--workers is 0, expected at least 1"),
        (-3, None, "--workers is -3, expected at least 1"),
    ],
)
def test_options_that_cannot_be(n: int, scheduler: str | None, text: str) -> None:
    with pytest.raises(UserError, match=f"^{text}$"), connect(workers=n, scheduler=scheduler):
        pass


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UserError, match=r"pip install 'crbsvd-plugin\[distributed\]'"),
        connect(workers=1, scheduler=None),
    ):
        pass
    # and without workers it is not needed
    with connect(workers=None, scheduler=None) as pool:
        assert list(pool.map(str, [1])) == ["1"]


def test_dask_is_not_loaded_before_it_is_needed() -> None:
    program = "import sys, crbsvd_plugin.cluster; print({'dask', 'distributed', 'tornado', 'numba'} & set(sys.modules))"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", program], env=variables, text=True) == "set()\n"
    assert session.__name__ == "crbsvd_plugin.cluster.session"  # what a worker preloads by its name
