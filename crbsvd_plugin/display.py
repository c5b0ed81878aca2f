"""Colours and pictures of parameter maps, after the relaxometry guideline.

Fuderer et al., "Color-map recommendation for MR relaxometry maps", doi 10.1002/mrm.30290: lipari
for T1 and R1, navia for T2, T2*, T1rho and their rates (the table reversed for a rate, so that a
tissue keeps its colour), through a logarithm-processed look-up table. Entry 0 of the table is
black and means "invalid"; entries 1 to 255 are for valid values, also for those below the window.
"""

from __future__ import annotations

import functools
import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Window = tuple[float, float]

_TIMES = {"T1": "lipari", "T2": "navia", "T2*": "navia", "T2star": "navia", "T1rho": "navia"}
_RATES = {"R" + name[1:]: table for name, table in _TIMES.items()}
# brain at 3 T, seconds; a rate gets the window of the inverse values
_WINDOWS = {"T1": (0.3, 2.5), "T2": (0.02, 0.15), "T2*": (0.01, 0.1), "T2star": (0.01, 0.1), "T1rho": (0.02, 0.15)}
_DARKEST_GREY = 0.1  # a valid voxel is never as black as an invalid one
_DPI = 100


def default_window(parameter: str, image: ArrayLike) -> Window:
    """Return the limits (low, high) of the colours of a map, in its own unit.

    Fixed values for relaxation times and rates (brain, 3 T), so that pictures of several scans
    compare; for anything else the 1st to the 99th percentile of the valid values of `image`.
    """
    if parameter in _TIMES:
        return _WINDOWS[parameter]
    if parameter in _RATES:
        low, high = _WINDOWS["T" + parameter[1:]]
        return 1 / high, 1 / low
    values = np.asarray(image, float)
    values = values[np.isfinite(values) & (values != 0)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (1, 99)))
    size = max(abs(low), abs(high))
    return (low, high) if high - low > 1e-6 * size else (low - 0.5 * size, high + 0.5 * size)  # a constant map


def position(values: ArrayLike, window: Window, *, parameter: str) -> NDArray[np.float64]:
    r"""Place values on the colour scale: 0 at the lower, 1 at the upper limit of the window.

    The published curve for relaxation times and rates: with the limits l and u and a = u / e it
    is logarithmic above max(a, l). Where l < a it goes on below a as its own tangent, because a
    logarithm would spend most colours on values near zero:

    .. math:: p(x) = (x - l) / (2 a - l),\; x \le a; \qquad (a + a \ln(x / a) - l) / (2 a - l),\; x > a

    For l >= a it is ln(x / l) / ln(u / l), and for other parameters linear.

    Values and window have the same unit; values outside of the window get 0 or 1.

    Raises
    ------
    UserError
        Not low < high, or for relaxation times and rates not 0 <= low.
    """
    low, high = window
    logarithmic = parameter in _TIMES or parameter in _RATES
    if not (np.isfinite(low) and np.isfinite(high) and low < high) or (logarithmic and low < 0):
        need = "0 <= low < high" if logarithmic else "low < high"
        raise UserError(f"window {low:g} to {high:g} of {parameter}: expected {need}; give other limits")
    x = np.clip(np.asarray(values, np.float64), low, high)
    knee = high / np.e
    place: NDArray[np.float64]
    if not logarithmic:
        place = (x - low) / (high - low)
    elif low >= knee:
        place = np.log(x / low) / np.log(high / low)
    else:
        bent = knee * (1 + np.log(np.maximum(x, knee) / knee))
        place = (np.where(x > knee, bent, x) - low) / (2 * knee - low)
    return place


def table_name(parameter: str) -> str | None:
    """Return the name of a parameter's colours, with ``_r`` if they are reversed; None: grey."""
    return _TIMES.get(parameter) or (f"{_RATES[parameter]}_r" if parameter in _RATES else None)


@functools.cache
def lookup_table(parameter: str) -> NDArray[np.float64]:
    """Return the 256 colours (256, 3), 0 to 1, of a parameter (grey if it is none of relaxation).

    Raises
    ------
    UserError
        The package cmcrameri, which holds the tables, is missing.
    """
    name = table_name(parameter)
    if name is None:
        table = np.repeat(np.linspace(_DARKEST_GREY, 1, 256)[:, None], 3, axis=1)
    else:
        spec = find_spec("cmcrameri")
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"the colours of {parameter} are those of the package cmcrameri: pip install cmcrameri")
        # its text files, not its module: that one loads pyplot and registers with it
        table = np.loadtxt(Path(spec.submodule_search_locations[0]) / "cmaps" / f"{name.removesuffix('_r')}.txt")
        table = table[::-1].copy() if name.endswith("_r") else table
    table[0] = 0
    table.setflags(write=False)
    return table


