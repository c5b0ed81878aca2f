"""Make a small CRB-SVD basis of MRF-FISP, and print the BART commands that use it."""

from __future__ import annotations

import argparse

import crbsvd_plugin as crb
from crbsvd_plugin.presets import PRESETS


def main() -> None:
    """Write NAME.cfl, NAME.hdr and NAME.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name of the basis, without suffix")
    name = parser.parse_args().name

    model = crb.models.build({"name": "mrf-fisp"})
    prior = PRESETS["mao-mrf-table1"].thinned(2_000, model.parameters)
    basis = crb.compute_basis(model, prior, rank=5, crb_weight=0.3)
    basis.save(name)
    print(f"basis of {basis.n_frames} frames; losses: {basis.info['losses']['all']}")
    print(f"bart pics -l2 -r0.001 -w1 -t traj -B {name} ksp sens coeff")
    print(f"bart fmac -s 64 {name} coeff series")


if __name__ == "__main__":
    main()
