"""What `paper_phantom.py` writes of its errors: pictures of the maps, tables, and what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _paper_errors import BRAIN, REGIONS, Row

from crbsvd_plugin import display
from crbsvd_plugin.simulate import Scan

METHODS = {"cg": "conjugate gradients", "llr": "locally low rank"}
SAME = 0.02  # ratios that differ from 1 by less are called the same
_SPREAD = 1.65  # relative standard error of the ratio of two medians of |N(0, 1)|, times sqrt(n)
FEWEST = 50  # voxels whose median is worth showing
_R1_WINDOW = (0.2, 1.6)  # 1/s: CSF to WM of the phantom
_LIMITS = {"T1": 0.1, "T2": 0.2}  # of the colours of relative errors
_DPI, _WIDTH = 100, 150
Picture = tuple[str, float, int]  # method, crb weight, rank
Basis = tuple[float, int]  # crb weight, rank
Maps = dict[str, np.ndarray]


class Table:
    """Rows by what they are of."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = {(r.method, r.delay, r.crb_weight, r.rank, r.quantity, r.region): r for r in rows}
        keys = [key for key in self.rows if key[:2] == ("cg", "none")]
        self.weights, self.ranks = (sorted({key[at] for key in keys}) for at in (2, 3))

    def median(self, *key: Any) -> str:
        """Return the median error and the bias of a row [%]."""
        row = self.rows[key]
        return f"{100 * row.median_error:.2f} ({100 * row.bias:+.2f})" if row.n_voxels >= FEWEST else "-"

    def nrmse(self, *key: Any) -> str:
        """Return the NRMSE of a row [%]."""
        row = self.rows[key]
        return f"{100 * row.nrmse:.2f}" if row.n_voxels >= FEWEST else "-"

    def ratio(self, method: str, basis: Basis, other: Basis, *key: str) -> float:
        """Return the median error with a basis over that with another one; NaN of too few voxels."""
        after, before = (self.rows[method, "none", *one, *key] for one in (basis, other))
        return after.median_error / before.median_error if after.n_voxels >= FEWEST else math.nan


def findings(rows: Sequence[Row], settings: dict[str, Any], scan: Scan) -> str:
    """Return all of it as a page."""
    table = Table(rows)
    lines = [*_conditions(settings, scan), "", *_in_short(table)]
    for method, words in METHODS.items():
        lines += ["", f"## {words[0].upper()}{words[1:]}", "", *_errors(table, method), "", *_compared(table, method)]
        lines += [
            "",
            f"![R1 maps, {words}](r1_{method}.png)",
            "",
            f"![errors of T1 and T2, {words}](errors_{method}.png)",
        ]
    return "\n".join([*lines, "", *_delays(table, settings), ""])


def _conditions(settings: dict[str, Any], scan: Scan) -> list[str]:
    n, tuning, shots = scan.phantom.geometry.shape[0], settings["tuning"], settings["shots"]
    cg, llr = (", ".join(f"{key:g}: {100 * value:.2f}" for key, value in tuning[m].items()) for m in METHODS)
    n_fista = settings["llr"]["iterations"]
    lam = min(tuning["llr"], key=tuning["llr"].__getitem__)
    end = "" if min(tuning["llr"]) < lam < max(tuning["llr"]) else " (an end of what was tried)"
    return [
        "# What CRB-SVD does to T1, T2 and R1 on a phantom",
        "",
        "Made by `python examples/paper_phantom.py FOLDER`. The sampling is that of the MRF-FISP experiment of",
        f"[Mao et al.](https://arxiv.org/abs/2305.00326): {scan.n_frames} frames, 2-D radial at the golden angle,",
        f"{shots} repetitions and so {shots} spokes per frame; LLR by {n_fista} iterations of FISTA.",
        f"Chosen here: a matrix of {n} x {n}, 8 coils, white noise of an SNR (M0 / noise of a coefficient) of",
        f"{settings['snr']:g}, the anatomy ({scan.phantom.source}). Voxels may hold several tissues, the signals of",
        "the phantom never pass through the basis, sensitivities come from the data. One fold for all bases, of",
        f"{settings['train']} fingerprints of Table I; a dictionary with {settings['atoms']}.",
        "",
        "Settings are those of the smallest median error of T1 in the brain with the *traditional* basis at",
        f"K = {settings['tuned']}, so that none of them favours CRB-SVD, and the same for all bases:",
        "",
        f"- iterations of CG, without a penalty (median error of T1, %): {cg}; taken: {settings['cg']['iterations']}.",
        f"- lambda of LLR in units of the noise of A^H W y, blocks of 8 x 8, shifted at random: {llr};",
        f"  taken: {lam:g}{end}.",
    ]


