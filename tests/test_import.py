"""Importing the package and asking for help stay light: the heavy libraries load at first use."""

import subprocess
import sys

import pytest

HEAVY = {"finufft", "h5py", "ismrmrd", "matplotlib", "nibabel", "numba", "pywt", "scipy", "sigpy"}


@pytest.mark.parametrize("module", ["crbsvd_plugin", "crbsvd_plugin.cli", "crbsvd_gadgets"])
def test_import_loads_nothing_heavy(module):
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert not HEAVY & set(loaded)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['crbsvd', '--help']\n"
        "from crbsvd_plugin.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "crbsvd_plugin.cli" in loaded
    assert not HEAVY & set(loaded)
