"""What a reconstruction of a raw data file takes, and how BART would be told to do the same, before it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import threads
from .basis import Basis
from .footprint import GIB, IMPORTS, Problem
from .memory import available
from .mrd import read_heads
from .mrd_header import size_of
from .pipeline import Config, chosen_solver
from .readouts import Roles, imaging
from .recon.bart_pics import command_like

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """Return what the reconstruction of a raw data file takes; its samples are not read.

    Raises
    ------
    UserError
        The file, or the basis, cannot be read, or holds nothing to reconstruct.
    """
    full = Basis.load(config.basis)
    basis = full if config.rank is None else full.truncate(config.rank)
    header, heads = read_heads(raw)
    roles = Roles.named(config.frame, config.shots, config.groups)
    heads = imaging(heads)
    keys = (
        np.stack([heads["idx"][name] for name in roles.groups], axis=1) if roles.groups else np.zeros((len(heads), 0))
    )
    groups, members = np.unique(keys, axis=0, return_inverse=True)
    problems = {}
    for number, key in enumerate(groups):
        here = heads[members.ravel() == number]
        matrix, _ = size_of(header, int(here["encoding_space_ref"][0]))
        problems[tuple(int(value) for value in key)] = _problem(here, matrix, basis, config, len(groups))
    return Forecast(problems, basis.n_frames, config)


def _problem(heads: NDArray[Any], matrix: tuple[int, int, int], basis: Basis, config: Config, n_images: int) -> Problem:
    n_receivers = int(heads["active_channels"].max())
    kept = heads["number_of_samples"].astype(int) - heads["discard_pre"] - heads["discard_post"]
    # a share of the energy may need all of them
    virtual = n_receivers if config.coils is None or config.coils < 1 else min(int(config.coils), n_receivers)
    return Problem(
        shape=matrix[1::-1] if matrix[2] == 1 else matrix[::-1], n_readouts=len(heads),
        n_samples=int(kept.max()), n_receivers=n_receivers, n_coils=virtual, rank=basis.rank,
        real=bool(np.isrealobj(basis.phi)), solver=chosen_solver(config), n_threads=threads.count(), n_images=n_images,
    )  # fmt: skip


def _bytes(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
