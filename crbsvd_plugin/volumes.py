"""Join the groups of a scan to volumes."""

from __future__ import annotations

import logging

import numpy as np

from .config import Config
from .errors import UserError
from .group import Reconstruction
from .images import CoefficientImages

logger = logging.getLogger(__name__)


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
    place, sigma = {}, np.full(coeff.shape[:2], results[0].sigma)
    for result in results:
        at = others.index(_without_slice(result.key)), slices.index(result.key.get("slice", 0))
        coeff[at], place[at[1]], sigma[at] = result.coeff, result.geometry, result.sigma
    if len(results) < coeff.shape[0] * coeff.shape[1]:
        logger.warning(
            "%d of %d images have no readouts and stay empty",
            coeff.shape[0] * coeff.shape[1] - len(results),
            coeff.shape[0] * coeff.shape[1],
        )
    step = np.subtract(place[1].position, place[0].position).tolist() if len(slices) > 1 else (0.0, 0.0, 0.0)
    by_terms = bool(config.bart_terms)
    info = {
        "sens": config.sens, "backend": config.backend, "bart_terms": list(config.bart_terms),
        "bart_lowmem": config.bart_lowmem, "regulariser": None if by_terms else config.regulariser,
        "lam": None if by_terms else config.lam, "lam_scaling": config.scaling, "block": config.block,
        "shift": config.shift, "solver": config.chosen_solver, "iterations": config.iterations,
        "start": config.start, "preconditioner": config.preconditioner,
        "tolerance": config.tolerance, "scaling": "unitary",
        # of every repetition and slice, where they differ
        "sigma": results[0].sigma if np.ptp(sigma) == 0 else sigma.tolist(),
        "groups": [dict(key) for key in others], "slices": slices,
        "calibration": [result.key | result.calibration for result in results if result.calibration],
        "misfit": [result.key | result.misfit for result in results if result.misfit],
    }  # fmt: skip
    return CoefficientImages(coeff, place[0], tuple(step), results[0].digest, info)


def _without_slice(key: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((name, value) for name, value in key.items() if name != "slice")