def _in_short(table: Table) -> list[str]:
    (plain, crb), most = table.weights, max(table.ranks)
    heads = [(method, quantity, rank) for rank in (None, most) for method in METHODS for quantity in ("T1", "T2")]
    names = [f"{q}, {method.upper()}{f', over K = {rank}' if rank else ''}" for method, q, rank in heads]
    lines = [
        "## In short",
        "",
        f"Median errors in the brain with a crb weight of {crb:g}, over those with {plain:g} at the same K, and over",
        f"those with {plain:g} at K = {most}:",
        "",
        "| K | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(heads),
    ]
    for rank in table.ranks:
        ratios = [table.ratio(m, (crb, rank), (plain, other or rank), quantity, BRAIN) for m, quantity, other in heads]
        lines.append(f"| {rank} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return lines


def _errors(table: Table, method: str) -> list[str]:
    """Return two tables: medians and biases, and NRMSE."""
    keys = [(q, region) for q in ("T1", "T2") for region in REGIONS]
    lines = [
        "Median of |estimate / truth - 1|, in brackets the median of estimate / truth - 1 [%]. WM, GM, CSF: pure",
        "voxels, eroded by one; brain: the mixed ones too, whose truth is the mean of their tissues weighted with M0.",
        "",
        "| K | weight | " + " | ".join(f"{q} {region}" for q, region in keys) + " |",
        "| --- | --- |" + " --- |" * len(keys),
    ]
    shown = [(weight, rank) for rank in table.ranks for weight in table.weights]
    for weight, rank in shown:
        cells = " | ".join(table.median(method, "none", weight, rank, *key) for key in keys)
        lines.append(f"| {rank} | {weight:g} | {cells} |")
    exact = next(key for key in table.rows if key[0] == "exact")[:4]
    lines.append("| exact coefficients | | " + " | ".join(table.median(*exact, *key) for key in keys) + " |")
    keys = [(q, region) for q in ("T1", "T2", "R1") for region in REGIONS] + [("coefficients", BRAIN)]
    lines += [
        "",
        "*Exact coefficients*: those of the phantom, matched. What the dictionary's steps and mixed voxels cost alone.",
        "",
        "||estimate - truth|| / ||truth|| [%]; of the coefficients up to a phase in every voxel:",
        "",
        "| K | weight | " + " | ".join(f"{q} {region}" for q, region in keys) + " |",
        "| --- | --- |" + " --- |" * len(keys),
    ]
    for weight, rank in shown:
        cells = " | ".join(table.nrmse(method, "none", weight, rank, *key) for key in keys)
        lines.append(f"| {rank} | {weight:g} | {cells} |")
    return lines


def _compared(table: Table, method: str) -> list[str]:
    plain, crb = table.weights
    counts = {region: table.rows[method, "none", plain, min(table.ranks), "T1", region].n_voxels for region in REGIONS}
    lines = [
        f"Median errors, a crb weight of {crb:g} over {plain:g}. Same: within {SAME:.0%}, or the standard error of the",
        f"ratio of two medians ({', '.join(f'{n} voxels of {region}' for region, n in counts.items())}):",
        "",
    ]
    for rank in table.ranks:
        groups: dict[str, list[str]] = {"smaller": [], "larger": [], "same": []}
        for quantity in ("T1", "T2"):
            for region, n in counts.items():
                ratio = table.ratio(method, (crb, rank), (plain, rank), quantity, region)
                if n >= FEWEST:
                    same = abs(ratio - 1) <= max(SAME, _SPREAD / math.sqrt(n))
                    kind = "same" if same else "smaller" if ratio < 1 else "larger"
                    groups[kind].append(f"{quantity} {region} ({ratio:.2f})")
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in groups.items() if names)
        lines.append(f"- K = {rank}: {said}.")
    return lines


def _delays(table: Table, settings: dict[str, Any]) -> list[str]:
    weight, rank = next(key[2:4] for key in table.rows if key[1] == "corrected")
    keys = [(q, region) for q in ("T1", "T2") for region in REGIONS]
    late = settings["delay"]
    found = ", ".join(f"{name} {round(value, 3) + 0.0:.3f}" for name, value in settings["found"].items())
    lines = [
        "## Gradient delays",
        "",
        f"The same scan with gradients along x and y that are {late:g} samples late (`simulate --gradient-delay",
        f"{late:g},{late:g},0`), CG, K = {rank}, crb weight {weight:g}; corrected as by `--gradient-delays estimate`,",
        f"which found {found} samples.",
        "Medians as above; coefficients: NRMSE. [%]",
        "",
        "| delay | coefficients | " + " | ".join(f"{q} {region}" for q, region in keys) + " |",
        "| --- | --- |" + " --- |" * len(keys),
    ]
    for delay in ("none", "uncorrected", "corrected"):
        key = ("cg", delay, weight, rank)
        cells = " | ".join(table.median(*key, *one) for one in keys)
        lines.append(f"| {delay} | {table.nrmse(*key, 'coefficients', BRAIN)} | {cells} |")
    return lines


