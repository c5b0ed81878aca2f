"""Fit maps: ours against other ways to the same maps.

``nlls``: nonlinear least squares of 256 x 256 voxels, see `_nlls`.
``perk``: kernel regression beside matching and least squares, with bias and error of T1 and T2, see `_perk`.
"""

from __future__ import annotations

import _nlls
import _perk
import harness

if __name__ == "__main__":
    harness.main("fit", {"nlls": _nlls.nlls, "perk": _perk.perk})