def colours(
    image: ArrayLike, *, parameter: str, window: Window | None = None, mask: ArrayLike | None = None
) -> NDArray[np.uint8]:
    """Turn a map (*X) into colours (*X, 3).

    Parameters
    ----------
    image : array (*X)
        The map, SI units. 0 and what is not finite are invalid; for relaxation times and rates
        negative values too.
    parameter : str
        Its name; it decides the colours and the scale.
    window : (low, high), optional
        Limits in the unit of the map; `default_window` without it.
    mask : bool array (*X), optional
        False is invalid, whatever the value.

    Returns
    -------
    uint8 array (*X, 3)
        (0, 0, 0) is invalid and nothing else. A value under the window has the first colour after
        it (the darkest; of a rate the brightest), a value over the window the last.
    """
    image = np.asarray(image, np.float64)
    window = default_window(parameter, image) if window is None else window
    valid = np.isfinite(image) & (image != 0)
    if parameter in _TIMES or parameter in _RATES:
        valid &= image > 0
    if mask is not None:
        valid &= np.asarray(mask, bool)
    place = position(np.where(valid, image, window[1]), window, parameter=parameter)
    entry = np.where(valid, 1 + np.minimum(np.floor(place * 255), 254), 0).astype(int)
    rgb: NDArray[np.uint8] = np.round(lookup_table(parameter) * 255).astype(np.uint8)[entry]
    return rgb


class Upright(NamedTuple):
    """How to hang a slice (y, x): swap its axes, then turn rows and columns; what is where then."""

    swap: bool
    flip: tuple[bool, bool]
    sides: str  # letters at the left, right, top, bottom
    aspect: float  # height of a voxel over its width
    caption: str


def upright(affine: ArrayLike | None) -> Upright:
    """Say how to turn slices (y, x) so that superior, else anterior, is at the top.

    Radiological: the patient's right, or anterior, is at the left. `affine` (4, 4) is RAS mm of
    voxel (x, y, z); of an oblique slice the nearest plane counts; None leaves the array as it is.
    """
    if affine is None:
        return Upright(False, (False, False), "    ", 1.0, "array order, row 0 at the top (no geometry)")
    from nibabel import orientations

    orientation: Any = orientations.io_orientation  # nibabel has no types
    affine = np.asarray(affine, np.float64)
    size = np.linalg.norm(affine[:3, :3], axis=0)
    axes, signs = orientation(affine).astype(int).T.tolist()
    swap = bool(axes[0] > axes[1])  # voxel x runs along the patient's axis that is hung upright
    across, down = (1, 0) if swap else (0, 1)
    # in this order columns and rows run against the patient's axes: R to L, A to P, S to I
    sides = ("RL", "AP", "SI")[axes[across]] + ("RL", "AP", "SI")[axes[down]]
    plane = ("sagittal", "coronal", "axial")[axes[2]]
    caption = plane if plane == "sagittal" else f"{plane}, radiological (R is at the left)"
    return Upright(
        swap, (bool(signs[down] > 0), bool(signs[across] > 0)), sides, float(size[down] / size[across]), caption
    )


