"""The problem of one image, once all of its readouts are in: its images, those with noise added, and its misfit.

What is not needed any more is let go of on the way: readouts are as large as all the rest.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import Config
from .encoding import SubspaceOperator
from .intake import Intake
from .kernel_cache import KernelCache
from .progress import Report, silent
from .readouts import Group, joined
from .recon import first_images, reconstruct, solve
from .recon.circulant import Circulant
from .recon.misfit import Misfit, misfit
from .recon.replicas import white_noise
from .sums import KernelSum
from .toeplitz import Toeplitz

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Equations:
    """The normal equations, for our own solvers.

    Parameters
    ----------
    intake : Intake
        Closed; what it holds is taken from it.
    sens : complex array (C, *X)
        Sensitivities.
    kernels : KernelCache, optional
        Has the kernel, or shall keep it.
    """

    def __init__(self, intake: Intake, sens: NDArray[np.complex64], kernels: KernelCache | None):
        self.config, self.sens, self._phi = intake.config, sens, intake.basis.phi
        sums, intake.sums = intake.sums, None
        self.right = np.zeros((self._phi.shape[1], *sens.shape[1:]), np.complex64)
        if sums is not None:
            self.right += sums.right_hand_side(sens)
        kernel = None if sums is None else sums.kernel
        if sums is None and kernels is None:
            kernel = KernelSum(sens.shape[1:], len(self.right))
        del sums
        if intake.pending:
            group = joined(intake.pending)
            last = self._operator(group)
            self.right += last.adjoint(group.ksp)
            if kernel is not None:
                kernel.add(last)
            intake.keep(group)
            del group, last
        self.kept, intake.kept = intake.kept, []
        if kernels is not None:
            self.toeplitz = self._cached(kernels)
        else:
            assert kernel is not None
            self.toeplitz = kernel.toeplitz
            del kernel
        if not self.config.keeps_data:
            self.kept = []
        self._whole: SubspaceOperator | None = None
        if self.config.start != "zero":
            self.kept = [joined(self.kept)]
            self._whole = self._operator(self.kept[0])
            self._whole.toeplitz = self.toeplitz
        self._inverse = None
        if self.config.preconditioner != "none":
            self._inverse = Circulant(self.toeplitz, sens, self.config.lam)

    def images(self, rng: np.random.Generator | None = None, *, report: Report = silent) -> NDArray[Any]:
        """Return coefficient images (K, *X), with a generator those of data with white noise added."""
        right, noise = self.right, None
        if rng is not None:
            right = right.copy()
            for group in self.kept:
                noise = white_noise(rng, group.ksp.shape)
                right += self._operator(group).adjoint(noise)
        start = None
        if self._whole is not None:
            ksp = self.kept[0].ksp if noise is None else self.kept[0].ksp + noise
            start = first_images(
                self.config.start, self._whole, ksp, right, lam=self.config.lam, regulariser=self.config.regulariser
            )
        del noise
        normal = partial(self.toeplitz.normal, sens=self.sens)
        return solve(normal, right, start=start, preconditioner=self._inverse, **_options(self.config, report))

    def misfit(self, coeff: NDArray[Any]) -> Misfit:
        """Return how much of the data the images explain."""
        first, *others = (misfit(self._operator(group), group.ksp, coeff) for group in self.kept)
        return sum(others, first)

    def _operator(self, group: Group) -> SubspaceOperator:
        return SubspaceOperator(group.traj, frame=group.frame, phi=self._phi, sens=self.sens, weights=group.weights)

    def _cached(self, kernels: KernelCache) -> Toeplitz:
        """Return the kernel of all positions, in the order of the scan: another order would be another name."""
        whole = joined([replace(group, ksp=group.ksp[:0]) for group in self.kept])
        order = np.argsort(whole.time, kind="stable")
        weights = whole.weights if whole.weights is None else whole.weights[order]
        return SubspaceOperator(
            whole.traj[order], frame=whole.frame[order], phi=self._phi, sens=self.sens[:1], weights=weights,
            kernel_cache=kernels,
        ).toeplitz  # fmt: skip


class Data:
    """The data and their operator, for other backends; the arguments are those of `Equations`."""

    def __init__(self, intake: Intake, sens: NDArray[np.complex64], kernels: KernelCache | None):
        self.config = intake.config
        group = joined(intake.pending)
        self.operator = SubspaceOperator(
            group.traj, frame=group.frame, phi=intake.basis.phi, sens=sens, weights=group.weights, kernel_cache=kernels
        )
        self.ksp = group.ksp

    def images(self, rng: np.random.Generator | None = None, *, report: Report = silent) -> NDArray[Any]:
        """Return what `Equations.images` does."""
        ksp = self.ksp
        if rng is not None:
            # the noise, to which the data are added: one more k-space, not two
            ksp = white_noise(rng, ksp.shape)
            ksp += self.ksp
        return reconstruct(
            self.operator, ksp, backend=self.config.backend, bart_options=self.config.bart_options,
            start=self.config.start, **_options(self.config, report),
        )  # fmt: skip

    def misfit(self, coeff: NDArray[Any]) -> Misfit:
        """Return what `Equations.misfit` does."""
        return misfit(self.operator, self.ksp, coeff)


def _options(config: Config, report: Report) -> dict[str, Any]:
    return {
        "lam": config.lam, "regulariser": config.regulariser, "block": config.block, "shift": config.shift,
        "scaling": config.scaling, "solver": config.solver, "iterations": config.iterations,
        "tolerance": config.tolerance,
        "callback": lambda iteration, _: report("reconstruction", iteration, config.iterations),
    }  # fmt: skip
