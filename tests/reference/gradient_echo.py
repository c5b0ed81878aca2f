"""Bloch simulation of gradient-echo trains with preparations, off resonance, balanced or dephased: plain rotations.

The voxel is J isochromats, which a dephased TR turns by 2 pi j / J; with J above the number of pulses their mean is the
integral over the voxel. Right-handed: a pulse of phase 0 takes Mz to -i sin(a). Times in s, angles in rad, M0 = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Voxel:
    """The magnetisation of one voxel, from equilibrium on."""

    def __init__(self, tissue: Mapping[str, float], n_isochromats: int):
        self.tissue = {"B1": 1.0, "w0": 0.0} | dict(tissue)
        self.xy, self.z = np.zeros(n_isochromats, np.complex128), np.ones(n_isochromats)
        self.turn = 2 * np.pi * np.arange(n_isochromats) / n_isochromats

    def pulse(self, angle: float, phase: float) -> None:
        """Rotate about the axis at `phase`."""
        angle *= self.tissue["B1"]
        local = self.xy * np.exp(-1j * phase)
        c, s = np.cos(angle), np.sin(angle)
        y, z = c * local.imag - s * self.z, s * local.imag + c * self.z
        self.xy, self.z = (local.real + 1j * y) * np.exp(1j * phase), z

    def rest(self, time: float) -> None:
        """Precess and relax."""
        self.xy = self.xy * np.exp((1j * self.tissue["w0"] - 1 / self.tissue["T2"]) * time)
        self.z = 1 + (self.z - 1) * np.exp(-time / self.tissue["T1"])

    def crush(self) -> None:
        """Leave nothing transverse."""
        self.xy = np.zeros_like(self.xy)

    def prepare(self, block: Mapping[str, Any]) -> None:
        """Play one block, in the words of a TOML file."""
        self.crush()
        if block["kind"] == "inversion":
            self.z = -block.get("efficiency", 1.0) * self.z
        elif block["kind"] == "t2-preparation":
            self.z = self.z * np.exp(-block["te"] / self.tissue["T2"])
        self.rest(block["time"] if block["kind"] == "delay" else block.get("delay", 0.0))


def signal(
    tissue: Mapping[str, float],
    *,
    flip_angles: Sequence[float],
    phases: Sequence[float],
    tr: Sequence[float],
    te: Sequence[float],
    dephased: bool,
    blocks: Sequence[Mapping[str, Any]] = (),
    recovery: float | None = None,
) -> Array:
    """Return the signals of a train, of its second repetition if there is a recovery."""
    n = len(flip_angles)
    voxel = Voxel(tissue, (2 * n + 3) * (1 if recovery is None else 2) if dephased else 1)
    out = np.empty(n, np.complex128)
    for repetition in range(1 if recovery is None else 2):
        if repetition:
            voxel.rest(recovery or 0.0)
            voxel.crush()
        for i in range(n):
            for block in blocks:
                if block["before"] == i:
                    voxel.prepare(block)
            voxel.pulse(flip_angles[i], phases[i])
            voxel.rest(te[i])
            out[i] = voxel.xy.mean() * np.exp(-1j * phases[i])
            voxel.rest(tr[i] - te[i])
            if dephased:
                voxel.xy = voxel.xy * np.exp(1j * voxel.turn)
    return out
