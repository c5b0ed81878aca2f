"""The one pipeline: from a stream of readouts to coefficient images and maps.

A raw file, a stream and an online host are the same thing here: a header and acquisitions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from . import bart, fieldmap
from .basis import Basis
from .calibration import whitening
from .cluster import Pool
from .config import Config
from .dictionary import Dictionary
from .errors import UserError
from .fit.fitter import prepared
from .group import Reconstruction, check_memory, reconstruct_group, taken
from .kernel_cache import KernelCache
from .mrd_header import noise_bandwidth
from .progress import Report, counted, silent
from .readouts import Group, collect
from .roles import Roles

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader

logger = logging.getLogger(__name__)


def reconstruct_stream(
    header: ismrmrdHeader,
    items: Iterable[Acquisition],
    config: Config,
    *,
    report: Report | None = None,
    pool: Pool | None = None,
    check: Callable[[list[Group]], object] | None = None,
) -> Iterator[Reconstruction]:
    """Reconstruct the groups of a stream, one after the other or on the workers of a pool.

    Prewhitening, coil compression, phases of the shots, gradient delays, sensitivities from the data, subspace
    reconstruction, fit.

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
    check : callable, optional
        Called with the groups before the work: refuses what the caller could not use.

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
    # before the data are read
    config.check()
    list((pool or Pool()).map(_check_programs, [config]))  # where the work will be done
    cache = None if config.kernel_cache is None else KernelCache(config.kernel_cache).folder
    if pool is not None and cache is not None:
        cache = cache.absolute()  # a worker may be in another folder
    roles = Roles.named(config.frame, config.shots, config.groups)
    basis, dictionary = load(config.basis, rank=config.rank, with_dictionary=config.fit)
    fitter, measured = None, fieldmap.load(b1=config.b1, b0=config.b0)
    if dictionary is not None:
        fitter = prepared(
            basis, dictionary, method=config.method, name=config.basis, mask_level=config.mask_level,
            refine=config.refine, n_starts=config.fit_starts, signals=config.signals, known=measured, report=report,
        )  # fmt: skip
    report("readouts", 0, 0)
    scan = collect(header, items, n_frames=basis.n_frames, roles=roles, traj_units=config.traj_units)
    if config.replicas and scan.noise is None:
        raise UserError("replicas need to know the noise, but the raw data have no noise scan: leave --replicas out")
    if check is not None:
        check(scan.groups)
    one = partial(
        reconstruct_group, whiten=whitening(scan, noise_bandwidth(header) or 1.0), basis=basis, fitter=fitter,
        measured=measured, config=config, cache=cache,
    )  # fmt: skip
    n_images = len(scan.groups)
    if pool is None:
        if config.backend == "native":  # of others, and of other machines, it is not known
            check_memory(scan.groups, basis, config)
        yield from map(partial(one, report=report), taken(scan.groups))
        return
    if n_images == 1:
        logger.warning(
            "raw data hold one image, which one worker reconstructs with one thread; without workers it has all cores"
        )
    yield from pool.map(one, taken(scan.groups), progress=counted(report, "images", n_images))


def _check_programs(config: Config) -> None:
    """Refuse what BART would have to do if it is not there, or too old."""
    if config.backend == "bart":
        psf = config.kernel_cache is not None
        bart.require(config.bart_options.features(shift=config.shift, regulariser=config.regulariser, psf=psf))
    elif config.sens == "bart":
        bart.find()


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
