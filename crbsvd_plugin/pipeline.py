"""The one pipeline: from a stream of readouts to coefficient images and maps.

A raw file, a stream and an online host are the same thing here: a header and acquisitions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from . import coils
from .basis import Basis
from .calibration import FovShift, GradientDelays, PhaseDrift, calibrated, mixed, whitening
from .dictionary import Dictionary
from .encoding import SubspaceOperator, coefficient_noise
from .errors import UserError
from .fit.matching import match
from .fit.result import Maps
from .geometry import Geometry
from .images import CoefficientImages
from .kernel_cache import KernelCache
from .mrd_header import noise_bandwidth
from .progress import Report, counted, silent
from .readouts import Group, Roles, collect
from .recon import Backend, Preconditioner, Regulariser, Scaling, Shift, Solver, choose_solver, reconstruct

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Start = Literal["zero", "density"]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pipeline is to do.

    Parameters
    ----------
    basis : str
        Name of the basis, without suffix; its dictionary lies beside it.
    rank : int, optional
        Use only the first columns of the basis.
    frame, shots, groups
        Roles of the MRD counters, see `readouts.Roles`; None: the usual ones that are free.
    traj_units : str
        Unit of the trajectories: cycles/fov, cycles/pixel or rad/pixel.
    fov_shift : str
        off, or header: the data are centred on the isocentre, move them to where the header has the image. Only for
        data in which neither the scanner nor another program has done that.
    coils : float, optional
        Virtual coils to keep: from 1 on their number, below 1 the share of energy, see `compression`.
    phase_drift : str
        off, or steps or linear: find the phases of the shots, which stay or change within a shot, and take them out of
        the data, see `drift`.
    gradient_delays : str
        off, or estimate: find the gradient delays of radial readouts and correct the trajectory, see `delays`.
    backend : str
        native, sigpy or bart.
    regulariser : str
        l2, llr or wavelet.
    lam : float
        Weight of the penalty, after prewhitening.
    block : int
        Edge of the blocks of llr [voxels].
    shift : str
        none, random or overlap: where blocks or wavelets lie.
    scaling : str
        none, or bart: lam as ``bart pics`` means it without ``-w``.
    solver : str, optional
        cg, fista or admm; None: cg for l2, else fista.
    iterations : int
        Largest number of iterations.
    start : str
        First images: zero, or density: the adjoint with density weights, see `recon.density`.
    preconditioner : str
        none, or circulant: cg needs half of the iterations, see `recon.circulant`.
    kernel_cache : str, optional
        Folder that keeps convolution kernels for the next scan with the same trajectory, see `kernel_cache`.
    tolerance : float
        When to stop before that, see `reconstruct`.
    fit : bool
        Also fit maps.
    mask_level : float
        Voxels with less signal than this share of the image's are not fitted, see `match`.
    """

    basis: str
    rank: int | None = None
    frame: str = "contrast"
    shots: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    traj_units: str = "cycles/fov"
    fov_shift: FovShift = "off"
    coils: float | None = None
    phase_drift: PhaseDrift = "off"
    gradient_delays: GradientDelays = "off"
    backend: Backend = "native"
    regulariser: Regulariser = "l2"
    lam: float = 0.0
    block: int = 8
    shift: Shift = "random"
    scaling: Scaling = "none"
    solver: Solver | None = None
    iterations: int = 30
    start: Start = "zero"
    preconditioner: Preconditioner = "none"
    kernel_cache: str | None = None
    tolerance: float = 0.0
    fit: bool = True
    mask_level: float = 0.05


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


def reconstruct_stream(
    header: ismrmrdHeader, items: Iterable[Acquisition], config: Config, *, report: Report | None = None
) -> Iterator[Reconstruction]:
    """Reconstruct the groups of a stream, one after the other.

    Prewhitening, coil compression, phases of the shots, gradient delays, sensitivities from the data, subspace
    reconstruction, matching.

    Parameters
    ----------
    header : ismrmrdHeader
        MRD header.
    items : iterable of Acquisition
        The readouts, in any order.
    config : Config
        What to do.
    report : callable, optional
        Told of the progress.

    Yields
    ------
    Reconstruction
        In increasing order of the group counters.

    Raises
    ------
    UserError
        The data, the basis and the config do not fit.
    """
    report = report or silent
    _solver(config)  # before the data are read
    cache = None if config.kernel_cache is None else KernelCache(config.kernel_cache)
    roles = Roles.named(config.frame, config.shots, config.groups)
    basis, dictionary = load(config.basis, rank=config.rank, with_dictionary=config.fit)
    report("readouts", 0, 0)
    scan = collect(header, items, n_frames=basis.n_frames, roles=roles, traj_units=config.traj_units)
    whiten = whitening(scan, noise_bandwidth(header) or 1.0)
    for group in scan.groups:
        group, ksp, calibration = calibrated(
            group, mixed(group.ksp, whiten), basis.phi, virtual=config.coils, phase_drift=config.phase_drift,
            gradient_delays=config.gradient_delays, fov_shift=config.fov_shift, report=report,
        )  # fmt: skip
        coeff = _coefficients(group, ksp, basis, config, cache, report)
        sigma = 0.0 if whiten is None else coefficient_noise(group.traj, group.shape, n_frames=basis.n_frames)
        logger.info(
            "image %s: %d coils, %d readouts of %d samples, %d voxels; noise of a coefficient %.4g",
            group.key, *ksp.shape, np.prod(group.shape), sigma,
        )  # fmt: skip
        maps = fit(coeff, dictionary, mask_level=config.mask_level, report=report) if dictionary is not None else None
        yield Reconstruction(group.key, coeff, group.geometry, sigma, maps, basis.digest, calibration)


