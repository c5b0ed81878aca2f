"""The one pipeline: from a stream of readouts to coefficient images and maps.

A raw file, a stream and an online host are the same thing here: a header and acquisitions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from . import coils, threads
from .basis import Basis
from .calibration import FovShift, GradientDelays, calibrated, mixed, whitening
from .dictionary import Dictionary
from .encoding import SubspaceOperator, coefficient_noise
from .fit.matching import match
from .fit.result import Maps
from .footprint import Problem, check
from .geometry import Geometry
from .kernel_cache import KernelCache
from .mrd_header import noise_bandwidth
from .progress import Report, counted, silent
from .readouts import Group, Roles, collect
from .recon import Backend, Regulariser, Scaling, Shift, Solver, choose_solver, reconstruct, solve

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

    from .cluster import Pool

logger = logging.getLogger(__name__)


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
        Unit of the trajectories: cycles/fov, cycles/pixel, rad/pixel, 1/m or rad/m.
    fov_shift : str
        off, or header: the data are centred on the isocentre, move them to where the header has the image. Only for
        data in which neither the scanner nor another program has done that.
    coils : float, optional
        Virtual coils to keep: from 1 on their number, below 1 the share of energy, see `compression`.
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
    gradient_delays: GradientDelays = "off"
    backend: Backend = "native"
    regulariser: Regulariser = "l2"
    lam: float = 0.0
    block: int = 8
    shift: Shift = "random"
    scaling: Scaling = "none"
    solver: Solver | None = None
    iterations: int = 30
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
        What was found in the data and used: virtual coils, gradient delays.
    """

    key: dict[str, int]
    coeff: NDArray[np.complex64]
    geometry: Geometry
    sigma: float
    maps: Maps | None
    digest: str
    calibration: dict[str, Any] = field(default_factory=dict)


def reconstruct_stream(
    header: ismrmrdHeader,
    items: Iterable[Acquisition],
    config: Config,
    *,
    report: Report | None = None,
    pool: Pool | None = None,
) -> Iterator[Reconstruction]:
    """Reconstruct the groups of a stream, one after the other or on the workers of a pool.

    Prewhitening, coil compression, gradient delays, sensitivities from the data, subspace reconstruction, matching.

    Parameters
    ----------
    header : ismrmrdHeader
        MRD header.
    items : iterable of Acquisition
        The readouts, in any order.
    config : Config
        What to do.
    report : callable, optional
        Told of the progress: of the stages of every group, or with a pool of the groups that are done.
    pool : Pool, optional
        Workers to spread the groups over, one thread each. The images are those of one thread here, bit for bit.

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
    chosen_solver(config)  # before the data are read
    cache = None if config.kernel_cache is None else KernelCache(config.kernel_cache).folder
    if pool is not None and cache is not None:
        cache = cache.absolute()  # a worker may be in another folder
    roles = Roles.named(config.frame, config.shots, config.groups)
    basis, dictionary = load(config.basis, rank=config.rank, with_dictionary=config.fit)
    report("readouts", 0, 0)
    scan = collect(header, items, n_frames=basis.n_frames, roles=roles, traj_units=config.traj_units)
    one = partial(
        _reconstructed, whiten=whitening(scan, noise_bandwidth(header) or 1.0), basis=basis, dictionary=dictionary,
        config=config, cache=cache,
    )  # fmt: skip
    n_images = len(scan.groups)
    if pool is None:
        if config.backend == "native":  # of others, and of other machines, it is not known
            _check_memory(scan.groups, basis, config)
        yield from map(partial(one, report=report), _taken(scan.groups))
        return
    if n_images == 1:
        logger.warning(
            "raw data hold one image, which one worker reconstructs with one thread; without workers it has all cores"
        )
    yield from pool.map(one, _taken(scan.groups), progress=counted(report, "images", n_images))


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


def fit(
    coeff: NDArray[Any],
    dictionary: Dictionary,
    *,
    mask_level: float,
    report: Report | None = None,
    pool: Pool | None = None,
) -> Maps:
    """Match coefficient images (K, *X) with a dictionary, here or on the workers of a pool, and report the progress."""
    report, total = report or silent, int(np.prod(coeff.shape[1:]))
    maps = match(coeff, dictionary, mask_level=mask_level, progress=counted(report, "fit", total), pool=pool)
    report("fit", total, total)  # masked voxels are done too
    return maps


def chosen_solver(config: Config) -> Solver:
    """Return the solver that a config asks for; refuse options that do not go together."""
    return choose_solver(
        config.solver, regulariser=config.regulariser, shift=config.shift, tolerance=config.tolerance,
        backend=config.backend,
    )  # fmt: skip


def _check_memory(groups: list[Group], basis: Basis, config: Config) -> None:
    """Refuse images that need more memory than there is left."""
    held = sum(group.ksp.nbytes + group.traj.nbytes for group in groups)
    for group in groups:
        n_receivers, n_readouts, n_samples = group.ksp.shape
        problem = Problem(
            shape=group.shape, n_readouts=n_readouts, n_samples=n_samples, n_receivers=n_receivers,
            n_coils=kept_coils(config, n_receivers), rank=basis.rank, real=bool(np.isrealobj(basis.phi)),
            solver=chosen_solver(config), n_threads=threads.count(), n_images=len(groups),
        )  # fmt: skip
        check(problem, held=held)


def kept_coils(config: Config, n_receivers: int) -> int:
    """Return the number of coils of the reconstruction, at most: a share of the energy may need all of them."""
    return n_receivers if config.coils is None or config.coils < 1 else min(int(config.coils), n_receivers)


def _taken(groups: list[Group]) -> Iterator[list[Group]]:
    """Yield every group in a list of its own, and keep none: whoever empties that list has the only one."""
    while groups:
        yield [groups.pop(0)]


def _reconstructed(
    box: list[Group],
    *,
    whiten: NDArray[Any] | None,
    basis: Basis,
    dictionary: Dictionary | None,
    config: Config,
    cache: Path | None,
    report: Report = silent,
) -> Reconstruction:
    """Do one group from its readouts to its maps, here or on a worker: it knows no other group.

    Data are let go of as soon as they are not needed any more: they are as large as all the rest.
    """
    group = box.pop()
    coils.refuse_silent(group.ksp, "raw data")
    if whiten is not None:
        mixed(group.ksp, whiten, out=group.ksp)  # nobody else has them
    group, calibration = calibrated(
        group, basis.phi, virtual=config.coils, gradient_delays=config.gradient_delays, fov_shift=config.fov_shift,
        report=report,
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
    maps = fit(coeff, dictionary, mask_level=config.mask_level, report=report) if dictionary is not None else None
    return Reconstruction(key, coeff, geometry, sigma, maps, basis.digest, calibration)


def _noise(group: Group, basis: Basis) -> float:
    return coefficient_noise(group.traj, group.shape, n_frames=basis.n_frames, weights=group.weights)


def _coefficients(box: list[Group], basis: Basis, config: Config, cache: Path | None, report: Report) -> NDArray[Any]:
    group = box.pop()
    report("sensitivities", 0, 0)
    sens = coils.estimate_sensitivities(group.ksp, group.traj, frame=group.frame, phi=basis.phi, shape=group.shape)
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
        return reconstruct(operator, ksp, backend=config.backend, **options)
    right = operator.adjoint(ksp)
    del ksp
    normal = partial(operator.toeplitz.normal, sens=sens)
    del operator
    return solve(normal, right, **options)
