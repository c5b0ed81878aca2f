"""Fit maps: ours against other ways to the same maps.

``match``: the best of 281,250 atoms for 65,536 voxels, see `_match`, with rows that are less usual; ``nlls``: nonlinear
least squares of 256 x 256 voxels, see `_nlls`; ``perk``: kernel regression beside matching and least squares, with bias
and error of T1 and T2, see `_perk`.
"""

from __future__ import annotations

import argparse

import _match
import _nlls
import _perk
import harness

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--voxels", type=int, default=_match.VOXELS, help="of match, for a look")
    options, _ = parser.parse_known_args()
    cases = {"match": lambda: _match.match(options.voxels), "nlls": _nlls.nlls, "perk": _perk.perk}
    harness.main("fit", cases, options=parser)
