"""BART's files: what we write and read, what BART makes of it, and damaged ones."""

import tracemalloc

import numpy as np
import pytest

from crbsvd_plugin import bart
from crbsvd_plugin.errors import UserError

DATA = "# Dimensions\n2 3\n"


def random_complex(shape, seed=0):
    rng = np.random.default_rng(seed)
    array = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1, 7, 3), (5,), (4, 3, 2), (1, 4, 1, 1), (2,) * 16, (1,)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_round_trip_keeps_values_and_listed_dimensions(tmp_path, shape, order):
    array = np.asarray(random_complex(shape), order=order)
    bart.write_cfl(tmp_path / "a", array)
    for mapped in (False, True):
        back = bart.read_cfl(tmp_path / "a", mapped=mapped)
        assert back.shape == shape
        assert back.dtype == np.complex64
        np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.cfl", "<c8"), array.ravel(order="F"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128, np.int64])
def test_other_types_are_converted_in_chunks(tmp_path, monkeypatch, dtype):
    array = (10 * random_complex((3, 5, 1, 17)).real).astype(dtype)
    monkeypatch.setattr(bart.cfl, "_CHUNK", 40)  # 2 rows of 15: the last chunk is shorter
    bart.write_cfl(tmp_path / "a", array)
    np.testing.assert_array_equal(bart.read_cfl(tmp_path / "a"), array.astype(np.complex64))


def test_c_ordered_images_are_written_without_a_copy(tmp_path):
    coeff = random_complex((4, 256, 384))
    view = coeff.T[:, :, None, None, None, None, :]
    tracemalloc.start()
    try:
        bart.write_cfl(tmp_path / "coeff", view)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the only buffer is that of the stream (128 KiB at most, depending on Python); a copy takes 3 MiB
    assert peak < 0.2 * coeff.nbytes
    assert bart.read_cfl(tmp_path / "coeff").shape == (384, 256, 1, 1, 1, 1, 4)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "coeff.cfl", np.complex64), coeff.ravel())


def test_suffixes_are_appended(tmp_path):
    for number in (5, 6):
        bart.write_cfl(tmp_path / f"basis_0.{number}", np.full(2, number))
    assert {path.name for path in tmp_path.iterdir()} == {f"basis_0.{n}.{s}" for n in (5, 6) for s in ("cfl", "hdr")}
    assert bart.read_cfl(tmp_path / "basis_0.5")[0] == 5


def test_headers_with_other_sections(tmp_path):
    array = random_complex((2, 3))
    bart.write_cfl(tmp_path / "a", array)
    for text in (
        "# Dimensions\n2 3 \n# Command\nphantom -x 2 # 7 7\n# Files\n >a\n# Creator\nBART v0.8.00\n",
        "# Command\nfoo \N{LATIN SMALL LETTER E WITH ACUTE}\n# Dimensions\r\n2 3\r\n",
        "# Dimensions\n2 3",
    ):
        (tmp_path / "a.hdr").write_bytes(text.encode("latin-1"))
        np.testing.assert_array_equal(bart.read_cfl(tmp_path / "a"), array)


