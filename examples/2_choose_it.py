"""Choose a basis: sweep all weights and ranks, try two with noise, ask what no basis does better, and see one page."""

from __future__ import annotations

import json
from pathlib import Path

from _tutorial import crbsvd, enter, say


def main() -> None:
    """Write FOLDER/sweep, study, the chosen basis, the exact one and report.html."""
    enter(__doc__)

    say("every weight and rank from one pass, measured on fingerprints that did not train")
    crbsvd("sweep mrf-fisp -o sweep --train 2000 --rank 6")
    take = json.loads(Path("sweep/sweep.json").read_text(encoding="utf-8"))["recommended"]
    rank, weight = take["rank"], take["crb_weight"]

    say("one fingerprint, 300 times with noise: do fits reach the bounds? Weight 0 is the traditional SVD")
    crbsvd(
        f"study mrf-fisp -o study --at T1=810ms,T2=25ms --snr 50 --measurements 300 "
        f"--ranks 3,{rank} --crb-weights 0,{weight:g} --train 2000 --atoms 8000"
    )

    say("the basis that the sweep recommends, and what it loses")
    crbsvd(f"basis mrf-fisp -o fisp --rank {rank} --crb-weight {weight:g} --train 2000 --atoms 8000")

    say("with exact bounds, and what no basis of this rank goes below; of MRF-FISP there is little to gain")
    crbsvd("basis mrf-fisp -o exact --method exact --rank 4 --crb-weight 0.5 --train 2000 --atoms none")

    say("is it good enough if TR becomes 12 ms?")
    crbsvd('audit fisp mrf-fisp --set "tr=12 ms" --fingerprints 1000')

    say("one page for a browser (needs plotly: pip install 'crbsvd-plugin[report]')")
    crbsvd("report fisp sweep study -o report.html")
    print("open report.html, sweep/sweep.png and study/study.png")


if __name__ == "__main__":
    main()
