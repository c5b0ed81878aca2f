"""Our side of `recon.py` as a process: BART files in, coefficient images as a BART file out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from crbsvd_plugin import bart
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.recon import reconstruct


def read(folder: Path) -> tuple[SubspaceOperator, np.ndarray]:
    """Return the operator and k-space of the files in `folder`."""
    phi = bart.read_cfl(folder / "basis").squeeze()
    phi = phi if phi.imag.any() else phi.real
    sens = bart.read_cfl(folder / "sens").transpose(3, 2, 1, 0)  # x y z, coils
    sens = sens if sens.shape[1] > 1 else sens[:, 0]
    traj = bart.read_cfl(folder / "traj")[: sens.ndim - 1, :, :, 0, 0].real  # x y z, samples, spokes, frames
    ksp = bart.read_cfl(folder / "ksp")[0, :, :, :, 0]  # samples, spokes, coils, frames
    n_samples, n_spokes, n_coils, n_frames = ksp.shape
    ksp = ksp.transpose(2, 1, 3, 0).reshape(n_coils, -1, n_samples)
    traj = traj[::-1].transpose(2, 3, 1, 0).reshape(-1, n_samples, sens.ndim - 1)
    return SubspaceOperator(traj, frame=np.tile(np.arange(n_frames), n_spokes), phi=phi, sens=sens), ksp


def main(folder: Path, output: str, options: dict[str, Any]) -> None:
    """Reconstruct the files in `folder`, as `bart pics -w1` would."""
    operator, ksp = read(folder)
    coeff = reconstruct(operator, ksp, shift="none", **options)
    image = coeff.reshape(len(coeff), -1, *coeff.shape[-2:]).transpose(3, 2, 1, 0)
    bart.write_cfl(folder / output, image[:, :, :, None, None, None, :])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("iterations", type=int)
    parser.add_argument("--output", default="native")
    parser.add_argument("--regulariser", default="l2")
    parser.add_argument("--lam", type=float, default=0.0)
    given = vars(parser.parse_args())
    main(given.pop("folder"), given.pop("output"), given)
