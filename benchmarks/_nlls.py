"""Nonlinear least squares of MRF-FISP in the compressed domain: ours against scipy, voxel by voxel.

256 x 256 voxels with T1 = 0.3 to 3 s and T2 = 20 to 300 ms, any phase, K = 5, noise of M0/50. Both start from the
best of about 3000 atoms, with the same bounds, tolerances (1e-8) and emulator of signals and derivatives; scipy's
`least_squares` (trf) has Re M0, Im M0 and the scaled parameters as unknowns, and every signal is computed once for
residuals and Jacobian. Each is a process of its own with one thread, and counts the seconds from the first voxel to the
last, after a warm-up. scipy fits an even share of the voxels, and its seconds are multiplied. The error is the
sum of squares over that share, both from the estimates. What the model itself gives instead of the emulator is printed
for a few voxels.

As a script: METHOD FOLDER, one method on the voxels that the folder holds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

from crbsvd_plugin import crb, dictionary, models, threads
from crbsvd_plugin.fit import nlls as ours
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.emulator import Emulator, emulate
from crbsvd_plugin.fit.forward import CompressedModel, Simulated
from crbsvd_plugin.fit.matching import match
from crbsvd_plugin.fit.result import Maps
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.training import compute_basis

_VOXELS, _ATOMS, _RANK, _NOISE = 256 * 256, 3000, 5, 0.02
_SHARE, _EXACT, _WARM, _PAIRS = 8, 32, 64, 3


def nlls() -> harness.Result:
    """All voxels by ours, every eighth by scipy, and a few with exact signals by both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact = _write(folder)
        cold = _run("ours", folder)
        print(f"nlls: first run of ours, which may compile: {cold.seconds:.1f} s", flush=True)
        usages = harness.interleaved(lambda: _run("ours", folder), lambda: _run("scipy", folder), pairs=_PAIRS)
        both = _run("ours-threads", folder)
        forward, voxels, start = _read(folder)
        costs = [_cost(forward, voxels[::_SHARE], np.load(folder / f"{method}.npy")) for method in ("ours", "scipy")]
    worse, better = (np.count_nonzero(a > b * (1 + 1e-6)) for a, b in (costs, costs[::-1]))
    print(f"nlls: ours with {threads.count()} threads {both.seconds:.2f} s")
    print(f"nlls: of {len(costs[0])} voxels ours is worse (by more than 1e-6) in {worse}, scipy in {better}")
    _compare_exact(exact, forward, voxels, start)
    a, b = usages
    return harness.Result(
        "nlls", a.seconds, f"scipy least_squares, 1/{_SHARE} of the voxels, one thread each", _SHARE * b.seconds,
        _SHARE * b.seconds / a.seconds, a.megabytes, b.megabytes, costs[0].sum(), costs[1].sum(),
    )  # fmt: skip


def _write(folder: Path) -> Simulated:
    """Write the emulator, the voxels and where they start; return the model."""
    model = models.smooth(models.build({"name": "mrf-fisp"}).spec)
    prior = PRESETS["mao-mrf-table1"].thinned(3000, model.parameters)
    chosen = compute_basis(model, prior, rank=_RANK, crb_weight=0.3)
    atoms = dictionary.compress(model, PRESETS["t1-t2"].thinned(_ATOMS, model.parameters), chosen)
    exact = Simulated(model, chosen.phi, Box.around(model.parameters, atoms.theta))
    begin = time.perf_counter()
    forward = emulate(exact)
    print(
        f"nlls: emulator of {' x '.join(map(str, forward.polynomial.shape[:-1]))} signals, off by {forward.error:.1e}, "
        f"made in {time.perf_counter() - begin:.1f} s; {len(atoms.theta)} atoms",
        flush=True,
    )
    rng = np.random.default_rng(1)
    truth = np.exp(rng.uniform(np.log([0.3, 0.02]), np.log([3.0, 0.3]), (_VOXELS, 2)))
    clean = np.exp(2j * np.pi * rng.random((_VOXELS, 1))) * forward.value_and_jacobian(truth)[0]
    voxels = clean + _NOISE * (rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape))
    start = match(voxels.T, atoms, mask_level=0)
    np.savez(
        folder / "problem.npz", low=exact.box.low, high=exact.box.high, columns=forward.columns,
        polynomial=forward.polynomial, voxels=voxels, start=start.theta,
    )  # fmt: skip
    return exact


def _read(folder: Path) -> tuple[Emulator, np.ndarray, Maps]:
    with np.load(folder / "problem.npz") as file:
        content = dict(file)
    parameters = models.build({"name": "mrf-fisp"}).parameters
    box = Box(parameters, content["low"], content["high"])
    rank = content["voxels"].shape[1]
    forward = Emulator(box, rank, content["columns"], content["polynomial"], np.nan, np.full(len(parameters), np.nan))
    none = np.zeros(len(content["voxels"]), bool)
    return forward, content["voxels"], Maps(parameters, content["start"], none.astype(complex), none, ~none)


