"""The other figures of a report: basis functions, studies, the coefficients for a scan, memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import costs, plots
from .loss_figures import RANK, number, percent, words
from .page import Panel, Table
from .plots import Curve, Shown
from .written import Amount, Estimate, Functions, Study

_PARTS = ("real part", "imaginary part", "magnitude")


def functions(found: Functions) -> Panel:
    """Return the columns of a basis against the frame; real and imaginary part and magnitude of a complex one."""
    phi = np.array(found.real)
    parts = {"values": phi}
    if found.imag is not None:
        phi = phi + 1j * np.array(found.imag)
        parts = dict(zip(_PARTS, (phi.real, phi.imag, np.abs(phi)), strict=True))
    names = [str(i + 1) for i in range(len(phi))]
    peaks = ", ".join(
        f"{name} in frame {found.frames[np.abs(column).argmax()]}" for name, column in zip(names, phi, strict=True)
    )
    views, columns = {}, []
    for i, (part, values) in enumerate(parts.items()):
        y = values.tolist()
        said = f"{part} of {len(y)} columns at {len(found.frames)} frames; the largest of column {peaks}.".capitalize()
        views[str(i) if found.imag is not None else "*"] = Shown([found.frames] * len(y), y, part, said)
        columns += [(f"column {name}, {part}", row) for name, row in zip(names, y, strict=True)]
    rows = [[str(t), *(f"{values[n]:.4g}" for _, values in columns)] for n, t in enumerate(found.frames)]
    curves = plots.distinct(names, "lines")
    table = Table(["frame", *(name for name, _ in columns)], rows)
    made = plots.plot("Columns of phi", curves, views, table, axis="frame", legend="column")
    return Panel([made], {"Part": list(parts)} if found.imag is not None else {})


def study(found: Study) -> Panel:
    """Return bias and standard deviation against the rank, with standard errors, beside the bounds."""
    names = list(dict.fromkeys(row.parameter for row in found.rows))
    truths = sorted({row.fingerprint for row in found.rows})
    weights = sorted({row.crb_weight for row in found.rows})
    ranks = sorted({row.rank for row in found.rows})
    rows = {(row.fingerprint, row.parameter, row.crb_weight, row.rank): row for row in found.rows}
    bias, sd = {}, {}
    for i, name in enumerate(names):
        for j, truth in enumerate(truths):
            cases = [[rows.get((truth, name, weight, rank)) for rank in ranks] for weight in weights]
            one = next(row for row in found.rows if (row.fingerprint, row.parameter) == (truth, name))
            unit = f" [{one.unit}]" if one.unit else ""
            label = f"{name} of {_truth(found, truth)}"
            y, errors = _of(cases, "bias"), _of(cases, "bias_se")
            said = (
                f"{label}: bias at K = {ranks[-1]}: {_several(weights, y, one.unit)}; "
                f"the truth is {one.truth:.4g} {one.unit}."
            )
            bias[f"{i}.{j}"] = Shown([ranks] * len(y), y, f"bias of {name}{unit}", said, errors=errors)
            y, errors, bounds = _of(cases, "sd"), _of(cases, "sd_se"), _of(cases, "crb_compressed")
            said = (
                f"{label}: standard deviation at K = {ranks[-1]}: {_several(weights, y, one.unit)}; "
                f"the bound of all frames is {number(one.crb)} {one.unit}."
            )
            sd[f"{i}.{j}"] = Shown(
                [ranks] * (2 * len(y) + 1), [*y, *bounds, [one.crb] * len(ranks)],
                f"standard deviation of {name}{unit}", said, errors=[*errors, *([0.0] * len(ranks) for _ in [*y, 0])],
            )  # fmt: skip
    curves = plots.distinct([f"weight {weight:g}" for weight in weights])
    limits = [Curve(f"bound of K, {c.name}", c.colour, "dot", mode="lines", width=1.5) for c in curves]
    whole = Curve("bound of all frames", dash="dash", mode="lines", width=1.5)
    figures = ("truth", "bias", "bias_se", "sd", "sd_se", "crb", "crb_compressed")
    heads = ("truth", "bias", "+-", "sd", "+-", "bound", "bound of K", "failed fits")
    table = Table(
        ["parameter, fingerprint", "unit", "weight", "K", *heads],
        [
            [f"{r.parameter}, {r.fingerprint + 1}", r.unit, f"{r.crb_weight:g}", str(r.rank),
             *(number(getattr(r, name)) for name in figures), str(r.failed)]
            for r in found.rows
        ],
    )  # fmt: skip
    return Panel(
        [
            plots.plot("Bias", curves, bias, table, axis=RANK),
            plots.plot("Standard deviation", [*curves, *limits, whole], sd, table, axis=RANK),
        ],
        {"Parameter": names, "Fingerprint": [_truth(found, truth) for truth in truths]},
    )


def amount(found: Amount) -> Panel:
    """Return the errors that noise and what is outside of the basis make, against the number of coefficients."""
    parameters, tissues = (
        list(dict.fromkeys(getattr(row, key) for row in found.rows)) for key in ("parameter", "tissue")
    )
    figures = {"noise": "noise", "leak": "what the basis leaves out", "total": "both"}
    views = {}
    for i, name in enumerate(parameters):
        for j, tissue in enumerate(tissues):
            rows = sorted((r for r in found.rows if (r.parameter, r.tissue) == (name, tissue)), key=lambda r: r.rank)
            y = [[percent(getattr(row, figure)) for row in rows] for figure in figures]
            at = next((row for row in rows if row.rank == found.recommended), None)
            told = "nothing is known of the recommended rank"
            if at is not None:
                noise, leak, total = (number(percent(getattr(at, figure)), " %") for figure in figures)
                told = f"at the recommended K = {at.rank}, {noise} of noise and {leak} of what the basis leaves out "
                told += f"are together {total}"
            said = f"{name}, {words(tissue)}: {told}."
            views[f"{i}.{j}"] = Shown([[row.rank for row in rows]] * len(y), y, f"error [% of {name}]", said, "y")
    table = Table(
        ["parameter, tissue", "K", *(f"{label} [%]" for label in figures.values())],
        [
            [f"{r.parameter}, {r.tissue}", str(r.rank), *(number(percent(getattr(r, figure))) for figure in figures)]
            for r in found.rows
        ],
    )
    made = plots.plot(
        "Error against the rank",
        plots.distinct(list(figures.values())),
        views,
        table,
        axis=RANK,
        mark=found.recommended,
    )
    return Panel([made], {"Parameter": parameters, "Tissue": [words(tissue) for tissue in tissues]})


def cost(most: int, *, real: bool, at: int) -> Panel:
    """Return memory and time of the two examples at ranks up to `most`, told for the rank `at`."""
    ranks = list(range(1, most + 1))
    return Panel(
        [
            _amounts("Memory of the volume", [costs.memory(rank, real=real) for rank in ranks], "memory [GiB]", at),
            _amounts("Time of the slice, estimated", [costs.seconds(rank) for rank in ranks], "time [s]", at),
        ]
    )


def _amounts(title: str, found: Sequence[dict[str, float]], axis: str, at: int) -> Any:
    names, ranks = list(found[0]), list(range(1, len(found) + 1))
    unit = axis[axis.index("[") + 1 : -1]
    told = ", ".join(f"{name} {found[at - 1][name]:.2g} {unit}" for name in names)
    first = found[-1][names[0]]
    said = f"At K = {at}: {told}. At K = {ranks[-1]}, {names[0]} takes {first:.2g} {unit}."
    views = {"*": Shown([ranks] * len(names), [[one[name] for one in found] for name in names], axis, said)}
    rows = [[str(rank), *(f"{one[name]:.3g}" for name in names)] for rank, one in zip(ranks, found, strict=True)]
    table = Table(["K", *(f"{name} [{unit}]" for name in names)], rows)
    return plots.plot(title, plots.distinct(names), views, table, axis=RANK)


def _of(cases: Sequence[Sequence[Estimate | None]], name: str) -> list[list[float | None]]:
    return [[None if row is None else getattr(row, name) for row in line] for line in cases]


def _several(weights: Sequence[float], values: Sequence[Sequence[float | None]], unit: str) -> str:
    return ", ".join(
        f"{number(line[-1])} {unit} with weight {weight:g}" for weight, line in zip(weights, values, strict=True)
    )


def _truth(found: Study, fingerprint: int) -> str:
    """Return a fingerprint as the values of its parameters."""
    units = {row.parameter: row.unit for row in found.rows}
    values = zip(found.parameters, found.fingerprints[fingerprint], strict=True)
    return ", ".join(f"{name} {value:.4g} {units.get(name, '')}".rstrip() for name, value in values)
