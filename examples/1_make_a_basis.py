"""Make a basis: from a sequence to the files that BART, fits and servers take; and the same in Python."""

from __future__ import annotations

import numpy as np
from _tutorial import crbsvd, enter, say

import crbsvd_plugin as crb
from crbsvd_plugin.presets import PRESETS


def main() -> None:
    """Make FOLDER/fisp.cfl .hdr .json .h5, and look at them."""
    enter(__doc__)

    say("5 coefficients for the 1040 frames of MRF-FISP; by default 20,000 fingerprints and 124,000 atoms, here few")
    crbsvd("basis mrf-fisp -o fisp --rank 5 --crb-weight 0.3 --train 2000 --atoms 8000")

    say("what is in the files")
    crbsvd("info fisp")
    basis = crb.Basis.load("fisp")
    print(f"phi: {basis.n_frames} frames x {basis.rank} coefficients, {basis.phi.dtype}")

    say("signals and coefficients: s = phi c, c = phi^H s")
    model = crb.models.build({"name": "mrf-fisp"})
    names = [parameter.name for parameter in model.parameters]
    white_matter = np.array([[{"T1": 0.85, "T2": 0.08}[name] for name in names]])  # seconds
    signal = model.signal(white_matter)[0]
    coeff = basis.phi.conj().T @ signal
    left = np.linalg.norm(signal - basis.phi @ coeff) / np.linalg.norm(signal)
    print(f"white matter in {basis.rank} numbers: {np.round(coeff, 3)}; they leave {100 * left:.2f} % of the signal")

    say("the same in Python, with three coefficients; a weight of 0 is the traditional SVD")
    prior = PRESETS["mao-mrf-table1"].thinned(1_000, model.parameters)
    for weight in (0.0, 0.5):
        small = crb.compute_basis(model, prior, rank=3, crb_weight=weight)
        loss = small.info["losses"]["all"]  # of the bounds approximately; `crbsvd sweep` has them exactly
        shares = ", ".join(f"{100 * share:.1f} % of {name}" for name, share in loss.items())
        print(f"crb weight {weight:g} loses {shares}")
        small.save(f"three_{weight:g}")

    say("BART takes it as it is")
    print("bart pics -l2 -r0.001 -w1 -t traj -B fisp ksp sens coeff")
    print("bart fmac -s 64 fisp coeff series        # the time series")
    print("crbsvd fit coeff fisp --like scan.h5 -o maps")


if __name__ == "__main__":
    main()
