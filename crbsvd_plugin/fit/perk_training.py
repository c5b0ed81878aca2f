"""Train a kernel regression on noisy fingerprints of a dictionary.

Every draw is an atom with white noise of another size, ||c|| / sigma from 10 to 1000, evenly in its logarithm. The loss
is weighted with ||c|| / sigma, for errors of good voxels are small: without it the noisy ones would decide, and good
ones be left with a bias. Lengths of the kernel are multiples of the standard deviation of each regressor; that multiple
and the ridge are chosen on other atoms than those of the training.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..dictionary import Dictionary
from ..errors import UserError
from ..model import Parameter
from ..progress import Report, counted, silent
from .box import Box
from .nlls import check_rank
from .perk import Perk
from .regressors import Regressors

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

RATIO = (10.0, 1000.0)
"""||c|| / sigma of the draws."""
_HELD_OUT = 0.2
_LENGTHS = (1.0, 2.0, 4.0)
_RIDGES = tuple(10.0**e for e in range(-11, -4))
_AT_ONCE = 4096


class _Draws(NamedTuple):
    """Regressors (N, F), outputs (N, O) and weights (N,) of draws."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    weight: NDArray[np.float64]


def train(
    dictionary: Dictionary,
    *,
    n_features: int = 1000,
    n_draws: int = 50_000,
    seed: int = 0,
    report: Report = silent,
) -> Perk:
    """Return a kernel regression for the atoms of a dictionary, see `perk`.

    Parameters
    ----------
    dictionary : Dictionary
        Its atoms are the prior.
    n_features : int
        Number n of random Fourier features.
    n_draws : int
        Noisy fingerprints, of which a fifth is held out; each atom is drawn as often as any other, or once less.
    seed : int
        Of all that is random.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        There is nothing to regress, or there are too few coefficients or atoms.
    """
    box = learned(dictionary.rank, dictionary.parameters, dictionary.theta)
    rng = np.random.default_rng(seed)
    usable = rng.permutation(np.flatnonzero(dictionary.norm > 0))
    n_held_out = math.ceil(_HELD_OUT * len(usable))
    if len(usable) - n_held_out < 1:
        raise UserError(f"the dictionary has {len(usable)} atoms with a signal, expected more to learn from (--atoms)")
    regressors = Regressors.of_atoms(dictionary.coeff[usable])
    both = np.ascontiguousarray(dictionary.coeff, np.complex128).view(np.float64)
    parts = np.flatnonzero(both.any(axis=0))
    targets = np.column_stack([
        box.unit(dictionary.theta)[:, box.free],
        np.log(np.where(dictionary.norm > 0, dictionary.norm, 1)),
        both[:, parts],
    ])  # fmt: skip
    tests, training = (
        _draws(np.resize(atoms, math.ceil(n_draws * share)), dictionary, targets, regressors, rng)
        for atoms, share in ((usable[:n_held_out], _HELD_OUT), (usable[n_held_out:], 1 - _HELD_OUT))
    )
    size = training.x.std(axis=0)
    normal, turns = rng.standard_normal((n_features, len(size))), rng.random(n_features)
    step = counted(report, "regression", len(_LENGTHS) * len(training.x))
    n_free, best = int(box.free.sum()), None
    for length in _LENGTHS:
        # single precision as it will be used
        frequencies = (normal / (2 * np.pi * length * size)).astype(np.float32)
        gram, cross, mean, constant = _moments(training, frequencies, turns, step)
        weights = np.stack([_solved(gram, cross, ridge) for ridge in _RIDGES])
        constants = constant - mean @ weights
        errors = _errors(tests, turns, frequencies, weights[..., :n_free], constants[:, :n_free])
        i = int(errors.argmin())
        if best is None or errors[i] < best[0]:
            best = (float(errors[i]), length, _RIDGES[i], (frequencies, weights[i], constants[i]))
    assert best is not None
    error, length, ridge, (frequencies, weights, constant) = best
    info = {
        "seed": seed, "features": n_features, "fingerprints": len(training.x), "ratio": list(RATIO),
        "length": length, "ridge": ridge, "held_out": error,
    }  # fmt: skip
    logger.info(
        "kernel regression of %d features: length %g, ridge %g, held-out error %.3g of half the range",
        n_features, length, ridge, error,
    )  # fmt: skip
    return Perk(
        box, regressors, frequencies, turns.astype(np.float32), weights.astype(np.float32), constant, parts,
        dictionary.digest, info,
    )  # fmt: skip


