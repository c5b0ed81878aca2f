"""How much of the data a reconstruction explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoding import SubspaceOperator

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Misfit:
    """Energies of the data, frame by frame.

    Parameters
    ----------
    left : float64 array (T,)
        sum w |A c - y|^2.
    whole : float64 array (T,)
        sum w |y|^2.
    noise : float64 array (T,)
        Mean of `left` for right images of data with unit noise per real component, 2 sum w.
    n_unknowns, n_samples : int
        Numbers of the images, K n_voxels, and samples of all coils.
    """

    left: NDArray[np.float64]
    whole: NDArray[np.float64]
    noise: NDArray[np.float64]
    n_unknowns: int
    n_samples: int

    def __add__(self, other: Misfit) -> Misfit:
        """Return that of the data of both, for the same images."""
        return Misfit(
            self.left + other.left, self.whole + other.whole, self.noise + other.noise, self.n_unknowns,
            self.n_samples + other.n_samples,
        )  # fmt: skip

    @property
    def fitted(self) -> float:
        """Share of the noise that the images can take up, at most."""
        return self.n_unknowns / max(1, self.n_samples)

    def figures(self, *, noise_known: bool) -> dict[str, Any]:
        """Return what a sidecar says.

        ``outside``: share of the energy of the data that the images do not explain. Where the noise is known, also
        ``of_noise``, the share that noise would leave, ``ratio`` of the two, 1 - ``fitted`` to 1 for data that fit,
        and ``ratio_by_frame``; else ``outside_by_frame``. None for a frame without data.
        """
        found: dict[str, Any] = {"outside": _ratio(self.left.sum(), self.whole.sum())}
        if not noise_known:
            return found | {"outside_by_frame": list(map(_ratio, self.left, self.whole))}
        return found | {
            "of_noise": _ratio(self.noise.sum(), self.whole.sum()),
            "ratio": _ratio(self.left.sum(), self.noise.sum()),
            "fitted": float(f"{self.fitted:.4g}"),
            "ratio_by_frame": list(map(_ratio, self.left, self.noise)),
        }


def misfit(operator: SubspaceOperator, ksp: NDArray[Any], coeff: NDArray[Any]) -> Misfit:
    """Return how much of k-space (C, R, S) coefficient images (K, *X) explain; one coil at a time is in memory.

    Parameters
    ----------
    operator : SubspaceOperator
        A and w.
    ksp : complex array (C, R, S)
        Whitened k-space y; where weights are 0, any.
    coeff : complex array (K, *X)
        c.
    """
    present, n_frames = operator.weights > 0, len(operator.phi)
    left, whole = np.zeros((2, len(operator.frame)))
    for coil, samples in enumerate(ksp):
        one = SubspaceOperator(
            operator.traj, frame=operator.frame, phi=operator.phi, sens=operator.sens[coil : coil + 1],
            weights=operator.weights, dtype=operator.dtype,
        )  # fmt: skip
        explained = one.forward(coeff)[0]
        whole += _energy(samples, operator.weights, present)
        explained -= samples
        left += _energy(explained, operator.weights, present)
    noise = 2 * len(ksp) * operator.weights.sum(axis=1, dtype=np.float64)

    def by_frame(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(operator.frame, rows, minlength=n_frames).astype(np.float64)

    n_samples = len(ksp) * int(np.count_nonzero(present))
    return Misfit(by_frame(left), by_frame(whole), by_frame(noise), coeff.size, n_samples)


def told(figures: dict[str, Any]) -> str:
    """Return the figures of `Misfit.figures` in words."""
    text = f"{100 * (figures['outside'] or 0):.3g} % of the data's energy is not explained"
    if "ratio" not in figures:
        return text
    frames = np.array([np.nan if one is None else one for one in figures["ratio_by_frame"]])
    worst = int(np.nanargmax(frames))
    return (
        f"{text}, {figures['ratio']:.3g} times what noise leaves ({1 - figures['fitted']:.3g} to 1 where sequence and "
        f"basis fit); in frame {worst} it is {frames[worst]:.3g} times, the median is {np.nanmedian(frames):.3g}"
    )


def _energy(samples: NDArray[Any], weights: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weighted energies (R,) of the samples (R, S) that are there."""
    return np.sum(weights * np.abs(samples) ** 2, axis=1, dtype=np.float64, where=present)


def _ratio(part: float, whole: float) -> float | None:
    return float(f"{part / whole:.4g}") if whole > 0 else None
