"""Raw data of the digital brain or of vials, as a scanner would have written them: a slice or a volume.

The data never pass through the user's basis: the signals of all tissue pairs are expanded in
their own singular vectors, and the images of these coefficients are sampled on the fine grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import bart, delays, files, koosh, mrd, mt_phantom, phantom, scan_mrd, trajectory, vials
from .encoding import SubspaceOperator
from .errors import UserError
from .geometry import Geometry, array_shape
from .model import SignalModel
from .scan import Scan

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FORMAT = "crbsvd-simulation/1"
_BLOCK = 8
_SNR = (1e-6, 1e12)  # beyond, single precision ends
_LARGEST_PHASE = 1e4  # rad; beyond, digits are lost
_ACCURACY = 1e-5  # of the signals of a volume: that of the NUFFT
PHANTOMS = ("brain", *vials.NIST)
"""Names of the phantoms."""


def simulate(
    model: SignalModel,
    path: str | Path,
    *,
    scanned: str = "brain",
    matrix: int = 192,
    fov: float = 240.0,
    n_coils: int = 8,
    n_shots: int | None = None,
    mask: ArrayLike | None = None,
    gradient_delay: tuple[float, float, float] = (0.0, 0.0, 0.0),
    phase_drift: float = 0.0,
    snr: float | None = 50.0,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Path]:
    """Scan a phantom with a signal model: `acquire`, then `write`.

    Returns
    -------
    dict
        What was written: ``raw``, ``M0map``, ``T1map``, ``T2map`` (or those of the other parameters of the phantom),
        ``record``, and of the brain ``GM``, ``WM``, ``CSF``, of vials ``LABELS``.
    """
    shares = [tissue.name for tissue in phantom.TISSUES] if scanned == "brain" else ["LABELS"]
    parameters = mt_phantom.PARAMETERS if _is_volume(model, scanned) else ("T1", "T2")
    sidecar, names = _destination(Path(path), ["M0map", *(f"{name}map" for name in parameters), *shares])
    files.check_free(sidecar, list(names.values()), kind=FORMAT, force=force)
    scan = acquire(
        model, scanned=scanned, matrix=matrix, fov=fov, n_coils=n_coils, n_shots=n_shots, mask=mask,
        gradient_delay=gradient_delay, phase_drift=phase_drift, progress=progress,
    )  # fmt: skip
    return write(scan, path, snr=snr, seed=seed, force=force)


def acquire(
    model: SignalModel,
    *,
    scanned: str = "brain",
    matrix: int = 192,
    fov: float = 240.0,
    n_coils: int = 8,
    n_shots: int | None = None,
    mask: ArrayLike | None = None,
    gradient_delay: tuple[float, float, float] = (0.0, 0.0, 0.0),
    phase_drift: float = 0.0,
    progress: Callable[[int, int], object] | None = None,
) -> Scan:
    """Compute the noise-free data of a golden-angle radial scan of a phantom (a volume: a koosh ball), or of lines.

    Parameters
    ----------
    model : SignalModel
        With T1, T2 or both, possibly B1, which is 1, and w0, which is 0; or of two pools, `mt_phantom.PARAMETERS`.
        Truncated phase graphs give data that are not quite smooth in T1 and T2, need twice the coefficients and twice
        the time. A model of several cycles (`n_cycles`) repeats each by itself.
    scanned : str
        One of `PHANTOMS`: ``brain``, for models of two pools a volume (`mt_phantom`), or a plate of vials ``nist-t1``,
        ``nist-t2``.
    matrix, fov
        Voxels and field of view [mm] along every side of the image.
    n_coils, n_shots : int
        Receive coils; repetitions of the train of T frames, one readout each; in a slice the angle goes on over them,
        for a volume see `koosh`. By default 3; a mask tells them itself.
    mask : array (T, matrix), optional
        Cartesian lines along x instead: those of every frame where it is not zero, centre of k-space at matrix // 2.
        Shots are then as many as the fullest frame has lines, and shot i takes the i-th line of every frame.
    gradient_delay : tuple of 3 float
        S_x, S_y, S_xy [samples] that the trajectory of a slice does not tell, see `delays`.
    phase_drift : float
        Phase [rad] that the readouts gain from the first to the last, in proportion to the time.
    progress : callable, optional
        Called with the steps that are done and the number of all steps.

    Raises
    ------
    UserError
        A number that is not possible, or a parameter that the phantom does not know.
    """
    lines = None if mask is None else _lines(mask, model.n_frames, matrix)
    if lines is not None and (n_shots is not None or any(gradient_delay) or _is_volume(model, scanned)):
        raise UserError("simulate: a mask tells the lines of a slice; leave shots, gradient delays and volumes out")
    n_shots = 3 if n_shots is None else n_shots
    n_readouts = n_shots * model.n_frames if lines is None else len(lines)
    if min(matrix, n_coils, n_shots) < 1 or matrix < 8 or not 0 < fov < np.inf:
        raise UserError(
            f"simulate: matrix {matrix}, field of view {fov} mm, {n_coils} coils and {n_shots} shots; "
            "expected a matrix of at least 8 and positive numbers"
        )
    if not all(abs(delay) <= matrix for delay in gradient_delay):
        raise UserError(f"simulate: gradient delays of {gradient_delay} samples, expected at most {matrix}")
    if not abs(phase_drift) < _LARGEST_PHASE:
        raise UserError(f"simulate: a phase drift of {phase_drift} rad, expected less than {_LARGEST_PHASE:g}")
    if max(n_readouts, 2 * matrix, n_coils) > np.iinfo(np.uint16).max:
        raise UserError(f"simulate: {n_readouts} readouts of {2 * matrix} samples; MRD counts up to 65535 of each")
    if scanned not in PHANTOMS:
        raise UserError(f"simulate: phantom {scanned!r} is unknown, expected one of: {', '.join(PHANTOMS)}")
    volume = _is_volume(model, scanned)
    if volume and any(gradient_delay):
        raise UserError("simulate: gradient delays are those of a slice, but this scan is of a volume; leave them out")
    if volume:
        made = mt_phantom.brain(matrix, fov=fov)
        signals = phantom.signals_of(model, made.theta, mt_phantom.PARAMETERS)
        phi, coeff = phantom.expand(signals, accuracy=_ACCURACY)
    else:
        made = phantom.brain(matrix, fov=fov) if scanned == "brain" else vials.nist_plate(scanned, matrix, fov=fov)
        phi, coeff = phantom.expand(phantom.signals_of(model, made.theta))
    images = made.mix(coeff)
    n_cycles = int(getattr(model, "n_cycles", 1))
    cycle, shot, pulse = (axis.ravel() for axis in np.indices((n_cycles, n_shots, model.n_frames // n_cycles)))
    frame = cycle * (model.n_frames // n_cycles) + pulse
    if lines is not None:
        shot, frame, line = lines.T
        traj = sampled = trajectory.cartesian(line, matrix)
    elif volume:
        traj = sampled = koosh.koosh_ball(model.n_frames, n_shots, matrix)[shot, frame]
    else:
        traj = trajectory.radial(n_readouts, matrix)
        s_x, s_y, s_xy = gradient_delay
        sampled = delays.corrected(traj, np.array([[s_y, s_xy], [s_xy, s_x]]))
    sens = phantom.coils(n_coils, images.shape[1:])
    ksp = np.zeros((n_coils, *traj.shape[:2]), np.complex64)
    starts = range(0, len(images), _BLOCK)
    for step, start in enumerate(starts, 1):
        # some coefficients at a time: memory for all of them would be several times the data
        part = slice(start, start + _BLOCK)
        operator = SubspaceOperator(sampled, frame=frame, phi=phi[:, part], sens=sens)
        ksp += operator.forward(images[part])
        if progress is not None:
            progress(step, len(starts))
    # the sum has factor^ndim as many terms as on the image grid, of which the fine operator takes out the root
    ksp /= made.factor ** (traj.shape[2] / 2)
    scan = Scan(
        ksp, traj, frame, shot, made, dict(model.spec), phi.shape[1], n_cycles, gradient_delay, phase_drift,
        line=None if lines is None else lines[:, 2],
    )  # fmt: skip
    if phase_drift:
        times = scan.start_times
        ksp *= np.exp(1j * phase_drift * times / (times[-1] or 1.0))[:, None].astype(ksp.dtype)
    return scan


def write(
    scan: Scan, path: str | Path, *, snr: float | None = 50.0, seed: int = 0, force: bool = False
) -> dict[str, Path]:
    """Write a scan as MRD raw data, and the true maps beside it.

    Parameters
    ----------
    path : path
        The raw file ``NAME.h5``; the maps are ``NAME_T1map.nii.gz`` and so on, and
        ``NAME_simulation.json`` records how all was made.
    snr : float or None
        M0 / sigma_coeff where M0 = 1. None: no noise, and no noise scan.
    seed, force
        Of the noise; replace an earlier simulation of this name.

    Notes
    -----
    The noise of the coils is correlated: covariance sigma^2 Psi per real component, where Psi is
    scaled such that the mean of sens^H Psi^-1 sens over the object is 1. So the best combination
    of the coils has, on the average, the noise sigma of `Scan.sigma`.

    Raises
    ------
    UserError
        The SNR is not positive, a file exists, or the place cannot be written.
    """
    if snr is not None and not _SNR[0] <= snr <= _SNR[1]:
        raise UserError(f"SNR is {snr}, expected {_SNR[0]:g} to {_SNR[1]:g}, or none at all")
    maps = scan.phantom.maps()
    sidecar, names = _destination(Path(path), list(maps))
    covariance = noise_covariance(scan, snr)
    with files.product(sidecar, list(names.values()), kind=FORMAT, force=force) as product:
        mrd.write_into(product.path(names["raw"]), scan_mrd.header(scan), scan_mrd.acquisitions(scan, covariance, seed))
        for name, values in maps.items():
            _write_nifti(product.path(names[name]), values, scan.phantom.geometry)
        record = {"phantom": scan.phantom.source, "model": scan.spec, "rank": scan.rank}
        record |= {"geometry": scan.phantom.geometry.to_dict(), "snr": snr, "sigma": scan.sigma(snr), "seed": seed}
        record |= {"gradient_delay": list(scan.gradient_delay), "phase_drift": scan.phase_drift}
        parts = {"real": covariance.real.tolist(), "imag": covariance.imag.tolist()}
        product.commit(record | {"noise_covariance": parts})
    return {key: sidecar.parent / name for key, name in names.items()} | {"record": sidecar}


def noise_covariance(scan: Scan, snr: float | None) -> NDArray[np.complex128]:
    """Return the covariance (C, C) of the coils' noise per real component; zero for no noise.

    Neighbours are correlated by 0.2 with some phase, and the gains differ by up to a fifth.
    """
    n_coils = len(scan.ksp)
    gain = 1 + 0.2 * np.sin(1 + np.arange(n_coils))
    lag = np.subtract.outer(np.arange(n_coils), np.arange(n_coils))
    psi = np.outer(gain, gain) * 0.2 ** np.abs(lag) * np.exp(0.6j * lag)
    there = scan.phantom.maps()["M0map"] > 0.5
    sens = phantom.coils(n_coils, array_shape(scan.phantom.geometry.shape))[:, there]
    gathered = np.einsum("cv,cv->v", sens.conj(), np.linalg.solve(psi, sens)).real.mean()
    return psi * gathered * scan.sigma(snr) ** 2


def read_mask(name: str) -> NDArray[np.bool_]:
    """Return a mask (T, matrix) of the BART file `name`, dims 1 matrix 1 1 1 T as of ``bart poisson`` and ``join 5``.

    Raises
    ------
    UserError
        There is no such file, or it has other axes.
    """
    values = bart.read_cfl(name)
    shape = [*values.shape, *[1] * 6][: max(6, values.ndim)]
    if any(n != 1 for axis, n in enumerate(shape) if axis not in (1, 5)):
        raise UserError(f"{name} has the dimensions {' '.join(map(str, shape))}, expected 1 lines 1 1 1 frames")
    return np.asarray(values.reshape(shape[1], shape[5]).T != 0)


def _lines(mask: ArrayLike, n_frames: int, matrix: int) -> NDArray[np.intp]:
    """Return shot, frame and line (R, 3) of every readout in the order of time."""
    wanted = np.asarray(mask) != 0
    if wanted.shape != (n_frames, matrix):
        raise UserError(
            f"simulate: the mask has {' x '.join(map(str, wanted.shape))} frames and lines, sequence and matrix "
            f"{n_frames} x {matrix}"
        )
    if not wanted.any(axis=1).all():
        raise UserError(f"simulate: frame {int(wanted.any(axis=1).argmin())} of the mask has no line, expected some")
    frame, line = np.nonzero(wanted)
    shot = (np.cumsum(wanted, axis=1) - 1)[frame, line]
    return np.stack([shot, frame, line], axis=1)[np.lexsort((frame, shot))]


def _is_volume(model: SignalModel, scanned: str) -> bool:
    """Return whether the phantom is the volume of two pools, because the model is of them."""
    return scanned == "brain" and "m0s" in (parameter.name for parameter in model.parameters)


def _destination(path: Path, maps: Iterable[str]) -> tuple[Path, dict[str, str]]:
    """Return the sidecar, and the names of all other files by what they are."""
    name = path.name.removesuffix(".h5")
    if not name or path.name == name:
        raise UserError(f"simulate: the output is called {path.name!r}, expected a name that ends in .h5")
    names = {key: f"{name}_{key}.nii.gz" for key in maps}
    return files.with_suffix(path.parent / name, "_simulation.json"), {"raw": path.name} | names


def _write_nifti(path: Path, values: NDArray[np.float64], geometry: Geometry) -> None:
    import nibabel

    image = nibabel.Nifti1Image(values.T.reshape(geometry.shape).astype(np.float32), geometry.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
