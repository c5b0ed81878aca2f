"""Options and progress that the verbs share."""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import threads
from ..errors import UserError

F = TypeVar("F", bound=Callable[..., Any])
_MOST = 1000


def file_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what cannot name a file, with a suffix or without."""
    if value is not None and not Path(value).name:
        raise click.BadParameter("the name is empty", context, parameter)
    if value is not None and value.endswith("/"):
        raise click.BadParameter(f"{value!r} is a folder, expected the name of a file", context, parameter)
    return value


def folder_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what cannot name a folder."""
    if value is None:
        return None
    if not value:
        raise click.BadParameter("the name is empty; the folder you are in is '.'", context, parameter)
    if os.path.exists(value) and not Path(value).is_dir():  # noqa: PTH110 - Path.exists raises for long names
        raise click.BadParameter(f"{value} is a file, expected a folder; choose another name", context, parameter)
    return value


def within(low: float, high: float) -> Callable[[click.Context, click.Parameter, float | None], float | None]:
    """Return a check for a number from `low` to `high`, if there is one; unlike click's, it refuses NaN."""

    def check(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
        if value is not None and not low <= value <= high:
            raise click.BadParameter(f"{value:g} is out of range, expected {low:g} to {high:g}", context, parameter)
        return value

    return check


def numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """Read numbers with commas, and low:high:step."""
    try:
        parts = [[float(number) for number in part.split(":")] for part in text.split(",")]
        found: list[float] = []
        for part in parts:
            low, high, step = (part[0], part[0], 1.0) if len(part) == 1 else part
            # `high` is among them where the steps end there but for rounding
            n_steps = math.floor((high - low) / step + 1e-9)
            if n_steps >= _MOST:
                raise ValueError
            found += [round(low + i * step, 12) for i in range(n_steps + 1)]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise click.BadParameter(
            f"{text!r}, expected numbers with commas, or low:high:step of at most {_MOST} numbers", context, parameter
        ) from None
    return tuple(dict.fromkeys(found))


force = click.option("--force", is_flag=True, help="Replace earlier output of the same name.")


def _name_model(_context: click.Context, _parameter: click.Parameter, spec: str | None) -> None:
    if spec is not None:
        from ..spec import resolve

        resolve(spec)  # and remembers it


named_model = click.option(
    "--model", metavar="SPEC", expose_value=False, callback=_name_model,
    help="The model of the basis, if it is one of your own: FILE.py:NAME, or a TOML file that names it.",
)  # fmt: skip
"""Let the user name again what a basis is never allowed to load by itself."""


def misfit(*, default: bool) -> Callable[[F], F]:
    """Return the option that compares the data with the images."""
    return click.option(
        "--misfit/--no-misfit", default=default, show_default=True,
        help="Say how much of the data the images leave, and how much noise would: does the scan fit this basis?",
    )  # fmt: skip


THREADS = click.option("--threads", "n_threads", type=int, help="Number of threads; all cores if not given.")
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Say more.")


def verb(function: F) -> Callable[..., Any]:
    """Give a verb the options that all have: --threads and -v."""

    @THREADS
    @VERBOSE
    @functools.wraps(function)
    def wrapped(*, n_threads: int | None, verbose: bool, **options: Any) -> Any:
        with log_to_stderr(verbose), threads.limit(n_threads):
            return function(**options)

    return wrapped


def names(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Split names that are joined by commas; an empty text names none."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


_FITTING = {
    "mask_level": click.option(
        "--mask-level", type=float, callback=within(0, 1), default=0.05, show_default=True,
        help="Fit no voxels below this share of the signal.",
    ),
    "method": click.option(
        "--method", type=click.Choice(["matching", "nlls", "perk"]), default="matching", show_default=True,
        help="The best atom of the dictionary, nonlinear least squares from there, or the regression of basis --perk.",
    ),
    "refine": click.option(
        "--refine", is_flag=True,
        help="matching: take a Gauss-Newton step off the grid of the dictionary, if it has derivatives.",
    ),
    "fit_starts": click.option(
        "--fit-starts", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="nlls: distinct atoms to start from in every voxel; the least sum of squares counts.",
    ),
    "signals": click.option(
        "--signals", type=click.Choice(["emulated", "exact"]),
        help="nlls: signals of a polynomial that is as good (default for up to 5 parameters), or of the model itself.",
    ),
    "bounds": click.option(
        "--bounds", multiple=True, metavar="NAME=LOW:HIGH",
        help="nlls: range of a parameter instead of the dictionary's, e.g. m0s=0:0.5; may be repeated.",
    ),
    "b1": click.option(
        "--b1", metavar="FILE", callback=file_name,
        help="Measured map of B1 (NIfTI, relative or percent), not to be fitted then.",
    ),
    "b0": click.option(
        "--b0", metavar="FILE", callback=file_name,
        help="Measured map of the off-resonance w0 (NIfTI, Hz), not to be fitted then.",
    ),
    "std": click.option(
        "--std/--no-std", default=True, show_default=True,
        help="With the maps, their standard deviations and the residuals of the fit.",
    ),
}  # fmt: skip
_READING = {
    "rank": click.option("--rank", type=int, help="Use only the first columns of the basis."),
    "frame": click.option("--frame", default="contrast", show_default=True, help="MRD counter that is the frame."),
    "shots": click.option("--shots", callback=names, help="Counters to sum over, with commas; else the usual ones."),
    "groups": click.option("--groups", callback=names, help="Counters of separate images; else the usual ones."),
    "ends": click.option(
        "--ends", callback=names, default="", metavar="WHAT",
        help="What completes an image before the end of the file, which saves memory: flags for the last readout of "
        "the measurement, slice, repetition, ..., or next: another image begins.",
    ),
    "pieces": click.option(
        "--pieces", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Readouts come in N pieces, which the MRD counter segment tells apart: join them.",
    ),
    "noise": click.option(
        "--noise", type=click.Choice(["scan", "upstream"]), default="scan", show_default=True,
        help="Prewhiten with the noise scan, if there is one; or the data come prewhitened, with sigma = 1.",
    ),
    "traj_units": click.option(
        "--traj-units", default="cycles/fov", show_default=True, help="Or cycles/pixel, rad/pixel, 1/m, rad/m."
    ),
    "traj_third": click.option(
        "--traj-third", type=click.Choice(["kz", "density"]), default="kz", show_default=True,
        help="What one column more than the image has axes is: a position (zeros), or a density weight, not used.",
    ),
    "traj_file": click.option(
        "--traj-file", metavar="NAME", callback=file_name,
        help="BART file with the trajectory (3 samples readouts 1 1 frames), which goes before that of the readouts.",
    ),
    "fov_shift": click.option(
        "--fov-shift", type=click.Choice(["off", "header"]), default="off", show_default=True,
        help="Move data that are centred on the isocentre to where the header has the image.",
    ),
    "coils": click.option(
        "--coils", type=float, callback=within(0, 65535), metavar="N",
        help="Keep N virtual coils; below 1, as many as hold this share of the energy.",
    ),
    "phase_drift": click.option(
        "--phase-drift", type=click.Choice(["off", "steps", "linear"]), default="off", show_default=True,
        help="Find the phase of every shot and take it out: one for all of it, or changing to that of the next.",
    ),
    "gradient_delays": click.option(
        "--gradient-delays", type=click.Choice(["off", "estimate"]), default="off", show_default=True,
        help="Find the gradient delays of radial readouts, and correct the trajectory.",
    ),
    "sens": click.option(
        "--sens", type=click.Choice(["native", "bart"]), default="native", show_default=True,
        help="Which program finds the coil sensitivities.",
    ),
    "backend": click.option(
        "--backend", type=click.Choice(["native", "sigpy", "bart"]), default="native", show_default=True,
        help="Which program solves it: the result is the same.",
    ),
    "bart_terms": click.option(
        "--bart-term", "bart_terms", multiple=True, metavar="TERM",
        help="Regularisation term as after bart pics -R, e.g. W:7:0:0.01, instead of --regulariser and --lam.",
    ),
    "bart_lowmem": click.option("--bart-lowmem", is_flag=True, help="The backend bart shall take less memory."),
    "bart_keep": click.option(
        "--bart-keep", callback=folder_name, metavar="DIR",
        help="Keep what the backend bart reads, in DIR/0, 1, ...: there its command can be pasted.",
    ),
    "regulariser": click.option(
        "--regulariser", type=click.Choice(["l2", "llr", "wavelet"]), default="l2", show_default=True,
        help="Penalty: energy, low rank of blocks, or wavelet coefficients.",
    ),
    # times an image, the largest lam is still a number in single precision
    "lam": click.option(
        "--lam", type=float, callback=within(0, 1e30), default=0.0, show_default=True, help="Weight of the penalty."
    ),
    "scaling": click.option(
        "--scaling", type=click.Choice(["none", "bart"]), default="none", show_default=True,
        help="Units of --lam: our own, or those of bart pics without -w.",
    ),
    "block": click.option(
        "--block", type=click.IntRange(min=1), default=8, show_default=True, help="Edge of the blocks of llr."
    ),
    "shift": click.option(
        "--shift", type=click.Choice(["none", "random", "overlap"]), default="random", show_default=True,
        help="Where blocks or wavelets lie: in one place, elsewhere in every iteration, or everywhere.",
    ),
    "solver": click.option(
        "--solver", type=click.Choice(["cg", "fista", "admm"]), help="Else cg for l2, fista for the others."
    ),
    "iterations": click.option(
        "--iterations", type=click.IntRange(min=1), default=30, show_default=True, help="Largest number of them."
    ),
    "start": click.option(
        "--start", type=click.Choice(["zero", "density"]), default="zero", show_default=True,
        help="First images: zero, or the adjoint with density weights.",
    ),
    "preconditioner": click.option(
        "--preconditioner", type=click.Choice(["none", "circulant"]), default="none", show_default=True,
        help="circulant: cg needs half of the iterations, and regularises less by stopping.",
    ),
    "kernel_cache": click.option(
        "--kernel-cache", metavar="DIR", callback=folder_name,
        help="Keep convolution kernels here, for the next scan with the same trajectory.",
    ),
    "tolerance": click.option(
        "--tolerance", type=float, callback=within(0, 1), default=0.0, show_default=True,
        help="Stop where less than this share changes (cg: is left of the residual).",
    ),
}  # fmt: skip


def _weights(_context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[Any, float]:
    """Read NAME=VALUE, or CLASS:NAME=VALUE as a pair."""
    weights: dict[Any, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            weights[tuple(name.split(":", 1)) if ":" in name else name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r}, expected {parameter.metavar} with a number", param=parameter) from None
    return weights


_SPREADING = {
    "workers": click.option("--workers", type=int, metavar="N", help="Spread the work over N processes."),
    "scheduler": click.option("--scheduler", metavar="ADDRESS", help="Spread the work over this Dask cluster."),
}
_TRAINING = {
    "train": click.option(
        "--train", default="20000", show_default=True, help="Fingerprints to simulate: grid (all) or about N."
    ),
    "weighting": click.option(
        "--weighting", type=click.Choice(["svd", "loss"]), default="svd", show_default=True, help="Eq. 12 or 5."
    ),
    "fisher": click.option("--fisher", type=click.Choice(["real", "complex"]), default="real", show_default=True),
    "conjugate": click.option(
        "--conjugate/--no-conjugate", default=None,
        help="Count the conjugate of every fingerprint too: a real basis. Else: if the prior has them all.",
    ),
    "tolerance": click.option(
        "--tolerance", type=float, callback=within(0, 0.1),
        help="Share of the energy that may fall outside of the fold's subspace; else 1e-18, of qmt-hsfp 1e-4.",
    ),
    "parameter_weights": click.option(
        "--parameter-weight", "parameter_weights", multiple=True, metavar="NAME=W", callback=_weights,
        help="Factor of a parameter's squared loss.",
    ),
    "class_weights": click.option(
        "--class-weight", "class_weights", multiple=True, metavar="CLASS=W", callback=_weights,
        help="Factor of a tissue class, or of CLASS:NAME, a parameter in it.",
    ),
    "settings": click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting of SPEC."
    ),
    "checkpoint": click.option(
        "--checkpoint", metavar="FILE", callback=file_name,
        help="Keep what is simulated here every two minutes, and go on from it.",
    ),
    **_SPREADING,
}  # fmt: skip


_BIDS = {
    "bids": click.option("--bids", is_flag=True, help="Write a BIDS derivatives tree, or add to one."),
    "subject": click.option("--subject", metavar="LABEL", help="Subject in the BIDS tree, e.g. 01."),
    "session": click.option("--session", metavar="LABEL", help="Session in the BIDS tree."),
}


def _as_one(argument: str, options: dict[str, Callable[[Any], Any]]) -> Callable[[F], Callable[..., Any]]:
    """Return what gives a verb these options, as one argument of that name."""

    def decorate(function: F) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(**given: Any) -> Any:
            return function(**{argument: {key: given.pop(key) for key in options}}, **given)

        for option in reversed(options.values()):
            wrapped = option(wrapped)
        return wrapped

    return decorate


fitting_options = _as_one("fitting", _FITTING)
"""Give a verb that fits maps the options of `fit.fitter.prepared` and --std, as one argument `fitting`."""
estimating_options = _as_one(
    "estimating", {k: _FITTING[k] for k in ("method", "refine", "fit_starts", "signals", "bounds")}
)
"""Give a verb that fits without images the options of `bench.Way`, as one argument `estimating`."""
reading_options = _as_one("settings", _READING)
"""Give a verb that reads raw data the options of `config.Config`, as one argument `settings`."""
scan_options = _as_one(
    "reading", {k: _READING[k] for k in ("frame", "shots", "groups", "pieces", "traj_units", "traj_third", "traj_file")}
)
"""Give a verb that reads where a scan samples the options of `scanned.Reading`, as one argument `reading`."""
training_options = _as_one("training", _TRAINING)
"""Give a verb that trains a basis the options of `request.Request`, as one argument `training`."""
spreading_options = _as_one("cluster", _SPREADING)
"""Give a verb the options of `cluster.spread`, as one argument `cluster`."""
bids_options = _as_one("tree", _BIDS)
"""Give a verb that writes maps the options of `bids.entities`, as one argument `tree`."""


def number_or_none(text: str, option: str) -> float | None:
    """Read a number, or the word none.

    Raises
    ------
    UserError
        It is neither.
    """
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{option} is {text!r}, expected a number or none") from None


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Show the stages of long work, one bar each; where there is no terminal, nothing."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars or done == 0:
            for bar in bars.values():
                bar.close()
            bars.clear()
            # standard error may be closed
            bars[stage] = tqdm(total=total or None, desc=stage, disable=None if sys.stderr else True, leave=False)
        bars[stage].update(done - bars[stage].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def log_to_stderr(verbose: bool) -> Iterator[None]:
    """Show what the package logs, as long as the verb runs."""
    logger = logging.getLogger("crbsvd_plugin")
    before = logger.level
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("crbsvd: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
