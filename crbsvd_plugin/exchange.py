"""Bases of other programs and for them: which axis is which, and what is conjugated.

Here s = phi c with phi (T, K). A tool that has s_t = sum_k b_kt c_k takes b = phi^T; one that multiplies with the
conjugate, s_t = sum_k conj(b_kt) c_k, takes b = conj(phi)^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, arrays, bundle, files, request
from .basis import FORMAT, Basis
from .dictionary import compress
from .errors import UserError, nearest
from .progress import Report, counted
from .spec import resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tool:
    """How a program keeps a basis.

    Parameters
    ----------
    suffix : str
        Of its files.
    rows : bool
        An array (K, T), and not (T, K).
    conjugated : bool
        Its operator conjugates.
    use : str
        A line of that program with the file.
    """

    suffix: str
    rows: bool
    conjugated: bool
    use: str


TOOLS = {
    "bart": Tool(".cfl", False, False, "bart pics -B {stem} ..."),
    "mat": Tool(".mat", False, False, "load('{file}', 'U')   % T x K, s = U c; also MRIReco.jl, MRISubspaceRecon.jl"),
    "mri-nufft": Tool(".npy", True, True, "MRISubspace(operator, np.load('{file}'))   # conjugates again"),
    "numpy": Tool(".npy", True, False, "np.tensordot(np.load('{file}'), coeff, (0, 0))   # (K, T)"),
    "sigpy": Tool(".npy", True, False, "phi = np.load('{file}')   # (K, T), y_t = sum_k phi[k, t] A_t c_k"),
    "torch": Tool(".npy", True, False, "torch.from_numpy(np.load('{file}'))   # (K, T), as bartorch takes it"),
}
_USUAL = ("U", "phi", "basis", "Phi", "u")


def to_tool(phi: NDArray[Any], tool: str) -> NDArray[Any]:
    """Return phi (T, K) as the array that a tool takes."""
    rule = TOOLS[tool]
    array = phi.conj() if rule.conjugated else phi
    return np.ascontiguousarray(array.T if rule.rows else array)


def from_tool(array: NDArray[Any], tool: str | None, where: str) -> NDArray[Any]:
    """Return phi (T, K) of the array that a tool takes; without one the longer axis is time, and nothing conjugated.

    Raises
    ------
    UserError
        It has not two axes, or they are the wrong way round, or tell nothing.
    """
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise UserError(f"{where} has shape {array.shape}, expected two axes: frames and coefficients")
    if tool is None:
        if array.shape[0] == array.shape[1]:
            raise UserError(f"{where} has shape {array.shape}, which tells no axes: say --from TOOL")
        return array if array.shape[0] > array.shape[1] else array.T
    rule = TOOLS[tool]
    phi = array.T if rule.rows else array
    if phi.shape[0] < phi.shape[1]:
        expected = "(K, T)" if rule.rows else "(T, K)"
        raise UserError(
            f"{where} has shape {array.shape}, but {tool} has {expected} with T frames, at least K; say --from and the "
            "tool that wrote it"
        )
    return phi.conj() if rule.conjugated else phi


def read(text: str, tool: str | None, *, rank: int | None, orthonormalise: bool) -> Basis:
    """Return the basis in ``FILE`` or ``FILE:NAME``.

    Parameters
    ----------
    text : str
        The file, and which of its arrays where that is not clear.
    tool : str, optional
        One of `TOOLS`, which wrote it.
    rank : int, optional
        Take the first columns.
    orthonormalise : bool
        Take an orthonormal basis of the same space, where the columns are none.

    Raises
    ------
    UserError
        The file, its arrays or the columns are not what they should be.
    """
    file, sign, key = text.rpartition(":") if Path(text).suffix not in arrays.SUFFIXES else (text, "", "")
    if Path(f"{text}.cfl").is_file():
        file, sign = f"{text}.cfl", ""
    where = f"{file or text}"
    content = arrays.read(Path(where), "basis")
    array = arrays.one(content, key if sign else None, _USUAL, where)
    if tool is None and Path(where).suffix in (".mat", ".cfl") and array.shape[0] == array.shape[-1]:
        tool = "mat"  # all of the U of an SVD, of which --rank takes some
    phi = from_tool(array, tool, where)
    if rank is not None and not 1 <= rank <= phi.shape[1]:
        raise UserError(f"--rank is {rank}, but {where} has {phi.shape[1]} columns: expected 1 to {phi.shape[1]}")
    phi = np.asarray(phi[:, :rank], dtype=np.complex128 if np.iscomplexobj(phi) else np.float64)
    if not np.isfinite(phi).all():
        raise UserError(f"{where} holds {np.count_nonzero(~np.isfinite(phi))} non-finite values; make it again")
    off = float(np.abs(phi.conj().T @ phi - np.eye(phi.shape[1])).max())
    if off > 1e-4 and not orthonormalise:
        raise UserError(
            f"{where}: columns are not orthonormal (off by {off:.2g}); --orthonormalise takes such a basis of the "
            "same space"
        )
    if orthonormalise:
        phi, triangle = np.linalg.qr(phi)
        sizes = np.abs(np.diag(triangle))
        if sizes.min() <= 1e-10 * sizes.max():
            raise UserError(f"{where}: columns depend on each other; take fewer, with --rank")
        phi = (
            phi * np.exp(1j * np.angle(np.diag(triangle))) if np.iscomplexobj(phi) else phi * np.sign(np.diag(triangle))
        )
    info = {"software": f"crbsvd-plugin {__version__}", "imported": {"file": Path(where).name, "from": tool}}
    return Basis(phi, np.empty(0), info)


def bring(
    basis: Basis, name: str, *, spec: str | None, settings: Sequence[str], atoms: str, force: bool, report: Report
) -> Basis:
    """Write an imported basis, and with the SPEC of its sequence the dictionary to match with.

    Raises
    ------
    UserError
        The sequence has another number of frames, or a file exists already.
    """
    if spec is None:
        bundle.save(name, basis, None, force=force)
        return basis
    found = resolve(spec, settings)
    basis.check_frames(found.model)
    prior = request.sized(found.fit_prior, atoms, "--atoms", found.model)
    info = {**basis.info, "model": found.model.spec, "dictionary_prior": prior.spec}
    basis = Basis(basis.phi, basis.singular_values, info)
    files.check_free(
        files.with_suffix(name, ".json"), bundle.members(name, with_dictionary=True), kind=FORMAT, force=force
    )
    progress = counted(report, "dictionary", prior.size(found.model.parameters))
    bundle.save(name, basis, compress(found.model, prior, basis, progress=progress), force=force)
    return basis


def export(basis: Basis, tool: str, output: str, *, force: bool) -> str:
    """Write a basis as a tool takes it, and return a line that uses it.

    Raises
    ------
    UserError
        There is no such tool, or the file exists already or cannot be written.
    """
    if tool not in TOOLS:
        raise UserError(f"tool {tool!r} is unknown, expected one of: {', '.join(TOOLS)}{nearest(tool, TOOLS)}")
    rule = TOOLS[tool]
    stem = output.removesuffix(rule.suffix)
    if tool == "bart":
        basis.save(stem, force=force)
        return rule.use.format(stem=stem)
    path = files.with_suffix(stem, rule.suffix)
    array = to_tool(basis.phi, tool)
    array = array.astype(np.complex64 if np.iscomplexobj(array) else np.float32) if rule.suffix == ".npy" else array
    with files.single(path, force=force) as part, part.open("wb") as stream:
        if rule.suffix == ".npy":
            np.save(stream, array, allow_pickle=False)
        else:
            from scipy.io import savemat

            savemat(stream, {"U": array, "S": basis.singular_values})
    return rule.use.format(file=path)