@pytest.mark.parametrize(
    ("header", "n_bytes", "message"),
    [
        (DATA, 47, r"a\.cfl is truncated: it has 47 bytes, expected 48 for the dimensions 2 3"),
        (DATA, 0, r"truncated: it has 0 bytes, expected 48"),
        (DATA, 56, r"a\.cfl is too long: it has 56 bytes, expected 48"),
        (DATA, None, r"cannot read .*a\.cfl \(No such file.*without the suffix: check the name"),
        (None, 48, r"cannot read .*a\.hdr \(No such file"),
        ("", 48, r"a\.hdr is not a BART header: no line '# Dimensions' followed by sizes"),
        ("# Dimensions\n", 48, r"no line '# Dimensions' followed by sizes"),
        ("# Dimensions\n# Command\n2 3\n", 48, r"no line '# Dimensions' followed by sizes"),
        ("\x89HDF\x00\xff", 48, r"no line '# Dimensions'"),
        ("# Dimensions\n2 x 3\n", 48, r"dimensions read '2 x 3', expected positive whole numbers"),
        ("# Dimensions\n2 0 3\n", 0, r"expected positive whole numbers"),
        ("# Dimensions\n-2 -3\n", 48, r"expected positive whole numbers"),
        ("# Dimensions\n" + "1 " * 18, 8, r"lists 18 dimensions, expected at most 17"),
        ("# Dimensions\n999999999999 999999999999\n", 48, r"more than any file can hold"),
        ("# Dimensions\n99999999999 2\n", 48, r"truncated: it has 48 bytes, expected 1599999999984"),
    ],
)
def test_damaged_files(tmp_path, header, n_bytes, message):
    if header is not None:
        (tmp_path / "a.hdr").write_bytes(header.encode("latin-1"))
    if n_bytes is not None:
        (tmp_path / "a.cfl").write_bytes(bytes(n_bytes))
    with pytest.raises(UserError, match=message) as caught:
        bart.read_cfl(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "a.hdr").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*a\.hdr \(Is a directory"):
        bart.read_cfl(tmp_path / "a")


@pytest.mark.parametrize("shape", [(0, 3), (1,) * 18])
def test_arrays_that_bart_cannot_hold(tmp_path, shape):
    with pytest.raises(ValueError, match="positive numbers"):
        bart.write_cfl(tmp_path / "a", np.zeros(shape))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_blocks_must_fill_the_dimensions(tmp_path, n_blocks):
    message = rf"{n_blocks * 6} numbers were given for the dimensions \(3, 2, 2\), expected 12"
    with pytest.raises(ValueError, match=message):
        bart.write_cfl_blocks(tmp_path / "a", (3, 2, 2), [np.ones((2, 3))] * n_blocks)
    assert not (tmp_path / "a.hdr").exists()


@pytest.mark.bart
def test_bart_reads_what_we_write_and_we_what_it_writes(tmp_path):
    array = random_complex((1, 1, 1, 1, 1, 7, 3))
    bart.write_cfl(tmp_path / "basis_0.5", array)
    shown = bart.run(["show", "-m", "basis_0.5"], folder=tmp_path, threads=1)
    dims = next(line for line in shown.splitlines() if line.startswith("AoD:")).split()[1:]
    assert dims[:7] == ["1", "1", "1", "1", "1", "7", "3"]
    assert set(dims[7:]) == {"1"}
    bart.run(["copy", "basis_0.5", "copy"], folder=tmp_path, threads=1)
    back = bart.read_cfl(tmp_path / "copy")
    assert back.shape == array.shape + (1,) * 9
    np.testing.assert_array_equal(back.reshape(array.shape), array)


@pytest.mark.bart
def test_fmac_expands_coefficients_to_the_time_series(tmp_path):
    phi, coeff = random_complex((7, 3)), random_complex((3, 4, 5), seed=1)
    bart.write_cfl(tmp_path / "phi", phi[None, None, None, None, None])
    bart.write_cfl(tmp_path / "coeff", coeff.T[:, :, None, None, None, None, :])
    bart.run(["fmac", "-s", "64", "phi", "coeff", "series"], folder=tmp_path, threads=1)
    series = bart.read_cfl(tmp_path / "series").reshape(5, 4, 7, order="F").T
    expected = np.einsum("tk,kyx->tyx", phi, coeff)
    # K = 3 products and sums in float32
    assert np.abs(series - expected).max() < 6 * np.finfo(np.float32).eps * np.abs(expected).max()
    conjugated = np.einsum("tk,kyx->tyx", phi.conj(), coeff)
    assert np.linalg.norm(series - conjugated) > 0.5 * np.linalg.norm(expected)
