"""What a basis loses: energy and Cramer-Rao bounds, per tissue and parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import crb
from .basis import Basis
from .model import SignalModel
from .prior import Prior, iter_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

Losses = dict[str, dict[str, dict[str, float]]]
"""Tissue class -> parameter or "signal" -> figure -> value."""


def assess(model: SignalModel, prior: Prior, basis: Basis, *, fisher: crb.Fisher = "real") -> Losses:
    """Return the losses of a basis on the fingerprints of a prior.

    Parameters
    ----------
    model, prior
        What is simulated; every atom counts with its tissue's weight in ``all``.
    basis : Basis
        The basis.
    fisher : {"real", "complex"}
        See `crb`.

    Returns
    -------
    dict
        For ``signal``: ``energy``, the mean share of energy outside of the basis (Eq. 6).
        For each parameter of interest: ``approximate`` and ``exact``, the mean losses
        1 - B_u / B_ac and 1 - B_u / B_ec (Eq. 8), and ``retained``, the mean of B_u / B_ec,
        which is the summary R of Eq. (13). Per tissue class and over ``all``.
    """
    targets = crb.interesting(model.parameters)
    rows: dict[str, dict[tuple[str, str], list[NDArray[np.float64]]]] = {}
    weights: dict[str, list[NDArray[np.float64]]] = {}
    for batch in iter_batches(model, prior):
        assert batch.jac is not None
        found = crb.bounds(batch.signal, batch.jac, basis.phi, targets=targets, fisher=fisher)
        figures = {("signal", "energy"): crb.energy_loss(batch.signal, basis.phi)}
        for column, i in enumerate(targets):
            name = model.parameters[i].name
            bound = found.uncompressed[:, column]
            figures[name, "approximate"] = crb.crb_loss(bound, found.approximate[:, column])
            figures[name, "exact"] = crb.crb_loss(bound, found.exact[:, column])
            figures[name, "retained"] = 1 - figures[name, "exact"]
        for label in (batch.label, "all"):
            weights.setdefault(label, []).append(np.full(len(batch.theta), batch.weight))
            for key, values in figures.items():
                rows.setdefault(label, {}).setdefault(key, []).append(values)
    losses: Losses = {}
    for label, columns in rows.items():
        weight = np.concatenate(weights[label])
        for (name, figure), parts in columns.items():
            losses.setdefault(label, {}).setdefault(name, {})[figure] = _mean(np.concatenate(parts), weight)
    return losses


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Mean over the fingerprints whose parameter can be estimated at all."""
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else float("nan")
