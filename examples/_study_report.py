"""What the study of magnetisation transfer found, as a page."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _second_order import Curvature

from crbsvd_plugin import models

RANKS, WEIGHTS = (10, 12, 15, 18, 20, 25, 30), (0.0, 0.5)
# the paper's claim is about ranks below this, and about these parameters
FEW, SHOWN = 18, ("m0s", "Rx")
# ranks at which the ends of the ranges are shown
ENDS = (10, 15, 30)
# of standard errors, see `compared`
SIGNIFICANT = 2.0
LOWER, HIGHER = "yes", "no: higher"
# share of the fits beyond which their mean and spread tell of the range, and not of the fit
MOST_AT_ENDS = 0.01
COLUMNS = (
    "SNR", "parameter", "K", "bias, weight 0 [%]", "to second order", "weight 0.5 [%]", "to second order",
    "z", "lower?", "ratio of sd", "z", "lower?", "ratio of rmse", "z", "lower?",
)  # fmt: skip
NOTES = (
    "What differs from the paper or is not public: its ranges of the fit, whether its SNR of 50 is per real",
    "component, the limits at which Table I is cut (ours stand in `presets.py`), and whether its figures used",
    "the published pulse train. The paper prints m0f = 0.2 where it must mean m0s. Its Fisher matrix is complex, ours",
    "real, for bases and bounds.",
)


Second = dict[tuple[float, int, str], float]


@dataclass(frozen=True)
class Study:
    """What a study wrote.

    Parameters
    ----------
    rows : dict
        Figures by weight, rank and parameter; lengths as shares of the truth.
    content : dict
        The sidecar.
    """

    rows: dict[tuple[float, int, str], dict[str, float]]
    content: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Study:
        """Read a folder that `crbsvd study` has written."""
        rows = {}
        lengths = ("bias", "bias_se", "sd", "sd_se", "rmse", "rmse_se", "crb", "crb_compressed")
        with (folder / "study.csv").open(newline="", encoding="utf-8") as stream:
            for line in csv.DictReader(stream):
                row = {key: float(value) for key, value in line.items() if key not in ("parameter", "unit")}
                row.update({key: row[key] / row["truth"] for key in lengths})
                rows[float(line["crb_weight"]), int(line["rank"]), line["parameter"]] = row
        return cls(rows, json.loads((folder / "study.json").read_text(encoding="utf-8")))

    @property
    def parameters(self) -> list[str]:
        """The parameters of interest."""
        return list(dict.fromkeys(name for _, _, name in self.rows))

    @property
    def energy(self) -> float:
        """Norm of the signal for M0 = 1."""
        signal = models.build(self.content["model"]).signal(np.array(self.content["fingerprints"]))
        return float(np.linalg.norm(signal))

    def share(self, weight: float, rank: int, key: str) -> float:
        """Return the share of the fits that failed, or ended at an edge."""
        row = self.rows[weight, rank, SHOWN[0]]
        return row[key] / row["n"]


def findings(studies: dict[str, Study], phi: dict[float, Any], command: str, train: str | None) -> str:
    """Return the findings as a page; phi are the bases by weight."""
    first = next(iter(studies.values()))
    second = second_order(first, phi)
    n_atoms = sum(first.content["n_atoms"].values())
    lines = [
        "# Bias and standard deviation of magnetisation transfer against the number of coefficients",
        "",
        f"Made by `crbsvd {command}` (`examples/study_qmt.py`):",
        "the paper's Fig. 4 ([Mao et al.](https://arxiv.org/abs/2305.00326)) for least squares in white matter,",
        "m0s = 0.2, R1f = 0.52/s, R2f = 12.9/s, Rx = 16.5/s, R1s = 2.97/s, T2s = 12.4 us, w0 = 0, B1 = 1,",
        f"with {f'the pulse train {train}' if train else 'our built-in train'} (T = {frames(first)}) and bases of",
        f"{n_atoms} fingerprints of the prior `mao-table1`.",
        "All eight parameters and the complex M0 are unknown; fits start at the truth, as in the paper,",
        "and may go nearly as far as the model is defined (the paper does not print its ranges).",
        "",
        f"In short, for K < {FEW} and with weight {WEIGHTS[1]:g} instead of {WEIGHTS[0]:g}, where lower and higher are",
        f"by more than {SIGNIFICANT:g} standard errors:",
        f"{counted(list(studies.values()), list(SHOWN), ' and '.join(SHOWN))}.",
        "",
        "## Which SNR",
        "",
        "SNR is |M0| over the noise per real component of a coefficient (and of a frame: bases are orthonormal).",
        f"The signal has the norm {first.energy:.2f} for M0 = 1: SNR 50 is ||c|| = {50 * first.energy:.0f} sigma.",
        "What unbiased estimates could reach with all frames, as a share of the truth, and the share of fits that end",
        "at an end of a range, which are no estimates any more:",
        "",
        f"| SNR | N | {' | '.join(f'{name} [%]' for name in first.parameters)} | "
        + " | ".join(f"at an end, K = {k}, weight {w:g} [%]" for k in ENDS for w in WEIGHTS)
        + " |",
        "| --- " * (2 + len(first.parameters) + len(ENDS) * len(WEIGHTS)) + "|",
        *(expected(snr, study) for snr, study in studies.items()),
        "",
        *regime(studies),
        "",
        "## What the paper finds, checked",
        "",
        f"*For K < {FEW} the CRB basis (weight {WEIGHTS[1]:g}) has lower bias and variance than the SVD basis,",
        "in m0s and Rx.* Ratios are those of the CRB basis over the SVD basis; z is the difference over its standard",
        f"error, where above {SIGNIFICANT:g} counts. The noise is the same in both bases, so z is on the safe side.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- " * len(COLUMNS) + "|",
        *(line for snr, study in studies.items() for line in claims(snr, study, second)),
        "",
        *(line for snr, study in studies.items() for line in verdict(snr, study)),
        "",
        *curved(second),
        *NOTES,
        "",
        "## All ranks",
        "",
        "In % of the truth; bounds are those of all frames and of the K coefficients (exact).",
        "",
        *(line for snr, study in studies.items() for line in table(snr, study)),
    ]
    return "\n".join(lines)


def frames(study: Study) -> int:
    """Return the number of frames."""
    return int(models.build(study.content["model"]).n_frames)


def expected(snr: str, study: Study) -> str:
    """Return the line of an SNR: bounds of all frames, and fits that ended at an end of a range."""
    bounds = [f"{100 * study.rows[0.0, RANKS[0], name]['crb']:.2g}" for name in study.parameters]
    ends = [f"{100 * study.share(w, k, 'edge'):.1f}" for k in ENDS for w in WEIGHTS]
    return f"| {snr} | {study.content['measurements']} | {' | '.join(bounds + ends)} |"


def regime(studies: dict[str, Study]) -> list[str]:
    """Return where fits are what bounds say, in words."""
    lines = []
    for snr, study in studies.items():
        ratios = [row["sd_over_compressed"] for row in study.rows.values()]
        ends = max(study.share(w, k, "edge") for w in WEIGHTS for k in RANKS)
        failed = max(study.share(w, k, "failed") for w in WEIGHTS for k in RANKS)
        whole = all(study.share(w, k, "edge") <= MOST_AT_ENDS for w in WEIGHTS for k in RANKS)
        says = (
            "fits are estimates throughout" if whole else "some fits say where the ranges end, not what the tissue is"
        )
        lines += [
            f"- *SNR {snr}*: standard deviations are {min(ratios):.2f} to {max(ratios):.2f} of the bounds of the",
            "  coefficients, over all six parameters. In the worst case",
            f"  {100 * ends:.1f} % of the fits ended at an end of a range and {100 * failed:.1f} % failed: {says}.",
        ]
    return lines


def compared(study: Study, parameter: str, rank: int, key: str) -> tuple[float, float]:
    """Return what the weight makes of a figure, as a ratio, and by how many standard errors it is lower.

    Errors of both go together, having the same noise: that of a difference is at most what independent ones would have;
    that of a sum, which the difference of absolute values is where signs are opposite, at most the sum of both.
    """
    svd, ours = (study.rows[weight, rank, parameter] for weight in WEIGHTS)
    before, after = abs(svd[key]), abs(ours[key])
    errors = svd[f"{key}_se"], ours[f"{key}_se"]
    error = math.hypot(*errors) if svd[key] * ours[key] > 0 else sum(errors)
    return after / before, (before - after) / error


def word(z: float) -> str:
    """Return whether something is lower."""
    return LOWER if z > SIGNIFICANT else HIGHER if z < -SIGNIFICANT else "not shown"


def claims(snr: str, study: Study, second: Second) -> list[str]:
    """Return the lines of an SNR in the table of the claim."""
    lines = []
    for parameter in SHOWN:
        for rank in (rank for rank in RANKS if rank < FEW):
            cells = []
            for weight in WEIGHTS:
                to_come = 100 * second[weight, rank, parameter] / float(snr) ** 2
                cells += [percent(study.rows[weight, rank, parameter], "bias"), f"{to_come:.3g}"]
            for key in ("bias", "sd", "rmse"):
                ratio, z = compared(study, parameter, rank, key)
                cells += [f"{z:.1f}", word(z)] if key == "bias" else [f"{ratio:.3f}", f"{z:.1f}", word(z)]
            lines.append(f"| {snr} | {parameter} | {rank} | {' | '.join(cells)} |")
    return lines


def counted(studies: list[Study], names: list[str], words: str) -> str:
    """Return in how many cases figures are lower in the CRB basis, and higher, in words."""
    cases = [(study, name, rank) for study in studies for name in names for rank in RANKS if rank < FEW]
    found = []
    for key, what in (("sd", "the standard deviation"), ("bias", "the bias"), ("rmse", "the root mean square error")):
        said = [word(compared(*case, key)[1]) for case in cases]
        found.append(f"{what} is lower in {said.count(LOWER)} and higher in {said.count(HIGHER)}")
    return f"Of {len(cases)} cases of {words} {', '.join(found)}"


def verdict(snr: str, study: Study) -> list[str]:
    """Return in how many cases the claim holds at an SNR, and at which ranks the weight is of use, in words."""
    counts = [
        f"  {counted([study], names, words)}."
        for names, words in ((list(SHOWN), " and ".join(SHOWN)), (study.parameters, "all six parameters"))
    ]
    use = []
    for parameter in SHOWN:
        ranks = [str(k) for k in RANKS if compared(study, parameter, k, "sd")[1] > SIGNIFICANT]
        use.append(f"{parameter} {', '.join(ranks) or 'none'}")
    return [
        f"- *SNR {snr}*:",
        *counts,
        f"  Ranks, of all, with a lower standard deviation: {'; '.join(use)}.",
    ]


def curved(second: Second) -> list[str]:
    """Return where the curvature of the model makes the bias of the CRB basis the lower one, in words."""
    few = [rank for rank in RANKS if rank < FEW]
    lines = [
        "*Bias to second order* is what first and second derivatives of the signal in a basis say (Box 1971,",
        "`_second_order.py`), without any fit; it goes with 1 / SNR^2. Where the variance is lower it need not be:",
        "curvatures add to it with either sign. Where the measured bias is another, higher orders count, or the ends.",
    ]
    for parameter in SHOWN:
        lower = [str(k) for k in few if abs(second[WEIGHTS[1], k, parameter]) < abs(second[WEIGHTS[0], k, parameter])]
        other = [str(k) for k in few if str(k) not in lower]
        lines.append(
            f"That of {parameter} is lower in the CRB basis at K = {', '.join(lower) or 'none'}, and higher at K = "
            f"{', '.join(other) or 'none'}."
        )
    return [*lines, ""]


def second_order(study: Study, phi: dict[float, Any]) -> Second:
    """Return the bias to second order at an SNR of 1, as a share of the truth, by weight, rank and parameter."""
    model = models.smooth(study.content["model"])
    ends = np.array(list(study.content["ranges"].values()))
    theta = np.array(study.content["fingerprints"][0])
    curvature = Curvature.at(model.signal_and_jacobian, theta, 1e-4 * (ends[:, 1] - ends[:, 0]))
    names, found = study.content["parameters"], {}
    for weight, vectors in phi.items():
        for rank in RANKS:
            bias = curvature.bias(vectors[:, :rank])
            for name in study.parameters:
                found[weight, rank, name] = float(bias[names.index(name)] / theta[names.index(name)])
    return found


def percent(row: dict[str, float], name: str) -> str:
    """Return a figure with its standard error, in percent."""
    error = f"{100 * row[name + '_se']:.1g}"
    return f"{100 * row[name]:.3g} ± {float(error):g}"


def table(snr: str, study: Study) -> list[str]:
    """Return the figures of m0s and Rx at an SNR, and the figure of all parameters."""
    lines = [
        f"SNR {snr}:",
        "",
        "| parameter | K | weight | bias | sd | bound, all frames | bound, K coefficients | sd / bound of all frames |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for parameter in SHOWN:
        for rank in RANKS:
            for weight in WEIGHTS:
                row = study.rows[weight, rank, parameter]
                lines.append(
                    f"| {parameter} | {rank} | {weight:g} | {percent(row, 'bias')} | {percent(row, 'sd')} | "
                    f"{100 * row['crb']:.3g} | {100 * row['crb_compressed']:.3g} | {row['sd_over_crb']:.3f} |"
                )
    return [*lines, "", f"![all six parameters at SNR {snr}](snr-{snr}/study.png)", ""]
