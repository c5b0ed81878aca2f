"""Where the samples of a readout lie, whoever says it.

In this order: a file that was named, because it was; the trajectory of the readout itself; what the header describes,
spokes (`spokes`) or Cartesian lines (`lines`). All readouts of an image have theirs from one of these.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import UserError
from .geometry import Geometry, array_shape
from .lines import is_cartesian, line_positions
from .readouts import bridged, fov_of
from .spokes import Spokes
from .trajectory import check_reach, converted, reach_of
from .trajfile import TrajFile

if TYPE_CHECKING:
    from ismrmrd import AcquisitionHeader
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Third = Literal["kz", "density"]


@dataclass(frozen=True)
class Source:
    """What is known of the trajectories of a stream.

    Parameters
    ----------
    header : ismrmrdHeader
        MRD header.
    units : str
        Unit of the trajectories of readouts and of the file, see `trajectory`.
    third : {"kz", "density"}
        What the last column of a trajectory is: a position; or a density weight, which is left out, since weights of
        the objective would give up precision, see `recon.density`. MRD has the same place for both.
    file : TrajFile, optional
        A trajectory in a file.
    """

    header: ismrmrdHeader
    units: str = "cycles/fov"
    third: Third = "kz"
    file: TrajFile | None = None


def untold(numbers: list[int], n_readouts: int) -> UserError:
    """Return the error for readouts with these numbers, of so many, whose positions nobody tells."""
    return UserError(
        f"readout {numbers[0]} has no trajectory (and {len(numbers)} of {n_readouts} readouts): write the sample "
        "positions into the raw file, or name a file that has them (--traj-file)"
    )


class Positions:
    """The positions of the samples of one image.

    Parameters
    ----------
    source : Source
        Where they come from.
    geometry : Geometry
        Where the image lies.
    """

    def __init__(self, source: Source, geometry: Geometry):
        self._source = source
        self._shape, self._fov = array_shape(geometry.shape), fov_of(geometry)
        self._kind = ""
        self._reach = np.zeros(len(self._shape))
        self._lowest = np.zeros(len(self._shape))
        self._spokes: set[int] = set()
        self._n_readouts = 0

    @property
    def from_file(self) -> bool:
        """Trajectories of readouts do not count."""
        return self._source.file is not None

    def find(
        self,
        heads: list[AcquisitionHeader],
        given: NDArray[Any] | None,
        *,
        frame: NDArray[np.intp],
        n_samples: int,
        present: dict[int, NDArray[np.bool_]],
    ) -> NDArray[np.float64]:
        """Return the positions (R, S, ndim) of readouts in cycles per field of view, in the order of X.

        Parameters
        ----------
        heads : list of AcquisitionHeader
            The readouts.
        given : array (R, S, D) or None
            The trajectories that all of them have, as they came.
        frame : int array (R,)
            Their frames.
        n_samples : int
            Samples S that the longest keeps.
        present : dict of int to bool array (S,)
            The samples that are there, of readouts that lack some.

        Raises
        ------
        UserError
            A trajectory is missing, or cannot be what it is said to be.
        """
        header, encoding = self._source.header, heads[0].encoding_space_ref
        self._n_readouts += len(heads)
        if self._source.file is not None:
            self._settle("the file")
            given = self._source.file.of(heads, frame, n_samples)
        elif given is not None:
            self._settle("the readouts")
        else:
            spokes = None if is_cartesian(header, encoding) else Spokes.described(header, encoding)
            if spokes is None and not is_cartesian(header, encoding):
                raise untold([head.scan_counter for head in heads], len(heads))
            self._settle("the header")
            size: dict[str, Any] = {"shape": self._shape, "fov": self._fov}
            if spokes is None:
                return line_positions(header, heads, n_samples, **size)
            self._spokes |= {head.idx.kspace_encode_step_1 for head in heads}
            return spokes.positions(header, heads, n_samples, **size)
        positions = converted(self._axes(given), units=self._source.units, shape=self._shape, fov=self._fov)
        whole = np.delete(positions, list(present), axis=0) if present else positions
        self._measure(whole)
        for place, there in present.items():
            self._measure(positions[place, there])
            positions[place] = bridged(positions[place], there)
        check_reach(self._reach, units=self._source.units, shape=self._shape, fov=self._fov, whole=False)
        return positions

    def close(self) -> None:
        """Check what can only be checked in all readouts.

        Raises
        ------
        UserError
            Trajectories are zero everywhere, cannot be in the unit that they are said to be in, or all spokes are one.
        """
        if len(self._spokes) == 1 and self._n_readouts > 1:
            raise UserError(
                f"all {self._n_readouts} readouts are spoke {self._spokes.pop()} (kspace_encode_step_1), expected a "
                "number for each, from which the header's trajectory follows; write numbers or positions into them"
            )
        if self._kind in ("the file", "the readouts"):
            check_reach(self._reach, units=self._source.units, shape=self._shape, fov=self._fov)
            # z comes first
            if len(self._shape) == 3 and self._lowest[0] >= 0 and self._lowest[1:].max() < 0 and self._reach[0] > 0:
                logger.warning(
                    "the third column of the trajectory is never negative: if it is a density weight, this is no volume"
                )

    def _settle(self, kind: str) -> None:
        if self._kind not in ("", kind):
            raise UserError(
                f"some readouts have their positions from {self._kind}, others from {kind}; expected the same for all"
            )
        if not self._kind:
            logger.info("positions of the samples come from %s", kind)
        self._kind = kind

    def _measure(self, positions: NDArray[np.float64]) -> None:
        rows = positions.reshape(-1, len(self._shape))
        self._reach = np.maximum(self._reach, reach_of(rows))
        self._lowest = np.minimum(self._lowest, rows.min(axis=0, initial=0.0))

    def _axes(self, given: NDArray[Any]) -> NDArray[Any]:
        """Return the columns (R, S, ndim) that are positions, in the order of X."""
        n_axes, n_dims = given.shape[2], len(self._shape)
        image = f"the image {n_dims} ({' x '.join(map(str, self._shape))})"
        if self._source.third == "density":
            if n_axes != n_dims + 1:
                raise UserError(
                    f"trajectory has {n_axes} dimensions, {image}: expected one more for the density weight; "
                    "without, say --traj-third kz"
                )
            if given[..., n_dims].min(initial=0.0) < 0:
                raise UserError(
                    f"dimension {n_axes} of the trajectory is negative somewhere, so it is no density weight: say "
                    "--traj-third kz"
                )
        elif n_axes < n_dims or np.any(given[..., n_dims:]):
            weight = n_axes == n_dims + 1 and given[..., n_dims:].min(initial=0.0) >= 0
            advice = "; it is never negative: if it is a density weight, say --traj-third density" if weight else ""
            raise UserError(
                f"trajectory has {n_axes} dimensions, {image}: expected as many, further ones being zero{advice}"
            )
        return given[..., n_dims - 1 :: -1]
