"""Fig. 4 for MRF-FISP: bias and spread of T1 and T2 in a CRB basis and in an SVD basis of the same rank."""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
from pathlib import Path

RANKS = "3:10:1"
WEIGHTS = (0.0, 0.5)
SNR = 50
# measurements of both bases have the same noise, so errors of a comparison are smaller than these
SIGNIFICANT = 2.0
Table = dict[tuple[float, int, str], dict[str, float]]


def main() -> None:
    """Run the study into FOLDER and write FOLDER/findings.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the study")
    parser.add_argument("--train", default="2000", help="fingerprints, or grid for all of the paper's Table I")
    parser.add_argument("--atoms", default="20000", help="atoms of the dictionary, or grid")
    parser.add_argument("--measurements", default="1000", help="noisy measurements")
    options = parser.parse_args()
    arguments = [
        "study", "mrf-fisp", "-o", str(options.folder), "--at", "T1=810ms,T2=25ms", "--snr", str(SNR),
        "--measurements", options.measurements, "--ranks", RANKS, "--crb-weights", ",".join(f"{w:g}" for w in WEIGHTS),
        "--method", "matching", "--train", options.train, "--atoms", options.atoms,
    ]  # fmt: skip
    program = "import sys; from crbsvd_plugin.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
    arguments[3] = "FOLDER"
    text = findings(read(options.folder / "study.csv"), " ".join(arguments))
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


def read(path: Path) -> Table:
    """Return the figures by weight, rank and parameter."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {
            (float(row["crb_weight"]), int(row["rank"]), row["parameter"]): {
                key: float(value) for key, value in row.items() if key not in ("parameter", "unit")
            }
            for row in csv.DictReader(stream)
        }


def findings(table: Table, command: str) -> str:
    """Return the findings as a page."""
    ranks = sorted({rank for _, rank, _ in table})
    parameters = list(dict.fromkeys(parameter for _, _, parameter in table))
    (n,) = {int(row["n"]) for row in table.values()}
    lines = [
        "# Bias and standard deviation of MRF-FISP against the number of coefficients",
        "",
        f"Made by `crbsvd {command}` (`examples/study_mrf.py`):",
        "the paper's Fig. 4 ([Mao et al.](https://arxiv.org/abs/2305.00326)) for matching, T1 = 810 ms, T2 = 25 ms,",
        f"SNR {SNR} (noise per real component of a coefficient), {n} measurements.",
        "",
        "In ms; bounds are those of all frames and of the K coefficients (exact). The noise is the same at all ranks",
        "and in both bases, so differences between rows are surer than the standard errors of the rows say.",
        "",
        "| parameter | K | weight | bias | sd | bound, all frames | bound, K coefficients | sd / bound of all frames |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for parameter in parameters:
        for rank in ranks:
            for weight in WEIGHTS:
                row = table[weight, rank, parameter]
                lines.append(
                    f"| {parameter} | {rank} | {weight:g} | {ms(row, 'bias')} | {ms(row, 'sd')} | "
                    f"{1e3 * row['crb']:.3g} | {1e3 * row['crb_compressed']:.3g} | {row['sd_over_crb']:.3f} |"
                )
    lines += ["", "What the paper finds, checked:", ""]
    for parameter in parameters:
        lines += compared(table, parameter, ranks)
    failed = sum(row["failed"] for row in table.values())
    edge = sum(row["edge"] for row in table.values())
    worst = max(abs(row["sd"] - row["crb_compressed"]) / row["sd_se"] for row in table.values())
    lines += [
        f"- *Is the bound reached?* Standard deviations are within {worst:.1f} of their standard errors of the bound",
        "  of the K coefficients.",
        f"  {failed:.0f} fits failed, {edge:.0f} ended at the edge of the dictionary.",
        "",
        "![bias and standard deviation against the number of coefficients](study.png)",
        "",
    ]
    return "\n".join(lines)


def ms(row: dict[str, float], name: str) -> str:
    """Return a figure with its standard error, in ms."""
    return f"{1e3 * row[name]:.3g} ± {1e3 * row[f'{name}_se']:.1g}"


def compared(table: Table, parameter: str, ranks: list[int]) -> list[str]:
    """Return what the weight does to the spread and to the bias of a parameter, in words."""
    lower = []
    for rank in ranks:
        svd, ours = (table[weight, rank, parameter] for weight in WEIGHTS)
        away = (svd["sd"] - ours["sd"]) / math.hypot(svd["sd_se"], ours["sd_se"])
        mark = "" if abs(away) > SIGNIFICANT else ", within their standard errors"
        lower.append(f"K = {rank}: {ours['sd'] / svd['sd']:.3f}{mark}")
    biased = [
        f"{weight:g} at K = {rank} ({row['bias'] / row['bias_se']:+.1f})"
        for weight in WEIGHTS
        for rank in ranks
        if abs((row := table[weight, rank, parameter])["bias"]) > SIGNIFICANT * row["bias_se"]
    ]
    largest = max(abs(row["bias"]) / row["sd"] for (_, _, name), row in table.items() if name == parameter)
    spread = f"- *Standard deviation of {parameter}* with weight {WEIGHTS[1]:g}, as a share of the SVD basis's:"
    bias = f"- *Bias of {parameter}*: beyond {SIGNIFICANT:g} of its standard errors for {'; '.join(biased) or 'none'};"
    return [
        f"{spread} {'; '.join(lower)}.",
        f"{bias} it is at most {100 * largest:.1f} % of the standard deviation.",
    ]


if __name__ == "__main__":
    main()
