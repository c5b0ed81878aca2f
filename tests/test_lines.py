"""Cartesian raw data without trajectories: where their samples lie, and images from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd
from mrd_stream import header, readout

from crbsvd_plugin import Basis, CartesianOperator, coils, threads
from crbsvd_plugin.config import Config
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.lines import is_cartesian, line_positions
from crbsvd_plugin.pipeline import reconstruct_stream

T, K, C = 5, 2, 2


def cartesian_header(shape: tuple[int, int, int], *, oversampling: int = 1, **centres: int) -> xsd.ismrmrdHeader:
    """Return a header of lines for an image of (x, y, z) voxels; `centres` are those of the limits."""
    made = header(shape, T)
    encoding = made.encoding[0]
    encoding.trajectory = xsd.trajectoryType.CARTESIAN
    encoding.encodedSpace.matrixSize.x = oversampling * shape[0]
    encoding.encodedSpace.fieldOfView_mm.x = oversampling * encoding.reconSpace.fieldOfView_mm.x
    for i, n in ((1, shape[1]), (2, shape[2])):
        name = f"kspace_encoding_step_{i}"
        limit = xsd.limitType(minimum=0, maximum=n - 1, center=centres.get(name, n // 2))
        setattr(encoding.encodingLimits, name, limit)
    return made


@pytest.mark.parametrize("shape", [(8, 6, 1), (7, 9, 5)])
@pytest.mark.parametrize("oversampling", [1, 2])
def test_lines_lie_where_a_fourier_transform_has_them(shape: tuple[int, int, int], oversampling: int) -> None:
    """Sample s of line l is point (s - s_0, l - c) of the encoded grid; discarded samples are none."""
    n_x = oversampling * shape[0]
    made = cartesian_header(shape, oversampling=oversampling)
    items = [
        readout(
            np.zeros((1, n_x)), kspace_encode_step_1=a, kspace_encode_step_2=b, center_sample=n_x // 2, discard_pre=1,
            discard_post=2,
        )
        for a, b in ((0, 0), (3, shape[2] - 1))
    ]  # fmt: skip
    image = (shape[1], shape[0]) if shape[2] == 1 else shape[::-1]
    fov = (made.encoding[0].reconSpace.fieldOfView_mm.x, made.encoding[0].reconSpace.fieldOfView_mm.y, 5.0 * shape[2])
    found = line_positions(
        made, [item.getHead() for item in items], n_x - 3, shape=image, fov=fov[len(image) - 1 :: -1]
    )
    assert found.shape == (2, n_x - 3, len(image))
    x = (np.arange(1, n_x - 2) - n_x // 2) / oversampling
    for row, (a, b) in zip(found, ((0, 0), (3, shape[2] - 1)), strict=True):
        np.testing.assert_allclose(row[:, -1], x, atol=1e-12)
        np.testing.assert_allclose(row[:, -2], a - shape[1] // 2, atol=1e-12)
        if len(image) == 3:
            np.testing.assert_allclose(row[:, 0], b - shape[2] // 2, atol=1e-12)


def scan(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[list[Any], np.ndarray, np.ndarray, np.ndarray]:
    """Return lines in a mask of its own for every frame, the basis, the coils and the images."""
    n_x, n_y, n_z = shape
    image = (n_y, n_x) if n_z == 1 else (n_z, n_y, n_x)
    phi = np.linalg.qr(rng.standard_normal((T, K)) + 1j * rng.standard_normal((T, K)))[0]
    grid = np.stack(np.meshgrid(*(np.arange(n) / n - 0.5 for n in image), indexing="ij"))
    blob = np.exp(-12 * np.sum(grid**2, axis=0))
    coeff = np.stack([blob, 0.5j * blob * np.cos(4 * grid[-1])])
    sens = np.stack([np.ones(image), 0.6 + 0.4j * np.cos(2 * grid[-2])])
    sens /= np.linalg.norm(sens, axis=0)
    mask = rng.random((T, *image[:-1])) < 0.6
    mask[:3] = True  # so that every point is told by its frames alone
    whole = np.broadcast_to(mask[..., None], (T, *image))
    ksp = CartesianOperator(whole, phi=phi, sens=sens, dtype=np.complex128).forward(coeff)
    items = []
    for frame, *line in np.argwhere(mask):
        step = {"kspace_encode_step_1": line[-1], "kspace_encode_step_2": line[0] if n_z > 1 else 0}
        items.append(
            readout(
                ksp[(slice(None), frame, *line)], contrast=frame, center_sample=n_x // 2, scan_counter=len(items),
                sample_time_us=5.0, **step,
            )
        )  # fmt: skip
    return items, phi, sens, coeff


@pytest.mark.parametrize("shape", [(24, 20, 1), (16, 15, 12)])
def test_images_from_lines_are_those_that_were_encoded(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    """With the true coils nothing is left but the rounding of the NUFFT, 1e-5, times the condition of the masks."""
    items, phi, sens, coeff = scan(rng, shape)
    Basis(phi, np.ones(K)).save(tmp_path / "b")
    monkeypatch.setattr(coils.LowResolution, "sensitivities", lambda *_: sens.astype(np.complex64))
    config = Config(basis=str(tmp_path / "b"), fit=False, iterations=60)
    (found,) = reconstruct_stream(cartesian_header(shape), items, config)
    assert np.linalg.norm(found.coeff - coeff) < 1e-3 * np.linalg.norm(coeff)


def test_images_from_lines_with_coils_from_the_data(rng: np.random.Generator, tmp_path: Path) -> None:
    """Up to the phase of the virtual coil, where the object is; coils of a slice of 24 x 20 are right to 1 %."""
    items, phi, _, coeff = scan(rng, (24, 20, 1))
    Basis(phi, np.ones(K)).save(tmp_path / "b")
    config = Config(basis=str(tmp_path / "b"), fit=False, iterations=30)
    (found,) = reconstruct_stream(cartesian_header((24, 20, 1)), items, config)
    phase = np.exp(-1j * np.angle(np.sum(coeff.conj() * found.coeff, axis=0)))
    bright = np.abs(coeff[0]) > 0.3
    error = (found.coeff * phase - coeff)[:, bright]
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(coeff[:, bright])


@pytest.mark.parametrize("n_x", [8, 9])
@pytest.mark.parametrize("centre", [0, 3, 4])
def test_a_line_that_runs_backwards_has_the_positions_of_the_line_turned_round(n_x: int, centre: int) -> None:
    """Partial echoes too; what is discarded first lies at the far end."""
    made = cartesian_header((n_x, 6, 1))
    fov = (12.0, 2.0 * n_x)  # see `header`

    def positions(**fields: Any) -> np.ndarray:
        item = readout(np.zeros((1, n_x)), center_sample=centre, kspace_encode_step_1=1, **fields)
        return line_positions(made, [item.getHead()], n_x - 3, shape=(6, n_x), fov=fov)[0]

    forwards = positions(discard_pre=2, discard_post=1)
    np.testing.assert_array_equal(forwards[:, 1], np.arange(2, n_x - 1) - centre)
    backwards = positions(discard_pre=1, discard_post=2, flag=ismrmrd.ACQ_IS_REVERSE)
    np.testing.assert_array_equal(backwards, forwards[::-1])


@pytest.mark.parametrize("shape", [(24, 20, 1), (17, 20, 1)])
def test_images_from_lines_of_both_directions(
    rng: np.random.Generator, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    """Every other line is stored as it would be acquired backwards: the image is the same, but for rounding."""
    items, phi, _, _ = scan(rng, shape)
    Basis(phi, np.ones(K)).save(tmp_path / "b")
    config = Config(basis=str(tmp_path / "b"), fit=False, iterations=8, lam=0.1)
    with threads.limit(1):
        (expected,) = reconstruct_stream(cartesian_header(shape), items, config)
        for item in items[::2]:
            item.data[:] = item.data[:, ::-1].copy()
        (wrong,) = reconstruct_stream(cartesian_header(shape), items, config)
        for item in items[::2]:
            item.set_flag(ismrmrd.ACQ_IS_REVERSE)
        (found,) = reconstruct_stream(cartesian_header(shape), items, config)
    size = np.linalg.norm(expected.coeff)
    # NUFFTs add the samples in another order: 1e-7 of the sums, which eight iterations amplify
    assert np.linalg.norm(found.coeff - expected.coeff) < 1e-5 * size
    assert np.linalg.norm(wrong.coeff - expected.coeff) > 0.1 * size


def test_readouts_of_other_kinds_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    items, phi, _, _ = scan(rng, (8, 8, 1))
    Basis(phi, np.ones(K)).save(tmp_path / "b")

    def run(made: xsd.ismrmrdHeader) -> Callable[[], Any]:
        return lambda: next(reconstruct_stream(made, items, Config(basis=str(tmp_path / "b"), fit=False)))

    radial = cartesian_header((8, 8, 1))
    radial.encoding[0].trajectory = xsd.trajectoryType.RADIAL
    assert not is_cartesian(radial, 0)
    with pytest.raises(UserError, match="has no trajectory"):
        run(radial)()
    without = cartesian_header((8, 8, 1))
    without.encoding[0].encodedSpace = None
    with pytest.raises(UserError, match="in encodedSpace"):
        run(without)()
