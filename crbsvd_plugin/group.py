"""One group of readouts, from its data to coefficient images and maps. It knows no other group.

Data are let go of as soon as they are not needed any more: they are as large as all the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import coils, threads
from .basis import Basis
from .calibration import calibrated, mixed
from .config import Config
from .encoding import SubspaceOperator, coefficient_noise
from .fieldmap import FieldMap
from .fit.fitter import Fitter
from .fit.result import Maps
from .footprint import Problem, check
from .geometry import Geometry
from .kernel_cache import KernelCache
from .progress import Report, counted, silent
from .quality import known_noise, tangents_of, with_quality
from .readouts import Group
from .recon import first_images, preconditioner_of, reconstruct, solve
from .recon.misfit import Misfit, misfit, told
from .recon.replicas import replica_covariance

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_MISFIT = 2.0
"""Above this, what data and basis do not have in common is more than the noise."""


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
    misfit : dict
        How much of the data the images explain, see `recon.misfit.Misfit.figures`; empty if not asked for.
    """

    key: dict[str, int]
    coeff: NDArray[np.complex64]
    geometry: Geometry
    sigma: float
    maps: Maps | None
    digest: str
    calibration: dict[str, Any] = field(default_factory=dict)
    misfit: dict[str, Any] = field(default_factory=dict)


def taken(groups: list[Group]) -> Iterator[list[Group]]:
    """Yield every group in a list of its own, and keep none: whoever empties that list has the only one."""
    while groups:
        yield [groups.pop(0)]


def reconstruct_group(
    box: list[Group],
    *,
    whiten: NDArray[Any] | None,
    basis: Basis,
    fitter: Fitter | None,
    measured: Mapping[str, FieldMap],
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
    basis, fitter, config
        What to do; without a fitter there are no maps.
    measured : mapping of parameter name to FieldMap
        What is known, and not to be fitted.
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
    coeff, covariance, found = _coefficients(box, basis, config, cache, report)
    figures = {} if found is None else found.figures(noise_known=sigma > 0)
    if figures:
        # more is left than noise and noise's like: a wrong basis, sequence or trajectory, or what changes between shots
        strange = figures.get("ratio", 0.0) > _MISFIT
        logger.log(logging.WARNING if strange else logging.INFO, "image %s: %s", key, told(figures))
    maps = None
    if fitter is not None:
        known = {name: field.on(geometry.affine, coeff.shape[1:]) for name, field in measured.items()}
        maps = fitter.fit(coeff, known=known, report=report)
        if config.std:
            noise = known_noise(sigma, covariance, n_replicas=config.replicas, penalty=config.penalty_name)
            fitted, tangents = tangents_of(fitter, basis, known=known, report=report)
            maps = with_quality(maps, coeff, fitted=fitted, tangents=tangents, noise=noise)
    return Reconstruction(key, coeff, geometry, sigma, maps, basis.digest, calibration, figures)


def _noise(group: Group, basis: Basis) -> float:
    return coefficient_noise(group.traj, group.shape, n_frames=basis.n_frames, weights=group.weights)


def _coefficients(
    box: list[Group], basis: Basis, config: Config, cache: Path | None, report: Report
) -> tuple[NDArray[Any], NDArray[Any] | None, Misfit | None]:
    """Return images, their covariance and the misfit of the data, if wanted."""
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
    ksp, key = group.ksp, group.key
    del group
    report("reconstruction", 0, config.iterations)
    if not config.replicas and not config.misfit:
        held = [operator, ksp]
        del operator, ksp
        return _solved(held, config, report), None, None
    inverse = preconditioner_of(config.preconditioner, operator, lam=config.lam)
    coeff = _solved([operator, ksp], config, report, inverse)
    found = misfit(operator, ksp, coeff) if config.misfit else None
    if not config.replicas:
        return coeff, None, found
    covariance = replica_covariance(
        lambda noisy: _solved([operator, noisy.pop()], config, silent, inverse), ksp, coeff,
        n_replicas=config.replicas, rng=np.random.default_rng([0, *key.values()]),
        progress=counted(report, "replicas", config.replicas),
    )  # fmt: skip
    return coeff, covariance, found


def _solved(
    held: list[Any],
    config: Config,
    report: Report,
    preconditioner: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> NDArray[Any]:
    """Return the images of an operator and its k-space, of which the iterations keep the kernels alone.

    They are in a list, which is emptied. The preconditioner is made where none is given.
    """
    operator, ksp = held
    held.clear()
    options: dict[str, Any] = {
        "lam": config.lam, "regulariser": config.regulariser, "block": config.block, "shift": config.shift,
        "scaling": config.scaling, "solver": config.solver, "iterations": config.iterations,
        "tolerance": config.tolerance,
        "callback": lambda iteration, _: report("reconstruction", iteration, config.iterations),
    }  # fmt: skip
    if config.backend != "native":
        return reconstruct(
            operator, ksp, backend=config.backend, bart_options=config.bart_options, start=config.start, **options
        )
    right = operator.adjoint(ksp)
    options["start"] = first_images(config.start, operator, ksp, right, lam=config.lam, regulariser=config.regulariser)
    del ksp
    if preconditioner is None:
        preconditioner = preconditioner_of(config.preconditioner, operator, lam=config.lam)
    options["preconditioner"] = preconditioner
    normal = partial(operator.toeplitz.normal, sens=operator.sens)
    del operator
    return solve(normal, right, **options)


def check_memory(groups: list[Group], basis: Basis, config: Config) -> None:
    """Refuse images that need more memory than there is left."""
    held = sum(group.ksp.nbytes + group.traj.nbytes for group in groups)
    for group in groups:
        check(problem_of(group.ksp.shape, group.shape, basis, config, n_images=len(groups)), held=held)


def problem_of(
    ksp_shape: tuple[int, ...], shape: tuple[int, ...], basis: Basis, config: Config, *, n_images: int
) -> Problem:
    """Return what decides the memory of an image X = `shape` of k-space (C, R, S), one of `n_images`."""
    n_receivers, n_readouts, n_samples = ksp_shape
    return Problem(
        shape=shape, n_readouts=n_readouts, n_samples=n_samples, n_receivers=n_receivers,
        n_coils=config.kept_coils(n_receivers), rank=basis.rank, real=bool(np.isrealobj(basis.phi)),
        solver=config.choose_solver(), preconditioned=config.preconditioner != "none", n_threads=threads.count(),
        n_images=n_images, misfit=config.misfit, replicas=config.replicas > 0,
    )  # fmt: skip
