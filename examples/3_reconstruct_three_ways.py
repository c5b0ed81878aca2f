"""Reconstruct one radial scan three ways: by this program, by SigPy's solver and by BART, and compare what they give.

They solve the same problem, with the same lambda. Without BART it is left out.
"""

from __future__ import annotations

import shutil
import sys

import numpy as np
from _tutorial import crbsvd, enter, say

import crbsvd_plugin as crb
from crbsvd_plugin.maps import load_map

# ||c - c_native|| / ||c_native||: SigPy has our operator, so that rounding is left (single precision, 30 iterations);
# BART has gridding of its own, of about 1e-3, and half of the noise of this scan, of 1/50, would be too much
ALLOWED = {"sigpy": 1e-4, "bart": 1e-2}
NEAR = 0.98  # share of the voxels whose maps may differ by no more than one predicted standard deviation


def main() -> None:
    """Make basis, scan, coefficient images and maps in FOLDER; the status is 1 if a way gives something else."""
    enter(__doc__)

    say("a basis, and a phantom that is scanned with a golden-angle spoke for each of 1040 frames and 4 coils")
    crbsvd("basis mrf-fisp -o fisp --train 2000 --atoms 8000 --derivatives")
    crbsvd("simulate mrf-fisp -o scan.h5 --matrix 48 --coils 4 --shots 1 --snr 50")

    ways = ["native", "sigpy", *(["bart"] if shutil.which("bart") else [])]
    for way in ways:
        say(f"backend {way}: coefficient images, and maps with a step off the grid of the dictionary")
        crbsvd(f"recon scan.h5 fisp -o {way} --backend {way} --iterations 30")
        crbsvd(f"fit {way} fisp -o maps-{way} --refine")

    say("what differs from native")
    failed = False
    ours = crb.CoefficientImages.load("native").coeff
    for way in ways[1:]:
        away = np.linalg.norm(crb.CoefficientImages.load(way).coeff - ours) / np.linalg.norm(ours)
        failed |= bool(away > ALLOWED[way])
        print(f"{way}: coefficients {away:.1e}, allowed {ALLOWED[way]:g}")
        for name in ("T1", "T2"):
            here, there, std = (
                load_map(f"maps-{folder}/{file}.nii.gz")[0]
                for folder, file in ((way, f"{name}map"), ("native", f"{name}map"), ("native", f"{name}std"))
            )
            near = np.mean(np.abs(here - there)[std > 0] <= std[std > 0])
            failed |= bool(near < NEAR)
            print(f"{way}: {name} within a standard deviation in {100 * near:.1f} % of voxels, at least {100 * NEAR:g}")
    sys.exit("they differ" if failed else 0)


if __name__ == "__main__":
    main()
