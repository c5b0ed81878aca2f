"""One number of threads for everything, and the folder of compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba  # noqa: TID251 - whether its own settings are left alone
import pytest
from threadpoolctl import threadpool_info

from crbsvd_plugin import jit, threads
from crbsvd_plugin.errors import UserError


@pytest.fixture
def folder_asked_anew() -> Iterator[None]:
    jit.cache_folder.cache_clear()
    yield
    jit.cache_folder.cache_clear()


def test_limit_holds_inside_and_ends() -> None:
    before, numba_before = threads.count(), numba.get_num_threads()
    assert before == threads.available()
    with threads.limit(1):
        assert threads.count() == 1
        assert numba.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} <= {1}
        with threads.limit(3):  # more than the machine may have: numba cannot go beyond its own
            assert threads.count() == min(3, threads.available())
            assert numba.get_num_threads() == min(3, numba.config.NUMBA_NUM_THREADS)
        with threads.limit(None):
            assert threads.count() == 1
        assert (threads.count(), numba.get_num_threads()) == (1, 1)
    assert (threads.count(), numba.get_num_threads()) == (before, numba_before)


def test_limit_ends_with_an_exception() -> None:
    before = threads.count(), numba.get_num_threads()
    with pytest.raises(KeyError), threads.limit(1):
        raise KeyError
    assert (threads.count(), numba.get_num_threads()) == before


@pytest.mark.parametrize("n", [0, -2])
def test_no_threads_are_refused(n: int) -> None:
    with pytest.raises(UserError, match=f"--threads is {n}, expected at least 1"), threads.limit(n):
        pass


@pytest.mark.usefixtures("folder_asked_anew")
def test_compiled_code_is_kept_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRBSVD_CACHE", str(tmp_path / "here"))
    before = numba.config.CACHE_DIR

    @jit.kernel()
    def double(x):  # type: ignore[no-untyped-def]
        return 2 * x

    assert double(4) == 8
    assert before == numba.config.CACHE_DIR
    assert list((tmp_path / "here").rglob("*.nbi"))


@pytest.mark.usefixtures("folder_asked_anew")
def test_without_a_folder_it_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CRBSVD_CACHE", str(tmp_path / "file"))
    assert jit.cache_folder() is None

    @jit.kernel()
    def halve(x):  # type: ignore[no-untyped-def]
        return x / 2

    assert halve(4) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    code = (
        "import resource, numpy as np\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from crbsvd_plugin.jit import kernel\n"
        "@kernel()\n"
        "def twice(x):\n"
        "    return 2 * x\n"
        "print(twice(np.float64(21)))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    variables = {**os.environ, "CRBSVD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, script], env=variables, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("42.0\n", "")
    assert not list((tmp_path / "cache").rglob("*.nbc"))


@pytest.mark.usefixtures("folder_asked_anew")
def test_kept_code_is_stale_when_a_part_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba looks at the time and size of one file; its parts are told by their content."""
    monkeypatch.setenv("CRBSVD_CACHE", str(tmp_path / "cache"))
    head = "from crbsvd_plugin.jit import kernel\n"
    whole = f"{head}from a_part import add\n@kernel(parts=['a_part'])\ndef f(x): return add(x)"
    part = f"{head}@kernel(inline=True)\ndef add(x): return x + "
    (tmp_path / "a_whole.py").write_text(whole)
    found = []
    for number in (1, 2, 2, 1):
        (tmp_path / "a_part.py").write_text(f"{part}{number}\n")
        code = "import a_whole; print(a_whole.f(10), sum(a_whole.f.stats.cache_hits.values()))"
        command = [sys.executable, "-B", "-c", code]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        found.append(run.stdout.split())
    assert found == [["11", "0"], ["12", "0"], ["12", "1"], ["11", "1"]]
