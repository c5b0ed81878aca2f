"""BART as a program: where it is, which version, and how it is run, watched and ended."""

from __future__ import annotations

import logging
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import UserError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16

# Runs in an interpreter of its own between us and BART and then becomes BART. `preexec_fn` would
# do without it, but runs Python in a fork of a process full of OpenMP and Dask threads, which can
# hang on a lock that one of them held (Python 3.12 warns of it). The kernel sends the signal when
# the thread that started BART ends, and that thread waits for BART in `run`.
_LAUNCHER = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("its parent ended before it began")
os.execv(sys.argv[2], sys.argv[2:])
"""

_HINTS = {
    signal.SIGKILL: "; if nobody killed it, memory ran out: use fewer threads or a smaller problem",
    signal.SIGBUS: "; probably no space is left for temporary files: free some or set TMPDIR",
}


class Feature(NamedTuple):
    """What not every BART can do: how a user asks for it, and the first release that can."""

    name: str
    since: tuple[int, int, int]


def find() -> str:
    """Return the path of the program: on PATH, else in ``BART_TOOLBOX_PATH``.

    Raises
    ------
    UserError
        BART is not installed.
    """
    path = shutil.which("bart") or shutil.which("bart", path=os.environ.get("BART_TOOLBOX_PATH", ""))
    if path is None:
        raise UserError(
            "BART is needed here, but there is no program 'bart' on PATH: install it "
            "(Debian, Ubuntu: apt-get install bart libopenblas0) or choose a way that does without it"
        )
    return os.path.abspath(path)


def version() -> str:
    """Return what ``bart version`` prints: ``v0.8.00``, between releases ``v0.9.00-12-gabcdef0``."""
    return run(["version"], folder=Path.cwd(), threads=1).strip()


def require(features: Iterable[Feature]) -> None:
    """Refuse what the BART that is installed is too old for; it is only asked for its version if it may be.

    Raises
    ------
    UserError
        BART is missing, or older than a feature.
    """
    wanted = sorted(features, key=lambda feature: feature.since)
    if not wanted:
        find()
        return
    printed = version()
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", printed)
    if found is None:
        logger.warning("the version of BART is %r, which says nothing: taken for a new one", printed)
        return
    installed = tuple(map(int, found.groups()))
    for name, since in wanted:
        if installed < since:
            raise UserError(
                f"{name} needs BART {since[0]}.{since[1]}.{since[2]:02} or newer, "
                f"but {find()} is {found[0].removeprefix('v')}: install a newer one, or leave this out"
            )


def run(
    args: Sequence[str], *, folder: str | Path, threads: int, on_line: Callable[[str], object] | None = None
) -> str:
    """Run ``bart ARGS`` and return what it printed on standard output.

    It is started without a shell and without standard input, dies with this process (on Linux)
    and with any exception here, `KeyboardInterrupt` and those of `on_line` included.

    Parameters
    ----------
    args : sequence of str
        The BART command and its arguments, each one word.
    folder : path
        Working folder: file names in `args` are relative to it.
    threads : int
        Threads of OpenMP, FFTW and BLAS.
    on_line : callable, optional
        Called with each line that it prints, on standard output or standard error, while it runs.

    Raises
    ------
    UserError
        BART is missing or failed. The text is one line with its last words and the command; all
        that it printed is attached as a note.
    """
    program = find()
    command = [program, *args]
    if sys.platform == "linux" and sys.executable:
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **limits},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            out, err = _read([process.stdout, process.stderr], on_line or (lambda _: None))
            process.wait()
        except BaseException:
            process.kill()
            process.wait()  # Popen itself does not, after a KeyboardInterrupt
            raise
    if process.returncode != 0:
        raise _failure(args, process.returncode, out, err)
    return out


def _read(pipes: list[IO[bytes]], on_line: Callable[[str], object]) -> list[str]:
    """Return what comes out of each pipe until all have ended, and pass whole lines on as they come.

    Both are read by turns: whoever waits for one of them lets BART wait for the other one, once that is full.
    """
    printed = {pipe: bytearray() for pipe in pipes}
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ, printed[pipe])
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                begun = key.data.rfind(b"\n") + 1
                key.data.extend(chunk)
                for line in key.data[begun : key.data.rfind(b"\n") + 1].splitlines():
                    on_line(line.decode(errors="replace"))
    return [printed[pipe].decode(errors="replace") for pipe in pipes]


def _failure(args: Sequence[str], status: int, out: str, err: str) -> UserError:
    """Say in one line how BART ended, what it said last, and what it was asked to do."""
    printed = re.sub(r"\x1b\[[0-9;]*m", "", err if err.strip() else out)
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    words = " / ".join(lines[-3:])[-400:] or "nothing"
    how, hint = f"exit status {status}", ""
    if status < 0:
        killer = signal.Signals(-status)
        how, hint = f"killed by {killer.name}", _HINTS.get(killer, "")
    error = UserError(f"BART failed ({how}); its last words: {words}{hint}; the command: bart {' '.join(args)}")
    error.add_note(f"standard output:\n{out}\nstandard error:\n{err}")
    return error
