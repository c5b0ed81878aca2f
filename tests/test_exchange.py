"""Bases from and for other programs: axes and conjugation, checked with their own operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from crbsvd_plugin import bart
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import export as verb
from crbsvd_plugin.cli import main
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.exchange import TOOLS, from_tool, to_tool

T, K, X = 11, 3, (4, 5)
RNG = np.random.default_rng(8)


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)


PHI = np.linalg.qr(random(T, K))[0]
COEFF = random(K, *X)
SERIES = np.tensordot(PHI, COEFF, (1, 0))
# files for BART and .npy are in single precision
SINGLE = 2e-6


@pytest.fixture
def name(tmp_path: Path) -> str:
    Basis(PHI, np.array([3.0, 2.0, 1.0])).save(tmp_path / "b")
    return str(tmp_path / "b")


def exported(name: str, tool: str) -> Path:
    output = Path(name).with_name(f"for-{tool}")
    assert main(["export", name, "--to", tool, "-o", str(output)]) == 0
    return Path(f"{output}{TOOLS[tool].suffix}")


@pytest.mark.bart
def test_bart_expands_with_it(name: str, tmp_path: Path) -> None:
    exported(name, "bart")
    bart.write_cfl(tmp_path / "c", COEFF.transpose(2, 1, 0).reshape(5, 4, 1, 1, 1, 1, K))
    bart.run(["fmac", "-s", "64", "for-bart", "c", "s"], folder=tmp_path, threads=1)
    series = bart.read_cfl(tmp_path / "s").squeeze().transpose(2, 1, 0)
    np.testing.assert_allclose(series, SERIES, atol=SINGLE * np.abs(SERIES).max())


def test_sigpy_expands_with_it(name: str) -> None:
    import sigpy

    phi = np.load(exported(name, "sigpy"))
    assert phi.shape == (K, T)
    expand = sigpy.linop.Multiply((K, 1, *X), phi[:, :, None, None])
    linop = sigpy.linop.Sum(expand.oshape, axes=(0,)) * expand
    np.testing.assert_allclose(linop(COEFF[:, None].astype(np.complex64)), SERIES, atol=SINGLE * np.abs(SERIES).max())


@pytest.mark.filterwarnings("ignore:Samples will be rescaled:UserWarning")  # it guesses the unit, and says so
def test_mri_nufft_expands_with_it(name: str) -> None:
    subspace = pytest.importorskip("mrinufft.operators.subspace", reason="mri-nufft is not installed")
    import mrinufft

    basis = np.load(exported(name, "mri-nufft"))
    samples = RNG.uniform(-0.5, 0.5, (T, 7, 2)).astype(np.float32)
    nufft = mrinufft.get_operator("finufft")(samples.reshape(-1, 2), shape=X, n_coils=1)
    found = subspace.MRISubspace(nufft, basis).op(COEFF.astype(np.complex64))
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in X), indexing="ij"), axis=-1)
    phases = np.exp(-2j * np.pi * np.einsum("tsd,yxd->tsyx", samples, grid))
    expected = np.einsum("tsyx,tyx->ts", phases, SERIES) / nufft.norm_factor
    # the default accuracy of its NUFFT is 1e-4
    np.testing.assert_allclose(np.asarray(found).reshape(T, 7), expected, atol=1e-3 * np.abs(expected).max())


def test_matlab_multiplies_with_it(name: str) -> None:
    content = loadmat(exported(name, "mat"))
    np.testing.assert_allclose(content["U"] @ COEFF.reshape(K, -1), SERIES.reshape(T, -1), atol=SINGLE * 10)


def test_the_rules_in_numbers() -> None:
    assert tuple(TOOLS) == verb._TOOLS
    for tool, expected in {
        "bart": PHI, "mat": PHI, "numpy": PHI.T, "sigpy": PHI.T, "torch": PHI.T, "mri-nufft": PHI.conj().T,
    }.items():  # fmt: skip
        np.testing.assert_array_equal(to_tool(PHI, tool), expected)
        np.testing.assert_array_equal(from_tool(expected, tool, "x"), PHI)
    np.testing.assert_array_equal(from_tool(PHI.T, None, "x"), PHI)
    np.testing.assert_array_equal(from_tool(PHI, None, "x"), PHI)
    with pytest.raises(UserError, match=r"x has shape \(3, 3\), which tells no axes: say --from TOOL"):
        from_tool(PHI[:3], None, "x")


@pytest.mark.parametrize("tool", TOOLS)
def test_there_and_back(name: str, tool: str) -> None:
    path = exported(name, tool)
    back = f"{name}-back"
    assert main(["import", str(path), "--from", tool, "-o", back]) == 0
    np.testing.assert_allclose(Basis.load(back).phi, PHI, atol=1e-7)  # rounded to single precision once
    assert main(["export", name, "--to", tool, "-o", str(path)]) == 2  # it is there
    assert main(["export", name, "--to", tool, "-o", str(path), "--force"]) == 0


def test_files_as_others_write_them(tmp_path: Path) -> None:
    savemat(tmp_path / "v5.mat", {"U": PHI, "S": np.eye(K), "t": np.arange(9.0)})
    with h5py.File(tmp_path / "v7.mat", "w") as file:
        pairs = np.empty((K, T), dtype=[("real", "<f8"), ("imag", "<f8")])
        pairs["real"], pairs["imag"] = PHI.T.real, PHI.T.imag
        file["U"], file["S"] = pairs, np.eye(K)
    np.save(tmp_path / "phi.npy", PHI.T)
    np.savez(tmp_path / "two.npz", a=PHI, b=PHI.conj())
    bart.write_cfl(tmp_path / "bare", PHI.reshape(1, 1, 1, 1, 1, T, K))
    bart.write_cfl(tmp_path / "single", PHI[:, :1].reshape(1, 1, 1, 1, 1, T, 1))
    for i, (file, expected) in enumerate(
        {
            "v5.mat": PHI,
            "v7.mat": PHI,
            "phi.npy": PHI,
            "two.npz:b": PHI.conj(),
            "bare": PHI,
            "bare.cfl": PHI,
            "single.cfl": PHI[:, :1],
        }.items()
    ):
        assert main(["import", str(tmp_path / file), "-o", str(tmp_path / f"o{i}")]) == 0
        np.testing.assert_allclose(Basis.load(tmp_path / f"o{i}").phi, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("content", "options", "match"),
    [
        ({"V": PHI, "W": PHI}, (), r"V \(11, 3\), W \(11, 3\): say which one, expected FILE:NAME, or one called U"),
        ({"U": PHI * 2}, (), r"columns are not orthonormal \(off by 3\); --orthonormalise"),
        ({"U": PHI[:3]}, ("--from", "mri-nufft", "--rank", "4"), r"--rank is 4, but .* has 3 columns"),
        ({"U": PHI}, ("--from", "sigpy"), r"shape \(11, 3\), but sigpy has \(K, T\)"),
        ({"U": PHI}, ("--rank", "4"), r"--rank is 4, but .* has 3 columns"),
        ({"U": PHI * np.nan}, (), r"holds 33 non-finite values"),
        ({"U": np.stack([PHI, PHI])}, (), r"shape \(2, 11, 3\), expected two axes"),
        ({"U": PHI[:, [0, 0]]}, ("--orthonormalise",), r"columns depend on each other"),
        ({"U": PHI}, ("--for", "mrf-fisp"), r"the model has 1040 frames, the basis 11"),
    ],
)
def test_what_is_no_basis_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], options: tuple[str, ...], match: str
) -> None:
    savemat(tmp_path / "x.mat", content)
    assert main(["import", str(tmp_path / "x.mat"), "-o", str(tmp_path / "o"), *options]) == 2
    with pytest.raises(UserError, match=match):
        raise UserError(capsys.readouterr().err)
    assert not (tmp_path / "o.json").exists()


def test_an_orthonormal_basis_of_the_same_space(tmp_path: Path) -> None:
    mixed = PHI @ random(K, K)
    savemat(tmp_path / "x.mat", {"U": mixed})
    assert main(["import", str(tmp_path / "x.mat"), "-o", str(tmp_path / "o"), "--orthonormalise"]) == 0
    phi = Basis.load(tmp_path / "o").phi
    np.testing.assert_allclose(phi @ (phi.conj().T @ mixed), mixed, atol=1e-6 * np.abs(mixed).max())
    # of the first columns alone, too: Gram-Schmidt
    np.testing.assert_allclose(phi[:, 0] * np.linalg.norm(mixed[:, 0]), mixed[:, 0], atol=1e-6 * np.abs(mixed).max())


def test_some_columns_of_all_of_an_svd(tmp_path: Path) -> None:
    full = np.linalg.svd(random(T, 30))[0]
    savemat(tmp_path / "x.mat", {"U": full})
    assert main(["import", str(tmp_path / "x.mat"), "-o", str(tmp_path / "o"), "--rank", "2"]) == 0
    np.testing.assert_allclose(Basis.load(tmp_path / "o").phi, full[:, :2], atol=1e-7)


def test_a_dictionary_for_an_imported_basis(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'name = "mrf-fisp"\nflip_angles = [0.2, 0.5, 0.9, 0.4, 0.3, 0.7, 0.2, 0.1, 0.8, 0.3, 0.5]\n'
    )
    np.save(tmp_path / "phi.npy", PHI.T)
    words = ["--for", str(tmp_path / "s.toml"), "--atoms", "50", "--set", "tr=20 ms"]
    assert main(["import", str(tmp_path / "phi.npy"), "-o", str(tmp_path / "o"), *words]) == 0
    basis = Basis.load(tmp_path / "o")
    dictionary = Dictionary.load(tmp_path / "o", basis)
    signal = basis.model().signal(dictionary.theta)
    np.testing.assert_allclose(dictionary.coeff * dictionary.norm[:, None], signal @ PHI.conj(), atol=1e-6)
