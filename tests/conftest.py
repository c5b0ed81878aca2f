"""What all tests share: programs that may be missing, seeded randomness, read-only arrays."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_case
import hypothesis

# Importing ismrmrd puts warnings.simplefilter("default") in front of all filters. Imported first inside a test it
# would turn "warnings are errors" off for the rest of that test; imported here, before the tests, it cannot.
import ismrmrd  # noqa: F401
import numpy as np
import pytest

from crbsvd_plugin import threads

PROGRAMS = {"bart": "bart", "browser": "chromedriver"}  # marker: program

# compile time counts as time of the first example; and the same commit must give the same answer twice
hypothesis.settings.register_profile(
    "crbsvd", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("crbsvd")


def pytest_configure() -> None:
    # a shell without job control starts what it puts into the background with SIGINT ignored, and children inherit that
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, program in PROGRAMS.items():
        if item.get_closest_marker(marker) is None or shutil.which(program):
            continue
        if os.environ.get("CI") == "true":
            pytest.fail(f"the program {program} is missing, and CI=true allows no skips", pytrace=False)
        pytest.skip(f"the program {program} is missing")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say it in the very last line: pytest_terminal_summary would come before pytest's own closing line."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        n_skipped = sum("the program" in str(report.longrepr) for report in reporter.stats.get("skipped", []))
        reporter.write_line(f"{n_skipped} test{'' if n_skipped == 1 else 's'} skipped for want of a program")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(20261122)


@pytest.fixture
def frozen() -> Callable[..., np.ndarray]:
    """Copy an array into one that cannot be written to, so that a function that changes its input fails."""

    def freeze(array: object) -> np.ndarray:
        copy = np.array(array)
        copy.setflags(write=False)
        return copy

    return freeze


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny scan, its basis and its coefficients (see `cli_case`), to be copied and not changed."""
    return cli_case.build(tmp_path_factory.mktemp("made"))


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which is the working folder."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the specification of `cli_case` alone, which is the working folder."""
    cli_case.write_spec(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures empty: drawing them takes most of the time."""
    monkeypatch.setattr("crbsvd_plugin.charts._save", lambda _, path: path.touch())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: where problems are small, several would wait for one another."""
    with threads.limit(1):
        yield
