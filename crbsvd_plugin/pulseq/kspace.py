"""The trajectory of a Pulseq file, written as `--traj-file` of `crbsvd recon` and `maps` takes it, see `trajfile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import bart, files
from ..errors import UserError
from .scan import Scan
from .train import Train

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "crbsvd-trajectory-1"


def trajectory(path: Path, frame: str) -> NDArray[np.float64]:
    """Return the positions (3, S, R, 1, 1, T) of the samples in cycles per field of view.

    k_a(t) = FOV_a (integral of G_a since the pulse - j u_a) [cycles/m] on the axes a = x, y, z of the gradients; see
    `train` for j and u. The R readouts of each of the T frames are in the order of acquisition.

    Parameters
    ----------
    path : Path
        The file; its definition FOV is the field of view.
    frame : str
        As of `train.Train`.

    Raises
    ------
    UserError
        The file cannot be mapped, has no field of view, or readouts of unequal length or number.
    """
    scan = Scan.read(path)
    if scan.fov is None:
        raise UserError(f"{path} has no definition FOV, expected one of three lengths in m: add it to [DEFINITIONS]")
    train = Train(scan, frame)
    first = train.echoes[0].readout
    for echo in train.echoes:
        if len(echo.readout.times) != len(first.times):
            raise UserError(
                f"{path}: block {echo.readout.block}: an ADC of {len(echo.readout.times)} samples, that of block "
                f"{first.block} has {len(first.times)}: expected one number, or the label NOISE or NAV"
            )
    rows: list[list[NDArray[np.float64]]] = [[] for _ in range(max(train.frames) + 1)]
    for number, echo in zip(train.frames, train.echoes, strict=True):
        rows[number].append(echo.position * scan.fov)
    if len({len(row) for row in rows}) > 1:
        uneven = ", ".join(map(str, sorted({len(row) for row in rows})))
        raise UserError(f"{path}: frames have {uneven} readouts, expected one number for all frames")
    return np.array(rows).transpose(3, 2, 1, 0)[:, :, :, None, None, :]


def write(path: Path, name: str, frame: str, *, force: bool) -> tuple[int, ...]:
    """Write the trajectory of a file as NAME.cfl, NAME.hdr and NAME.json, and return its dimensions.

    Raises
    ------
    UserError
        As of `trajectory`; or a file exists already, or cannot be written.
    """
    array = trajectory(path, frame)
    members = [f"{Path(name).name}{suffix}" for suffix in (".cfl", ".hdr")]
    content: dict[str, Any] = {"units": "cycles/fov", "frame": frame, "sequence": files.sha256(path)}
    with files.product(files.with_suffix(name, ".json"), members, kind=FORMAT, force=force) as product:
        cfl, _ = (product.path(member) for member in members)
        bart.write_cfl(str(cfl)[: -len(".cfl")], array)
        product.commit(content)
    return array.shape
