"""One group of readouts, from its data to coefficient images and maps. It knows no other group."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from . import threads
from .basis import Basis
from .config import Config
from .encoding import coefficient_noise
from .equations import Data, Equations
from .fieldmap import FieldMap
from .fit.fitter import Fitter
from .fit.result import Maps
from .footprint import Problem, check
from .geometry import Geometry, array_shape
from .intake import Intake
from .kernel_cache import KernelCache
from .noise import NoiseScans
from .progress import Report, counted, silent
from .quality import fitted_maps, known_noise
from .readouts import Group
from .recon.misfit import told
from .recon.replicas import replica_covariance, white_noise

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
    readouts : dict
        How many were ``used``, came ``twice`` and were left out, and are ``missing``, see `arrival.Arrival`.
    """

    key: dict[str, int]
    coeff: NDArray[np.complex64]
    geometry: Geometry
    sigma: float
    maps: Maps | None
    digest: str
    calibration: dict[str, Any] = field(default_factory=dict)
    misfit: dict[str, Any] = field(default_factory=dict)
    readouts: dict[str, int] = field(default_factory=dict)


def reconstruct_group(
    box: list[Group],
    *,
    noise: NoiseScans,
    basis: Basis,
    fitter: Fitter | None,
    measured: Mapping[str, FieldMap],
    config: Config,
    cache: Path | None,
    report: Report = silent,
) -> Reconstruction:
    """Return the images and maps of the readouts in a box, which is empty afterwards; here, or on a worker.

    Parameters
    ----------
    box : list of Group
        All batches of one image. Whoever calls this keeps the box, but not the readouts.
    noise, basis, config, cache, fitter, measured, report
        As for `Intake` and `finished`.

    Raises
    ------
    UserError
        The data do not fit.
    """
    key, geometry = box[0].key, box[0].geometry
    intake = Intake(basis, config, noise, cached=cache is not None)
    while box:
        intake.add(box.pop(0))
    return finished(intake, key, geometry, fitter=fitter, measured=measured, cache=cache, report=report)


def finished(
    intake: Intake,
    key: dict[str, int],
    geometry: Geometry,
    *,
    fitter: Fitter | None,
    measured: Mapping[str, FieldMap],
    cache: Path | None,
    report: Report = silent,
) -> Reconstruction:
    """Return the images and maps of readouts that have all been taken in.

    Parameters
    ----------
    intake : Intake
        The readouts; not to be used afterwards.
    key, geometry
        What is written of the image.
    fitter : Fitter, optional
        Without, there are no maps.
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
    basis, config = intake.basis, intake.config
    intake.close(report)
    shape = array_shape(geometry.shape)
    sigma = coefficient_noise(intake.n_samples, shape, n_frames=basis.n_frames) if intake.noise.known else 0.0
    logger.info(
        "image %s: %d coils, %d readouts of %d samples, %d voxels; noise of a coefficient %.4g",
        key, intake.n_coils, *intake.received[1:], np.prod(shape), sigma,
    )  # fmt: skip
    report("sensitivities", 0, 0)
    sens = intake.sensitivities()
    report("reconstruction", 0, config.iterations)
    # made again on a worker's machine
    kernels = None if cache is None else KernelCache(cache)
    problem = (Equations if config.backend == "native" else Data)(intake, sens, kernels)
    coeff = problem.images(report=report)
    misfit = problem.misfit(coeff) if config.misfit else None
    covariance = None
    if config.replicas:
        covariance = replica_covariance(
            problem.images, coeff, n_replicas=config.replicas, rng=np.random.default_rng([0, *key.values()]),
            progress=counted(report, "replicas", config.replicas),
        )  # fmt: skip
    del problem
    figures = {} if misfit is None else misfit.figures(noise_known=sigma > 0)
    if figures:
        # more is left than noise and noise's like: a wrong basis, sequence or trajectory, or what changes between shots
        strange = figures.get("ratio", 0.0) > _MISFIT
        logger.log(logging.WARNING if strange else logging.INFO, "image %s: %s", key, told(figures))
    maps = None
    if fitter is not None:
        known = {name: field.on(geometry.affine, coeff.shape[1:]) for name, field in measured.items()}
        noise = None
        if config.std:
            noise = known_noise(
                sigma, covariance, n_replicas=config.replicas, penalty=config.penalty_name,
                bounded=fitter.perk is None,
            )  # fmt: skip
        maps = fitted_maps(coeff, fitter, basis, known=known, noise=noise, report=report)
    return Reconstruction(key, coeff, geometry, sigma, maps, basis.digest, intake.found, figures)


def rehearse(n_dims: int, *, basis: Basis, fitter: Fitter | None, config: Config) -> None:
    """Make a tiny image of noise, so that what is loaded or compiled at first use is there after the last readout.

    Parameters
    ----------
    n_dims : int
        Image axes.
    basis, fitter, config
        What will be done.
    """
    if config.backend != "native":
        return
    rng, n_readouts = np.random.default_rng(0), 16
    frame = np.arange(n_readouts) % basis.n_frames
    number = np.arange(n_readouts)
    traj = rng.uniform(-4, 4, (n_readouts, 32, n_dims))
    ksp = white_noise(rng, (2, n_readouts, 32))
    geometry = Geometry((8, 8, 8 if n_dims == 3 else 1), (1.0, 1.0, 1.0))
    box = [Group({"rehearsal": 0}, ksp, traj, frame, number, number, geometry)]
    plain = replace(
        config, coils=None, phase_drift="off", gradient_delays="off", fov_shift="off", iterations=2, std=False,
        replicas=0, misfit=False,
    )  # fmt: skip
    reconstruct_group(box, noise=NoiseScans(), basis=basis, fitter=fitter, measured={}, config=plain, cache=None)


def check_memory(intake: Intake, geometry: Geometry) -> None:
    """Refuse an image, of which these readouts have come, if it needs more memory than is left."""
    if intake.config.backend == "native" and intake.nbytes:  # of others it is not known
        shape = array_shape(geometry.shape)
        problem = problem_of(intake.received, shape, intake.basis, intake.config, n_images=1)
        check(problem, held=intake.nbytes)


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
        keeps=config.start != "zero", waits=config.waits, cached=config.kernel_cache is not None,
    )  # fmt: skip
