"""BART as an external program: find it, run it, read and write its files.

Nothing here knows what the arrays mean.
"""

from .cfl import read_cfl, write_cfl, write_cfl_blocks
from .program import Feature, find, require, run, version
from .scratch import temporary_folder

__all__ = [
    "Feature", "find", "read_cfl", "require", "run", "temporary_folder", "version", "write_cfl", "write_cfl_blocks",
]  # fmt: skip
