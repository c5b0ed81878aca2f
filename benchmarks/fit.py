"""Fit maps: ours against other ways to the same maps.

``nlls``: nonlinear least squares of 256 x 256 voxels, see `_nlls`.
"""

from __future__ import annotations

import _nlls
import harness

if __name__ == "__main__":
    harness.main("fit", {"nlls": _nlls.nlls})
