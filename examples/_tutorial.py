"""What the six tutorials share: a folder of their own, and commands that are shown before they run."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

THREADS = ("--threads", "1")  # all is small here, and threads that wait for one another take longer
SHOWN = 14  # lines of what a command says
PROGRAM = [sys.executable, "-c", "import sys; from crbsvd_plugin.cli import main; sys.exit(main())"]


def enter(about: str | None) -> None:
    """Make the folder that the user names, and go there."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", type=Path, help="a new folder for all that is made")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)


def say(text: str) -> None:
    """Print a line of explanation."""
    print(f"\n# {text}", flush=True)


def crbsvd(line: str) -> None:
    """Show a command, run it and print what it says; if it fails, the tutorial ends with its status."""
    print(f"$ crbsvd {line}", flush=True)
    done = subprocess.run([*PROGRAM, *shlex.split(line), *THREADS], stdout=subprocess.PIPE, text=True, check=False)
    said = done.stdout.splitlines()
    for text in said[:SHOWN]:
        print(text)
    if len(said) > SHOWN:
        print(f"... {len(said) - SHOWN} lines more")
    sys.stdout.flush()
    if done.returncode:
        sys.exit(done.returncode)
