"""Raw data in ISMRM Raw Data files (MRD version 1, HDF5), a block of readouts at a time.

The iterators of the package `ismrmrd` read one readout after the other from HDF5, which takes
seconds for some thousand of them; here blocks are read, and the readouts cut out of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import files
from .errors import UserError
from .hdf5 import Sink
from .mrd_header import geometry_of, limits, noise_bandwidth, parse_header, user_strings

if TYPE_CHECKING:
    import h5py
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

__all__ = [
    "geometry_of", "limits", "noise_bandwidth", "open_raw", "parse_header", "user_strings", "write_into", "write_raw",
]  # fmt: skip

_GROUP = "dataset"
_BLOCK_BYTES = 2**24
_BLOCK_ROWS = 256


@contextmanager
def open_raw(path: str | Path) -> Iterator[tuple[ismrmrdHeader, Iterator[Acquisition]]]:
    """Open a raw data file: give its header, and an iterator over its readouts.

    Parameters
    ----------
    path : path
        HDF5 file with one MRD data set (by custom the group ``dataset``).

    Yields
    ------
    header : ismrmrd.xsd.ismrmrdHeader
        Elements that the file lacks are None, even those that MRD demands.
    acquisitions : iterator of ismrmrd.Acquisition
        Read as they are asked for, as long as the file is open.

    Raises
    ------
    UserError
        The file is missing, no HDF5 file, damaged, no MRD file, or holds no acquisitions; or
        it refers to other files. While iterating: a readout that cannot be read.
    """
    path = Path(path)
    file = _open(path)
    with file:
        with _damage_told(f"{path} is damaged"):
            xml, rows = _members(file, path)
        yield parse_header(xml, path.name), _acquisitions(rows, path)


def write_raw(
    path: str | Path, header: ismrmrdHeader, acquisitions: Iterable[Acquisition], *, force: bool = False
) -> None:
    """Write a raw data file; it appears when it is complete.

    Parameters
    ----------
    path : path
        The file, by custom ending in ``.h5``.
    header : ismrmrd.xsd.ismrmrdHeader
        The header.
    acquisitions : iterable of ismrmrd.Acquisition
        The readouts; taken a block at a time.
    force : bool
        Replace a file of this name.

    Raises
    ------
    UserError
        The file exists, or cannot be written.
    """
    with files.single(Path(path), force=force) as part:
        write_into(part, header, acquisitions)


def write_into(path: Path, header: ismrmrdHeader, acquisitions: Iterable[Acquisition]) -> None:
    """Write a raw data file as one of the files of a product, under its temporary path."""
    import h5py
    from ismrmrd.hdf5 import acquisition_dtype
    from ismrmrd.xsd import ToXML

    with Sink(path) as sink, h5py.File(sink, "w") as file:
        group = file.create_group(_GROUP)
        xml = group.create_dataset("xml", shape=(1,), dtype=h5py.special_dtype(vlen=bytes))
        xml[0] = ToXML(header).encode()
        rows = group.create_dataset("data", (0,), acquisition_dtype, maxshape=(None,), chunks=(_BLOCK_ROWS,))
        readouts = iter(acquisitions)
        while block := list(itertools.islice(readouts, _BLOCK_ROWS)):
            rows.resize(len(rows) + len(block), axis=0)
            rows[-len(block) :] = _packed(block)
            if sink.error is not None:
                break


def _open(path: Path) -> h5py.File:
    import h5py

    if path.is_dir():
        raise UserError(f"{path} is a folder, expected an MRD file (.h5)")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a pipe or a device, expected an MRD file (.h5), which is read from several places")
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist, expected an MRD file (.h5); check the name") from None
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}); check its permissions") from None
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is not an HDF5 file, expected an MRD file (.h5)")
    with _damage_told(f"{path} cannot be read as HDF5, probably it is incomplete"):
        return h5py.File(path, "r")


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    """Turn what h5py raises where a file is damaged into a message that begins with `what`."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).strip("'\"").split())
        raise UserError(f"{what} ({reason}); copy it again") from None


