"""What stands on the page of a report, from what was found about a basis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import __version__, advice, choose, costs, evidence, figures, files, loss_figures, page, paste, plots
from .evidence import Evidence
from .loss_figures import number, percent, words
from .page import Section, Table
from .weighting import SIGNAL
from .written import Amount, Sweep

_MOST = 6
"""Settings of a sequence that are told in one line each, where they are lists: as a range."""


def write(paths: Sequence[str], output: str, *, force: bool = False) -> None:
    """Write a page about a basis, or what was found about one, that needs nothing but a browser.

    Parameters
    ----------
    paths : sequence of str
        Names of a basis and of folders that `sweep`, `study` and ``rank`` have written; at least one.
    output : str
        The HTML file.
    force : bool
        Replace a file of this name.

    Raises
    ------
    UserError
        A path is none of these, they do not belong together, Plotly is missing, or the file is there already.
    """
    with files.single(Path(output), force=force) as part:
        part.write_text(html(evidence.load(paths)), encoding="utf-8")


def html(found: Evidence) -> str:
    """Return the page of what was found."""
    library = plots.library()
    name = "a sequence that is not known" if found.model is None else str(found.model.get("name"))
    colophon = (
        f"Made by crbsvd-plugin {__version__}. {len(library.encode()) / 1e6:.1f} MB of this page are the script that "
        "draws (plotly.js, MIT licence); nothing is loaded from elsewhere."
    )
    subtitle = (
        "Point at a curve, or tap it, for its figures; click names in the legend to hide curves; choose what is shown "
        "above the plots."
    )
    return page.document(f"Basis for {name}", subtitle, list(_sections(found)), library=library, colophon=colophon)


def _sections(found: Evidence) -> Iterator[Section]:
    if found.sweep is not None:
        yield _recommendation(found.sweep, found)
    yield _basis(found)
    if found.sweep is not None:
        yield from _losses(found.sweep)
    yield from _certificate(found)
    if found.functions is not None:
        source = "the basis" if found.basis is not None else "the basis that the sweep recommends"
        text = (
            f"The columns of {source}, {len(found.functions.real)} of them. A signal is their sum with the "
            "coefficients; of long trains one in a few frames is drawn."
        )
        yield Section("Basis functions", [page.paragraph(text), figures.functions(found.functions).html])
    if found.amount is not None:
        yield _amount(found.amount)
    if found.study is not None:
        study = found.study
        text = (
            f"{study.measurements} noisy measurements of each fingerprint at an SNR of {study.snr:g} (|M0| over the "
            f"noise of a coefficient), fitted by {study.method}. Bars are standard errors. The dashed line is what "
            "no unbiased estimate from all frames falls below; dotted ones are the same for K coefficients."
        )
        yield Section("Bias and standard deviation", [page.paragraph(text), figures.study(study).html])
    yield _cost(found)
    yield _lines(found)
    missing = list(_missing(found))
    if missing:
        yield Section("What is not on this page", [page.bullets(missing)])


def _recommendation(sweep: Sweep, found: Evidence) -> Section:
    # what cannot be estimated changes nothing
    shares = [
        advice.Share(s.share, s.crb_weight, s.rank, s.angle, {k: v for k, v in s.losses.items() if v is not None})
        for s in sweep.convergence or []
    ]
    take, *others = advice.Outcome(sweep.recommended, shares).text.splitlines()
    blocks = [page.paragraph(take[0].upper() + take[1:], "lead"), *map(page.paragraph, others)]
    text = (
        f"From {sum(sweep.n_atoms.values())} fingerprints of the prior {sweep.prior.get('name')}, measured on "
        f"{sum(sweep.n_held_out.values())} others."
    )
    blocks.append(page.paragraph(text, "soft"))
    if found.basis is not None:
        weight, rank, facts = found.basis.info.get("crb_weight"), found.basis.rank, found.basis.info.get("exact")
        if facts is not None or (weight, rank) != (sweep.recommended.crb_weight, sweep.recommended.rank):
            is_of = "a weight that is not known" if weight is None else f"weight {weight:g}"
            if facts is not None:
                limit = facts["energy_loss"]
                is_of = f"exact bounds, {is_of if limit is None else f'energy loss {number(percent(limit))} %'}"
            blocks.append(page.paragraph(f"The basis {found.name} is another one: rank {rank}, {is_of}."))
    return Section("Recommendation", blocks)


def _basis(found: Evidence) -> Section:
    """Say what the basis is and what it was made for, as far as that is known."""
    basis, entries, blocks = found.basis, {}, []
    if found.model is not None:
        entries["sequence"] = str(found.model.get("name"))
    if basis is not None:
        kind = "complex" if basis.phi.dtype.kind == "c" else "real"
        entries |= {
            "name": str(found.name),
            "size": f"{basis.n_frames} frames, {basis.rank} coefficients, {kind}",
            **_provenance(basis.info),
            "digest": basis.digest,
        }
        if len(basis.singular_values):
            entries["singular values"] = ", ".join(f"{value:.4g}" for value in basis.singular_values[: basis.rank + 1])
    elif found.sweep is not None:
        chosen, frames = found.sweep.recommended, found.functions
        entries["size"] = f"{chosen.rank} coefficients, weight {chosen.crb_weight:g}: as the sweep recommends"
        if frames is not None:
            entries["numbers"] = "real" if frames.imag is None else "complex"
        entries["prior"] = f"{found.sweep.prior.get('name')}, {_counts(found.sweep.n_atoms)}"
    blocks.append(page.terms(entries))
    if basis is not None and "model" not in basis.info:
        blocks.append(page.paragraph("Where it comes from is not known: it has no sidecar that tells."))
    if basis is not None and basis.info.get("held_out"):
        blocks += [page.paragraph("What it loses, on fingerprints that it was not made from:"), _held_out(basis.info)]
    if found.model is not None:
        settings = {key: _setting(value) for key, value in found.model.items() if key != "name"}
        blocks.append(page.folded("Settings of the sequence, in SI units", page.terms(settings)))
    return Section("The basis", blocks)


def _provenance(info: Mapping[str, Any]) -> dict[str, str]:
    entries = {}
    if "prior" in info:
        entries["prior"] = f"{info['prior'].get('name')}, {_counts(info.get('n_atoms', {}))}"
    # at a given energy loss no weight was chosen
    if "crb_weight" in info and (info.get("exact") or {}).get("energy_loss") is None:
        entries["crb weight"] = f"{info['crb_weight']:g} (weighting {info.get('weighting')})"
    for key, title in (("fisher", "Fisher matrix"), ("method", "method"), ("software", "made by")):
        if key in info:
            entries[title] = str(info[key])
    return entries


def _counts(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{number} {label}" for label, number in numbers.items()) + " fingerprints"


def _held_out(info: Mapping[str, Any]) -> page.Html:
    losses = info["held_out"]
    names = list(dict.fromkeys(name for columns in losses.values() for name in columns if name != SIGNAL))
    header = ["tissue", "energy [%]", *(f"CRB {name}{kind} [%]" for name in names for kind in ("", ", approx."))]
    rows = [
        [
            words(label), number(percent(columns[SIGNAL]["energy"])),
            *(number(percent(columns[name][figure])) for name in names for figure in ("exact", "approximate")),
        ]
        for label, columns in losses.items()
    ]  # fmt: skip
    return Table(header, rows).html


def _setting(value: object) -> str:
    """Return a setting of a sequence in one line."""
    if isinstance(value, list) and len(value) > _MOST:
        flat = [one for one in value if isinstance(one, int | float)]
        span = f", {min(flat):.4g} to {max(flat):.4g}" if len(flat) == len(value) else ""
        return f"{len(value)} values{span}"
    return "none" if value is None else str(value)


def _losses(sweep: Sweep) -> Iterator[Section]:
    text = (
        "What is lost on fingerprints that were held out, against all frames: 1 - B_u / B_ec of a parameter's "
        "Cramer-Rao bound, and the energy of the signals. 100 % means that a parameter cannot be estimated "
        "from so few coefficients. All figures, for every tissue, are in sweep.csv."
    )
    yield Section("Energy and CRB loss", [page.paragraph(text), loss_figures.losses(sweep).html])
    text = (
        "Bases are made with bounds that are cheap to sum (B_ac: the parameter's direction in signal space, orthogonal "
        "to all others, projected on the basis); what counts are the exact ones (B_ec, which orthogonalise after the "
        "compression). Where dots lie on the dotted line, both say the same. The table has the regression over all "
        "fingerprints for every basis."
    )
    yield Section("Approximate against exact bounds", [page.paragraph(text), loss_figures.bounds(sweep).html])


def _certificate(found: Evidence) -> Iterator[Section]:
    blocks = []
    facts = found.basis.info.get("exact") if found.basis is not None else None
    if facts is not None:
        blocks.append(page.paragraph(choose.told(facts) + ".", "lead"))
    if found.sweep is not None and found.sweep.certificate:
        text = (
            "How good a basis can be at all: the cost with exact bounds, as a share of the weighted total on held-out "
            "fingerprints, and a lower bound that holds for every basis of that rank. What lies between them is "
            "all that any other method could win."
        )
        blocks += [page.paragraph(text), loss_figures.certificate(found.sweep).html]
    if blocks:
        yield Section("Certificate", blocks)


def _amount(amount: Amount) -> Section:
    blocks = [page.paragraph(f"{amount.recommended} coefficients. Rule: {amount.rule}.", "lead")]
    scan = "of the scan" if amount.scan is None else f"of {amount.scan}"
    snr = "" if amount.snr is None else f" at an SNR of {amount.snr:g}"
    text = (
        f"Errors relative to the parameter, with the sampling {scan}{snr}: noise, which grows with the number of "
        "coefficients, and what so few of them leave out, which falls."
    )
    blocks += [page.paragraph(text), figures.amount(amount).html]
    return Section("How many coefficients for this scan", blocks)


def _cost(found: Evidence) -> Section:
    top = max([10, found.rank, *(row.rank for row in (found.sweep.rows if found.sweep is not None else []))])
    real = found.functions is None or found.functions.imag is None
    counted = (
        f"Memory is counted, not measured, for {costs.VOLUME}, and a {'real' if real else 'complex'} basis; "
        "crbsvd recon --dry-run counts it for a scan of yours. It falls with K where the sums of readouts come to be "
        "larger than the readouts, which are kept instead."
    )
    estimated = f"Time is estimated for {costs.SLICE}: {costs.MEASURED}. Other machines have other times."
    panel = figures.cost(top, real=real, at=found.rank)
    blocks = [page.paragraph(counted), page.paragraph(estimated), panel.html]
    return Section("Memory and time against the rank", blocks)


def _lines(found: Evidence) -> Section:
    choice = found.sweep.recommended if found.sweep is not None else None
    pasted = paste.lines(found.name, paste.spec_of(found.model), choice)
    return Section("Lines to paste", [page.code(*entry) for entry in pasted.items()])


def _missing(found: Evidence) -> Iterator[str]:
    spec = paste.spec_of(found.model)
    if found.basis is None:
        yield f"What a basis is and what it was made from: crbsvd basis {spec} -o NAME makes one; then name it too."
    if found.sweep is None:
        yield (
            "Recommendation, losses against rank and weight, approximate against exact bounds: "
            f"crbsvd sweep {spec} -o DIR finds them."
        )
    elif not found.sweep.certificate and (found.basis is None or found.basis.info.get("exact") is None):
        yield f"The certificate, how good any basis could be: crbsvd sweep {spec} -o DIR of a version that writes it."
    if found.functions is None and found.basis is None:
        yield "The basis functions: those of a basis NAME, or of a sweep."
    if found.study is None:
        yield f"Bias and standard deviation of fits: crbsvd study {spec} -o DIR finds them."
    if found.amount is None:
        yield f"How many coefficients a scan of yours needs: crbsvd rank {spec} SCAN.h5 -o DIR finds it."
