"""What a reconstruction of a raw data file takes, and how BART would be told to do the same, before it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import Config
from .errors import UserError
from .footprint import GIB, IMPORTS, Problem
from .geometry import array_shape
from .group import problem_of
from .memory import available
from .mrd import open_raw
from .mrd_header import n_kept, size_of
from .pipeline import load
from .readouts import is_imaging
from .recon.bart_pics import command_like
from .roles import Roles

if TYPE_CHECKING:
    from ismrmrd import AcquisitionHeader


@dataclass(frozen=True)
class Forecast:
    """Shapes and memory of a scan.

    Parameters
    ----------
    problems : dict of tuple of int to Problem
        What every image takes, by the values of the group counters.
    n_frames : int
        Frames T.
    config : Config
        What is to be done.
    """

    problems: dict[tuple[int, ...], Problem]
    n_frames: int
    config: Config

    @property
    def largest(self) -> Problem:
        """The image that takes most memory."""
        return max(self.problems.values(), key=lambda problem: problem.peak)

    def text(self) -> str:
        """Return shapes, memory and BART's command line, a line each."""
        problem, config = self.largest, self.config
        free = available()
        size = " x ".join(map(str, problem.shape[::-1]))
        kind = "real" if problem.real else "complex"
        virtual = f", {problem.n_coils} virtual ones" if problem.n_coils != problem.n_receivers else ""
        lines = [
            f"images       {len(self.problems)} of {size} voxels",
            f"basis        {problem.rank} coefficients of {self.n_frames} frames, {kind}",
            f"readouts     {problem.n_readouts} of {problem.n_samples} samples in {problem.n_receivers} coils{virtual}",
            f"kernels      {_bytes(problem.kernels)}",
        ]
        lines += [f"memory       {_bytes(IMPORTS + size):>9}  {stage}" for stage, size in problem.stages().items()]
        there = "" if free is None else f", there are {_bytes(free)}"
        lines.append(f"peak memory  {_bytes(IMPORTS + problem.peak)}{there}")
        command = command_like(
            problem.shape, problem.rank, lam=config.lam, iterations=config.iterations, regulariser=config.regulariser,
            block=config.block, shift=config.shift, scaling=config.scaling,
            options=config.bart_options,
        )  # fmt: skip
        lines.append(f"in BART      {' '.join(command)}")
        spokes = math.ceil(problem.n_readouts / self.n_frames)
        plane = f"{problem.n_samples} {spokes}"
        lines.append(
            f"             ksp 1 {plane} {problem.n_coils} 1 {self.n_frames}, traj 3 {plane} 1 1 {self.n_frames}, "
            f"pattern 1 {plane} 1 1 {self.n_frames}, basis 1 1 1 1 1 {self.n_frames} {problem.rank}"
        )
        return "\n".join(lines)


def forecast(raw: str, config: Config) -> Forecast:
    """Return what the reconstruction of a raw data file takes; its readouts are gone through once, and not kept.

    Raises
    ------
    UserError
        The file, or the basis, cannot be read, or holds nothing to reconstruct.
    """
    basis, _ = load(config.basis, rank=config.rank, with_dictionary=False)
    roles = Roles.named(config.frame, config.shots, config.groups)
    groups: dict[tuple[int, ...], list[AcquisitionHeader]] = {}
    with open_raw(raw) as (header, items):
        for item in filter(is_imaging, items):
            groups.setdefault(roles.key(item), []).append(item.getHead())
        if not groups:
            raise UserError(f"{raw} holds no imaging readouts, expected some to reconstruct")
        sizes = {key: size_of(header, heads[0].encoding_space_ref)[0] for key, heads in groups.items()}
    problems = {}
    for key, heads in sorted(groups.items()):
        n_receivers = max(head.active_channels for head in heads)
        n_samples = max(n_kept(head) for head in heads)
        n_readouts = math.ceil(len(heads) / config.pieces)
        ksp_shape, shape = (n_receivers, n_readouts, n_samples * config.pieces), array_shape(sizes[key])
        problems[key] = problem_of(ksp_shape, shape, basis, config, n_images=len(groups))
    return Forecast(problems, basis.n_frames, config)


def _bytes(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
