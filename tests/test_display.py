"""Colours of maps: the published curve, what is invalid, and pictures that hang upright."""

import subprocess
import sys

import numpy as np
import pytest

from crbsvd_plugin import display
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry

# red, green and blue in the luminance of Rec. 709
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def _frozen(array):
    array = np.asarray(array)
    array.setflags(write=False)
    return array


# --- the curve -----------------------------------------------------------------------------------


def test_window_of_less_than_a_factor_e_is_purely_logarithmic():
    low, high = 1.0, 2.5  # 2.5 / e < 1
    values = low * (high / low) ** np.array([0, 0.25, 0.5, 1])
    # the geometric mean of the window is its middle colour
    np.testing.assert_allclose(display.position(values, (low, high), parameter="T1"), [0, 0.25, 0.5, 1], atol=1e-14)


@pytest.mark.parametrize("low", [0.0, 0.2, 0.3, 0.7])
def test_wider_window_is_a_logarithm_with_its_tangent_below(low):
    high = 2.5
    knee = high / np.e
    share = (knee - low) / (2 * knee - low)  # the published share of colours below the knee

    def at(*values):
        return display.position(_frozen(values), (low, high), parameter="T1")

    np.testing.assert_allclose(at(low, knee, high), [0, share, 1], atol=1e-14)
    # above: equal ratios are equal distances; log(high) - log(knee) is 1, so that sqrt(e) is halfway
    np.testing.assert_allclose(at(knee * np.exp(0.5)), 0.5 * (1 + share), atol=1e-14)
    # below: equal differences are equal distances
    np.testing.assert_allclose(at(low + 0.25 * (knee - low)), 0.25 * share, atol=1e-14)
    # no bend at the knee: one-sided slopes differ by second order in the step, 1/2 step / knee^2
    step = 1e-5
    before, here, after = at(knee - step, knee, knee + step)
    assert abs((after - here) - (here - before)) < step**2 / knee / (2 * knee - low)


def test_values_outside_of_the_window_get_its_ends():
    np.testing.assert_array_equal(display.position([1e-9, 0.1, 3, 1e9], (0.3, 2.5), parameter="T1"), [0, 0, 1, 1])
    np.testing.assert_array_equal(display.position([-5, 0, 9], (-1, 3), parameter="B0"), [0, 0.25, 1])


@pytest.mark.parametrize("window", [(0.5, 0.5), (2, 1), (-0.1, 1), (0, np.inf), (np.nan, 1)])
def test_bad_window_is_refused(window):
    with pytest.raises(UserError, match=r"window .* of T1: expected 0 <= low < high"):
        display.position([1.0], window, parameter="T1")


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parameter", ["T1", "T2", "T2*", "T2star", "T1rho", "B1", "M0"])
def test_luminance_rises_strictly_from_a_dark_valid_colour(parameter):
    table = display.lookup_table(parameter)
    assert table.shape == (256, 3)
    np.testing.assert_array_equal(table[0], 0)
    luminance = table @ _LUMINANCE
    assert luminance[1] > 0.05
    assert (np.diff(luminance) > 0).all()


def test_tables_are_lipari_and_navia_of_their_package():
    # last lines of the text files of cmcrameri 1.x
    np.testing.assert_allclose(display.lookup_table("T1")[-1], [0.992307, 0.959017, 0.856609], atol=1e-6)
    np.testing.assert_allclose(display.lookup_table("T2")[-1], [0.986688, 0.958281, 0.850479], atol=1e-6)
    np.testing.assert_array_equal(display.lookup_table("T1rho"), display.lookup_table("T2"))


@pytest.mark.parametrize("time", ["T1", "T2", "T2*", "T1rho"])
def test_rate_has_the_reversed_table(time):
    forward, backward = display.lookup_table(time), display.lookup_table("R" + time[1:])
    np.testing.assert_array_equal(backward[0], 0)
    np.testing.assert_array_equal(backward[1:-1], forward[:0:-1][1:])
    assert (np.diff(backward[1:] @ _LUMINANCE) < 0).all()


# --- colours of a map ------------------------------------------------------------------------------


def test_invalid_is_black_and_nothing_else_is():
    image = _frozen([0.0, np.nan, np.inf, -1.0, 1e-9, 0.3, 1.0, 2.5, 1e9])
    rgb = display.colours(image, parameter="T1", window=(0.3, 2.5))
    table = np.round(display.lookup_table("T1") * 255).astype(np.uint8)
    np.testing.assert_array_equal(rgb[:4], np.zeros((4, 3)))
    assert (rgb[4:].max(axis=1) > 0).all()
    # under the window as dark as its lower limit, the darkest valid colour; over it the brightest
    np.testing.assert_array_equal(rgb[4:6], table[[1, 1]])
    np.testing.assert_array_equal(rgb[7:], table[[255, 255]])


