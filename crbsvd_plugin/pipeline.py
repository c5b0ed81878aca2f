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
from .fieldmap import FieldMap
from .fit.fitter import Fitter, prepared
from .geometry import array_shape
from .group import Reconstruction, check_memory, finished, reconstruct_group, rehearse
from .intake import Intake
from .kernel_cache import KernelCache
from .mrd_header import size_of
from .positions import Source
from .progress import Report, counted, silent
from .readouts import Group
from .roles import Roles
from .trajfile import TrajFile
from .waiting import Waiting

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
        come [s]; before the first one is asked for, all that is needed after the last one has been loaded and compiled.
        None: until there are so many that it is worth it.

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
    basis, fitter, measured = fitting(config, report=report)
    file = None if config.traj_file is None else TrajFile(config.traj_file, n_frames=basis.n_frames)
    source = Source(header, config.traj_units, config.traj_third, file)
    if patience is not None:
        rehearse(len(array_shape(size_of(header, 0)[0])), basis=basis, fitter=fitter, config=config)
    report("readouts", 0, 0)
    arrivals = Arrivals(
        source, n_frames=basis.n_frames, roles=roles, ends=config.ends,
        noise=config.noise, n_pieces=config.pieces, calibrates=config.coils is not None,
    )  # fmt: skip
    batches = _checked(arrivals, config, patience, items)
    if pool is not None:
        boxes, received = _collected(batches, check)
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
    take = partial(Intake, basis, config, arrivals.noise, cached=cache is not None, eager=patience is not None)
    give = partial(finished, fitter=fitter, measured=measured, cache=cache, report=report)
    yield from _as_they_come(arrivals, batches, take, give, check)


def _as_they_come(
    arrivals: Arrivals,
    batches: Iterator[Arrival],
    take: Callable[[], Intake],
    give: Callable[..., Reconstruction],
    check: Callable[[list[Waiting]], object] | None,
) -> Iterator[Reconstruction]:
    """Take in the readouts of all images, and give every image as soon as it is complete."""
    intakes: dict[tuple[int, ...], Intake] = {}
    begun: list[Waiting] = []
    for arrival in batches:
        image = arrival.image
        key = tuple(image.key.values())
        if arrival.complete:
            begun += [one for one in (image, *arrivals.images) if one not in begun]
            if check is not None:
                check(begun)
        new = key not in intakes
        if new:
            intakes[key] = take()
        intake = intakes[key]
        while arrival.box:
            intake.add(arrival.box.pop())
        if new or arrival.complete:
            check_memory(intake, image.geometry)
        if arrival.complete:
            del intakes[key]
            yield replace(give(intake, image.key, image.geometry), readouts=arrival.received)
        elif arrival.urgent:
            intake.flush()
        elif sum(one.pending_bytes for one in intakes.values()) > _PENDING:
            max(intakes.values(), key=lambda one: one.pending_bytes).flush()


def _collected(
    batches: Iterator[Arrival], check: Callable[[list[Waiting]], object] | None
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
    if check is not None:
        check([arrival.image for arrival in complete])
    return [boxes[tuple(one.image.key.values())] for one in complete], [one.received for one in complete]


def _taken(boxes: list[list[Group]]) -> Iterator[list[Group]]:
    """Yield every box, and keep none: whoever empties it has the only readouts."""
    while boxes:
        yield boxes.pop(0)


def _checked(
    arrivals: Arrivals, config: Config, patience: float | None, items: Iterable[Acquisition]
) -> Iterator[Arrival]:
    """Yield what arrives; where no noise scan has come before the first image is complete, say so or refuse it."""
    told = False
    for arrival in arrivals.sorted(items, patience=patience):
        if arrival.complete and not told and not arrivals.noise.known:
            if config.replicas:
                raise UserError(
                    "replicas need to know the noise, but the raw data have no noise scan: leave --replicas out (or if "
                    "they come prewhitened, say --noise upstream)"
                )
            logger.warning("raw data have no noise scan: taken as prewhitened, the noise level is unknown")
            told = True
        yield arrival


def _check_programs(config: Config) -> None:
    """Refuse what BART would have to do if it is not there, or too old."""
    if config.backend == "bart":
        psf = config.kernel_cache is not None
        bart.require(config.bart_options.features(shift=config.shift, regulariser=config.regulariser, psf=psf))
    elif config.sens == "bart":
        bart.find()


def fitting(config: Config, *, report: Report = silent) -> tuple[Basis, Fitter | None, dict[str, FieldMap]]:
    """Return the basis of a config, what fits maps if they are wanted, and the measured maps to fit with.

    Raises
    ------
    UserError
        A file is missing or damaged, or settings and basis do not go together.
    """
    basis, dictionary = load(config.basis, rank=config.rank, with_dictionary=config.fit)
    measured = fieldmap.load(b1=config.b1, b0=config.b0)
    if dictionary is None:
        return basis, None, measured
    fitter = prepared(
        basis, dictionary, method=config.method, name=config.basis, mask_level=config.mask_level, refine=config.refine,
        n_starts=config.fit_starts, signals=config.signals, bounds=config.bounds, known=measured, report=report,
    )  # fmt: skip
    return basis, fitter, measured


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
    _ = full.sequence  # a fit needs to know it: refuses a basis without sidecar
    dictionary = Dictionary.load(name, full)
    return basis, dictionary if rank is None else dictionary.truncate(basis)
