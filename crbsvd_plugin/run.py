"""Run the pipeline on files: raw data, coefficient images and maps."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from . import __version__, cluster, files, pipeline
from .basis import Basis
from .config import Config
from .errors import UserError
from .fit.result import Maps
from .group import Reconstruction
from .group import fit as fit_images
from .images import FORMAT, CoefficientImages
from .maps import FORMAT as MAPS
from .maps import staged_maps
from .mrd import open_raw
from .mrd_header import geometry_of
from .progress import Report
from .readouts import is_imaging
from .volumes import gathered


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
) -> list[Path]:
    """Reconstruct a raw data file, fit maps and write them; the arguments are those of `recon`.

    Raises
    ------
    UserError
        The input does not fit, or the output exists already or cannot be written.
    """
    _check_folders(output, force=force)
    images, results = _reconstructed(raw, config, report, workers, scheduler)
    by_place = {_place(result, images): result.maps for result in results}
    volumes = []
    for repetition in range(len(images.coeff)):
        slices = [by_place.get((repetition, i)) for i in range(images.coeff.shape[1])]
        volumes.append(_joined([one for one in slices if one is not None], slices))
    return _write(images, volumes, output, source=raw, refined=config.refine, force=force)


def fit(
    coeff: str,
    name: str,
    output: str,
    *,
    like: str | None,
    mask_level: float,
    refine: bool = False,
    force: bool,
    report: Report,
    workers: int | None = None,
    scheduler: str | None = None,
) -> list[Path]:
    """Fit maps to coefficient images and write them; the voxels are spread over the cluster, if there is to be one.

    Raises
    ------
    UserError
        Images and basis do not belong together, or the output exists already or cannot be written.
    """
    _check_folders(output, force=force)
    images = CoefficientImages.load(coeff, like=None if like is None else _geometry(like))
    full = Basis.load(name)
    if images.rank > full.rank:
        raise UserError(
            f"{coeff} has {images.rank} coefficients, the basis {name} {full.rank}: they do not belong together"
        )
    basis, dictionary = pipeline.load(name, rank=images.rank, with_dictionary=True)
    if images.digest and images.digest != basis.digest:
        raise UserError(f"{coeff} was reconstructed in another basis than {name} (hashes differ): name that one")
    assert dictionary is not None
    if refine:
        dictionary.require_derivatives()
    with cluster.spread(workers=workers, scheduler=scheduler) as pool:
        volumes = [
            fit_images(images.volume(i), dictionary, mask_level=mask_level, refine=refine, report=report, pool=pool)
            for i in range(len(images.coeff))
        ]
    return _write(images, volumes, output, source=coeff, refined=refine, force=force)


def _check_folders(output: str, *, force: bool) -> None:
    """Refuse maps that are there, of one volume or of several, before the work."""
    files.check_free(Path(output) / "maps.json", [], kind=MAPS, force=force)
    for folder in sorted(Path(output).glob("volume-*")):
        files.check_free(folder / "maps.json", [], kind=MAPS, force=force)


def _reconstructed(
    raw: str, config: Config, report: Report, workers: int | None, scheduler: str | None
) -> tuple[CoefficientImages, list[Reconstruction]]:
    with open_raw(raw) as (header, items), cluster.spread(workers=workers, scheduler=scheduler) as pool:
        results = list(pipeline.reconstruct_stream(header, items, config, report=report, pool=pool))
    return gathered(results, config), results


def _place(result: Reconstruction, images: CoefficientImages) -> tuple[int, int]:
    others = {name: value for name, value in result.key.items() if name != "slice"}
    return images.info["groups"].index(others), images.info["slices"].index(result.key.get("slice", 0))


def _joined(present: list[Maps], slices: list[Maps | None]) -> Maps:
    """Stack the maps of slices along z; a missing slice is empty."""
    if len(slices) == 1:
        return present[0]
    like = present[0]
    zeros = np.zeros_like
    empty = Maps(like.parameters, zeros(like.theta), zeros(like.m0), zeros(like.edge), zeros(like.mask))
    whole = [empty if one is None else one for one in slices]
    return Maps(
        like.parameters,
        np.stack([one.theta for one in whole], axis=1),
        np.stack([one.m0 for one in whole]),
        np.stack([one.edge for one in whole]),
        np.stack([one.mask for one in whole]),
    )


def _write(
    images: CoefficientImages, volumes: list[Maps], output: str, *, source: str, refined: bool, force: bool
) -> list[Path]:
    """Write one folder of maps, or a folder each if there are several volumes."""
    algorithm = "dictionary matching in the compressed domain" + (", one Gauss-Newton step" if refined else "")
    info = {
        "EstimationReference": "Mao, Flassbeck, Gultekin, Asslaender, arXiv 2305.00326",
        "EstimationAlgorithm": algorithm,
        "Sources": [Path(source).name],
        "GeneratedBy": [{"Name": "crbsvd-plugin", "Version": __version__}],
        "BasisDigest": images.digest,
    }
    with ExitStack() as stack:
        commits = []
        for i, volume in enumerate(volumes):
            folder = Path(output) if len(volumes) == 1 else Path(output) / f"volume-{i}"
            commits.append(stack.enter_context(staged_maps(volume, images.affine, folder, info=info, force=force)))
        return [path for commit in commits for path in commit()]


def _geometry(raw: str) -> Any:
    with open_raw(raw) as (header, items):
        # the noise scan, which mostly comes first, lies nowhere
        first = next((item for item in items if is_imaging(item)), None)
        if first is None:
            raise UserError(f"{raw} holds no imaging readouts, expected some to tell where the image lies")
        return geometry_of(header, first)