def _members(file: h5py.File, path: Path) -> tuple[bytes, h5py.Dataset]:
    """Return the header and the table of readouts."""
    import h5py

    group = _own(file, _GROUP, path) if _GROUP in file else None
    if not isinstance(group, h5py.Group) or "xml" not in group:
        raise UserError(f"{path} is not an MRD file: expected a group '{_GROUP}' with 'xml' and 'data'")
    rows = _own(group, "data", path) if "data" in group else None
    if rows is None or (isinstance(rows, h5py.Dataset) and rows.size == 0):
        raise UserError(f"{path} holds no acquisitions, expected raw data")
    if not isinstance(rows, h5py.Dataset) or set(rows.dtype.names or ()) != {"head", "traj", "data"}:
        raise UserError(f"{path}: 'data' is no table of MRD acquisitions (head, traj, data), expected raw data")
    document = _own(group, "xml", path)
    # one text, however many there are said to be
    xml = document[(0,) * document.ndim] if isinstance(document, h5py.Dataset) and document.size else None
    if not isinstance(xml, bytes | str):
        raise UserError(f"{path}: 'xml' is no text, expected the MRD header")
    return xml.encode() if isinstance(xml, str) else xml, rows


def _own(group: h5py.Group, name: str, path: Path) -> Any:
    """Return a member that lies in this very file."""
    import h5py

    # a link may lead to any file of the machine, at once or through another link
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise UserError(f"{path}: '{name}' is a link, expected the data themselves; write a file without links")
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise UserError(f"{path}: the values of '{name}' lie in another file, expected them in this one")
    return member


def _acquisitions(rows: h5py.Dataset, path: Path) -> Iterator[Acquisition]:
    from ismrmrd.hdf5 import acquisition_header_dtype

    missing = set(acquisition_header_dtype.names or ()) - set(rows.dtype["head"].names or ())
    if missing:
        raise UserError(f"{path}: the acquisition headers lack {', '.join(sorted(missing))}; expected MRD version 1")
    n_rows, start, step = len(rows), 0, 1
    while start < n_rows:
        with _damage_told(f"{path}: acquisition {start} or one soon after cannot be read"):
            block = rows[start : start + step]
        yield from _unpacked(block, start, path)
        start += len(block)
        size = block["data"][0].nbytes + block["traj"][0].nbytes
        step = int(np.clip(_BLOCK_BYTES // max(size, 1), 1, _BLOCK_ROWS))


def _unpacked(block: NDArray[Any], start: int, path: Path) -> Iterator[Acquisition]:
    from ismrmrd import Acquisition
    from ismrmrd.hdf5 import acquisition_header_dtype

    # by name: files differ in the padding between the fields
    heads = np.zeros(len(block), acquisition_header_dtype)
    for name in acquisition_header_dtype.names or ():
        heads[name] = block["head"][name]
    for number, (head, data, traj) in enumerate(zip(heads, block["data"], block["traj"], strict=True), start):
        n_samples, n_channels = int(head["number_of_samples"]), int(head["active_channels"])
        n_axes = int(head["trajectory_dimensions"])
        if data.size != 2 * n_channels * n_samples or traj.size != n_samples * n_axes:
            raise UserError(
                f"{path}: acquisition {number} holds {data.size} numbers and {traj.size} of trajectory, expected "
                f"{2 * n_channels * n_samples} and {n_samples * n_axes}; the file is damaged"
            )
        samples = np.asarray(data, np.float32).view(np.complex64).reshape(n_channels, n_samples)
        yield Acquisition(head, samples, np.asarray(traj, np.float32).reshape(n_samples, n_axes))


def _packed(block: list[Acquisition]) -> NDArray[Any]:
    from ismrmrd.hdf5 import acquisition_dtype, acquisition_header_dtype

    rows = np.empty(len(block), acquisition_dtype)
    for row, acquisition in zip(rows, block, strict=True):
        row["head"] = np.frombuffer(acquisition.getHead(), acquisition_header_dtype)[0]
        row["data"] = np.ascontiguousarray(acquisition.data, np.complex64).view(np.float32).ravel()
        row["traj"] = np.ascontiguousarray(acquisition.traj, np.float32).ravel()
    return rows
