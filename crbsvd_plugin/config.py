"""What the pipeline is to do: the settings that a file, a stream and an online host have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from .calibration import FovShift, GradientDelays, PhaseDrift
from .coils import Espirit
from .ends import End
from .errors import UserError
from .fit.fitter import Method, Signals
from .noise import Noise
from .positions import Third
from .recon import (
    Backend,
    BartOptions,
    Preconditioner,
    Regulariser,
    Scaling,
    Shift,
    Solver,
    Start,
    choose_solver,
)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pipeline is to do.

    Parameters
    ----------
    basis : str
        Name of the basis, without suffix; its dictionary lies beside it.
    rank : int, optional
        Use only the first columns of the basis.
    frame, shots, groups
        Roles of the MRD counters, see `roles.Roles`; None: the usual ones that are free.
    ends : tuple of str
        What completes an image before the end of the stream, see `ends`: flags for the last readout of the
        measurement, slice, repetition, ..., or next, the first readout of another image.
    pieces : int
        How many pieces a readout comes in, told apart by the counter segment, see `joining`; 1: readouts are whole.
    noise : str
        scan: the data are prewhitened here, if there is a noise scan; or upstream: they come so, as Gadgetron's
        NoiseAdjust leaves them, with sigma = 1 per real component.
    traj_units : str
        Unit of the trajectories: cycles/fov, cycles/pixel, rad/pixel, 1/m or rad/m.
    traj_third : str
        What the last column of a trajectory with one more than the image has axes is: kz, a position, which must be
        zero; or density, a density weight, which is left out.
    traj_file : str, optional
        BART file (name without suffix) that has the trajectory, see `trajfile`; it goes before what readouts carry.
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
    bart_keep : str, optional
        Folder that gets the files of the backend bart, an image (or replica) after the other: 0, 1, ...
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
    start : str
        First images: zero, or density: the adjoint with density weights, see `recon.density`.
    preconditioner : str
        none, or circulant: cg needs half of the iterations, see `recon.circulant`.
    kernel_cache : str, optional
        Folder that keeps convolution kernels for the next scan with the same trajectory, see `kernel_cache`.
    tolerance : float
        When to stop before that, see `reconstruct`.
    fit : bool
        Also fit maps.
    mask_level : float
        Voxels with less signal than this share of the image's are not fitted, see `match`.
    method : str
        matching, nlls: nonlinear least squares from there, see `fit.nlls`, or perk: a kernel regression that was
        trained with the basis, see `fit.perk`.
    refine : bool
        Take a step off the grid of the dictionary after matching, see `fit.refine`.
    fit_starts : int
        Distinct starts of each voxel, for nlls.
    signals : str, optional
        emulated, or exact: where nlls has the signals from; default depends on the number of parameters, see
        `fit.fitter.prepared`.
    bounds : tuple of str
        Ranges of nlls other than those of the dictionary, NAME=LOW:HIGH, see `fit.bounds`.
    b1, b0 : str, optional
        Measured maps, see `fieldmap.load`: what they tell is not fitted.
    std : bool
        With the maps also standard deviations and residuals, see `quality`. It simulates derivatives at all estimates.
    replicas : int
        Pseudo-replicas that the noise of the coefficients is measured with, see `recon.replicas`; 0: none.
    misfit : bool
        Also find how much of the data the images explain, see `recon.misfit`.
    """

    basis: str
    rank: int | None = None
    frame: str = "contrast"
    shots: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    ends: tuple[End, ...] = ("measurement",)
    pieces: Annotated[int, msgspec.Meta(ge=1)] = 1
    noise: Noise = "scan"
    traj_units: str = "cycles/fov"
    traj_third: Third = "kz"
    traj_file: str | None = None
    fov_shift: FovShift = "off"
    coils: float | None = None
    phase_drift: PhaseDrift = "off"
    gradient_delays: GradientDelays = "off"
    sens: Espirit = "native"
    backend: Backend = "native"
    bart_terms: tuple[str, ...] = ()
    bart_lowmem: bool = False
    bart_keep: str | None = None
    regulariser: Regulariser = "l2"
    lam: float = 0.0
    block: int = 8
    shift: Shift = "random"
    scaling: Scaling = "none"
    solver: Solver | None = None
    iterations: int = 30
    start: Start = "zero"
    preconditioner: Preconditioner = "none"
    kernel_cache: str | None = None
    tolerance: float = 0.0
    fit: bool = True
    mask_level: float = 0.05
    method: Method = "matching"
    refine: bool = False
    fit_starts: int = 1
    signals: Signals | None = None
    bounds: tuple[str, ...] = ()
    b1: str | None = None
    b0: str | None = None
    std: bool = False
    replicas: Annotated[int, msgspec.Meta(ge=0)] = 0
    misfit: bool = False

    @property
    def penalty_name(self) -> str:
        """What keeps the images smooth, in a word."""
        return "terms of bart" if self.bart_terms else self.regulariser

    @property
    def keeps_data(self) -> bool:
        """Something needs the samples again once they are in the sums; without, memory does not grow with the scan."""
        return self.misfit or self.replicas > 0 or self.start != "zero" or self.backend != "native"

    @property
    def waits(self) -> bool:
        """Something must be found in all readouts before the first of them is used."""
        return self.phase_drift != "off" or self.gradient_delays != "off"

    @property
    def bart_options(self) -> BartOptions:
        """Options of the backend bart alone."""
        return BartOptions(self.bart_terms, self.bart_lowmem, self.bart_keep)

    def check(self) -> None:
        """Refuse settings that do not go together.

        Raises
        ------
        UserError
            There are some.
        """
        self.choose_solver()
        if self.bart_keep is not None and Path(self.bart_keep).exists():
            raise UserError(f"{self.bart_keep} for the files of bart exists; remove it, or name another folder")
        if not self.fit and (self.b1 or self.b0):
            raise UserError(f"{self.b1 or self.b0} is a measured map to fit with, but no maps are wanted; leave it out")
        if self.replicas and not (self.fit and self.std):
            raise UserError(
                f"replicas is {self.replicas}, but no standard deviations are wanted; leave one of them out"
            )

    def choose_solver(self) -> Solver:
        """Return the solver that these settings ask for, see `recon.choose_solver`."""
        return choose_solver(
            self.solver, regulariser=self.regulariser, lam=self.lam, shift=self.shift, tolerance=self.tolerance,
            backend=self.backend, bart_options=self.bart_options, preconditioner=self.preconditioner, start=self.start,
        )  # fmt: skip

    def kept_coils(self, n_receivers: int) -> int:
        """Return the number of coils of the reconstruction, at most: a share of the energy may need all of them."""
        return n_receivers if self.coils is None or self.coils < 1 else min(int(self.coils), n_receivers)
