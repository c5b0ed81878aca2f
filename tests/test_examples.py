"""Every example runs as a script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
# what each of them leaves behind, and something that it says
MADE = {
    "basis_for_bart": (["out.cfl", "out.hdr", "out.json"], "bart pics"),
    "sweep_mrf": (["out/findings.md", "out/sweep.csv", "out/sweep.png", "out/scatter.png"], "take --rank"),
}


def test_all_examples_are_known() -> None:
    assert {script.stem for script in EXAMPLES} == MADE.keys()


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, script, "out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files, words = MADE[script.stem]
    assert all((tmp_path / name).stat().st_size for name in files)
    assert words in done.stdout