def test_all_valid_colours_are_used_in_order():
    window = (1.0, 2.5)
    centres = window[0] * 2.5 ** ((np.arange(255) + 0.5) / 255)
    rgb = display.colours(centres, parameter="T2", window=window)
    np.testing.assert_array_equal(rgb, np.round(display.lookup_table("T2")[1:] * 255))


def test_mask_and_shape():
    image = _frozen(np.full((2, 3, 5), 1.0))
    mask = np.ones((2, 3, 5), bool)
    mask[1, 2, 4] = False
    rgb = display.colours(image, parameter="T1", mask=_frozen(mask))
    assert rgb.shape == (2, 3, 5, 3)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb.any(axis=-1), mask)


def test_negative_values_of_other_parameters_are_valid():
    rgb = display.colours([-3.0, 0.0, 3.0], parameter="B0", window=(-3, 3))
    # grey from a tenth of white in 255 steps, the first of which is black
    first = round(255 * (0.1 + 0.9 / 255))
    np.testing.assert_array_equal(rgb, np.repeat([[first], [0], [255]], 3, axis=1))


def test_default_windows():
    assert display.default_window("T1", [7.0]) == (0.3, 2.5)
    assert display.default_window("T2", [7.0]) == (0.02, 0.15)
    np.testing.assert_allclose(display.default_window("R1", [7.0]), (1 / 2.5, 1 / 0.3))
    # robust: neither the invalid zeros nor one wild value count (percentiles 1 and 99 of 0.5 to 1.5)
    values = np.concatenate([np.zeros(500), np.linspace(0.5, 1.5, 1001), [1e6, np.nan]])
    np.testing.assert_allclose(display.default_window("B1", values), (0.51, 1.49), atol=2e-3)
    for constant in ([0.0, 0.0], [2.0, 2.0], [-2.0], []):
        low, high = display.default_window("B1", constant)
        assert low < high


# --- upright -------------------------------------------------------------------------------------

