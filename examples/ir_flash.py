"""Radial inversion-recovery Look-Locker from k-space to T1, in bases of the built-in model and of BART's `signal`."""

from __future__ import annotations

import argparse
from pathlib import Path

from _tissue_report import Row, explained, montage, options_of, rows_of, table, write

from crbsvd_plugin import bundle, run, simulate
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import resolve

TR, DEGREES = 0.005, 6.0
BUILT_IN, BART = "ir-flash", "bart signal"


def main() -> None:
    """Run all of it into FOLDER: findings.md and maps.png."""
    parser = options_of(__doc__, matrix=128, snr=100.0)
    parser.add_argument("--frames", type=int, default=800, help="pulses after the inversion, a spoke each")
    parser.add_argument("--shots", type=int, default=1, help="inversions, each from equilibrium")
    parser.add_argument("--values", type=int, default=2500, help="of T1 in BART's dictionary")
    write(look_and_lock, parser.parse_args())


def look_and_lock(work: Path, options: argparse.Namespace) -> str:
    """Scan, reconstruct and fit in both bases; draw the maps, and return the findings."""
    settings = ["b1=false", f"n_frames={options.frames}", f"flip_angle={DEGREES:g} deg", f"tr={TR} s", "ti=0 s"]
    specs = {
        BUILT_IN: ("ir-flash", settings, options.train, options.atoms),
        BART: (command(options), [], "grid", "grid"),
    }
    scan = simulate.acquire(
        resolve("ir-flash", settings).model, matrix=options.matrix, n_coils=options.coils, n_shots=options.shots
    )
    raw, quiet = (simulate.write(scan, work / f"{snr}.h5", snr=snr) for snr in (options.snr, None))
    rows, maps = [], {}
    for name, (spec, given, train, atoms) in specs.items():
        basis, folder = str(work / name), work / f"maps {name}"
        request = bundle.Request(spec=spec, settings=given, rank=options.rank, train=train, atoms=atoms)
        bundle.plan(request, basis, force=False).make(report=silent)
        without = work / f"quiet {name}"
        for source, place, std in ((raw, folder, True), (quiet, without, False)):
            config = run.config(basis=basis, iterations=options.iterations, std=std)
            run.maps(str(source["raw"]), config, str(place), force=False, report=silent)
        rows += rows_of(name, folder, without, "T1", raw)
        maps[name] = folder / "T1map.nii.gz"
    montage(options.folder / "maps.png", maps, raw["T1map"], top=2.0, unit="T1 [s]")
    return findings(rows, options)


def command(options: argparse.Namespace) -> str:
    """Return the SPEC of BART's signals, in the words of its own command line."""
    return f"bart:signal -F -I -r{TR} -f{DEGREES:g} -n{options.frames} -1 0.1:5.1:{options.values}"


def findings(rows: list[Row], options: argparse.Namespace) -> str:
    """Return the findings as a page."""
    lines = [
        "# Radial IR-FLASH",
        "",
        "Made by `python examples/ir_flash.py FOLDER`: an inversion and",
        f"{options.frames} pulses of {DEGREES:g} degrees, TR {1e3 * TR:g} ms,",
        f"a golden-angle spoke each, from equilibrium, {options.shots} time{'' if options.shots == 1 else 's'};",
        f"{options.matrix} x {options.matrix} voxels, {options.coils} coils, SNR {options.snr:g}, K = {options.rank},",
        f"no penalty, {options.iterations} iterations. The scan is simulated with the model `ir-flash`, and",
        f"reconstructed and matched in the basis of this model, and in that of `{command(options)}`.",
        "",
        *explained("T1"),
        "",
        *table(rows, "T1"),
        "",
        "BART's signals have the steady state of TR << T1*, 0.3 % from that of the pulses, which the scan has.",
        "",
        "![truth and T1 above, relative errors below](maps.png)",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
