"""Where the samples of a readout lie in k-space, and in which unit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

GOLDEN_ANGLE = np.pi * (np.sqrt(5) - 1) / 2
"""Angle between successive spokes, 111.246 degrees, in radians."""

UNITS = ("cycles/fov", "cycles/pixel", "rad/pixel", "1/m", "rad/m")
# by the number of image axes: a volume has so many more points that 24 would take minutes
_CALIBRATION = {2: 24, 3: 16}
# of the edge of k-space: what may be rounding; what a trajectory reaches at most, and at least; and what is worth a
# warning. Those in 1/m reach 1 / (field of view in m) of it, which is 2 to 10.
_ROUNDING, _LARGEST_SHARE, _SMALLEST_SHARE, _USUAL_SHARE = 1.02, 2.04, 0.2, 0.5
# a trajectory in its true unit mostly ends within a sample or two of the edge
_HIT = 0.9


def radial(n_readouts: int, matrix: int, *, oversampling: int = 2, first: int = 0) -> NDArray[np.float64]:
    """Compute full spokes through the centre of 2-D k-space, one golden angle apart.

    Sample s lies at k = (s - S//2) / oversampling on a spoke at the angle r x 111.246 degrees.

    Parameters
    ----------
    n_readouts : int
        Number of spokes R.
    matrix : int
        Voxels along either side of the field of view; S = oversampling x matrix.
    oversampling : int
        Samples per cycle per field of view.
    first : int
        Number r of the first spoke; the angle goes on from there.

    Returns
    -------
    array (R, S, 2)
        Positions (y, x) in cycles per field of view.

    References
    ----------
    Winkelmann et al., IEEE Trans Med Imaging 26:68 (2007), doi 10.1109/TMI.2006.885337.
    """
    n_samples = oversampling * matrix
    radius = (np.arange(n_samples) - n_samples // 2) / oversampling
    # modulo first: a large angle would lose digits
    angle = np.mod((first + np.arange(n_readouts)) * GOLDEN_ANGLE, 2 * np.pi)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)[:, None, :] * radius[:, None]


def cartesian(line: NDArray[np.integer], matrix: int, *, oversampling: int = 2) -> NDArray[np.float64]:
    """Compute lines (R, S, 2) along x, positions (y, x) in cycles per field of view.

    Sample s of line l lies at k = (l - matrix//2, (s - S//2) / oversampling), S = oversampling x matrix.
    """
    n_samples = oversampling * matrix
    traj = np.empty((len(line), n_samples, 2))
    traj[..., 0] = (line - matrix // 2)[:, None]
    traj[..., 1] = (np.arange(n_samples) - n_samples // 2) / oversampling
    return traj


def centre(
    traj: NDArray[Any], shape: tuple[int, ...], *, weights: NDArray[Any] | None = None
) -> tuple[tuple[int, ...], slice, NDArray[np.float64]]:
    """Find the samples of the centre of k-space, from which coils and trajectories are calibrated.

    There the signal stands far above the noise, and whatever is smooth in the image shows.

    Parameters
    ----------
    traj : array (R, S, ndim)
        Positions in cycles per field of view.
    shape : tuple of int
        Image size X.
    weights : array (R, S), optional
        Weights of the samples; 0: missing.

    Returns
    -------
    small : tuple of int
        Size of an image whose k-space is this centre: at most 24 voxels along an axis, 16 in 3-D.
    kept : slice
        The fewest successive samples of a readout that hold the centre.
    weights : array (R, n)
        Weights of these samples, 0 outside of the centre.

    Raises
    ------
    UserError
        No sample lies there.
    """
    kept, weights = central(traj, shape, weights=weights)
    small = centre_size(shape)
    if kept.start == kept.stop:
        refuse_without_centre(shape)
    return small, kept, weights


def centre_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of an image whose k-space is the centre, see `centre`."""
    return tuple(min(_CALIBRATION[len(shape)], n) for n in shape)


def central(
    traj: NDArray[Any], shape: tuple[int, ...], *, weights: NDArray[Any] | None = None
) -> tuple[slice, NDArray[np.float64]]:
    """Return the samples of `centre` and their weights, of which there may be none."""
    inside = np.all(np.abs(traj) < np.array(centre_size(shape)) / 2, axis=2)
    if weights is not None:
        inside &= weights > 0
    columns = np.flatnonzero(inside.any(axis=0))
    kept = slice(columns[0], columns[-1] + 1) if len(columns) else slice(0, 0)
    return kept, inside[:, kept] * (1.0 if weights is None else weights[:, kept])


def refuse_without_centre(shape: tuple[int, ...]) -> NoReturn:
    """Raise the UserError of `centre`."""
    small = _size(centre_size(shape))
    raise UserError(f"no sample lies in the centre of k-space ({small}), expected some to calibrate with")


def recentred(ksp: NDArray[Any], traj: NDArray[Any], offset: ArrayLike) -> NDArray[Any]:
    """Compute the data of the same object in an image whose centre lies at `offset`.

    y'(k) = y(k) exp(2 pi i k . offset)

    Parameters
    ----------
    ksp : complex array (C, R, S)
        Data y.
    traj : array (R, S, ndim)
        Positions k in cycles per field of view.
    offset : array (ndim,)
        From the old centre to the new one, in fields of view, in the order of the image axes.
    """
    turns = traj @ np.asarray(offset, dtype=np.float64)
    # modulo first: a large angle would lose digits
    return ksp * np.exp(2j * np.pi * (turns - np.round(turns))).astype(ksp.dtype)


def within(traj: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which samples (R, S) of a trajectory in cycles per field of view the image X can hold.

    The others lie beyond the edge of k-space, n/2, on some axis: the image would fold their frequencies in.
    """
    return np.all(np.abs(traj) <= _ROUNDING * np.array(shape) / 2, axis=-1)


def to_cycles_per_fov(
    traj: ArrayLike, *, units: str, shape: tuple[int, ...], fov: tuple[float, ...]
) -> NDArray[np.float64]:
    """Convert a trajectory to cycles per field of view, and check that it can be what `units` says.

    Parameters
    ----------
    traj : array (..., ndim)
        Positions in the order of the image axes.
    units : {"cycles/fov", "cycles/pixel", "rad/pixel", "1/m", "rad/m"}
        Unit of `traj`; the edge of k-space lies at n/2, 0.5, pi, n / (2 fov) or pi n / fov.
    shape : tuple of int
        Image size X.
    fov : tuple of float
        Field of view along X [mm].

    Returns
    -------
    array (..., ndim)
        A new array.

    Raises
    ------
    UserError
        An unknown unit, another number of dimensions, NaN, nothing but zeros, or numbers that
        do not fit the unit; the message says which unit they look like.

    Notes
    -----
    What reaches from 0.2 to 2 times the edge of k-space is taken. Beyond the edge, and below one half of it, that is
    worth a warning: a coarser or finer image than the scan was made for is possible, and so is another unit.
    """
    positions = converted(traj, units=units, shape=shape, fov=fov)
    check_reach(reach_of(positions), units=units, shape=shape, fov=fov)
    return positions


def converted(traj: ArrayLike, *, units: str, shape: tuple[int, ...], fov: tuple[float, ...]) -> NDArray[np.float64]:
    """Convert a trajectory as `to_cycles_per_fov` does; how far it reaches is `check_reach`'s matter.

    Raises
    ------
    UserError
        An unknown unit, another number of dimensions, or NaN.
    """
    if units not in UNITS:
        raise UserError(f"trajectory unit {units!r} is unknown, expected one of: {', '.join(UNITS)}")
    given = np.asarray(traj, dtype=np.float64)
    if given.ndim < 1 or given.shape[-1] != len(shape):
        raise UserError(
            f"trajectory has {given.shape[-1] if given.ndim else 0} dimensions, expected {len(shape)} for an image of "
            f"{_size(shape)}"
        )
    n_bad = given.size - int(np.count_nonzero(np.isfinite(given)))
    if n_bad:
        raise UserError(f"trajectory holds {n_bad} values that are NaN or infinite; write the file again")
    return given * (np.array(shape) / 2 / _edges(shape, fov)[units])


def reach_of(positions: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far positions (..., ndim) reach along every axis."""
    return np.abs(positions.reshape(-1, positions.shape[-1])).max(axis=0, initial=0.0)


def check_reach(
    reach: NDArray[np.float64], *, units: str, shape: tuple[int, ...], fov: tuple[float, ...], whole: bool = True
) -> None:
    """Refuse a trajectory that cannot be in the unit it was said to be in; the notes of `to_cycles_per_fov` say why.

    Parameters
    ----------
    reach : array (ndim,)
        See `reach_of`, of positions in cycles per field of view.
    units, shape, fov
        As for `to_cycles_per_fov`.
    whole : bool
        These are all readouts. Of some, only what lies too far out is wrong for certain.

    Raises
    ------
    UserError
        Nothing but zeros, or numbers that do not fit the unit; the message says which unit they look like.
    """
    edges = _edges(shape, fov)
    share = reach / (np.array(shape) / 2)
    if not whole and share.max() <= _LARGEST_SHARE:
        return
    if not reach.any():
        raise UserError("trajectory is zero everywhere, expected sample positions; write them into the raw file")
    extent = share * edges[units]
    # of several units that are possible, the one that ends nearest to the edge of k-space
    others = sorted(
        (other for other in UNITS if other != units), key=lambda one: abs(np.log((extent / edges[one]).max()))
    )
    likely = [other for other in others if _SMALLEST_SHARE <= (extent / edges[other]).max() <= _ROUNDING]
    told = (
        f"trajectory reaches |k| = {extent[share.argmax()]:.4g}, expected about {edges[units][share.argmax()]:.4g} "
        f"{units} for an image of {_size(shape)}"
    )
    if not _SMALLEST_SHARE <= share.max() <= _LARGEST_SHARE:
        advice = f"it looks like {likely[0]}: say --traj-units {likely[0]}" if likely else "no unit fits"
        raise UserError(f"{told}; {advice}{'' if likely else ': check the matrix in the header and the trajectory'}")
    if not share.min() >= _USUAL_SHARE or share.max() > _ROUNDING:
        hits = [other for other in likely if (extent / edges[other]).max() >= _HIT]
        logger.warning(
            "%s%s%s", told, _partly(share), f"; if it is in {hits[0]}, say --traj-units {hits[0]}" if hits else ""
        )


def _edges(shape: tuple[int, ...], fov: tuple[float, ...]) -> dict[str, NDArray[np.float64]]:
    """Return where the edge of k-space lies on every axis, by unit."""
    size, metres = np.array(shape, np.float64), np.array(fov) / 1e3
    half = np.full(len(shape), 0.5)
    edges = (size / 2, half, 2 * np.pi * half, size / metres / 2, np.pi * size / metres)
    return dict(zip(UNITS, edges, strict=True))


def _partly(share: NDArray[np.float64]) -> str:
    """Say what becomes of an image whose k-space is covered by these shares of its axes."""
    if share.max() > _ROUNDING:
        return "; samples beyond that are left out"
    return f"; it covers {100 * share.min():.0f} % of an axis, and finer details will be missing"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
