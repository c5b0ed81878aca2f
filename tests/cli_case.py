"""A tiny scan with its basis, and the command run on it, for the tests of the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin.cli import main

N_FRAMES, MATRIX, N_COILS, N_SHOTS, RANK = 40, 32, 4, 2, 4
COMMAND = [sys.executable, "-c", "import sys; from crbsvd_plugin.cli import main; sys.exit(main())"]
SIZES = ("--train", "400", "--atoms", "800", "--rank", str(RANK))
SCAN = ("--matrix", str(MATRIX), "--coils", str(N_COILS), "--shots", str(N_SHOTS))
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
del sys.argv[1]
from crbsvd_plugin.cli import main
sys.exit(main())
"""


def write_spec(folder: Path) -> None:
    """Write spec.toml: two lobes of flip angles."""
    angles = 10 + 50 * np.abs(np.sin(np.arange(N_FRAMES) * 2 * np.pi / N_FRAMES)).round(3)
    text = ", ".join(f'"{angle:.2f} deg"' for angle in angles)
    lines = ['name = "mrf-fisp"', f"flip_angles = [{text}]", 'tr = "20 ms"', 'te = "5 ms"']
    (folder / "spec.toml").write_text("\n".join(lines) + "\n")


def build(folder: Path) -> Path:
    """Make spec.toml, the basis b, the raw data raw.h5 and the coefficients c, through the command."""
    write_spec(folder)
    b, raw, c = (str(folder / name) for name in ("b", "raw.h5", "c"))
    assert main(["basis", str(folder / "spec.toml"), "-o", b, *SIZES]) == 0
    assert main(["simulate", str(folder / "spec.toml"), "-o", raw, *SCAN]) == 0
    assert main(["recon", raw, b, "-o", c, "--threads", "1"]) == 0
    return folder


def listing(folder: Path) -> dict[str, tuple[int, bytes] | None]:
    """Return all files, hidden ones too, with their times and contents; folders are None."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def run(*arguments: str, cwd: Path, command: list[str] | None = None, **options: Any) -> Any:
    """Run the real command in a process of its own, in another folder, and return what it did."""
    variables = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [*(command or COMMAND), *arguments],
        cwd=cwd, env=variables, capture_output="stdout" not in options, text=True, timeout=300, check=False, **options,
    )  # fmt: skip


def refuser(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Give what runs the command in this process, in a folder that must stay as it is, and returns its one line."""

    def refuse(*arguments: str, changes: bool = False) -> str:
        before = listing(folder)
        capsys.readouterr()
        signal.alarm(60)  # what hangs shall fail
        status = main(list(arguments))
        signal.alarm(0)
        out, err = capsys.readouterr()
        assert (status, out) == (2, ""), err
        assert err.startswith("crbsvd: ")
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert changes or listing(folder) == before
        return err

    yield refuse
    signal.alarm(0)
