"""Run the pipeline on files: raw data, coefficient images and maps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from . import __version__, cluster, fieldmap, files, pipeline
from .basis import Basis
from .bids import Entities, check_tree, save_bids
from .config import Config
from .errors import UserError
from .fit.fitter import Method, Signals, prepared
from .fit.result import Maps, stacked
from .geometry import Geometry
from .group import Reconstruction
from .images import FORMAT, CoefficientImages
from .maps import FORMAT as MAPS
from .maps import staged_maps
from .mrd import open_raw
from .mrd_header import geometry_of
from .progress import Report
from .quality import KnownNoise, fitted_maps, known_noise
from .readouts import is_imaging
from .volumes import gathered, place_of, slices_of, stack

_ALGORITHMS: dict[Method, str] = {
    "matching": "dictionary matching in the compressed domain",
    "nlls": "nonlinear least squares in the compressed domain, from the best atoms of a dictionary",
    "perk": "kernel regression (PERK) in the compressed domain, trained on noisy atoms of a dictionary",
}


def config(**settings: Any) -> Config:
    """Build a config, refusing what is unknown or of a wrong type.

    Raises
    ------
    UserError
        A key is unknown or a value does not fit.
    """
    try:
        return msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        raise UserError(f"config: {error}") from None


def recon(
    raw: str,
    config: Config,
    output: str,
    *,
    force: bool,
    report: Report,
    workers: int | None = None,
    scheduler: str | None = None,
) -> CoefficientImages:
    """Reconstruct a raw data file and write its coefficient images.

    Parameters
    ----------
    raw, config, output, force
        What to reconstruct, how, and where to.
    report : callable
        Told of the progress.
    workers, scheduler
        Cluster to spread slices and repetitions over, see `cluster.connect`; this process alone if neither is given.

    Raises
    ------
    UserError
        The input does not fit, or the output exists already or cannot be written.
    """
    names = [f"{Path(output).name}{suffix}" for suffix in (".cfl", ".hdr")]
    sidecar = files.with_suffix(output, ".json")
    files.check_free(sidecar, names, kind=FORMAT, force=force)
    images, _ = _reconstructed(raw, config, report, workers, scheduler)
    images.save(output, force=force)
    return images


def maps(
    raw: str,
    config: Config,
    output: str,
    *,
    force: bool,
    report: Report,
    workers: int | None = None,
    scheduler: str | None = None,
    whose: Entities | None = None,
) -> list[Path]:
    """Reconstruct a raw data file, fit maps and write them.

    The arguments are those of `recon`; with `whose`, `output` is a BIDS tree and the maps are theirs.

    Raises
    ------
    UserError
        The input does not fit, or the output exists already or cannot be written.
    """
    _check_output(output, whose, force=force)
    images, results = _reconstructed(raw, config, report, workers, scheduler)
    by_place = {place_of(result, images): result.maps for result in results}
    volumes = []
    for repetition in range(len(images.coeff)):
        slices = [by_place.get((repetition, i)) for i in range(images.coeff.shape[1])]
        (alone, *more) = slices
        volumes.append(alone if alone is not None and not more else stacked(slices))
    sources = [raw, config.b1, config.b0]
    algorithm = _algorithm(config.method, config.refine)
    return _write(images, volumes, output, sources=sources, algorithm=algorithm, whose=whose, force=force)


def fit(
    coeff: str,
    name: str,
    output: str,
    *,
    like: str | None,
    mask_level: float,
    b1: str | None = None,
    b0: str | None = None,
    std: bool = False,
    force: bool,
    report: Report,
    workers: int | None = None,
    scheduler: str | None = None,
    method: Method = "matching",
    refine: bool = False,
    fit_starts: int = 1,
    signals: Signals | None = None,
    bounds: Sequence[str] = (),
    whose: Entities | None = None,
) -> list[Path]:
    """Fit maps to coefficient images and write them, with `whose` into a BIDS tree; a cluster spreads the voxels.

    `b1` and `b0` are measured maps: what they tell is not fitted, see `fit.fixed`.

    With `std` also standard deviations and residuals, see `quality`; the noise is what the images' sidecar says.

    Raises
    ------
    UserError
        Images and basis do not belong together, or the output exists already or cannot be written.
    """
    _check_output(output, whose, force=force)
    place, step = (None, (0.0, 0.0, 0.0)) if like is None else _place_of_raw(like)
    images = CoefficientImages.load(coeff, like=place, slice_step=step)
    full = Basis.load(name)
    if images.rank > full.rank:
        raise UserError(
            f"{coeff} has {images.rank} coefficients, the basis {name} {full.rank}: they do not belong together"
        )
    basis, dictionary = pipeline.load(name, rank=images.rank, with_dictionary=True)
    if images.digest and images.digest != basis.digest:
        raise UserError(f"{coeff} was reconstructed in another basis than {name} (hashes differ): name that one")
    assert dictionary is not None
    measured = fieldmap.load(b1=b1, b0=b0)
    fitter = prepared(
        basis, dictionary, method=method, name=name, mask_level=mask_level, refine=refine, n_starts=fit_starts,
        signals=signals, bounds=bounds, known=measured, report=report,
    )  # fmt: skip
    known = {name: field.on(images.affine, images.volume(0).shape[1:]) for name, field in measured.items()}
    with cluster.spread(workers=workers, scheduler=scheduler) as pool:
        volumes = []
        for i in range(len(images.coeff)):
            noise = _noise(images, i, bounded=fitter.perk is None) if std else None
            volumes.append(
                fitted_maps(images.volume(i), fitter, basis, known=known, noise=noise, report=report, pool=pool)
            )
    sources = [coeff, b1, b0]
    algorithm = _algorithm(method, refine)
    return _write(images, volumes, output, sources=sources, algorithm=algorithm, whose=whose, force=force)


def _noise(images: CoefficientImages, repetition: int, *, bounded: bool) -> KnownNoise:
    """Return the noise of a volume, as far as the sidecar of the images tells it."""
    sigma = np.broadcast_to(np.asarray(images.info.get("sigma", 0.0), float), images.coeff.shape[:2])[repetition]
    penalty = "terms of bart" if images.info.get("bart_terms") else images.info.get("regulariser", "l2")
    of_slices = sigma.reshape(-1, 1, 1) if len(sigma) > 1 else float(sigma[0])
    return known_noise(of_slices, None, penalty=penalty, bounded=bounded)


def _check_output(output: str, whose: Entities | None, *, force: bool) -> None:
    """Refuse maps that are there, of one volume or of several, before the work."""
    if whose is not None:
        check_tree(output, whose, force=force)
        return
    files.check_free(Path(output) / "maps.json", [], kind=MAPS, force=force)
    for folder in sorted(Path(output).glob("volume-*")):
        files.check_free(folder / "maps.json", [], kind=MAPS, force=force)


def _reconstructed(
    raw: str, config: Config, report: Report, workers: int | None, scheduler: str | None
) -> tuple[CoefficientImages, list[Reconstruction]]:
    with open_raw(raw) as (header, items), cluster.spread(workers=workers, scheduler=scheduler) as pool:
        results = list(
            pipeline.reconstruct_stream(
                header, items, config, report=report, pool=pool, check=lambda groups: stack(slices_of(groups))
            )
        )
    return gathered(results, config), results


def _algorithm(method: Method, refine: bool) -> str:
    """Return how maps were fitted, in words."""
    return _ALGORITHMS[method] + (", with a Gauss-Newton step from the best atom" if refine else "")


def _write(
    images: CoefficientImages,
    volumes: list[Maps],
    output: str,
    *,
    sources: list[str | None],
    algorithm: str,
    whose: Entities | None,
    force: bool,
) -> list[Path]:
    """Write one folder of maps, or a folder each if there are several volumes."""
    info = {
        "EstimationReference": "Mao, Flassbeck, Gultekin, Asslaender, arXiv 2305.00326",
        "EstimationAlgorithm": algorithm,
        "Sources": [Path(source).name for source in sources if source is not None],
        "GeneratedBy": [{"Name": "crbsvd-plugin", "Version": __version__}],
        "BasisDigest": images.digest,
    }
    details = {"misfit": images.info["misfit"]} if images.info.get("misfit") else None
    if whose is not None:
        return save_bids(volumes, images.affine, output, whose, info=info, details=details, force=force)
    with ExitStack() as stack:
        commits = []
        for i, volume in enumerate(volumes):
            folder = Path(output) if len(volumes) == 1 else Path(output) / f"volume-{i}"
            commits.append(
                stack.enter_context(staged_maps(volume, images.affine, folder, info=info, force=force, details=details))
            )
        return [path for commit in commits for path in commit()]


def _place_of_raw(raw: str) -> tuple[Geometry, tuple[float, float, float]]:
    """Return where the first slice of raw data lies, and the way to the next."""
    slices: dict[int, Geometry] = {}
    with open_raw(raw) as (header, items):
        # the noise scan, which mostly comes first, lies nowhere
        for item in items:
            if is_imaging(item) and item.idx.slice not in slices:
                slices[item.idx.slice] = geometry_of(header, item)
    if not slices:
        raise UserError(f"{raw} holds no imaging readouts, expected some to tell where the image lies")
    order, step = stack(slices)
    return slices[order[0]], step