_AXES = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def _affine(codes, size=(1.0, 1.0, 1.0), tilt=0.0):
    """Voxel x, y, z run towards the three letters; turned a little about an oblique axis."""
    axis = np.array([1, 2, -2]) / 3
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(tilt) * cross + (1 - np.cos(tilt)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([_AXES[c] for c in codes]).T * size
    affine[:3, 3] = (-17, 23, 31)
    return affine


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize(
    ("codes", "sides", "plane"),
    [
        ("LPS", "RLAP", "axial, radiological"),
        ("RAS", "RLAP", "axial, radiological"),
        ("RPI", "RLAP", "axial, radiological"),
        ("ALS", "RLAP", "axial, radiological"),
        ("LIA", "RLSI", "coronal, radiological"),
        ("SRP", "RLSI", "coronal, radiological"),
        ("PIL", "APSI", "sagittal"),
        ("SAR", "APSI", "sagittal"),
    ],
)
def test_the_named_side_is_where_the_patient_has_it(codes, sides, plane, tilt):
    affine = _affine(codes, tilt=tilt)
    view = display.upright(affine)
    assert view.sides == sides
    assert view.caption.startswith(plane)
    # brightness = RAS coordinate along the horizontal and the vertical of the picture
    shape = (2, 5, 7)
    z, y, x = np.indices(shape)
    ras = np.einsum("ij,jzyx->zyxi", affine[:3, :3], np.array([x, y, z], float))
    sheet, _ = display.montage(ras[:1], view)
    left_to_right = sheet[0, -1] - sheet[0, 0]
    top_to_bottom = sheet[-1, 0] - sheet[0, 0]
    assert left_to_right @ _AXES[sides[1]] > 0.8 * np.linalg.norm(left_to_right)  # cos(0.3) = 0.955
    assert top_to_bottom @ _AXES[sides[3]] > 0.8 * np.linalg.norm(top_to_bottom)


def test_an_axial_scan_in_the_axes_of_mrd_is_shown_as_it_is():
    view = display.upright(Geometry((7, 5, 1), (1, 1, 5)).affine)
    assert (view.swap, view.flip, view.sides) == (False, (False, False), "RLAP")


def test_aspect_is_that_of_the_voxels_as_hung():
    assert display.upright(_affine("LPS", (1, 2, 9))).aspect == pytest.approx(2)
    assert display.upright(_affine("ALS", (1, 2, 9))).aspect == pytest.approx(0.5)


def test_montage_holds_every_slice_once():
    slices = _frozen(np.broadcast_to(np.arange(1, 6)[:, None, None, None], (5, 3, 4, 3)))
    sheet, places = display.montage(slices, display.upright(None))
    assert [number for number, *_ in places] == [0, 1, 2, 3, 4]
    for number, row, column in places:
        np.testing.assert_array_equal(sheet[row : row + 3, column : column + 4], number + 1)
    assert (sheet > 0).sum() == slices.size
    numbers = [number for number, *_ in display.montage(np.ones((90, 2, 2, 3)), display.upright(None))[1]]
    assert len(numbers) == 20
    assert (numbers[0], numbers[-1]) == (0, 89)


# --- pictures ------------------------------------------------------------------------------------


def _pixels(path):
    from matplotlib.image import imread

    return np.round(imread(path)[..., :3] * 255).astype(int)


def test_picture_shows_the_colours_of_the_map_the_right_way_up(tmp_path):
    # voxel x to the left, y to anterior: row 0 is the back of the head and goes down
    image = np.full((4, 5), 0.5)
    image[0, 0], image[3, 4] = 0.0, 2.0
    path = tmp_path / "T1map.png"
    display.save_png(path, _frozen(image), parameter="T1", affine=_affine("LAS"))
    # 600 pixels for 5 columns; the map begins 30 pixels from the left and 55 above the lower edge
    pixels, zoom = _pixels(path), 120
    top = pixels.shape[0] - 55 - 4 * zoom
    seen = pixels[top + zoom // 2 :: zoom, 30 + zoom // 2 :: zoom][:4, :5]
    np.testing.assert_array_equal(seen, display.colours(image, parameter="T1")[::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["T1map.png"]


def test_pictures_are_drawn_without_pyplot(tmp_path):
    # pyplot keeps global state; in a process of its own, as other tests may load it
    script = (
        "import sys; from crbsvd_plugin import display\n"
        "assert 'matplotlib' not in sys.modules\n"
        "display.save_png(sys.argv[1], [[1.0, 2.0]], parameter='T1')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.png"], check=True, timeout=60)
    assert (tmp_path / "a.png").is_file()


def test_bar_is_logarithmic_and_in_milliseconds():
    ticks = display.bar_ticks((300, 2500), parameter="T1")
    labels = [label for _, label in ticks]
    assert labels == ["\u2264 300", "500", "700", "1000", "2000", "\u2265 2500"]
    places = [place for place, _ in ticks]
    assert places == sorted(places)
    # the bar has the scale of the map, whatever the unit
    values = [0.3, 0.5, 0.7, 1, 2, 2.5]
    np.testing.assert_allclose(places, display.position(values, (0.3, 2.5), parameter="T1"), atol=1e-14)
    assert [label for _, label in display.bar_ticks((0.74, 1.26), parameter="B1")][1:-1] == [
        "0.8",
        "0.9",
        "1",
        "1.1",
        "1.2",
    ]


@pytest.mark.parametrize(
    ("parameter", "shape", "window", "unit"),
    [
        ("T2", (3, 7, 5), None, None),
        ("R2*", (1, 9), None, None),
        ("B$1_{", (5, 3), (0.5, 1.5), "$"),  # not to be read as a formula
        ("M0", (2, 3, 4), None, "arbitrary"),
        ("T1", (1, 1, 1), (0, 4), "s"),
    ],
)
def test_any_shape_and_name_can_be_drawn(tmp_path, parameter, shape, window, unit):
    image = _frozen(np.linspace(0, 2, int(np.prod(shape))).reshape(shape))
    display.save_png(tmp_path / "a.png", image, parameter=parameter, window=window, unit=unit)
    assert _pixels(tmp_path / "a.png").std() > 0


def test_a_file_is_replaced_only_with_force(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"a\.png exists already: .*--force"):
        display.save_png(path, np.ones((2, 2)), parameter="T1")
    assert path.read_text() == "mine"
    display.save_png(path, np.ones((2, 2)), parameter="T1", force=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_wrong_shape_is_our_defect(tmp_path):
    with pytest.raises(ValueError, match=r"image has shape \(4,\)"):
        display.save_png(tmp_path / "a.png", np.ones(4), parameter="T1")
