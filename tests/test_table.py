"""A dictionary with derivatives in a file: every kind of file, how arrays are named, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from crbsvd_plugin import models
from crbsvd_plugin.bart import write_cfl
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter, SignalModel
from crbsvd_plugin.spec import resolve
from crbsvd_plugin.table import Table

N, T = 60, 17
RNG = np.random.default_rng(5)
THETA = np.stack([RNG.uniform(0.03, 0.2, N), RNG.uniform(-50, 50, N)], axis=1)
TIMES = np.arange(1, T + 1) * 0.01
SIGNALS = np.exp((1j * THETA[:, 1:] - 1 / THETA[:, :1]) * TIMES)
JAC = np.stack([SIGNALS * TIMES / THETA[:, :1] ** 2, 1j * TIMES * SIGNALS], axis=1)
ARRAYS: dict[str, Any] = {"signals": SIGNALS, "jac": JAC, "theta": THETA}


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_NAMED", {})


def write(folder: Path, kind: str, **changed: Any) -> Path:
    """Write the dictionary as programs of that kind do."""
    content = {
        k: v for k, v in {**ARRAYS, "names": ["T2", "w0"], "units": ["s", "rad/s"], **changed}.items() if v is not None
    }
    path = folder / f"d.{kind.removesuffix('7.3')}"
    if kind == "npz":
        np.savez(path, **content)
    elif kind == "mat":
        cells = {k: np.array(v, dtype=object) if isinstance(v, list) else v for k, v in content.items()}
        savemat(path, cells)
    elif kind == "mat7.3":
        with h5py.File(path, "w") as file:  # as MATLAB: transposed, complex as pairs, texts as numbers
            for name, value in content.items():
                if isinstance(value, list):
                    width = max(map(len, value))
                    rows = np.array([[ord(letter) for letter in text.ljust(width)] for text in value], dtype=np.uint16)
                    file[name] = rows.T
                    file[name].attrs["MATLAB_class"] = np.bytes_("char")
                elif np.iscomplexobj(value):
                    pairs = np.empty(value.T.shape, dtype=[("real", "<f8"), ("imag", "<f8")])
                    pairs["real"], pairs["imag"] = value.T.real, value.T.imag
                    file[name] = pairs
                else:
                    file[name] = value.T
            file.create_group("#refs#")
    else:
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                file[name] = value
    return path


@pytest.mark.parametrize("kind", ["npz", "mat", "mat7.3", "h5"])
def test_a_file_of_every_kind(tmp_path: Path, kind: str) -> None:
    spec = resolve(str(write(tmp_path, kind)))
    model = spec.model
    assert isinstance(model, SignalModel)
    ends = THETA.min(axis=0).tolist(), THETA.max(axis=0).tolist()
    assert model.parameters == tuple(map(Parameter, ["T2", "w0"], ["s", "rad/s"], *ends))
    (part,) = spec.prior.atoms(model.parameters)
    np.testing.assert_array_equal(part.theta, THETA)
    order = RNG.permutation(N)
    signal, jac = model.signal_and_jacobian(THETA[order].astype(np.float32))  # maps are in single precision
    np.testing.assert_array_equal(signal, SIGNALS[order])
    np.testing.assert_array_equal(jac, JAC[order])
    with pytest.raises(UserError, match=r"has no fingerprint at \[0\.05.*tells nothing between them"):
        model.signal(np.array([[0.05, 0.123]]))


def test_separate_files_of_one_array_each(tmp_path: Path) -> None:
    np.save(tmp_path / "signals.npy", SIGNALS)
    np.save(tmp_path / "theta.npy", THETA)
    write_cfl(tmp_path / "jac", JAC.reshape(N, 1, 2, 1, 1, T))
    np.savez(tmp_path / "more.npz", x=THETA, y=JAC)
    rest = 'names = ["T2", "w0"]\nunits = ["s", "rad/s"]\nnuisance = ["w0"]\n'
    (tmp_path / "d.toml").write_text(f'name = "signals.npy"\ntheta = "more.npz:x"\njac = "jac.cfl"\n{rest}')
    model = resolve(str(tmp_path / "d.toml")).model
    assert [p.nuisance for p in model.parameters] == [False, True]
    np.testing.assert_array_equal(model.signal_and_jacobian(THETA)[1], JAC.astype(np.complex64))
    with pytest.raises(UserError, match=r"signals.npy holds the signals alone: say where theta is, as in --set theta="):
        resolve(str(tmp_path / "signals.npy"))


def test_one_parameter_needs_no_axis_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, "npz", theta=THETA[:, :1], jac=JAC[:, 0], names=["T2"], units=["s"])
    np.testing.assert_array_equal(resolve(str(path)).model.signal_and_jacobian(THETA[:, :1])[1], JAC[:, :1])


def test_a_subset_and_its_held_out_atoms_have_none_in_common(tmp_path: Path) -> None:
    spec = resolve(str(write(tmp_path, "npz")))
    thin = spec.prior.thinned(20, spec.model.parameters)
    (part,), (other,) = thin.atoms(spec.model.parameters), thin.shifted().atoms(spec.model.parameters)
    assert (len(part.theta), part.weight) == (20, 3.0)
    assert len(np.unique(np.concatenate([part.theta, other.theta]), axis=0)) == 40


@pytest.mark.parametrize(
    ("kind", "changed", "match"),
    [
        ("npz", {"signals": None}, r"signals has no array 'signals'; it has jac \(60, 2, 17\), theta \(60, 2\)"),
        ("mat", {"signals": None, "D": SIGNALS, "E": SIGNALS}, r"it has jac .*, D \(60, 17\), E \(60, 17\)"),
        ("h5", {"jac": JAC[:, :, :5]}, r"jac has shape \(60, 2, 5\), expected \(N, P, T\) = \(60, 2, 17\)"),
        ("npz", {"jac": JAC.transpose(0, 2, 1)}, r"jac has shape \(60, 17, 2\), expected"),
        ("npz", {"theta": THETA[:7]}, r"theta has shape \(7, 2\) and signals \(60, 17\)"),
        ("npz", {"theta": THETA[0]}, r"theta has shape \(2,\), expected 2 axes"),
        ("npz", {"units": ["ms", "rad/s"]}, r"T2 is in 'ms', expected SI units: s"),
        ("npz", {"names": None}, r"has 0 names, expected 2, one for every column"),
        ("npz", {"signals": SIGNALS * np.nan}, r"signals holds 1020 non-finite values"),
        ("npz", {"nuisance": ["B1"]}, r"nuisance 'B1' is no parameter; these are T2, w0"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, kind: str, changed: dict[str, Any], match: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(UserError, match=match):
        resolve(str(write(tmp_path, kind, **changed)))


def test_damaged_and_dangerous_files(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(UserError, match=r"d.npz cannot be read"):
        resolve(str(path))
    np.savez(path, signals=np.array([{"a": 1}], dtype=object))  # a pickle
    with pytest.raises(UserError, match=r"d.npz cannot be read \(Object arrays cannot be loaded"):
        resolve(str(path))
    with pytest.raises(UserError, match=r"does not exist"):
        resolve(str(tmp_path / "e.mat"))
    with pytest.raises(UserError, match=r"'signal' is unknown, expected one of: signals, .* \(did you mean 'signals'"):
        resolve(str(write(tmp_path, "h5")), ["signal=x"])


def test_a_basis_and_dictionary_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, name = write(tmp_path, "mat7.3"), str(tmp_path / "b")
    assert main(["basis", str(path), "-o", name, "--rank", "4", "--crb-weight", "0", "--no-conjugate"]) == 0
    basis = Basis.load(name)
    # the traditional basis of these very fingerprints, in double precision, but kept in single: 1e-6
    u = np.linalg.svd(SIGNALS, full_matrices=False)[2][:4].T
    assert basis.phi.dtype == np.complex128
    np.testing.assert_allclose(np.linalg.svd(u.conj().T @ basis.phi)[1], 1, atol=1e-6)


def test_the_basis_needs_the_file_again_where_it_simulates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, name = write(tmp_path, "npz"), str(tmp_path / "b")
    assert main(["basis", str(path), "-o", name, "--rank", "4", "--derivatives"]) == 0
    monkeypatch.setattr(models, "_NAMED", {})
    basis = Basis.load(name)
    dictionary = Dictionary.load(name, basis)
    np.testing.assert_array_equal(dictionary.theta, THETA)
    expected = SIGNALS @ basis.phi.conj()
    np.testing.assert_allclose(dictionary.coeff * dictionary.norm[:, None], expected, atol=1e-6)
    with pytest.raises(UserError, match=r"needs the model d.npz"):
        basis.model()
    resolve(str(path))
    assert isinstance(basis.model(), Table)
    write(tmp_path, "npz", signals=2 * SIGNALS)
    monkeypatch.setattr(models, "_NAMED", {})
    resolve(str(path))
    with pytest.raises(UserError, match=r"hashes differ"):
        basis.model()