def learned(rank: int, parameters: tuple[Parameter, ...], theta: NDArray[Any]) -> Box:
    """Return the box that a regression of K = `rank` coefficients learns from atoms theta (B, P).

    Raises
    ------
    UserError
        There is nothing to regress, or there are too few coefficients.
    """
    box = Box.around(parameters, theta)
    if not box.free.any():
        raise UserError("all atoms of the dictionary have the same parameters, expected some to be learned (--perk)")
    check_rank(rank, int(box.free.sum()))
    return box


def _draws(
    atoms: NDArray[np.intp],
    dictionary: Dictionary,
    targets: NDArray[np.float64],
    regressors: Regressors,
    rng: np.random.Generator,
) -> _Draws:
    """Return noisy fingerprints of atoms (N,)."""
    ratio = np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), len(atoms)))
    clean = dictionary.coeff[atoms].astype(np.complex128)
    noise = rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape)
    return _Draws(regressors(clean + noise / ratio[:, None]), targets[atoms], ratio / ratio.mean())


def _blocks(draws: _Draws, frequencies: NDArray[np.float32], turns: NDArray[np.float64]) -> Iterator[Any]:
    """Yield features (B, n), outputs (B, O) and weights (B, 1), some draws at a time."""
    for start in range(0, len(draws.x), _AT_ONCE):
        x, y, weight = (array[start : start + _AT_ONCE] for array in draws)
        yield np.cos(2 * np.pi * (x @ frequencies.T.astype(np.float64) + turns)), y, weight[:, None]


def _moments(draws: _Draws, frequencies: NDArray[np.float32], turns: NDArray[np.float64], step: Any) -> tuple[Any, ...]:
    """Return the weighted covariances (n, n) and (n, O) of features and outputs, and both means."""
    n, n_outputs = len(turns), draws.y.shape[1]
    gram, cross = np.zeros((n, n)), np.zeros((n, n_outputs))
    mean, constant, total = np.zeros(n), np.zeros(n_outputs), draws.weight.sum()
    for z, y, weight in _blocks(draws, frequencies, turns):
        weighted = weight * z
        gram += z.T @ weighted
        cross += weighted.T @ y
        mean += weighted.sum(axis=0)
        constant += (weight * y).sum(axis=0)
        step(len(z))
    mean, constant = mean / total, constant / total
    return gram / total - np.outer(mean, mean), cross / total - np.outer(mean, constant), mean, constant


def _solved(gram: NDArray[np.float64], cross: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Return the weights (n, O) that a ridge, relative to the variance of all features together, allows."""
    from scipy.linalg import cho_factor, cho_solve

    damped = gram + ridge * np.trace(gram) * np.eye(len(gram))
    return np.asarray(cho_solve(cho_factor(damped), cross))


def _errors(
    draws: _Draws,
    turns: NDArray[np.float64],
    frequencies: NDArray[np.float32],
    weights: NDArray[np.float64],
    constants: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the weighted root mean square errors (R,) of I scaled coordinates, for weights (R, n, I)."""
    n_ways, _, n_free = weights.shape
    together, total = np.concatenate(weights, axis=1), np.zeros(n_ways)
    for z, y, weight in _blocks(draws, frequencies, turns):
        left = (z @ together).reshape(len(z), n_ways, n_free) + constants - y[:, None, :n_free]
        total += np.sum(weight[..., None] * left**2, axis=(0, 2))
    return np.sqrt(total / (n_free * draws.weight.sum()))
