r"""The basis that loses least with exact Cramer-Rao bounds, and how far from the best possible it is.

CRB-SVD minimises a weighted loss with the approximate bounds B_ac. With the exact ones, B_ec, that is a problem on
the Grassmannian (future work in arXiv 2305.00326). It is solved here in the leading dimensions of the fold, from
CRB-SVD with the same weights on, and a lower bound of what any basis costs comes with it (`frontier`).

*At a given energy loss* e the CRB loss L is minimised subject to E <= e by an augmented Lagrangian, which also
finds what weights cannot, where the frontier is not convex.

*The worst fingerprints*: of every parameter the mean over the worst tenth (the expected shortfall) in place of the
mean. The fingerprints that are the worst for the basis found cost any other basis no more than its own worst do, so
their eigenvalue problem is a lower bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import crb
from .basis import Basis, plain, turned
from .errors import UserError
from .exact import ExactLoss, Price
from .fingerprints import Fingerprints
from .fold import BasisAccumulator
from .frontier import Frontier, Weights
from .gram import least
from .grassmann import minimise
from .progress import Report, counted, silent
from .training import Training
from .weighting import Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_PROBED = 8
_ROUNDS = 20
_CLOSE = 1e-3


def improved(
    start: Basis,
    accumulator: BasisAccumulator,
    fingerprints: Fingerprints,
    factors: Mapping[Block, float],
    *,
    energy_loss: float | None = None,
    report: Report = silent,
) -> Basis:
    """Return a basis of the same rank that costs less with exact bounds, with its certificate.

    Parameters
    ----------
    start : Basis
        That of CRB-SVD with these factors.
    accumulator : BasisAccumulator
        What it was made of.
    fingerprints : Fingerprints
        What bases lose.
    factors : mapping
        What the squared loss of every block counts, see `Weighting.factors`.
    energy_loss : float, optional
        Minimise the CRB loss alone, with at most this share of the energy lost. The search then starts from the
        CRB-SVD that keeps the energy.
    report : callable
        Told of the progress.

    Returns
    -------
    Basis
        Its columns are in the order of what they keep of the weighted total. ``info["exact"]`` holds the goal, what
        this basis, the one it started from (``start``) and the ``least`` possible cost on the training fingerprints,
        the former two also ``held_out``. The start is kept where it costs less, held out.

    Raises
    ------
    UserError
        The rank is too small for the energy loss.
    """
    columns, loss = fingerprints.columns, fingerprints.training
    frontier = Frontier(accumulator, factors, start.rank, columns)
    progress, losses = counted(report, "minimising", 0), [fingerprints.first, loss]
    if energy_loss is None:
        weights = frontier.shares
        before = frontier.basis(weights)
        found = _minimised(losses, partial(_linear, weights), before, progress)
        lowest = frontier.least(weights)
    else:
        before = frontier.within(energy_loss)
        found, multiplier = _constrained(losses, before, energy_loss, progress)
        weights, lowest = (multiplier, 1.0), frontier.least_within(energy_loss, multiplier)
    if loss.worst:
        gram, whole = loss.approximate_gram(found, weights)
        outside = whole - float(np.trace(gram).real)
        lowest = max(lowest, least(gram, whole, outside, [start.rank])[0] - weights[0] * (energy_loss or 0.0))
    price = partial(_linear, frontier.shares if energy_loss is None else (0.0, 1.0))
    (first, first_held), (last, last_held) = (
        [price(*some.losses(phi))[0] for some in (loss, fingerprints.held_out)] for phi in (before, found)
    )
    if last_held > first_held:
        logger.warning(
            "held out, the basis with exact bounds costs %.6g, that of CRB-SVD %.6g: the latter is kept",
            last_held, first_held,
        )  # fmt: skip
        found, last, last_held = before, first, first_held
    ordered, kept = frontier.ordered(found)
    phi = turned(columns @ ordered)
    facts = {
        "worst": loss.worst, "energy_loss": energy_loss, "cost": last, "cost_held_out": last_held,
        "start": first, "start_held_out": first_held, "least": lowest,
    }  # fmt: skip
    info = {**start.info, "method": "exact", "exact": facts, "losses": accumulator.losses(phi)}
    return replace(start, phi=phi, singular_values=np.sqrt(kept), info=plain(info))


def check_rank(training: Training, rank: int) -> None:
    """Refuse a rank at which all exact bounds are infinite in any basis: nothing could be minimised.

    Raises
    ------
    UserError
        The compressed signals and derivatives of M0 and all parameters depend on one another, or whole ones do.
    """
    model, targets = training.model, crb.interesting(training.model.parameters)
    # some of every class: where a tissue lacks a pool, derivatives by its properties are zero
    thetas = [part.theta[:: max(1, len(part.theta) // _PROBED)] for part in training.atoms]
    signal, jac = model.signal_and_jacobian(np.concatenate(thetas))
    rng = np.random.default_rng(rank)
    phi = rng.standard_normal((model.n_frames, rank))
    if not training.conjugate and (signal.real.any(axis=1) & signal.imag.any(axis=1)).any():
        phi = phi + 1j * rng.standard_normal(phi.shape)
    found = crb.bounds(signal, jac, np.linalg.qr(phi)[0], targets=targets, fisher=training.fisher)
    if np.isfinite(found.exact).any():
        return
    of = f"of M0 and {len(model.parameters)} parameters are infinite"
    if np.isfinite(found.uncompressed).any():
        raise UserError(
            f"--rank is {rank}, at which the exact bounds {of} in every basis: there is nothing to minimise; take a "
            "larger rank, or --method svd"
        )
    raise UserError(
        f"the bounds {of} even without a basis: derivatives are zero or depend on one another, so there is nothing to "
        "minimise; fix a parameter, or take --method svd"
    )


def told(facts: Mapping[str, Any]) -> str:
    """Return in words what ``info["exact"]`` of a basis says, in per cent."""
    limit = facts["energy_loss"]
    what = "Weighted loss" if limit is None else f"Mean CRB loss at an energy loss of {100 * limit:.3g} %"
    cost, start, least, held, start_held = (
        f"{100 * facts[name]:.4g} %" for name in ("cost", "start", "least", "cost_held_out", "start_held_out")
    )
    worst = " (of every parameter the worst tenth)" if facts.get("worst") else ""
    return (
        f"{what} with exact bounds{worst}: {cost}, of CRB-SVD {start}, of no basis of this rank less than {least}; "
        f"held out {held} and {start_held}"
    )


def _linear(weights: Weights, energy: float, crb_loss: float) -> tuple[float, float, float]:
    """Return the `Price` of losses that count so much."""
    return weights[0] * energy + weights[1] * crb_loss, *weights


def _minimised(
    losses: Sequence[ExactLoss], price: Price, start: NDArray[Any], progress: Callable[[int], object]
) -> NDArray[Any]:
    """Return the basis that is found from `start` with one loss after the other, none of which makes the last worse."""
    phi, last = start, losses[-1]
    for loss in losses:
        found = minimise(partial(loss, price=price), phi, progress=progress)
        if last(found, price)[0] <= last(phi, price)[0]:
            phi = found
    return phi


def _constrained(
    losses: Sequence[ExactLoss], start: NDArray[Any], limit: float, progress: Callable[[int], object]
) -> tuple[NDArray[Any], float]:
    """Return the basis of least CRB loss with an energy loss of at most `limit`, and the multiplier of the energy loss.

    The augmented Lagrangian of g = E / aim - 1 <= 0 is L + (max(0, nu + mu g)^2 - nu^2) / (2 mu) (Nocedal and Wright,
    Numerical Optimization, section 17.4), nu the multiplier of g; mu grows where g does not fall. The aim is as far
    below the limit as the result may be above the aim.
    """
    aim = limit / (1 + _CLOSE)
    phi, nu, mu, before, loss = start, 0.0, 1.0, np.inf, losses[-1]
    best, best_loss = start, loss.losses(start)[1]
    for _ in range(_ROUNDS):

        def price(energy: float, crb_loss: float, nu: float = nu, mu: float = mu) -> tuple[float, float, float]:
            pressure = max(0.0, nu + mu * (energy / aim - 1))
            return crb_loss + (pressure**2 - nu**2) / (2 * mu), pressure / aim, 1.0

        phi = _minimised(losses, price, phi, progress)
        energy, lost = loss.losses(phi)
        excess = energy / aim - 1
        if excess <= _CLOSE and lost < best_loss:
            best, best_loss = phi, lost
        nu = max(0.0, nu + mu * excess)
        if abs(excess) <= _CLOSE or (excess < 0 and nu == 0):
            break
        if abs(excess) > before / 2:
            mu *= 4
        before = abs(excess)
    return best, nu / aim
