"""Any sequence: flip angles of your own, a Pulseq file, a command of BART, a model of your own in Python."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import numpy as np
from _tutorial import crbsvd, enter, say

FEW = "--train 500 --atoms 2000"  # fingerprints and atoms, to be quick


def main() -> None:
    """Make a basis of each in FOLDER."""
    enter(__doc__)
    degrees = 10 + 40 * np.sin(np.pi * np.arange(200) / 200) ** 2

    say("a TOML file with flip angles of your own")
    angles = ", ".join(f'"{angle:.1f} deg"' for angle in degrees)
    Path("mine.toml").write_text(f'name = "mrf-fisp"\ntr = "10 ms"\nte = "4 ms"\nflip_angles = [{angles}]\n', "utf-8")
    crbsvd(f"basis mine.toml -o mine {FEW}")

    say("a Pulseq file, here one that pypulseq writes: pulse, readout, spoiler")
    pulseq(degrees, "scan.seq")
    crbsvd(f"basis scan.seq -o scan {FEW}")

    if shutil.which("bart"):
        say("a command of BART: the grid of T1 trains and is matched")
        crbsvd('basis bart:"signal -F -I -r0.005 -f8 -n400 -1 0.2:4:200" -o look-locker')

    say("a model of your own: derivatives are found, and checked")
    model = """
        import numpy as np

        parameters = [("T1", "s", 0.1, 5.0), ("inv", "1", 0.8, 1.0)]


        def recovery(theta, n=40, tr=0.05):
            t = tr * np.arange(1, n + 1)
            return 1 - (1 + theta[:, 1:]) * np.exp(-t / theta[:, :1])
        """
    Path("model.py").write_text(textwrap.dedent(model), encoding="utf-8")
    crbsvd("check-model model.py:recovery")
    crbsvd(f"basis model.py:recovery --set tr=0.02 -o recovery --rank 3 {FEW}")


def pulseq(degrees: np.ndarray, name: str) -> None:
    """Write an inversion and a train of spoiled pulses."""
    import pypulseq as pp  # pip install 'crbsvd-plugin[pulseq]'

    sequence = pp.Sequence()
    spoiler, adc = pp.make_trapezoid("z", area=2000, duration=4e-3), pp.make_adc(64, duration=2e-3, delay=1e-4)
    for angle in (180, *degrees):
        use = "inversion" if angle == 180 else "excitation"
        sequence.add_block(pp.make_block_pulse(np.deg2rad(angle), duration=1e-3, use=use))
        if use == "excitation":
            sequence.add_block(adc)
        sequence.add_block(spoiler)
    sequence.write(name, check_timing=False)


if __name__ == "__main__":
    main()
