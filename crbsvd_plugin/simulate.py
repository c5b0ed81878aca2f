"""Raw data of the digital brain or of vials, as a scanner would have written them.

The data never pass through the user's basis: the signals of all tissue pairs are expanded in
their own singular vectors, and the images of these coefficients are sampled on the fine grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import delays, files, mrd, phantom, trajectory, vials
from .encoding import SubspaceOperator, coefficient_noise
from .errors import UserError
from .geometry import Geometry
from .model import SignalModel
from .mrd_header import radial_header

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

FORMAT = "crbsvd-simulation/1"
_BLOCK = 8
_SNR = (1e-6, 1e12)  # beyond, single precision ends
_NOISE_READOUTS = 32
_SAMPLE_TIME_US = 5.0
_TICK = 2.5e-3
_LARGEST_PHASE = 1e4  # rad; beyond, digits are lost
PHANTOMS = ("brain", *vials.NIST)
"""Names of the phantoms."""


@dataclass(frozen=True)
class Scan:
    """A noise-free scan of a phantom.

    Parameters
    ----------
    ksp : complex64 array (C, R, S)
        Data, scaled as those of the unitary operator on the image grid.
    traj : array (R, S, 2)
        Positions (y, x) in cycles per field of view.
    frame, shot : int array (R,)
        Counters of every readout.
    phantom : Phantom
        What was scanned.
    spec : dict
        The signal model, as far as it tells.
    rank : int
        Coefficients that the signals were expanded in.
    gradient_delay : tuple of 3 float
        S_x, S_y, S_xy [samples]: the data lie that far from `traj`, see `delays`.
    phase_drift : float
        Phase [rad] of the last readout; it grows with the time from 0 at the first.
    """

    ksp: NDArray[np.complex64]
    traj: NDArray[np.float64]
    frame: NDArray[np.intp]
    shot: NDArray[np.intp]
    phantom: phantom.Phantom
    spec: dict[str, Any]
    rank: int
    gradient_delay: tuple[float, float, float] = (0.0, 0.0, 0.0)
    phase_drift: float = 0.0

    @property
    def n_frames(self) -> int:
        """Frames T."""
        return int(self.frame.max()) + 1

    def sigma(self, snr: float | None) -> float:
        """Return the noise of the data per real component, for an SNR of the coefficients where M0 = 1."""
        unit = coefficient_noise(self.traj[..., 0].size, self.phantom.geometry.shape, n_frames=self.n_frames)
        return 0.0 if snr is None else 1 / (unit * snr)


def simulate(
    model: SignalModel,
    path: str | Path,
    *,
    scanned: str = "brain",
    matrix: int = 192,
    fov: float = 240.0,
    n_coils: int = 8,
    n_shots: int = 3,
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
        What was written: ``raw``, ``T1map``, ``T2map``, ``M0map``, ``record``, and of the brain ``GM``, ``WM``,
        ``CSF``, of vials ``LABELS``.
    """
    shares = [tissue.name for tissue in phantom.TISSUES] if scanned == "brain" else ["LABELS"]
    sidecar, names = _destination(Path(path), ["T1map", "T2map", "M0map", *shares])
    files.check_free(sidecar, list(names.values()), kind=FORMAT, force=force)
    scan = acquire(
        model, scanned=scanned, matrix=matrix, fov=fov, n_coils=n_coils, n_shots=n_shots, gradient_delay=gradient_delay,
        phase_drift=phase_drift, progress=progress,
    )  # fmt: skip
    return write(scan, path, snr=snr, seed=seed, force=force)


def acquire(
    model: SignalModel,
    *,
    scanned: str = "brain",
    matrix: int = 192,
    fov: float = 240.0,
    n_coils: int = 8,
    n_shots: int = 3,
    gradient_delay: tuple[float, float, float] = (0.0, 0.0, 0.0),
    phase_drift: float = 0.0,
    progress: Callable[[int, int], object] | None = None,
) -> Scan:
    """Compute the noise-free data of a golden-angle radial scan of a phantom.

    Parameters
    ----------
    model : SignalModel
        With parameters T1 and T2, and possibly B1, which is 1. Truncated phase graphs give data
        that are not quite smooth in T1 and T2, need twice the coefficients and twice the time.
    scanned : str
        One of `PHANTOMS`: ``brain``, or a plate of vials ``nist-t1``, ``nist-t2``.
    matrix, fov
        Voxels and field of view [mm] along either side of the image.
    n_coils, n_shots : int
        Receive coils; repetitions of the train of T frames, one readout each; the angle goes on over them.
    gradient_delay : tuple of 3 float
        S_x, S_y, S_xy [samples] that the trajectory does not tell, see `delays`.
    phase_drift : float
        Phase [rad] that the readouts gain from the first to the last, in proportion to the time.
    progress : callable, optional
        Called with the steps that are done and the number of all steps.

    Raises
    ------
    UserError
        A number that is not possible, or a parameter that the phantom does not know.
    """
    n_readouts = n_shots * model.n_frames
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
    made = phantom.brain(matrix, fov=fov) if scanned == "brain" else vials.nist_plate(scanned, matrix, fov=fov)
    phi, coeff = phantom.expand(phantom.signals_of(model, made.theta))
    images = made.mix(coeff)
    traj = trajectory.radial(n_readouts, matrix)
    s_x, s_y, s_xy = gradient_delay
    sampled = delays.corrected(traj, np.array([[s_y, s_xy], [s_xy, s_x]]))
    shot, frame = np.divmod(np.arange(n_readouts), model.n_frames)
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
    # the sum has factor^2 as many terms as on the image grid, of which the fine operator takes out factor
    ksp /= made.factor
    scan = Scan(ksp, traj, frame, shot, made, dict(model.spec), phi.shape[1], gradient_delay, phase_drift)
    if phase_drift:
        times = _start_times(scan)
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
        mrd.write_into(product.path(names["raw"]), _header(scan), _acquisitions(scan, covariance, seed))
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
    n_x, n_y, _ = scan.phantom.geometry.shape
    there = scan.phantom.maps()["M0map"] > 0.5
    sens = phantom.coils(n_coils, (n_y, n_x))[:, there]
    gathered = np.einsum("cv,cv->v", sens.conj(), np.linalg.solve(psi, sens)).real.mean()
    return psi * gathered * scan.sigma(snr) ** 2