def load(name: str, *, rank: int | None, with_dictionary: bool) -> tuple[Basis, Dictionary | None]:
    """Read a basis, cut to `rank` columns, and its dictionary if wanted.

    Raises
    ------
    UserError
        A file is missing or damaged, or the rank is larger than the basis.
    """
    full = Basis.load(name)
    basis = full if rank is None else full.truncate(rank)
    if not with_dictionary:
        return basis, None
    full.model()  # a fit needs to know the sequence: refuses a basis without sidecar
    dictionary = Dictionary.load(name, full)
    return basis, dictionary if rank is None else dictionary.truncate(basis)


def fit(coeff: NDArray[Any], dictionary: Dictionary, *, mask_level: float, report: Report | None = None) -> Maps:
    """Match coefficient images (K, *X) with a dictionary, and report the progress."""
    report, total = report or silent, int(np.prod(coeff.shape[1:]))
    maps = match(coeff, dictionary, mask_level=mask_level, progress=counted(report, "fit", total))
    report("fit", total, total)  # masked voxels are done too
    return maps


def gathered(results: list[Reconstruction], config: Config) -> CoefficientImages:
    """Join the groups of a scan: slices along one axis, everything else along another.

    Raises
    ------
    UserError
        The groups differ in size, or are several slabs.
    """
    shapes = {result.coeff.shape for result in results}
    if len(shapes) > 1:
        raise UserError(f"groups have images of {sorted(shapes)}, expected one size; reconstruct them one by one")
    slices = sorted({result.key.get("slice", 0) for result in results})
    if len(slices) > 1 and results[0].coeff.ndim > 3:
        raise UserError(f"raw data hold {len(slices)} volumes told apart by 'slice', expected one; split the file")
    others = sorted({_without_slice(result.key) for result in results})
    coeff = np.zeros((len(others), len(slices), *shapes.pop()), np.complex64)
    place = {}
    for result in results:
        at = others.index(_without_slice(result.key)), slices.index(result.key.get("slice", 0))
        coeff[at], place[at[1]] = result.coeff, result.geometry
    if len(results) < coeff.shape[0] * coeff.shape[1]:
        logger.warning(
            "%d of %d images have no readouts and stay empty",
            coeff.shape[0] * coeff.shape[1] - len(results),
            coeff.shape[0] * coeff.shape[1],
        )
    step = np.subtract(place[1].position, place[0].position).tolist() if len(slices) > 1 else (0.0, 0.0, 0.0)
    info = {
        "backend": config.backend, "regulariser": config.regulariser, "lam": config.lam, "lam_scaling": config.scaling,
        "block": config.block, "shift": config.shift, "solver": _solver(config), "iterations": config.iterations,
        "start": config.start, "preconditioner": config.preconditioner, "tolerance": config.tolerance,
        "sigma": results[0].sigma, "scaling": "unitary",
        "groups": [dict(key) for key in others], "slices": slices,
        "calibration": [result.key | result.calibration for result in results if result.calibration],
    }  # fmt: skip
    return CoefficientImages(coeff, place[0], tuple(step), results[0].digest, info)


def _without_slice(key: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((name, value) for name, value in key.items() if name != "slice")


def _solver(config: Config) -> Solver:
    if config.start != "zero" and config.backend == "sigpy":
        raise UserError(
            f"start is {config.start}, but sigpy begins with zero; leave it out, or take the backend native"
        )
    return choose_solver(
        config.solver, regulariser=config.regulariser, shift=config.shift, tolerance=config.tolerance,
        preconditioner=config.preconditioner, backend=config.backend,
    )  # fmt: skip


def _coefficients(
    group: Group, ksp: NDArray[Any], basis: Basis, config: Config, cache: KernelCache | None, report: Report
) -> NDArray[Any]:
    report("sensitivities", 0, 0)
    sens = coils.estimate_sensitivities(ksp, group.traj, frame=group.frame, phi=basis.phi, shape=group.shape)
    operator = SubspaceOperator(group.traj, frame=group.frame, phi=basis.phi, sens=sens, kernel_cache=cache)
    report("reconstruction", 0, config.iterations)
    return reconstruct(
        operator, ksp, lam=config.lam, regulariser=config.regulariser, block=config.block, shift=config.shift,
        scaling=config.scaling, solver=config.solver, iterations=config.iterations, tolerance=config.tolerance,
        start=None if config.start == "zero" else config.start, preconditioner=config.preconditioner,
        backend=config.backend,
        callback=lambda iteration, _: report("reconstruction", iteration, config.iterations),
    )  # fmt: skip
