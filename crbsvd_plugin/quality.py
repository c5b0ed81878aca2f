"""Maps of how good maps are: standard deviations and residuals."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import models
from .basis import Basis
from .fit import perk
from .fit.box import Box
from .fit.fitter import Fitter
from .fit.result import Extra, Maps
from .fit.spread import Noise, Tangents, spread
from .mapfile import file_stem
from .progress import Report, counted, silent
from .tangents import compressed_tangents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cluster import Pool
    from .fit.perk import Perk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownNoise:
    """Noise of coefficient images, or why it is not known.

    Parameters
    ----------
    noise : Noise or None
        The noise.
    origin : str
        Where it comes from, or what is missing, in words.
    """

    noise: Noise | None
    origin: str


def known_noise(
    sigma: float | NDArray[Any],
    covariance: NDArray[Any] | None,
    *,
    n_replicas: int = 0,
    penalty: str = "l2",
    bounded: bool = True,
) -> KnownNoise:
    """Return the noise that standard deviations can be made from.

    Parameters
    ----------
    sigma : float or array
        That of a coefficient, see `encoding.coefficient_noise`; 0 if unknown.
    covariance : array (K (K + 1) / 2, *X), optional
        Of `n_replicas` pseudo-replicas.
    penalty : str
        Regulariser of the images. Only for l2 is their noise that of the formula, and the bound one.
    bounded : bool
        The bound holds for the estimates, as it does not for those of a regression, which are biased.
    """
    if covariance is not None:
        return KnownNoise(
            Noise(covariance=covariance), f"noise of the coefficients from {n_replicas} pseudo-replicas, to first order"
        )
    if penalty != "l2":
        return KnownNoise(
            None, f"the Cramer-Rao bound does not hold for images regularised with {penalty}; --replicas measures them"
        )
    if not np.any(sigma):
        return KnownNoise(None, "the noise is not known: there is no noise scan, or the images do not say")
    how = "exact compressed Cramer-Rao bound at the estimate" if bounded else "what noise makes of the regression"
    return KnownNoise(Noise(sigma), f"{how}, for white noise of fully sampled coefficients")


def fitted_maps(
    coeff: NDArray[Any],
    fitter: Fitter,
    basis: Basis,
    *,
    known: Mapping[str, NDArray[np.float64]] | None = None,
    noise: KnownNoise | None,
    report: Report = silent,
    pool: Pool | None = None,
) -> Maps:
    """Return the maps of coefficient images, with maps of how good they are if their noise is told.

    Parameters
    ----------
    coeff : complex array (K, *X)
        The images.
    fitter, basis
        How they are fitted, and what they are coefficients of.
    known : mapping of parameter name to array (*X), optional
        Measured maps.
    noise : KnownNoise, optional
        That of the images; None: maps alone.
    report, pool
        As for `Fitter.fit`.
    """
    maps = fitter.fit(coeff, known=known, report=report, pool=pool)
    if noise is None:
        return maps
    if fitter.forward is None and fitter.perk is None and not models.available(basis.sequence):
        logger.warning(
            "no standard deviations and residuals: they need the model %s; name it with --model", basis.sequence["name"]
        )
        return maps
    fitted, tangents = tangents_of(fitter, basis, known=known or (), report=report, pool=pool)
    return with_quality(maps, coeff, fitted=fitted, tangents=tangents, noise=noise, regression=fitter.perk)


def tangents_of(
    fitter: Fitter, basis: Basis, *, known: Collection[str] = (), report: Report = silent, pool: Pool | None = None
) -> tuple[list[int], Tangents]:
    """Return the parameters that a fit finds, and the signals and derivatives at its estimates.

    Parameters held fixed count as known, and so do those named, which were measured. Least squares have their signals;
    for a match the model of the basis is simulated, see `tangents.compressed_tangents`.
    """
    dictionary, forward = fitter.dictionary, fitter.forward
    box = Box.around(dictionary.parameters, dictionary.theta) if forward is None else forward.box

    def tangents(theta: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        # maps are in single precision, which may have rounded estimates out of the box
        theta = np.clip(theta, box.low, box.high)
        if forward is not None:
            return forward.value_and_jacobian(theta)
        progress = counted(report, "derivatives", len(theta))
        return compressed_tangents(theta, basis=basis, progress=progress, pool=pool)

    fitted = [i for i, p in enumerate(dictionary.parameters) if box.free[i] and p.name not in known]
    return fitted, tangents


def with_quality(
    maps: Maps,
    coeff: NDArray[Any],
    *,
    fitted: Sequence[int],
    tangents: Tangents,
    noise: KnownNoise,
    regression: Perk | None = None,
) -> Maps:
    """Return maps with further ones beside them.

    ``T1std`` and so on, one for every parameter that was fitted, and ``M0std``, where the noise is known;
    ``MISFITmap``, ||c - M0 phi^H s|| / ||c||; ``CHI2map``, its square relative to what this noise leaves.

    Parameters
    ----------
    maps : Maps
        Of an unweighted fit.
    coeff : complex array (K, *X)
        What was fitted.
    fitted : sequence of int
        The parameters that were fitted, see `tangents_of`.
    tangents : callable
        Signals and derivatives at estimates, see `fit.spread.Tangents`.
    noise : KnownNoise
        That of `coeff`.
    regression : Perk, optional
        What the maps come from, if not from a fit: noise goes through its derivatives instead (to first order, without
        its bias), and there is no ``CHI2map``.
    """
    white = noise.noise or Noise()
    if regression is None:
        found = spread(maps, coeff, tangents=tangents, fitted=fitted, noise=white)
    else:
        found = perk.spread(regression, maps, coeff, white)
    single = partial(np.asarray, dtype=np.float32)
    left = "||c - M0 phi^H s|| / ||c||: share of the coefficients that the fit does not explain"
    extra = dict(maps.extra)
    if noise.noise is None:
        logger.warning("no standard deviations: %s", noise.origin)
        extra["MISFITmap"] = Extra(single(found.residual), "1", f"{left}. No standard deviations: {noise.origin}")
        return replace(maps, extra=extra)
    how = f"{noise.origin}; 0 where it is infinite; on the edge of the dictionary it is that of a free fit"
    if regression is not None:
        how = f"{noise.origin}; to first order, without the bias of the regression"
    for i, values in zip(fitted, found.theta, strict=True):
        parameter = maps.parameters[i]
        name = f"{file_stem(parameter.name).removesuffix('map')}std"
        extra[name] = Extra(single(values), parameter.unit, f"standard deviation of {parameter.name}: {how}")
    extra["M0std"] = Extra(single(found.m0), "arbitrary", f"standard deviation of |M0|: {how}")
    extra["MISFITmap"] = Extra(single(found.residual), "1", left)
    endless = np.isinf(found.theta[:, maps.mask]).any(axis=0)
    if endless.any():
        logger.warning(
            "in %.3g %% of the voxels %d coefficients leave a parameter open", 100 * endless.mean(), len(coeff)
        )
    # a matter of numbers, not of voxels: all slices have the same maps
    if regression is None and 2 * len(coeff) > len(fitted) + 2:
        extra["CHI2map"] = Extra(
            single(found.chi2), "1", f"||c - M0 phi^H s||^2 relative to its mean, 1 where all fits; {noise.origin}"
        )
        known = found.chi2[np.isfinite(found.chi2)]
        if known.size:
            logger.info("residuals: the median of chi2 is %.3g (1: noise alone)", np.median(known))
    return replace(maps, extra=extra)