def montage(slices: NDArray[Any], view: Upright) -> tuple[NDArray[Any], list[tuple[int, int, int]]]:
    """Hang up to 20 evenly spaced slices (z, y, x, 3) side by side, in rows from the top left.

    Returns the sheet (rows, columns, 3) and, per slice, its number and its row and column there.
    """
    numbers = np.unique(np.linspace(0, len(slices) - 1, min(len(slices), 20)).round().astype(int))
    tiles = slices[numbers].swapaxes(1, 2) if view.swap else slices[numbers]
    tiles = tiles[:, :: -1 if view.flip[0] else 1, :: -1 if view.flip[1] else 1]
    count, high, wide, _ = tiles.shape
    per_row = min(count, int(np.ceil(np.sqrt(count * high * view.aspect / wide))))
    places = [(int(n), i // per_row * high, i % per_row * wide) for i, n in enumerate(numbers)]
    sheet = np.zeros((-(-count // per_row) * high, per_row * wide, 3), slices.dtype)
    for picture, (_, row, column) in zip(tiles, places, strict=True):
        sheet[row : row + high, column : column + wide] = picture
    return sheet, places


def save_png(
    path: str | Path,
    image: ArrayLike,
    *,
    parameter: str,
    window: Window | None = None,
    unit: str | None = None,
    affine: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    force: bool = False,
) -> None:
    """Draw a map (y, x), or a volume (z, y, x) as a montage, with its colour bar into a PNG file.

    Other arguments as for `colours` and `upright`; `unit` is that of the map (default: that of
    the relaxation time or rate), ``s`` is shown in ms. The file appears whole or not at all.

    Raises
    ------
    UserError
        The file exists and `force` was not said, or the window is not valid.
    """
    path = Path(path)
    if path.exists() and not force:
        raise UserError(f"{path} exists already: choose another name, or say --force to replace it")
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"image has shape {image.shape}, expected (y, x) or (z, y, x)")
    window = default_window(parameter, image) if window is None else window
    if unit is None:
        unit = "s" if parameter in _TIMES else "1/s" if parameter in _RATES else ""
    rgb = colours(image, parameter=parameter, window=window, mask=mask)
    content = _draw(rgb if image.ndim == 3 else rgb[None], upright(affine), parameter, window, unit)
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _draw(slices: NDArray[np.uint8], view: Upright, parameter: str, window: Window, unit: str) -> bytes:
    # the figure and its canvas as objects: pyplot keeps global state and is not safe in threads
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet, places = montage(slices, view)
    high, wide = sheet.shape[0] * view.aspect, sheet.shape[1]
    zoom = max(1, round(600 / max(high, wide))) / _DPI  # inches a voxel: a whole number of pixels of the screen
    high, wide = high * zoom, wide * zoom
    tall = max(high, 1.5)  # beside a very flat picture the bar is the higher one
    total = np.array((max(wide, 2) + 1.65, tall + 1.0))
    figure = Figure(figsize=tuple(total), dpi=_DPI, facecolor="white")

    def box(left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        return left / total[0], bottom / total[1], width / total[0], height / total[1]

    axes = figure.add_axes(box(0.3, 0.55, wide, high))
    axes.imshow(sheet, interpolation="nearest", aspect="auto", origin="upper")
    axes.set_axis_off()
    for number, row, column in places if len(places) > 1 else []:
        axes.text(column, row, str(number), color="white", fontsize=7, va="top", ha="left")
    spots = ((-0.15, high / 2), (wide + 0.12, high / 2), (wide / 2, high + 0.13), (wide / 2, -0.13))
    for letter, (x, y) in zip(view.sides, spots, strict=True):
        figure.text((0.3 + x) / total[0], (0.55 + y) / total[1], letter, fontsize=9, ha="center", va="center")
    figure.text(0.3 / total[0], 0.1 / total[1], view.caption, fontsize=8, color="0.3")
    figure.text(0.3 / total[0], 1 - 0.3 / total[1], parameter, fontsize=11, weight="bold", parse_math=False)

    bar = figure.add_axes(box(wide + 0.65, 0.55, 0.2, tall))
    strip = lookup_table(parameter)[1:, None, :]
    bar.imshow(strip, origin="lower", aspect="auto", interpolation="nearest", extent=(0, 1, 0, 1))
    bar.axhspan(-0.08, -0.04, color="black")
    bar.set_ylim(-0.08, 1)
    factor, unit = (1e3, "ms") if unit == "s" else (1.0, unit)
    ticks = [(-0.06, "invalid"), *bar_ticks((window[0] * factor, window[1] * factor), parameter=parameter)]
    bar.set_yticks([place for place, _ in ticks], [label for _, label in ticks], fontsize=8)
    bar.set_xticks([])
    bar.set_title(unit, fontsize=9, pad=4, parse_math=False)
    bar.yaxis.tick_right()
    bar.spines[:].set_visible(False)
    buffer = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(buffer)
    return buffer.getvalue()


def bar_ticks(window: Window, *, parameter: str) -> list[tuple[float, str]]:
    """Return (position, label) of round values and of the limits, which stand for all beyond them."""
    low, high = window
    size = 10.0 ** np.floor(np.log10(high - low))
    if parameter in _TIMES or parameter in _RATES:
        values = np.outer(size * 10.0 ** np.arange(-2, 2), (1, 2, 3, 5, 7)).ravel()
    else:
        step = size * (0.2 if high - low < 2.5 * size else 0.5 if high - low < 5 * size else 1.0)
        values = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    places = position(values, window, parameter=parameter)
    # none so near to a limit that the labels would touch
    inner = [(float(p), f"{v:.4g}") for p, v in zip(places, values, strict=True) if 0.04 < p < 0.96]
    return [(0.0, f"\N{LESS-THAN OR EQUAL TO} {low:.4g}"), *inner, (1.0, f"\N{GREATER-THAN OR EQUAL TO} {high:.4g}")]