def _destination(path: Path, maps: Iterable[str]) -> tuple[Path, dict[str, str]]:
    """Return the sidecar, and the names of all other files by what they are."""
    name = path.name.removesuffix(".h5")
    if not name or path.name == name:
        raise UserError(f"simulate: the output is called {path.name!r}, expected a name that ends in .h5")
    names = {key: f"{name}_{key}.nii.gz" for key in maps}
    return files.with_suffix(path.parent / name, "_simulation.json"), {"raw": path.name} | names


def _write_nifti(path: Path, values: NDArray[np.float64], geometry: Geometry) -> None:
    import nibabel

    image = nibabel.Nifti1Image(values.T[:, :, None].astype(np.float32), geometry.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _acquisitions(scan: Scan, covariance: NDArray[np.complex128], seed: int) -> Iterator[Acquisition]:
    """Yield the noise scan, if there is noise, and all readouts."""
    from ismrmrd import Acquisition, constants

    rng = np.random.default_rng(seed)
    noisy = bool(covariance.any())
    mixing = (np.linalg.cholesky(covariance) if noisy else covariance).astype(np.complex64)
    n_coils, n_readouts, n_samples = scan.ksp.shape
    times, geometry = _start_times(scan), scan.phantom.geometry
    place = {name: getattr(geometry, name) for name in ("position", "read_dir", "phase_dir", "slice_dir")}
    common = {"center_sample": n_samples // 2, "sample_time_us": _SAMPLE_TIME_US, "measurement_uid": 1} | place

    def noise() -> NDArray[np.complex64]:
        white = rng.standard_normal((2, n_coils, n_samples), dtype=np.float32)
        return mixing @ (white[0] + 1j * white[1])

    n_noise = _NOISE_READOUTS if noisy else 0
    for number in range(n_noise):
        readout = Acquisition.from_array(noise(), scan_counter=number, **common)
        readout.set_flag(constants.ACQ_IS_NOISE_MEASUREMENT)
        yield readout
    # MRD has (x, y), and single precision
    traj = scan.traj[:, :, ::-1].astype(np.float32)
    for number in range(n_readouts):
        samples = scan.ksp[:, number] + noise() if noisy else scan.ksp[:, number]
        readout = Acquisition.from_array(samples, traj[number], scan_counter=n_noise + number, **common)
        readout.idx.kspace_encode_step_1 = number
        readout.idx.contrast, readout.idx.repetition = int(scan.frame[number]), int(scan.shot[number])
        readout.acquisition_time_stamp = int(times[number] / _TICK)
        for flag in _flags(number, scan):
            readout.set_flag(flag)
        yield readout


def _flags(number: int, scan: Scan) -> list[int]:
    from ismrmrd import constants

    last, frame = number == len(scan.frame) - 1, scan.frame[number]
    told = {
        constants.ACQ_FIRST_IN_SLICE: number == 0,
        constants.ACQ_FIRST_IN_REPETITION: frame == 0,
        constants.ACQ_LAST_IN_REPETITION: frame == scan.n_frames - 1,
        constants.ACQ_LAST_IN_SLICE: last,
        constants.ACQ_LAST_IN_MEASUREMENT: last,
    }
    return [flag for flag, true in told.items() if true]


def _timing(scan: Scan, key: str) -> NDArray[np.float64]:
    """Return a setting of the sequence as a list, empty where the model does not tell it."""
    value = scan.spec.get(key)
    return np.zeros(0) if value is None else np.atleast_1d(np.asarray(value, dtype=np.float64))


def _start_times(scan: Scan) -> NDArray[np.float64]:
    """Return when the readouts begin [s]; frames of 10 ms where the model does not tell."""
    tr = _timing(scan, "tr")
    tr = np.broadcast_to(tr if tr.size in (1, scan.n_frames) else 0.01, scan.n_frames)
    train = np.concatenate([[0.0], np.cumsum(tr)])
    period = train[-1] + _timing(scan, "ti").sum() + _timing(scan, "recovery").sum()
    return scan.shot * period + train[scan.frame]


def _header(scan: Scan) -> ismrmrdHeader:
    sequence = {mrd_name: (1e3 * _timing(scan, mrd_name.lower())).tolist() for mrd_name in ("TR", "TE", "TI")}
    sequence["flipAngle_deg"] = np.rad2deg(_timing(scan, "flip_angles")).tolist()
    counts = {"n_frames": scan.n_frames, "n_shots": int(scan.shot.max()) + 1}
    return radial_header(scan.phantom.geometry, scan.ksp.shape, **counts, sequence=sequence)
