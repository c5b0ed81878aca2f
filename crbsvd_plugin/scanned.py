"""Where a file samples k-space: raw data, or a trajectory of BART's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import files
from .arrival import Arrivals
from .errors import UserError
from .mrd import open_raw
from .positions import Source, Third
from .readouts import Group, joined
from .roles import Roles
from .sampling import Sampling
from .trajfile import TrajFile

logger = logging.getLogger(__name__)

COILS = 8
"""Of a trajectory, which tells no coils: as many as `simulate` has."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How raw data are read; the fields are those of `config.Config`."""

    frame: str = "contrast"
    shots: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    pieces: int = 1
    traj_units: str = "cycles/fov"
    traj_third: Third = "kz"
    traj_file: str | None = None


def sampling_of(name: str, *, n_frames: int, reading: Reading, n_coils: int | None = None) -> Sampling:
    """Return where a scan samples k-space.

    Parameters
    ----------
    name : str
        Raw data, of which the first image counts; or a trajectory of BART's in cycles per field of view, without
        suffix, of an image that holds all of it.
    n_frames : int
        Number of frames T of the sequence.
    reading : Reading
        Of raw data.
    n_coils : int, optional
        Coils instead of those of the raw data, or of `COILS`.

    Raises
    ------
    UserError
        The file cannot be read, has other frames, or readouts without positions.
    """
    if files.with_suffix(name, ".hdr").exists() and not Path(name).is_file():
        if reading != Reading():
            raise UserError(
                f"{name} is a trajectory in cycles/fov, frame by frame: leave out the options that say how raw data "
                "are read"
            )
        found = _of_trajectory(name, n_frames, COILS)
    else:
        found = _of_raw(name, n_frames, reading)
    return found if n_coils is None else replace(found, n_coils=n_coils)


def _of_raw(name: str, n_frames: int, reading: Reading) -> Sampling:
    roles = Roles.named(reading.frame, reading.shots, reading.groups)
    file = None if reading.traj_file is None else TrajFile(reading.traj_file, n_frames=n_frames)
    first: dict[str, int] | None = None
    others: set[tuple[int, ...]] = set()
    n_coils, parts = 0, list[Group]()
    with open_raw(name) as (header, items):
        source = Source(header, reading.traj_units, reading.traj_third, file)
        arrivals = Arrivals(source, n_frames=n_frames, roles=roles, n_pieces=reading.pieces)
        for arrival in arrivals.sorted(items):
            first = arrival.image.key if first is None else first
            if arrival.image.key != first:
                others.add(tuple(arrival.image.key.values()))
                arrival.box.clear()
            while arrival.box:
                group = arrival.box.pop(0)
                n_coils = len(group.ksp)
                parts.append(replace(group, ksp=np.empty((0, *group.ksp.shape[1:]), group.ksp.dtype)))
    if others:
        logger.info("raw data hold %d images, of which %s counts", 1 + len(others), first)
    whole = joined(parts)
    traj = np.asarray(whole.traj, np.float64)
    weights = np.ones(traj.shape[:2], np.float32) if whole.weights is None else whole.weights
    order = np.argsort(whole.time, kind="stable")
    return Sampling(traj[order], whole.frame[order], weights[order], whole.shape, n_coils)


def _of_trajectory(name: str, n_frames: int, n_coils: int) -> Sampling:
    positions, frame = TrajFile(name, n_frames=n_frames).whole(n_frames)
    reach = np.abs(positions).max(axis=(0, 1))
    if not reach[:2].all():
        raise UserError(f"{name} does not reach along x and y, expected positions in cycles per field of view")
    n_dims = 3 if reach[2] else 2
    traj = positions[..., n_dims - 1 :: -1]  # x, y, z
    # a whole spoke begins at -n/2
    shape = tuple(int(np.ceil(2 * edge - 1e-3)) for edge in reach[n_dims - 1 :: -1])
    return Sampling(traj, frame, np.ones(traj.shape[:2], np.float32), shape, n_coils)
