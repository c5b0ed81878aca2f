"""One group of readouts, from its data to coefficient images and maps. It knows no other group.

Data are let go of as soon as they are not needed any more: they are as large as all the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import coils, threads
from .basis import Basis
from .calibration import calibrated, mixed
from .config import Config
from .dictionary import Dictionary
from .encoding import SubspaceOperator, coefficient_noise
from .fit.matching import match
from .fit.result import Maps
from .footprint import Problem, check
from .geometry import Geometry
from .kernel_cache import KernelCache
from .progress import Report, counted, silent
from .readouts import Group
from .recon import reconstruct, solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cluster import Pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconstruction:
    """One group, reconstructed.

    Parameters
    ----------
    key : dict of str to int
        Values of the group counters.
    coeff : complex64 array (K, *X)
        Coefficient images.
    geometry : Geometry
        Where they lie.
    sigma : float
        Noise of a coefficient per real component, see `encoding.coefficient_noise`; 0 if unknown.
    maps : Maps or None
        The fit.
    digest : str
        `Basis.digest` of the basis.
    calibration : dict
        What was found in the data and used: virtual coils, phases of the shots, gradient delays.
    """

    key: dict[str, int]
    coeff: NDArray[np.complex64]
    geometry: Geometry
    sigma: float
    maps: Maps | None
    digest: str
    calibration: dict[str, Any] = field(default_factory=dict)


def taken(groups: list[Group]) -> Iterator[list[Group]]:
    """Yield every group in a list of its own, and keep none: whoever empties that list has the only one."""
    while groups:
        yield [groups.pop(0)]


def reconstruct_group(
    box: list[Group],
    *,
    whiten: NDArray[Any] | None,
    basis: Basis,
    dictionary: Dictionary | None,
    config: Config,
    cache: Path | None,
    report: Report = silent,
) -> Reconstruction:
    """Return the images and maps of the group in a box, which is empty afterwards; here, or on a worker.

    Parameters
    ----------
    box : list of one Group
        Whoever calls this keeps the box, but not the group.
    whiten : array (C, C), optional
        Prewhitening; None: there is no noise scan.
    basis, dictionary, config
        What to do; without a dictionary there are no maps.
    cache : Path, optional
        Folder for kernels.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        The data do not fit.
    """
    group = box.pop()
    coils.refuse_silent(group.ksp, "raw data")
    if whiten is not None:
        mixed(group.ksp, whiten, out=group.ksp)  # nobody else has them
    group, calibration = calibrated(
        group, basis.phi, virtual=config.coils, phase_drift=config.phase_drift,
        gradient_delays=config.gradient_delays, fov_shift=config.fov_shift, report=report,
    )  # fmt: skip
    sigma = 0.0 if whiten is None else _noise(group, basis)
    logger.info(
        "image %s: %d coils, %d readouts of %d samples, %d voxels; noise of a coefficient %.4g",
        group.key, *group.ksp.shape, np.prod(group.shape), sigma,
    )  # fmt: skip
    key, geometry = group.key, group.geometry
    box.append(group)
    del group
    coeff = _coefficients(box, basis, config, cache, report)
    maps = None
    if dictionary is not None:
        maps = fit(coeff, dictionary, mask_level=config.mask_level, refine=config.refine, report=report)
    return Reconstruction(key, coeff, geometry, sigma, maps, basis.digest, calibration)


def _noise(group: Group, basis: Basis) -> float:
    return coefficient_noise(group.traj, group.shape, n_frames=basis.n_frames, weights=group.weights)


def _coefficients(box: list[Group], basis: Basis, config: Config, cache: Path | None, report: Report) -> NDArray[Any]:
    group = box.pop()
    report("sensitivities", 0, 0)
    sens = coils.estimate_sensitivities(
        group.ksp, group.traj, frame=group.frame, phi=basis.phi, shape=group.shape, espirit=config.sens
    )
    # made again on a worker's machine
    kernels = None if cache is None else KernelCache(cache)
    operator = SubspaceOperator(
        group.traj, frame=group.frame, phi=basis.phi, sens=sens, weights=group.weights, kernel_cache=kernels
    )
    ksp = group.ksp
    del group
    report("reconstruction", 0, config.iterations)
    options: dict[str, Any] = {
        "lam": config.lam, "regulariser": config.regulariser, "block": config.block, "shift": config.shift,
        "scaling": config.scaling, "solver": config.solver, "iterations": config.iterations,
        "tolerance": config.tolerance,
        "callback": lambda iteration, _: report("reconstruction", iteration, config.iterations),
    }  # fmt: skip
    if config.backend != "native":
        return reconstruct(operator, ksp, backend=config.backend, bart_options=config.bart_options, **options)
    right = operator.adjoint(ksp)
    del ksp
    normal = partial(operator.toeplitz.normal, sens=sens)
    del operator
    return solve(normal, right, **options)


def fit(
    coeff: NDArray[Any],
    dictionary: Dictionary,
    *,
    mask_level: float,
    refine: bool = False,
    report: Report | None = None,
    pool: Pool | None = None,
) -> Maps:
    """Match coefficient images (K, *X) with a dictionary, here or on the workers of a pool, and report the progress."""
    report, total = report or silent, int(np.prod(coeff.shape[1:]))
    progress = counted(report, "fit", total)
    maps = match(coeff, dictionary, mask_level=mask_level, refine=refine, progress=progress, pool=pool)
    report("fit", total, total)  # masked voxels are done too
    return maps


def check_memory(groups: list[Group], basis: Basis, config: Config) -> None:
    """Refuse images that need more memory than there is left."""
    held = sum(group.ksp.nbytes + group.traj.nbytes for group in groups)
    for group in groups:
        n_receivers, n_readouts, n_samples = group.ksp.shape
        problem = Problem(
            shape=group.shape, n_readouts=n_readouts, n_samples=n_samples, n_receivers=n_receivers,
            n_coils=config.kept_coils(n_receivers), rank=basis.rank, real=bool(np.isrealobj(basis.phi)),
            solver=config.chosen_solver, n_threads=threads.count(), n_images=len(groups),
        )  # fmt: skip
        check(problem, held=held)
