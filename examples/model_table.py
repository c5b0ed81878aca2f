"""Sweep every built-in model, and write down where a CRB-SVD basis pays against an SVD, rank by rank."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from crbsvd_plugin import models
from crbsvd_plugin.spec import resolve

RANKS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40)  # up to twice what the model suggests
WEIGHTS = (0.0, 0.3, 0.5, 0.7)
PAYS = 0.8  # share of the SVD's loss below which a weight is said to pay
LEFT = 0.005  # loss below which there is nothing to gain
Table = dict[tuple[str, int, str, float], float]


def main() -> None:
    """Sweep the models into FOLDER/NAME, and write FOLDER/findings.md and FOLDER/losses.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the sweeps and of the table")
    parser.add_argument("--train", default="3000", help="fingerprints of each model")
    parser.add_argument("--models", nargs="+", default=models.names(), help="some of them")
    options = parser.parse_args()
    table: Table = {}
    for name in options.models:
        table |= sweep(name, options.folder / name, options.train)
    print(write(table, options.folder, options.train))


def write(table: Table, folder: Path, train: str) -> str:
    """Write FOLDER/losses.csv and FOLDER/findings.md, and return the latter."""
    text = findings(table, train)
    (folder / "findings.md").write_text(text, encoding="utf-8")
    with (folder / "losses.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["model", "rank", "loss of", "crb weight", "mean loss"])
        rows.writerows([*key, f"{value:.6g}"] for key, value in table.items())
    return text


def sweep(name: str, folder: Path, train: str) -> Table:
    """Return mean losses of held-out fingerprints of all tissues: energy ("signal"), and exact ones of the bounds."""
    found = resolve(name)
    rank = min(found.model.n_frames, 2 * found.rank)
    command = [
        sys.executable, "-c", "import sys; from crbsvd_plugin.cli import main; sys.exit(main())",
        "sweep", name, "-o", str(folder), "--train", train, "--rank", str(rank),
        "--crb-weights", ",".join(map(str, WEIGHTS)), "--threads", "2",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return read(name, folder / "sweep.csv")


def read(name: str, path: Path) -> Table:
    """Return the losses of one model from the table of its sweep."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {
            (name, int(row["rank"]), row["parameter"], float(row["crb_weight"])): float(row["mean"])
            for row in csv.DictReader(stream)
            if row["tissue"] == "all" and row["figure"] in ("exact", "energy") and int(row["rank"]) in RANKS
        }


def findings(table: Table, train: str) -> str:
    """Return the findings as a page."""
    lines = [
        "# Where does a CRB-SVD basis pay?",
        "",
        f"Made by `python examples/model_table.py FOLDER --train {train}`: `crbsvd sweep` of every built-in model,",
        "with its defaults; two thirds of the fingerprints of its prior train, the others measure. Mean loss [%] of",
        "signals' energy, and of the exact Cramér-Rao bound of each parameter, for an SVD and for CRB-SVD bases; in",
        "the last column the least of all as a share of the SVD's. Ranks where all bounds are lost, or nothing is, are",
        "left out. Losses of energy are shares of each signal's own, which is not quite what an SVD makes least.",
        "",
        "| model | K | loss of | SVD | " + " | ".join(f"weight {w:g}" for w in WEIGHTS[1:]) + " | least / SVD |",
        "| --- | --- | --- | " + "--- | " * len(WEIGHTS) + "--- |",
    ]
    gains: dict[str, dict[int, list[str]]] = {key[0]: {} for key in table}
    for name, rank, parameter in dict.fromkeys(key[:3] for key in table):
        names = dict.fromkeys(key[2] for key in table if key[0] == name and key[2] != "signal")
        bounds = [table[name, rank, other, 0.0] for other in names]
        if min(bounds) > 1 - LEFT or max(bounds) < LEFT / 10:
            continue
        values = [table[name, rank, parameter, weight] for weight in WEIGHTS]
        least = min(values) / values[0]
        cells = " | ".join(f"{100 * value:.3g}" for value in values)
        what = "energy" if parameter == "signal" else f"CRB {parameter}"
        lines.append(f"| {name} | {rank} | {what} | {cells} | {least:.2f} |")
        if parameter != "signal" and least < PAYS and values[0] > LEFT:
            gains[name].setdefault(rank, []).append(f"{parameter} {least:.2f}")
    lines += ["", f"Less than {PAYS:g} of the SVD's loss of a bound, where that is more than {100 * LEFT:g} %:", ""]
    for name, found in gains.items():
        where = [f"K = {rank}: {', '.join(shares)}" for rank, shares in found.items()]
        lines.append(f"- `{name}`: {'; '.join(where) or 'nowhere'}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
