"""Join the groups of a scan to volumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from .config import Config
from .errors import UserError
from .geometry import Geometry
from .group import Reconstruction
from .images import CoefficientImages
from .waiting import Waiting

logger = logging.getLogger(__name__)

_MOST_MM, _MOST_SHARE = 0.1, 0.05
_PARALLEL = 1e-3


def stack(slices: Mapping[int, Geometry]) -> tuple[list[int], tuple[float, float, float]]:
    """Return the order in which slices make a volume, and the way from one to the next, LPS [mm].

    The order is that of their numbers where they lie so, upwards or downwards; else (numbers that follow the time of
    an interleaved scan) upwards along the slice direction.

    Parameters
    ----------
    slices : mapping of int to Geometry
        The place of every slice, by its number.

    Raises
    ------
    UserError
        The slices are not parallel, or more than 0.1 mm or 5 % of the step off even steps: no one volume has them all.
    """
    order = sorted(slices)
    if len(order) < 2:
        return order, (0.0, 0.0, 0.0)
    if any(slices[number].shape[2] > 1 for number in order):
        raise UserError(f"raw data hold {len(order)} volumes told apart by 'slice', expected one; split the file")
    first = slices[order[0]]
    for number in order:
        if np.abs(slices[number].directions - first.directions).max() > _PARALLEL:
            raise UserError(f"slices {order[0]} and {number} are not parallel, expected one volume; split the file")
    position = {number: np.array(slices[number].position) for number in order}
    if max(float(np.ptp([position[n][axis] for n in order])) for axis in range(3)) < 1e-6:
        logger.warning("all %d slices are said to lie in one place; taken as stacked without gaps", len(order))
        return order, (0.0, 0.0, 0.0)
    height = {number: float(position[number] @ first.slice_dir) for number in order}
    steps = np.diff([height[number] for number in order])
    if not (np.all(steps > 0) or np.all(steps < 0)):
        order.sort(key=height.__getitem__)
        logger.info("slices in the order of their places: %s", order)
    step = (position[order[-1]] - position[order[0]]) / (len(order) - 1)
    off = [np.linalg.norm(position[n] - position[order[0]] - i * step) for i, n in enumerate(order)]
    worst = int(np.argmax(off))
    length = abs(step @ first.slice_dir)
    if off[worst] > min(_MOST_MM, _MOST_SHARE * length) or length < 1e-6:
        raise UserError(
            f"slice {order[worst]} lies {off[worst]:.3g} mm off even steps of {length:.4g} mm, expected slices that "
            "make one volume; split the file"
        )
    return order, (float(step[0]), float(step[1]), float(step[2]))


def slices_of(images: Sequence[Waiting | Reconstruction]) -> dict[int, Geometry]:
    """Return where every slice lies, by its number.

    Raises
    ------
    UserError
        A slice lies in two places.
    """
    found: dict[int, Geometry] = {}
    for image in images:
        number = image.key.get("slice", 0)
        there = found.setdefault(number, image.geometry)
        if np.abs(there.affine - image.geometry.affine).max() > _MOST_MM:
            raise UserError(
                f"slice {number} lies in two places ({_without_slice(image.key)}), expected one; split the file"
            )
    return found


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
    geometries = slices_of(results)
    slices, step = stack(geometries)
    others = sorted({_without_slice(result.key) for result in results})
    coeff = np.zeros((len(others), len(slices), *shapes.pop()), np.complex64)
    sigma = np.full(coeff.shape[:2], results[0].sigma)
    for result in results:
        at = others.index(_without_slice(result.key)), slices.index(result.key.get("slice", 0))
        coeff[at], sigma[at] = result.coeff, result.sigma
    if len(results) < coeff.shape[0] * coeff.shape[1]:
        logger.warning(
            "%d of %d images have no readouts and stay empty",
            coeff.shape[0] * coeff.shape[1] - len(results),
            coeff.shape[0] * coeff.shape[1],
        )
    by_terms = bool(config.bart_terms)
    info = {
        "noise": config.noise, "sens": config.sens, "backend": config.backend, "bart_terms": list(config.bart_terms),
        "bart_lowmem": config.bart_lowmem, "regulariser": None if by_terms else config.regulariser,
        "lam": None if by_terms else config.lam, "lam_scaling": config.scaling, "block": config.block,
        "shift": config.shift, "solver": config.choose_solver(), "iterations": config.iterations,
        "start": config.start, "preconditioner": config.preconditioner,
        "tolerance": config.tolerance, "scaling": "unitary",
        # of every repetition and slice, where they differ
        "sigma": results[0].sigma if np.ptp(sigma) == 0 else sigma.tolist(),
        "groups": [dict(key) for key in others], "slices": slices,
        "calibration": [result.key | result.calibration for result in results if result.calibration],
        "readouts": [result.key | result.readouts for result in results if result.readouts],
        "misfit": [result.key | result.misfit for result in results if result.misfit],
    }  # fmt: skip
    return CoefficientImages(coeff, geometries[slices[0]], step, results[0].digest, info)


def place_of(result: Reconstruction, images: CoefficientImages) -> tuple[int, int]:
    """Return repetition and slice of a group in the images that were `gathered`."""
    return (
        images.info["groups"].index(dict(_without_slice(result.key))),
        images.info["slices"].index(result.key.get("slice", 0)),
    )


def _without_slice(key: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((name, value) for name, value in key.items() if name != "slice")
