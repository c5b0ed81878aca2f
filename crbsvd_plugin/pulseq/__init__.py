"""Pulseq files (formats 1.4 and 1.5) as sequences: what `crbsvd basis scan.seq` and `crbsvd trajectory` need.

`scan` reads pulses, gradients and readouts, `train` maps them to the operators of the phase graphs, `kspace` writes the
trajectory. A sidecar never names a .seq file: it holds the operators, see `models.operators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .scan import Scan
from .train import Train

SUFFIX = ".seq"
ADC = "adc"
"""What the setting ``frame`` says where every readout is a frame of its own; else the name of a label."""


def is_named(name: object) -> bool:
    """Return whether a SPEC is a Pulseq file."""
    return isinstance(name, str) and name.endswith(SUFFIX)


def settings(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the model `pulseq` that a file means; `content` goes before what the file implies.

    Raises
    ------
    UserError
        The file cannot be read, or the phase graphs cannot represent it.
    """
    frame = content.get("frame", ADC)
    if not isinstance(frame, str):
        raise UserError(f"frame is {frame!r}, expected {ADC} or the name of a label, such as ECO")
    told = {key: value for key, value in content.items() if key not in ("name", "frame")}
    train = Train(Scan.read(path), frame)
    implied = {"operators": train.operators().tolist(), "w0": train.balanced, "t1_nuisance": train.spin_echoes}
    return {"name": "pulseq", **implied, **told}
