r"""Parameters by kernel regression, from coefficients at once: no dictionary, no iterations.

    y(c) = a + sum_j w_j cos(2 pi (f_j . x(c) + t_j))

with the regressors x of `regressors` and random Fourier features, whose products stand for a Gaussian kernel of x. The
outputs y are scaled coordinates of the free parameters (`box.Box`: logarithms of relaxation times), log ||phi^H s||,
and the real and imaginary parts of the unit-norm signal d, all of which are smooth in theta. Weights come from noisy
fingerprints (`perk_training`), so y is the mean of what could have given c: it shrinks towards the middle of the prior
where noise leaves much open. M0 = u^H c / ||phi^H s|| with u = d / ||d||.

References
----------
Nataraj, Nielsen, Scott, Fessler, IEEE Trans. Med. Imaging 37 (2018), 2103-2114, doi 10.1109/TMI.2018.2817547.
Rahimi, Recht, Random features for large-scale kernel machines, NIPS (2007).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..basis import Basis
from ..cluster import Pool
from ..errors import UserError
from ..hdf5 import Sink, dataset
from ..model import Parameter
from .blocks import in_blocks
from .box import Box
from .matching import foreground
from .regressors import Regressors
from .result import Maps
from .spread import Noise, Spread, variances

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "crbsvd-perk/1"
SUFFIX = ".perk.h5"
_ARRAYS = ("low", "high", "axes", "chosen", "frequencies", "turns", "weights", "constant", "parts")
_VOXELS = 16384


@dataclass(frozen=True)
class Perk:
    """A trained regression; made by `perk_training.train`.

    Parameters
    ----------
    box : Box
        Ranges of the P parameters; estimates do not leave it.
    regressors : Regressors
        x(c), F numbers.
    frequencies : float32 array (n, F)
        f_j.
    turns : float32 array (n,)
        t_j.
    weights : float32 array (n, O)
        w_j of O outputs: the free parameters, log ||phi^H s||, and parts of d.
    constant : float64 array (O,)
        a.
    parts : int array (R,)
        Which of the 2 K real and imaginary parts (in turns) of d are regressed; the others are 0.
    digest : str
        `Basis.digest` of the basis.
    info : mapping
        How it was trained.
    """

    box: Box
    regressors: Regressors
    frequencies: NDArray[np.float32]
    turns: NDArray[np.float32]
    weights: NDArray[np.float32]
    constant: NDArray[np.float64]
    parts: NDArray[np.intp]
    digest: str
    info: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return len(self.regressors.axes)

    def outputs(self, voxels: NDArray[Any]) -> NDArray[np.float64]:
        """Return y (B, O) of coefficients (B, K), which are not zero."""
        return self._sums(voxels, self.turns, self.weights) + self.constant

    def slopes(self, voxels: NDArray[Any], n_outputs: int) -> NDArray[np.float64]:
        """Return dy/dx (B, I, F) of the first I outputs."""
        products = 2 * np.pi * self.weights[:, :n_outputs, None] * self.frequencies[:, None]
        # the derivative of a cosine is one that is a quarter of a turn ahead
        sums = self._sums(voxels, self.turns + np.float32(0.25), products.reshape(len(products), -1))
        return sums.reshape(len(voxels), n_outputs, -1)

    def _sums(
        self, voxels: NDArray[Any], turns: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return sum_j w_jo cos(2 pi (f_j . x + t_j)) (B, O)."""
        from .fourier import TILE, regress

        x = self.regressors(voxels)
        padded = np.zeros((x.shape[1], -(-len(x) // TILE) * TILE), np.float32)
        padded[:, : len(x)] = x.T
        out = np.empty((weights.shape[1], padded.shape[1]), np.float32)
        regress(padded, self.frequencies, turns, weights, out)
        return np.asarray(out[:, : len(x)].T, np.float64)

    def directions(self, outputs: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return the unit-norm signals u (B, K) of outputs y (B, O)."""
        both = np.zeros((len(outputs), 2 * self.rank))
        both[:, self.parts] = outputs[:, -len(self.parts) :]
        d = both.view(np.complex128)
        size = np.linalg.norm(d, axis=1, keepdims=True)
        return d / np.where(size > 0, size, 1)

    def write(self, path: Path) -> None:
        """Write the regression as HDF5."""
        import h5py

        arrays = {name: getattr(self, name, None) for name in _ARRAYS} | {
            "low": self.box.low, "high": self.box.high, "axes": self.regressors.axes, "chosen": self.regressors.chosen
        }  # fmt: skip
        with Sink(path) as sink, h5py.File(sink, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["basis"] = self.digest
            file.attrs["parameters"] = json.dumps([asdict(parameter) for parameter in self.box.parameters])
            file.attrs["columns"] = self.regressors.n_columns
            file.attrs["info"] = json.dumps(dict(self.info))
            for name, array in arrays.items():
                file[name] = array

    @classmethod
    def load(cls, name: str | Path, basis: Basis) -> Perk:
        """Read the regression that lies beside the basis NAME.

        Raises
        ------
        UserError
            There is none, it is damaged, or it was trained for another basis, or for more columns of it.
        """
        import h5py

        path = files.with_suffix(name, SUFFIX)
        if not path.is_file():
            raise UserError(f"{path} does not exist: --method perk needs it; make it with 'crbsvd basis --perk'")
        try:
            with h5py.File(path, "r") as file:
                content = {key: dataset(file, key, path) for key in file}
                attributes = {key: file.attrs[key] for key in ("format", "basis", "parameters", "columns", "info")}
                if odd := content.keys() ^ set(_ARRAYS):
                    raise KeyError(f"{min(odd)} is missing or unknown")
        except (OSError, KeyError) as error:
            raise UserError(f"{path} is no kernel regression ({error}); make it again") from None
        if attributes["format"] != FORMAT:
            raise UserError(f"{path} has format {attributes['format']!r}, expected {FORMAT!r}")
        rank = len(content["axes"])
        if rank > basis.rank:
            raise UserError(
                f"{path} was trained for {rank} coefficients, not for {basis.rank}: "
                "leave --rank out, or make a basis of that rank with --perk"
            )
        if attributes["basis"] != basis.digest:
            raise UserError(f"{path} was trained for another basis than {name}.cfl (hashes differ); make both again")
        parameters = tuple(Parameter(**fields) for fields in json.loads(attributes["parameters"]))
        box = Box(parameters, content.pop("low"), content.pop("high"))
        regressors = Regressors(content.pop("axes"), int(attributes["columns"]), content.pop("chosen"))
        info = json.loads(attributes["info"])
        return cls(box, regressors, digest=basis.digest, info=info, **content)


def fit(
    coeff: NDArray[Any],
    perk: Perk,
    *,
    mask_level: float = 0.05,
    progress: Callable[[int], object] | None = None,
    pool: Pool | None = None,
) -> Maps:
    """Return the regressed parameters of every voxel.

    Parameters
    ----------
    coeff : complex array (K, *X)
        Coefficient images.
    perk : Perk
        The regression, trained for the same basis.
    mask_level, progress, pool
        As for `matching.match`.

    Returns
    -------
    Maps
        Estimates that leave the range of a parameter are put on its end, where `edge` is True.

    Raises
    ------
    ValueError
        The number of coefficients differs from the regression's.
    """
    if len(coeff) != perk.rank:
        raise ValueError(f"coeff has {len(coeff)} coefficients, the regression {perk.rank}")
    shape, n_parameters = coeff.shape[1:], len(perk.box.parameters)
    mask = foreground(coeff, mask_level)
    chosen = np.flatnonzero(mask)
    voxels = np.ascontiguousarray(coeff.reshape(len(coeff), -1).T)[chosen]
    theta = np.zeros((n_parameters, mask.size), np.float32)
    m0, edge = np.zeros(mask.size, np.complex64), np.zeros(mask.size, bool)
    for part, (values, scale, outside) in in_blocks(
        partial(_fit_block, perk=perk), voxels.__getitem__, len(chosen), size=_VOXELS, progress=progress, pool=pool
    ):
        at = chosen[part]
        theta[:, at], m0[at], edge[at] = values.T, scale, outside
    return Maps(perk.box.parameters, theta.reshape(-1, *shape), m0.reshape(shape), edge.reshape(shape), mask)


def _fit_block(voxels: NDArray[Any], *, perk: Perk) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Return theta (V, P), M0 (V,) and which are at an end (V,), of voxels (V, K)."""
    y = perk.outputs(voxels)
    free = perk.box.free
    n_free = int(free.sum())
    u = np.zeros((len(voxels), len(free)))
    u[:, free] = np.clip(y[:, :n_free], -1, 1)
    m0 = np.sum(perk.directions(y).conj() * voxels, axis=1) / np.exp(y[:, n_free])
    return perk.box.theta(u), m0, np.any(np.abs(u) >= 1, axis=1)


def spread(perk: Perk, maps: Maps, coeff: NDArray[Any], noise: Noise) -> Spread:
    """Return how far noise moves the estimates, to first order: Var = g^H C g with the gradient g of the regression.

    Bias is not in it. The residual is what the regressed signal leaves, ||c - u u^H c|| / ||c||; a mean to compare its
    square with is not known, so `chi2` is NaN.

    Parameters
    ----------
    perk : Perk
        The regression.
    maps : Maps
        What it gave.
    coeff : complex array (K, *X)
        The coefficient images.
    noise : Noise
        Their noise.
    """
    rank, shape = len(coeff), maps.mask.shape
    free = np.flatnonzero(perk.box.free)
    theta = np.zeros((len(free), maps.mask.size))
    m0, residual = np.zeros(maps.mask.size), np.zeros(maps.mask.size)
    voxels, flat = np.flatnonzero(maps.mask), coeff.reshape(rank, -1)
    estimates, scale = maps.theta.reshape(len(maps.theta), -1), np.abs(maps.m0.reshape(-1))
    for start in range(0, len(voxels), _VOXELS):
        at = voxels[start : start + _VOXELS]
        c = flat[:, at].T.astype(np.complex128)
        g = perk.regressors.pulled_back(c, perk.slopes(c, len(free) + 1))
        # log |M0| = log |u^H c| - log ||phi^H s||, and no u near c / ||c|| changes |u^H c| to first order
        g[:, -1] = c / np.sum(np.abs(c) ** 2, axis=1, keepdims=True) - g[:, -1]
        deviation = np.sqrt(variances(g, noise.at(at, shape, rank)))
        theta[:, at] = deviation[:, :-1].T * perk.box.slope(estimates[:, at].T.astype(float))[:, free].T
        m0[at] = deviation[:, -1] * scale[at]
        u = perk.directions(perk.outputs(c))
        left = c - np.sum(u.conj() * c, axis=1, keepdims=True) * u
        residual[at] = np.linalg.norm(left, axis=1) / np.linalg.norm(c, axis=1)
    parts = (theta.reshape(-1, *shape), m0.reshape(shape), residual.reshape(shape))
    return Spread(*parts, np.full(shape, np.nan))
