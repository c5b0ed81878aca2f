"""Fig. 4 for magnetisation transfer: bias and spread of m0s and Rx in a CRB basis and an SVD basis of the same rank."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from _study_report import RANKS, WEIGHTS, Study, findings

from crbsvd_plugin import Basis

WHITE_MATTER = "m0s=0.2,R1f=0.52,R2f=12.9,Rx=16.5,R1s=2.97,T2s=12.4us,w0=0,B1=1"
# as wide as the model is defined, or nearly: what ends here is no estimate
BOUNDS = ("m0s=0:0.9", "R1f=0.05:20", "R2f=0.1:200", "Rx=0:200", "R1s=0.05:20", "T2s=5us:25us", "B1=0.1:1.3")


def main() -> None:
    """Run the studies into FOLDER/snr-N, unless they are there; write FOLDER/findings.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--train", help="pulse train (.mat, .npz, .csv); else the built-in one")
    parser.add_argument("--snr", default="50,200,800", help="|M0| over the noise of a coefficient, with commas")
    parser.add_argument("--fingerprints", default="8000", help="that make the bases")
    parser.add_argument("--measurements", default="2000", help="noisy measurements")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    studies = {}
    for snr in options.snr.split(","):
        folder = options.folder / f"snr-{snr}"
        if not (folder / "study.json").is_file():
            run(arguments(options, snr, str(folder)))
        studies[snr] = Study.read(folder)
    phi = {weight: basis(options, weight).phi for weight in WEIGHTS}
    # folders of whoever ran it are nobody's business; studies that were there may have another number
    options.train, options.measurements = options.train and Path(options.train).name, "N"
    words = [f"'{word}'" if "," in word else word for word in arguments(options, "SNR", "FOLDER/snr-SNR", "FOLDER")]
    text = findings(studies, phi, " ".join(words), options.train)
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


def run(words: list[str]) -> None:
    """Run `crbsvd`."""
    program = "import sys; from crbsvd_plugin.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", program, *words], check=True)


def basis(options: argparse.Namespace, weight: float) -> Basis:
    """Return the basis that the studies had, of the largest rank."""
    name = options.folder / f"basis-{weight:g}"
    if not name.with_name(f"{name.name}.json").is_file():
        run(["basis", "qmt-hsfp", "-o", str(name), *trained(options), "--atoms", "none",
             "--rank", str(max(RANKS)), "--crb-weight", f"{weight:g}"])  # fmt: skip
    return Basis.load(name)


def trained(options: argparse.Namespace, folder: str = "") -> list[str]:
    """Return what makes the bases, the same for all."""
    train = ["--set", f"train={options.train}"] if options.train else []
    return [*train, "--train", options.fingerprints, "--checkpoint", f"{folder or options.folder}/kept"]


def arguments(options: argparse.Namespace, snr: str, output: str, folder: str = "") -> list[str]:
    """Return what `crbsvd` is asked for."""
    return [
        "study", "qmt-hsfp", "-o", output, "--at", WHITE_MATTER, "--snr", snr, "--measurements", options.measurements,
        "--ranks", ",".join(map(str, RANKS)), "--crb-weights", ",".join(f"{weight:g}" for weight in WEIGHTS),
        "--method", "nlls", "--start", "truth", *(word for bound in BOUNDS for word in ("--bounds", bound)),
        *trained(options, folder),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