def draw(folder: Path, fitted: dict[Picture, Maps], truth: Maps, brain: np.ndarray, affine: np.ndarray) -> None:
    """Draw FOLDER/r1_METHOD.png, like the paper's Fig. 6, and FOLDER/errors_METHOD.png."""
    rows, columns = (np.flatnonzero(brain.any(axis=axis)) for axis in (1, 0))
    cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    view = display.upright(affine)
    weights, ranks = (sorted({key[at] for key in fitted}) for at in (1, 2))
    true = {"T1": truth["T1map"][brain], "T2": truth["T2map"][brain]}

    def hung(values: np.ndarray, colour: Any) -> np.ndarray:
        image = np.zeros(brain.shape)
        image[brain] = values
        rgb = colour(image)
        rgb[~brain] = 0
        return display.montage(rgb[cut][None], view)[0]

    def r1(image: np.ndarray) -> np.ndarray:
        return display.colours(image, parameter="R1", window=_R1_WINDOW, mask=brain)

    scale = [(label, place) for place, label in display.bar_ticks(_R1_WINDOW, parameter="R1")]
    names = [f"K = {rank}" for rank in ranks]
    for method, words in METHODS.items():
        sheet = [[hung(fitted[method, weight, rank]["R1"], r1) for rank in ranks] for weight in weights]
        sheet = [[hung(1 / true["T1"], r1), *row] for row in sheet]
        _panels(
            folder / f"r1_{method}.png", sheet, [f"crb weight {weight:g}" for weight in weights], ["truth", *names],
            f"R1 [1/s], {words}", [(display.lookup_table("R1")[1:], scale)] * len(sheet),
        )  # fmt: skip
        sheet, labels, bars = [], [], []
        for quantity, limit in _LIMITS.items():
            for weight in weights:
                errors = [fitted[method, weight, rank][quantity] / true[quantity] - 1 for rank in ranks]
                sheet.append([hung(error, lambda image, limit=limit: _signed(image / limit)) for error in errors])
                labels.append(f"{quantity}, crb weight {weight:g}")
                ticks = [
                    (f"{100 * value:+.0f} %" if value else "0", (value / limit + 1) / 2) for value in (-limit, 0, limit)
                ]
                bars.append((_signed(np.linspace(-1, 1, 256)) / 255, ticks))
        _panels(folder / f"errors_{method}.png", sheet, labels, names, f"estimate / truth - 1, {words}", bars)


def _signed(values: np.ndarray) -> np.ndarray:
    """Return colours (..., 3) of values from -1 (blue) over 0 (white) to 1 (red), in 21 steps."""
    import matplotlib

    steps = np.round(10 * np.clip(values, -1, 1)) / 10
    return np.round(255 * matplotlib.colormaps["RdBu_r"]((steps + 1) / 2)[..., :3]).astype(np.uint8)


def _panels(
    path: Path,
    sheet: list[list[np.ndarray]],
    rows: list[str],
    columns: list[str],
    title: str,
    bars: list[tuple[Any, Any]],
) -> None:
    """Draw pictures in a grid, whole pixels for every voxel, a colour bar at the end of every row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    zoom = max(1, round(_WIDTH / sheet[0][0].shape[1]))
    high, wide = (zoom * n for n in sheet[0][0].shape[:2])
    left, top, gap, right = 24, 40, 4, 90  # pixels
    width = left + len(columns) * (wide + gap) + right
    height = top + len(rows) * (high + gap)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)

    def axes(x: float, y: float, w: float, h: float) -> Any:
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    figure.text(left / width, 1 - 4 / height, title, fontsize=9, weight="bold", va="top")
    for j, (label, images, (bar, ticks)) in enumerate(zip(rows, sheet, bars, strict=True)):
        y = top + j * (high + gap)
        figure.text(4 / width, 1 - (y + high / 2) / height, label, fontsize=8, rotation=90, va="center")
        for i, (name, image) in enumerate(zip(columns, images, strict=True)):
            x = left + i * (wide + gap)
            panel = axes(x, y, wide, high)
            panel.imshow(image, interpolation="nearest", aspect="auto")
            panel.set_axis_off()
            if j == 0:
                figure.text((x + wide / 2) / width, 1 - (top - 4) / height, name, fontsize=9, ha="center")
        strip = axes(width - right + 10, y + 12, 14, high - 24)
        strip.imshow(bar[:, None], origin="lower", aspect="auto", extent=(0, 1, 0, 1))
        strip.set_xticks([])
        strip.set_yticks([place for _, place in ticks], [label for label, _ in ticks], fontsize=8)
        strip.yaxis.tick_right()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # a palette, a third of the size; rare colours of the bar are not to be merged
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    image.quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
