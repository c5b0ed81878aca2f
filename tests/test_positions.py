"""Where samples lie: of readouts without a trajectory, with one in a file, and what a third column is."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_case
import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd
from mrd_stream import header, readout, spokes
from wire_case import header_of, readouts_of

from crbsvd_plugin.arrival import Arrivals
from crbsvd_plugin.bart import write_cfl
from crbsvd_plugin.cli import main
from crbsvd_plugin.config import Config
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.mrd import write_raw
from crbsvd_plugin.pipeline import reconstruct_stream
from crbsvd_plugin.positions import Source
from crbsvd_plugin.readouts import Group
from crbsvd_plugin.roles import Roles
from crbsvd_plugin.settings import Site
from crbsvd_plugin.trajectory import radial
from crbsvd_plugin.trajfile import TrajFile

T, N = 6, 8


def sorted_out(items: Any, head: Any, **source: Any) -> Group:
    arrivals = Arrivals(Source(head, **source), n_frames=T, roles=Roles())
    return next(group for one in arrivals.sorted(items) for group in one.box)


def radial_head(kind: str = "goldenangle", n_z: int = 1, **angles: float) -> Any:
    """Return the header of an oversampled scan of 2 N samples; angles make a description."""
    made = header((N, N, n_z), T)
    encoding = made.encoding[0]
    encoding.trajectory = xsd.trajectoryType(kind)
    encoding.encodedSpace.matrixSize.x, encoding.encodedSpace.fieldOfView_mm.x = 2 * N, 2 * N * 2.0
    encoding.encodingLimits.kspace_encoding_step_1 = xsd.limitType(minimum=3, maximum=30, center=0)
    if angles:
        doubles = [xsd.userParameterDoubleType(name=name, value=value) for name, value in angles.items()]
        encoding.trajectoryDescription = xsd.trajectoryDescriptionType(identifier=kind, userParameterDouble=doubles)
    return made


def bare(**fields: Any) -> list[Any]:
    """Return readouts without trajectories, spokes 0 to T - 1 of a header that counts them from 3."""
    fields |= {"center_sample": N}
    return [
        readout(np.ones((2, 2 * N)) * (i + 1), contrast=i, scan_counter=i, kspace_encode_step_1=3 + i, **fields)
        for i in range(T)
    ]


def test_golden_angle_spokes_follow_from_their_numbers() -> None:
    group = sorted_out(bare(), radial_head())
    np.testing.assert_allclose(group.traj, radial(T, N), atol=1e-12)
    assert group.weights is None


def test_angles_come_from_the_description() -> None:
    told = radial_head("radial", angle_increment_deg=30.0, first_angle_deg=-90.0)
    group = sorted_out(bare(), told)
    k = (np.arange(2 * N) - N) / 2
    for number, positions in enumerate(group.traj):
        angle = np.deg2rad(-90 + 30 * number)
        np.testing.assert_allclose(positions[:, 0], k * np.sin(angle), atol=1e-12)
        np.testing.assert_allclose(positions[:, 1], k * np.cos(angle), atol=1e-12)
    golden = sorted_out(bare(), radial_head(first_angle_deg=10.0)).traj
    turn = np.array(
        [[np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))], [-np.sin(np.deg2rad(10)), np.cos(np.deg2rad(10))]]
    )
    np.testing.assert_allclose(golden, radial(T, N) @ turn.T, atol=1e-12)


def test_spokes_run_backwards_discard_and_begin_late() -> None:
    items = bare()
    items[1].set_flag(ismrmrd.ACQ_IS_REVERSE)
    items[2] = readout(np.ones((2, 2 * N - 3)), contrast=2, scan_counter=2, center_sample=N - 3, kspace_encode_step_1=5)
    for item in items:
        item.discard_pre = 1
    group, expected = sorted_out(items, radial_head()), radial(T, N)
    np.testing.assert_allclose(group.traj[0], expected[0, 1:], atol=1e-12)
    # what is discarded first lies at the far end
    np.testing.assert_allclose(group.traj[1], expected[1, -2::-1], atol=1e-12)
    np.testing.assert_allclose(group.traj[2, :-3], expected[2, 4:], atol=1e-12)
    assert group.weights is not None
    np.testing.assert_array_equal(group.weights.sum(axis=1), [15, 15, 12, 15, 15, 15])


def test_a_stack_of_stars_counts_planes() -> None:
    told = radial_head(n_z=4)
    told.encoding[0].encodingLimits.kspace_encoding_step_2 = xsd.limitType(minimum=0, maximum=3, center=1)
    items = bare(kspace_encode_step_2=3)
    group = sorted_out(items, told)
    assert group.shape == (4, N, N)
    np.testing.assert_allclose(group.traj[..., 1:], radial(T, N), atol=1e-12)
    np.testing.assert_allclose(group.traj[..., 0], 2.0, atol=1e-12)


def test_anisotropic_fields_of_view_keep_angles_in_millimetres() -> None:
    """Along y the field of view is half as long: half as many cycles fit into it."""
    told = radial_head()
    told.encoding[0].reconSpace.matrixSize.y, told.encoding[0].reconSpace.fieldOfView_mm.y = N // 2, N * 2.0 / 2
    group = sorted_out(bare(), told)
    np.testing.assert_allclose(group.traj, radial(T, N) * [0.5, 1.0], atol=1e-12)


def _same(items: list[Any]) -> None:
    for item in items:
        item.idx.kspace_encode_step_1 = 4


def _described(identifier: str, **more: float) -> Any:
    made = radial_head("radial", **{"angle_increment_deg": 1.0, **more})
    made.encoding[0].trajectoryDescription.identifier = identifier
    return made


def _low(items: list[Any]) -> None:
    items[3].idx.kspace_encode_step_1 = 2


def _centre(items: list[Any]) -> None:
    items[3].center_sample = 0


def _mixed(items: list[Any]) -> None:
    items[3] = readout(items[3].data, np.ones((2 * N, 2)), contrast=3, scan_counter=3)


@pytest.mark.parametrize(
    ("change", "told", "message"),
    [
        (_same, radial_head(), r"all 6 readouts are spoke 4 \(kspace_encode_step_1\), expected a number for each"),
        (_low, radial_head(), "readout 3 is spoke 2 .*, the limits in the header are 3 to 30"),
        (_centre, radial_head(), r"readout 3 reaches 15 samples from its centre \(0\), expected 8"),
        (_mixed, radial_head(), r"readout 0 has no trajectory \(and 5 of 6 readouts\)"),
        (lambda _: None, radial_head("radial"), r"readout 0 has no trajectory .*--traj-file"),
        (lambda _: None, radial_head("spiral"), r"readout 0 has no trajectory .*--traj-file"),
        (lambda _: None, _described("HargreavesVDS2000"), "description of the header is 'HargreavesVDS2000', expected"),
        (lambda _: None, _described("radial", delay=1.0), "description of the header has 'delay', expected"),
        (lambda _: None, radial_head("radial", first_angle_deg=3.0), r"has angles of \[None, 3.0\], expected"),
        (lambda _: None, radial_head("radial", angle_increment_deg=np.nan), "has angles of"),
    ],
)  # fmt: skip
def test_what_says_too_little_is_refused(change: Any, told: Any, message: str) -> None:
    items = bare()
    change(items)
    with pytest.raises(UserError, match=message) as caught:
        sorted_out(items, told)
    assert "\n" not in str(caught.value)


def test_batches_must_have_positions_from_one_place() -> None:
    """Also where each batch alone would be all right."""
    items = bare()
    for item in items[3:]:
        item.center_sample = N
    longer = readout(np.ones((2, 2 * N + 2)), np.ones((2 * N + 2, 2)), contrast=3, scan_counter=3)
    with pytest.raises(UserError, match="from the header, others from the readouts; expected the same for all"):
        sorted_out([*items[:3], longer], radial_head())


def without_trajectories(items: list[Any]) -> list[Any]:
    found = []
    for item in items:
        head = item.getHead()
        head.trajectory_dimensions = 0
        found.append(ismrmrd.Acquisition(head, item.data.copy(), np.zeros((item.number_of_samples, 0), np.float32)))
    return found


@pytest.mark.parametrize("way", ["header", "file"])
def test_a_scan_without_trajectories_gives_the_image_of_the_scan_with_them(here: Path, way: str) -> None:
    """The simulated scan is a golden-angle one; a file may say what is not known of it, too."""
    with_, options = readouts_of(here / "raw.h5"), []
    told = header_of(here / "raw.h5")
    if way == "file":
        told.encoding[0].trajectory = xsd.trajectoryType.OTHER
        rows = np.stack([item.traj for item in with_ if item.traj.size]).transpose(2, 1, 0)
        write_cfl("shots", np.concatenate([rows, 0 * rows[:1]]).astype(np.complex64))
        options = ["--traj-file", "shots"]
    write_raw("bare.h5", told, without_trajectories(with_))
    # so few spokes hardly determine the images without a penalty
    common = ["b", "--threads", "1", "--lam", "0.5"]
    assert main(["recon", "bare.h5", *common, "-o", "found", *options]) == 0
    assert main(["recon", "raw.h5", *common, "-o", "expected"]) == 0
    one, other = (CoefficientImages.load(here / name).coeff for name in ("found", "expected"))
    if way == "file":
        assert one.tobytes() == other.tobytes()
    # positions in raw data are in single precision, 6e-8 of 16 cycles: phases of 6e-6 at the edge of the image, beside
    # the NUFFT's own 1e-5, and both in data and normal operator
    assert np.linalg.norm(one - other) < 3e-5 * np.linalg.norm(other)


def file(folder: Path, array: np.ndarray) -> str:
    write_cfl(folder / "traj", array.astype(np.complex64))
    return str(folder / "traj")


def in_file(folder: Path, items: list[Any], array: np.ndarray, **source: Any) -> Group:
    return sorted_out(items, header((N, N, 1), T), file=TrajFile(file(folder, array), n_frames=T), **source)


def test_a_file_has_positions_by_frame_and_readout(rng: np.random.Generator, tmp_path: Path) -> None:
    """One of them stands for all, where there is but one; units are those of the setting; it goes before readouts."""
    k = rng.uniform(-0.5, 0.5, (3, 2 * N, 4, 1, 1, T))
    k[2] = 0
    items = spokes(rng, T, N)
    for i, item in enumerate(items):
        item.idx.kspace_encode_step_1, item.discard_pre, item.discard_post = i % 4, 2, 1
    for readouts, frames in ((4, T), (1, T), (4, 1), (1, 1)):
        given = k[:, :, :readouts, :, :, :frames]
        group = in_file(tmp_path, items, given, units="cycles/pixel")
        for i, positions in enumerate(group.traj):
            row = given[:, 2:-1, i % readouts, 0, 0, i % frames]
            np.testing.assert_allclose(positions, N * row[1::-1].T, atol=1e-5)


def _of(*dims: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: np.concatenate([rng.uniform(-4, 4, (2, *dims[1:])), np.zeros((1, *dims[1:]))])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (_of(3, 2 * N + 1, 4), "readout 0 has 16 samples, .*traj has 17 for each: name the trajectory of this scan"),
        (_of(3, 2 * N, 2), "readout 2 has kspace_encode_step_1 = 3, .*traj has 2 readouts"),
        (_of(3, 2 * N, 4, 1, 1, T + 1), "traj has 7 frames, the basis 6"),
        (_of(3, 2 * N, 4, 2), "has the dimensions 3 16 4 2 1 1, expected those of a trajectory"),
        (lambda rng: _of(3, 2 * N, 4)(rng)[:2], "has the dimensions 2 16 4 1 1 1"),
        (lambda rng: _of(3, 2 * N, 4)(rng) * 1j, "values that are no finite real numbers"),
        (lambda rng: _of(3, 2 * N, 4)(rng) * np.nan, "values that are no finite real numbers"),
        (lambda rng: _of(3, 2 * N, 4)(rng) * 0, "trajectory is zero everywhere"),
        (lambda rng: _of(3, 2 * N, 4)(rng) / 8, "it looks like cycles/pixel: say --traj-units cycles/pixel"),
        (lambda rng: rng.uniform(-4, 4, (3, 2 * N, 4)), "trajectory has 3 dimensions, the image 2"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(rng: np.random.Generator, tmp_path: Path, made: Any, message: str) -> None:
    items = spokes(rng, T, N)
    for item, number in zip(items, (0, 1, 3, 2, 0, 1), strict=True):
        item.idx.kspace_encode_step_1 = number
    with pytest.raises(UserError, match=message):
        in_file(tmp_path, items, made(rng))


def test_a_third_column_is_what_it_is_said_to_be(rng: np.random.Generator) -> None:
    plain = spokes(rng, T, N)

    def third(value: Any) -> list[Any]:
        return [
            readout(one.data, np.column_stack([one.traj, np.broadcast_to(value, len(one.traj))]), contrast=i)
            for i, one in enumerate(plain)
        ]

    told, expected = header((N, N, 1), T), sorted_out(plain, header((N, N, 1), T))
    weights = np.abs(np.arange(2 * N) - N) / N
    found = sorted_out(third(weights), told, third="density")
    np.testing.assert_array_equal(found.traj, expected.traj)
    assert found.weights is None  # those of the objective: where the weight is 0 there is a sample nevertheless
    np.testing.assert_array_equal(sorted_out(third(0), told).traj, expected.traj)
    for value, source, message in (
        (weights, {}, "it is never negative: if it is a density weight, say --traj-third density"),
        (weights - 0.5, {}, "further ones being zero$"),
        (
            weights - 0.5,
            {"third": "density"},
            "dimension 3 of the trajectory is negative somewhere",
        ),
    ):
        with pytest.raises(UserError, match=message):
            sorted_out(third(value), told, **source)
    with pytest.raises(UserError, match=r"trajectory has 2 dimensions, the image 2 .* one more for the density weight"):
        sorted_out(plain, told, third="density")


def test_a_volume_may_have_a_fourth_column_and_is_doubted_where_z_is_never_negative(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    k = rng.uniform(-0.5, 0.5, (T, 9, 3)) * [8, 6, 4]
    told = header((8, 6, 4), T)

    def items(positions: np.ndarray) -> list[Any]:
        return [readout(np.ones((2, 9)), positions[i], contrast=i) for i in range(T)]

    weighted = np.concatenate([k, rng.random((T, 9, 1))], axis=2)
    np.testing.assert_allclose(sorted_out(items(weighted), told, third="density").traj, k[..., ::-1], atol=1e-6)
    with caplog.at_level(logging.WARNING):
        sorted_out(items(k), told)
        assert "never negative" not in caplog.text
        sorted_out(items(np.abs(k)), told)
        assert "never negative" not in caplog.text  # nor is anything else
        k[..., 2] = np.abs(k[..., 2])
        sorted_out(items(k), told)
    assert (
        "third column of the trajectory is never negative: if it is a density weight, this is no volume" in caplog.text
    )


def test_hosts_choose_trajectories_beside_the_bases_by_name(here: Path, tmp_path: Path) -> None:
    write_cfl(here / "arms", np.zeros((3, 4, 2), np.complex64))
    host = Site(settings={"basis": "b"}, bases=here)
    assert host.config('{"trajfile": "arms"}').traj_file == str(here / "arms")
    assert host.config('{"trajfile": "none"}').traj_file is None
    assert host.config().traj_file is None
    for name in ("../arms", "/etc/passwd", ".arms", "a/b", "arms\0"):
        with pytest.raises(UserError, match="is no name of a trajectory"):
            host.config(json.dumps({"trajfile": name}))
    with pytest.raises(UserError, match=r"there is no trajectory 'legs' beside the bases, expected legs.cfl and"):
        host.config('{"trajfile": "legs"}')
    # the site's own settings name one of the folder too, or where there is none any file
    assert Site({"basis": "b", "traj_file": "arms"}, bases=here).config().traj_file == str(here / "arms")
    assert Site({"basis": "b", "traj_file": "/x/arms"}).config().traj_file == "/x/arms"
    with pytest.raises(UserError, match="a trajectory cannot be chosen here"):
        Site({"basis": "b"}).config('{"trajfile": "arms"}')
    (here / "arms.cfl").rename(tmp_path / "arms.cfl")
    (here / "arms.cfl").symlink_to(tmp_path / "arms.cfl")
    with pytest.raises(UserError, match=r"arms\.cfl is a link that leads elsewhere"):
        host.config('{"trajfile": "arms"}')


def test_a_missing_file_is_told_before_the_data_are_read(here: Path) -> None:
    def items() -> Any:
        raise AssertionError("asked for")
        yield

    config = Config(basis=str(here / "b"), traj_file="nowhere", fit=False)
    with pytest.raises(UserError, match=r"nowhere\.hdr"):
        next(reconstruct_stream(header((cli_case.MATRIX,) * 2 + (1,), cli_case.N_FRAMES), items(), config))
