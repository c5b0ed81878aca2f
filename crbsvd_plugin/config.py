"""What the pipeline is to do: the settings that a file, a stream and an online host have in common."""

from __future__ import annotations

import msgspec

from .calibration import FovShift, GradientDelays, PhaseDrift
from .coils import Espirit
from .recon import Backend, BartOptions, Regulariser, Scaling, Shift, Solver, choose_solver


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pipeline is to do.

    Parameters
    ----------
    basis : str
        Name of the basis, without suffix; its dictionary lies beside it.
    rank : int, optional
        Use only the first columns of the basis.
    frame, shots, groups
        Roles of the MRD counters, see `readouts.Roles`; None: the usual ones that are free.
    traj_units : str
        Unit of the trajectories: cycles/fov, cycles/pixel, rad/pixel, 1/m or rad/m.
    fov_shift : str
        off, or header: the data are centred on the isocentre, move them to where the header has the image. Only for
        data in which neither the scanner nor another program has done that.
    coils : float, optional
        Virtual coils to keep: from 1 on their number, below 1 the share of energy, see `compression`.
    phase_drift : str
        off, or steps or linear: find the phases of the shots, which stay or change within a shot, and take them out of
        the data, see `drift`.
    gradient_delays : str
        off, or estimate: find the gradient delays of radial readouts and correct the trajectory, see `delays`.
    sens : str
        native, or bart: whose ESPIRiT finds the sensitivities, see `coils.estimate_sensitivities`.
    backend : str
        native, sigpy or bart.
    bart_terms : tuple of str
        Regularisation terms of ``bart pics -R`` instead of `regulariser` and `lam`, see `recon.BartOptions`.
    bart_lowmem : bool
        The backend bart shall take less memory.
    regulariser : str
        l2, llr or wavelet.
    lam : float
        Weight of the penalty, after prewhitening.
    block : int
        Edge of the blocks of llr [voxels].
    shift : str
        none, random or overlap: where blocks or wavelets lie.
    scaling : str
        none, or bart: lam as ``bart pics`` means it without ``-w``.
    solver : str, optional
        cg, fista or admm; None: cg for l2, else fista.
    iterations : int
        Largest number of iterations.
    kernel_cache : str, optional
        Folder that keeps convolution kernels for the next scan with the same trajectory, see `kernel_cache`.
    tolerance : float
        When to stop before that, see `reconstruct`.
    fit : bool
        Also fit maps.
    mask_level : float
        Voxels with less signal than this share of the image's are not fitted, see `match`.
    refine : bool
        Take a step off the grid of the dictionary, see `match`.
    """

    basis: str
    rank: int | None = None
    frame: str = "contrast"
    shots: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    traj_units: str = "cycles/fov"
    fov_shift: FovShift = "off"
    coils: float | None = None
    phase_drift: PhaseDrift = "off"
    gradient_delays: GradientDelays = "off"
    sens: Espirit = "native"
    backend: Backend = "native"
    bart_terms: tuple[str, ...] = ()
    bart_lowmem: bool = False
    regulariser: Regulariser = "l2"
    lam: float = 0.0
    block: int = 8
    shift: Shift = "random"
    scaling: Scaling = "none"
    solver: Solver | None = None
    iterations: int = 30
    kernel_cache: str | None = None
    tolerance: float = 0.0
    fit: bool = True
    mask_level: float = 0.05
    refine: bool = False

    @property
    def bart_options(self) -> BartOptions:
        """Options of the backend bart alone."""
        return BartOptions(self.bart_terms, self.bart_lowmem)

    @property
    def chosen_solver(self) -> Solver:
        """The solver that these settings ask for; refuses those that do not go together."""
        return choose_solver(
            self.solver, regulariser=self.regulariser, lam=self.lam, shift=self.shift, tolerance=self.tolerance,
            backend=self.backend, bart_options=self.bart_options,
        )  # fmt: skip

    def kept_coils(self, n_receivers: int) -> int:
        """Return the number of coils of the reconstruction, at most: a share of the energy may need all of them."""
        return n_receivers if self.coils is None or self.coils < 1 else min(int(self.coils), n_receivers)
