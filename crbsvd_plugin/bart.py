"""BART as an external program: find it, run it, read and write its files.

Nothing here knows what the arrays mean. A BART file is a pair: ``NAME.hdr`` lists the
dimensions, ``NAME.cfl`` holds complex64 numbers, little endian, first dimension fastest.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .files import with_suffix
from .staging import hidden, make_locked, sweep, unwritable

_DTYPE = np.dtype("<c8")
_MAX_DIMS = 16
_HEADER_BYTES = 1 << 20
_TEMPORARY = "crbsvd-bart"
_CHUNK = 1 << 22  # elements converted at a time: 32 MiB

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
    """Return what ``bart version`` prints, e.g. ``v0.8.00``."""
    return run(["version"], folder=Path.cwd(), threads=1).strip()


def run(args: Sequence[str], *, folder: str | Path, threads: int) -> str:
    """Run ``bart ARGS`` and return what it printed on standard output.

    It is started without a shell and without standard input, dies with this process (on Linux)
    and with any exception here, `KeyboardInterrupt` included.

    Parameters
    ----------
    args : sequence of str
        The BART command and its arguments, each one word.
    folder : path
        Working folder: file names in `args` are relative to it.
    threads : int
        Threads of OpenMP, FFTW and BLAS.

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
        text=True,
        errors="replace",
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.kill()
            process.wait()  # Popen itself does not, after a KeyboardInterrupt
            raise
    if process.returncode != 0:
        raise _failure(args, process.returncode, out, err)
    return out


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


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it with its content at the end.

    It lies where `tempfile` puts it: ``TMPDIR=/dev/shm`` keeps BART's files in memory. What killed runs left
    there is removed first.

    Raises
    ------
    UserError
        Temporary files cannot be written.
    """
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(f"there is no place for temporary files ({error.strerror}); free some or set TMPDIR") from None
    folder, lock = hidden(place / _TEMPORARY), None
    try:
        sweep(place / _TEMPORARY)
        lock = make_locked(folder)
        yield folder
    except OSError as error:
        reason = unwritable(error)
        where = folder if error.filename is None else Path(error.filename)
        if reason is None or folder not in (where, *where.parents):
            raise
        raise UserError(f"cannot write in {place}: {reason}; free some or set TMPDIR to another place") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def read_cfl(name: str | Path, *, mapped: bool = False) -> NDArray[np.complex64]:
    """Read ``NAME.cfl`` with the dimensions of ``NAME.hdr``.

    Parameters
    ----------
    name : path
        Name without suffix; ``basis_0.5`` is ``basis_0.5.cfl`` and ``basis_0.5.hdr``.
    mapped : bool
        Map the file (read only) instead of reading it: for large ones.

    Returns
    -------
    complex64 array, column-major
        Its shape is the header's list, singleton dimensions included.

    Raises
    ------
    UserError
        A file is missing, the header is unreadable, or the size of the data is another.
    """
    dims = _read_dims(name)
    path = with_suffix(name, ".cfl")
    expected = math.prod(dims) * _DTYPE.itemsize
    try:
        size = path.stat().st_size
        if size != expected:
            what = "truncated" if size < expected else "too long"
            listed = " ".join(map(str, dims))
            raise UserError(
                f"{path} is {what}: it has {size} bytes, expected {expected} for the dimensions {listed} "
                "of its header; copy or make it again"
            )
        if mapped:
            return np.memmap(path, dtype=_DTYPE, mode="r", shape=dims, order="F")
        return np.fromfile(path, dtype=_DTYPE).reshape(dims, order="F")
    except OSError as error:
        raise _unreadable(name, path, error) from None


def _unreadable(name: str | Path, path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read {path} ({error.strerror or error}); a BART file is the pair {name}.hdr and {name}.cfl, "
        "named without the suffix: check the name"
    )


def _read_dims(name: str | Path) -> tuple[int, ...]:
    """Read the sizes that follow ``# Dimensions``; other sections of the header are ignored."""
    path = with_suffix(name, ".hdr")
    try:
        with path.open("rb") as stream:
            lines = stream.read(_HEADER_BYTES).decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise _unreadable(name, path, error) from None
    lines = [line.strip() for line in lines if line.strip()]
    start = next((i for i, line in enumerate(lines) if line.lower().lstrip("# ").startswith("dimensions")), None)
    words = lines[start + 1].split() if start is not None and start + 1 < len(lines) else []
    wrong = ""
    if not words or words[0].startswith("#"):
        wrong = "no line '# Dimensions' followed by sizes"
    elif not all(re.fullmatch(r"[0-9]{1,18}", word) and int(word) > 0 for word in words):
        wrong = f"the dimensions read {' '.join(words)[:80]!r}, expected positive whole numbers"
    elif len(words) > _MAX_DIMS:
        wrong = f"it lists {len(words)} dimensions, expected at most {_MAX_DIMS}"
    elif math.prod(map(int, words)) * _DTYPE.itemsize > sys.maxsize:
        wrong = f"the dimensions {' '.join(words)} are more than any file can hold"
    if wrong:
        raise UserError(f"{path} is not a BART header: {wrong}; make it again")
    return tuple(map(int, words))


def write_cfl(name: str | Path, array: NDArray[np.number]) -> None:
    """Write an array, its shape being the list of dimensions, as ``NAME.cfl`` and ``NAME.hdr``.

    A column-major complex64 array is written as it lies in memory: that is what a C-ordered
    array becomes by `transpose`, singleton axes inserted or not. Others are converted in chunks.

    Raises
    ------
    ValueError
        The array is empty or has more than 16 axes.
    OSError
        Writing failed (not `UserError`: who chose the place says what to do about it).
    """
    rows = np.atleast_1d(array).T
    if rows.flags.c_contiguous and rows.dtype == _DTYPE:
        write_cfl_blocks(name, array.shape, [rows])
        return
    while rows.ndim > 1 and rows.shape[0] == 1:
        rows = rows[0]
    step = max(1, _CHUNK * len(rows) // max(1, rows.size))
    write_cfl_blocks(name, array.shape, (rows[i : i + step] for i in range(0, len(rows), step)))


def write_cfl_blocks(name: str | Path, dims: Sequence[int], blocks: Iterable[NDArray[np.number]]) -> None:
    """Write a BART file from C-ordered blocks that follow one another in it.

    Parameters
    ----------
    name : path
        Name without suffix.
    dims : sequence of int
        Dimensions for the header.
    blocks : iterable of arrays
        Together as many numbers as `dims` say. They may be made one by one, so that the whole
        never exists in memory; nothing is mapped, since a full disk kills whoever maps a file.

    Raises
    ------
    ValueError
        `dims` are not 1 to 16 positive numbers, or the blocks are more or fewer numbers.
    OSError
        Writing failed.
    """
    dims = tuple(dims) or (1,)
    if len(dims) > _MAX_DIMS or min(dims) < 1:
        raise ValueError(f"the dimensions are {dims}, expected at most {_MAX_DIMS} positive numbers")
    written = 0
    with with_suffix(name, ".cfl").open("wb") as stream:
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype=_DTYPE).data.cast("B"))
            written += block.size
    if written != math.prod(dims):
        raise ValueError(f"{written} numbers were given for the dimensions {dims}, expected {math.prod(dims)}")
    # the header comes last: where it is, the data are whole
    text = f"# Dimensions\n{' '.join(map(str, dims))}\n# Creator\ncrbsvd-plugin\n"
    with_suffix(name, ".hdr").write_text(text, encoding="utf-8")