def _part(maps: Maps, some: slice) -> Maps:
    arrays = (maps.theta, maps.m0, maps.edge, maps.mask)
    return Maps(maps.parameters, *(array[..., some] for array in arrays))


def _run(method: str, folder: Path) -> harness.Usage:
    whole = harness.run([sys.executable, str(Path(__file__)), method, str(folder)])
    return harness.Usage(json.loads(whole.output.splitlines()[-1]), whole.megabytes)


def _ours(forward: CompressedModel, voxels: np.ndarray, start: Maps) -> np.ndarray:
    return ours.fit(voxels.T, forward, start).theta.T.astype(float)


def _scipy(forward: CompressedModel, voxels: np.ndarray, start: Maps) -> np.ndarray:
    size = np.linalg.norm(voxels, axis=1)
    starts = np.clip(forward.box.unit(start.theta.T), -1, 1)
    found = [_scipys(forward, c, u) for c, u in zip(voxels / size[:, None], starts, strict=True)]
    return forward.box.theta(np.stack(found))


def _scipys(forward: CompressedModel, voxel: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return the scaled parameters of one voxel of unit norm."""
    from scipy.optimize import least_squares

    box, rank, p = forward.box, len(voxel), len(u)
    kept: dict[str, Any] = {"x": None}
    columns = np.empty((2 * rank, 2 + p))

    def residual(x: np.ndarray) -> np.ndarray:
        theta = box.theta(x[2:])
        (value,), (jac,) = forward.value_and_jacobian(theta[None])
        kept.update(x=x.copy(), value=value, jac=jac * box.slope(theta)[:, None])
        left = complex(x[0], x[1]) * value - voxel
        return np.concatenate([left.real, left.imag])

    def jacobian(x: np.ndarray) -> np.ndarray:
        if not np.array_equal(x, kept["x"]):
            residual(x)
        whole = np.concatenate([[kept["value"], 1j * kept["value"]], complex(x[0], x[1]) * kept["jac"]]).T
        columns[:rank], columns[rank:] = whole.real, whole.imag
        return columns.copy()

    value = forward.value_and_jacobian(box.theta(u)[None])[0][0]
    m0 = np.vdot(value, voxel) / np.vdot(value, value).real
    # scipy wants starts strictly inside
    begin = np.concatenate([[m0.real, m0.imag], np.clip(u, -1 + 1e-9, 1 - 1e-9)])
    limits = np.concatenate([np.full(2, np.inf), np.ones(p)])
    found = least_squares(residual, begin, jac=jacobian, bounds=(-limits, limits), x_scale="jac")
    return np.asarray(found.x[2:])


def _cost(forward: CompressedModel, voxels: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return the sums of squares that estimates leave, each with its best M0."""
    signal, _ = forward.value_and_jacobian(np.clip(theta, forward.box.low, forward.box.high))
    unit = signal / np.linalg.norm(signal, axis=1)[:, None]
    left = voxels - np.sum(unit.conj() * voxels, axis=1)[:, None] * unit
    return 0.5 * np.sum(np.abs(left) ** 2, axis=1)


def _compare_exact(exact: Simulated, forward: Emulator, voxels: np.ndarray, start: Maps) -> None:
    """Print what a few voxels take with the signals of the model, and how far the estimates are from the emulator's."""
    some = slice(None, None, len(voxels) // _EXACT)
    few, begin = voxels[some], _part(start, some)
    found, seconds = {}, {}
    for name, method in (("ours", _ours), ("scipy", _scipy)):
        at = time.perf_counter()
        found[name] = method(exact, few, begin)
        seconds[name] = (time.perf_counter() - at) / len(few)
    costs = {name: _cost(exact, few, theta).sum() for name, theta in found.items()}
    print(
        f"nlls: with exact signals, {len(few)} voxels: ours {1e3 * seconds['ours']:.1f} ms a voxel, scipy "
        f"{1e3 * seconds['scipy']:.1f} ms; sums of squares {costs['ours']:.8g} and {costs['scipy']:.8g}"
    )
    emulated = _ours(forward, few, begin)
    theta = found["ours"]
    signal, jac = exact.model.signal_and_jacobian(np.clip(theta, exact.box.low, exact.box.high))
    spread = _NOISE * np.sqrt(crb.bounds(signal, jac, exact.phi).exact)
    off = np.abs(emulated - theta) / spread
    print(f"nlls: the emulator moves estimates by at most {off.max():.1e} of their standard deviation", flush=True)


if __name__ == "__main__":
    method, folder = sys.argv[1], Path(sys.argv[2])
    forward, voxels, start = _read(folder)
    if method == "scipy":
        voxels = voxels[::_SHARE]
        start = _part(start, slice(None, None, _SHARE))
    function = _scipy if method == "scipy" else _ours
    with threads.limit(None if method == "ours-threads" else 1):
        function(forward, voxels[:_WARM], _part(start, slice(_WARM)))
        at = time.perf_counter()
        theta = function(forward, voxels, start)
        seconds = time.perf_counter() - at
    np.save(folder / f"{method}.npy", theta if method == "scipy" else theta[::_SHARE])
    print(json.dumps(seconds))
