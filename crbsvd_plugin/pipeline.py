"""The one pipeline: from a stream of readouts to coefficient images and maps.

A raw file, a stream and an online host are the same thing here: a header and acquisitions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from . import bart, fieldmap
from .arrival import Arrival, Arrivals
from .basis import Basis
from .cluster import Pool
from .config import Config
from .dictionary import Dictionary
from .errors import UserError
from .fit.fitter import prepared
from .group import Reconstruction, check_memory, finished, reconstruct_group
from .intake import Intake
from .kernel_cache import KernelCache
from .progress import Report, counted, silent
from .readouts import Group, Waiting
from .roles import Roles

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader

logger = logging.getLogger(__name__)

_PENDING = 2**30  # bytes of readouts of all images that wait to be gridded


def reconstruct_stream(
    header: ismrmrdHeader,
    items: Iterable[Acquisition],
    config: Config,
    *,
    report: Report | None = None,
    pool: Pool | None = None,
    check: Callable[[list[Waiting]], object] | None = None,
    patience: float | None = None,
) -> Iterator[Reconstruction]:
    """Reconstruct the images of a stream, each as soon as it is complete, or on the workers of a pool.

    Readouts are prewhitened, compressed and gridded a batch at a time as they come, see `intake`; what is left after
    the last one are sensitivities from the data, subspace reconstruction and fit.

    Parameters
    ----------
    header : ismrmrdHeader
        MRD header.
    items : iterable of Acquisition
        The readouts, in any order. They are asked for one at a time, and none before the last one is in its place.
    config : Config
        What to do.
    report : callable, optional
        Told of the progress: of the stages of every group, or with a pool of the groups that are done.
    pool : Pool, optional
        Workers to spread the images over, one thread each, once all readouts are here. The images are those of one
        thread here, bit for bit.
    check : callable, optional
        Called with the images that have begun before each is reconstructed: refuses what the caller could not use.
    patience : float, optional
        For a scan that is running: how long a readout waits for others to be gridded with, at most, while readouts
        come [s]. None: until there are so many that it is worth it.

    Yields
    ------
    Reconstruction
        As they are complete, see `Config.ends`; those that the end of the stream completes in increasing order of the
        group counters.

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
    arrivals = Arrivals(header, n_frames=basis.n_frames, roles=roles, traj_units=config.traj_units, ends=config.ends)
    batches = arrivals.sorted(items, patience=patience)
    if pool is not None:
        boxes, received = _collected(arrivals, batches, config, check)
        if len(boxes) == 1:
            logger.warning(
                "raw data hold one image, which one worker reconstructs with one thread; without workers it has all "
                "cores"
            )
        one = partial(
            reconstruct_group, noise=arrivals.noise, basis=basis, fitter=fitter, measured=measured, config=config,
            cache=cache,
        )  # fmt: skip
        results = pool.map(one, _taken(boxes), progress=counted(report, "images", len(boxes)))
        for result, readouts in zip(results, received, strict=True):
            yield replace(result, readouts=readouts)
        return
    intakes: dict[tuple[int, ...], Intake] = {}
    begun: list[Waiting] = []
    for arrival in batches:
        key = tuple(arrival.image.key.values())
        if arrival.complete:
            if not begun:
                _check_noise(arrivals, config)
            begun += [image for image in (arrival.image, *arrivals.images) if image not in begun]
            if check is not None:
                check(begun)
        intake = intakes.setdefault(key, Intake(basis, config, arrivals.noise, cached=cache is not None))
        new = not intake.nbytes
        while arrival.box:
            intake.add(arrival.box.pop())
        if new or arrival.complete:
            check_memory(intake, arrival.image.geometry)
        if arrival.complete:
            result = finished(
                intakes.pop(key), arrival.image.key, arrival.image.geometry, fitter=fitter, measured=measured,
                cache=cache, report=report,
            )  # fmt: skip
            yield replace(result, readouts=arrival.received)
        elif arrival.urgent:
            intake.flush()
        elif sum(one.pending_bytes for one in intakes.values()) > _PENDING:
            max(intakes.values(), key=lambda one: one.pending_bytes).flush()


def _collected(
    arrivals: Arrivals,
    batches: Iterator[Arrival],
    config: Config,
    check: Callable[[list[Waiting]], object] | None,
) -> tuple[list[list[Group]], list[dict[str, int]]]:
    """Return the batches of every image of a stream, and what is said of its readouts."""
    boxes: dict[tuple[int, ...], list[Group]] = {}
    complete: list[Arrival] = []
    for arrival in batches:
        box = boxes.setdefault(tuple(arrival.image.key.values()), [])
        box += arrival.box
        arrival.box.clear()
        if arrival.complete:
            complete.append(arrival)
    _check_noise(arrivals, config)
    if check is not None:
        check([arrival.image for arrival in complete])
    return [boxes[tuple(one.image.key.values())] for one in complete], [one.received for one in complete]


def _taken(boxes: list[list[Group]]) -> Iterator[list[Group]]:
    """Yield every box, and keep none: whoever empties it has the only readouts."""
    while boxes:
        yield boxes.pop(0)


def _check_noise(arrivals: Arrivals, config: Config) -> None:
    """Say that no noise scan has come; refuse what needs one."""
    if arrivals.noise.n_samples:
        return
    if config.replicas:
        raise UserError("replicas need to know the noise, but the raw data have no noise scan: leave --replicas out")
    logger.warning("raw data have no noise scan: taken as prewhitened, the noise level is unknown")


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
