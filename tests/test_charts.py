"""The figures of a sweep show what they say: every line, every point, and the regression."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crb_case import random_data

from crbsvd_plugin import charts
from crbsvd_plugin.advice import Choice, Row
from crbsvd_plugin.assess import Tally
from crbsvd_plugin.model import Batch, Parameter

WEIGHTS = (0.0, 0.25, 1.0)
FIGURES = ("energy", "approximate", "exact", "retained")
CHOICE = Choice(0.25, 4, 0.1, 0.1, True, "")
PARAMETERS = [Parameter("a", "s", 0, 1), Parameter("n", "", 0, 1, nuisance=True), Parameter("b", "1", 0, 1)]


def mean(figure: str, parameter: str, rank: int, weight: float, least: int = 3) -> float:
    """Return a loss that tells all lines and points apart; nothing can be estimated below a rank of `least`."""
    if figure == "energy":
        return 0.3 * 10.0**-rank * (1 + weight)
    if figure != "approximate" and rank < least:
        return float(figure == "exact")
    loss = {"a": 0.5, "b": 0.7}.get(parameter, 0.9) * 2.0**-rank * (1 - weight / 2)
    return {"approximate": 0.9 * loss, "exact": loss, "retained": 1 - loss}[figure]


def rows(names: tuple[str, ...] = ("a", "b"), top: int = 6, weights: tuple[float, ...] = WEIGHTS) -> list[Row]:
    found = []
    for rank in range(1, top + 1):
        for weight in weights:
            for figure in FIGURES:
                for name in ("signal",) if figure == "energy" else names:
                    row = Row(weight, rank, "all", name, figure, mean(figure, name, rank, weight), 0, 0)
                    found += [replace(row, tissue="csf", mean=0.123), row]
    return found


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw, and return the figure and what the function gave; the PNG is looked at on the way."""
    kept: list[Any] = []
    save = charts._save
    monkeypatch.setattr(charts, "_save", lambda figure, path: (kept.append(figure), save(figure, path)))

    def draw(function: Any, *args: Any) -> tuple[Any, Any]:
        path = tmp_path / "x.png"
        given = function(*args, path)
        _check(path, kept[-1])
        return kept[-1], given

    return draw


def _check(path: Path, figure: Any) -> None:
    """Check that the PNG can be read, has its size, and that no panel in it is empty."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG")
    picture = imread(path)
    width, height = figure.get_size_inches() * figure.dpi
    assert picture.shape == (height, width, 4)
    for axis in figure.axes:
        box = axis.get_window_extent()
        y0, y1 = round(height - box.y1), round(height - box.y0)
        inside = picture[y0 + 3 : y1 - 3, round(box.x0) + 3 : round(box.x1) - 3, :3]
        assert inside.size > 100_000
        assert axis.get_title()
        # the grid is light grey: something else is there
        assert np.count_nonzero(inside.min(axis=-1) < 0.6) > 20


def lines(axis: Any) -> list[Any]:
    return [line for line in axis.lines if line.get_linestyle() != "None"]


def test_all_ranks_and_parameters_have_a_line(drawn: Any) -> None:
    figure, _ = drawn(charts.losses, rows(), CHOICE)
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "log", "log", "linear"]
    colours = {}
    for axis, name in zip(figure.axes, FIGURES, strict=True):
        names = ["signal"] if name == "energy" else ["a", "b"]
        expected = [(rank, parameter) for rank in (3, 4, 5, 6) for parameter in names]
        for line, (rank, parameter) in zip(lines(axis), expected, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), WEIGHTS)
            np.testing.assert_array_equal(line.get_ydata(), [mean(name, parameter, rank, w) for w in WEIGHTS])
            assert line.get_linestyle() == ("--" if parameter == "b" else "-")
            assert colours.setdefault(rank, tuple(line.get_color())) == tuple(line.get_color())
        rings = [line for line in axis.lines if line.get_linestyle() == "None"]
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings]
        assert points == [(0.25, mean(name, parameter, 4, 0.25)) for parameter in names]
    assert len(set(colours.values())) == 4
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == ["K = 3", "K = 4", "K = 5", "K = 6", "a", "b", "recommended"]


@pytest.mark.parametrize("chosen", [17, 40])
def test_of_many_ranks_some_and_the_recommended_one(drawn: Any, chosen: int) -> None:
    figure, _ = drawn(charts.losses, rows(top=40), replace(CHOICE, rank=chosen))
    ranks = [int(text.get_text()[4:]) for text in figure.legends[0].get_texts()[:-3]]
    assert {3, chosen, 40} <= set(ranks)
    assert 7 <= len(ranks) <= 8
    assert ranks == sorted(ranks)
    assert len(lines(figure.axes[0])) == len(ranks)
    # losses of rank 40 are below all rounding: on the floor, and not outside of the panel
    assert min(line.get_ydata().min() for line in lines(figure.axes[0])) == 1e-9


def test_a_recommended_rank_that_estimates_nothing_is_shown(drawn: Any) -> None:
    figure, _ = drawn(charts.losses, rows(top=2), replace(CHOICE, rank=2))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["K = 2", "a", "b", "recommended"]


def test_one_weight_one_rank_one_parameter(drawn: Any) -> None:
    one = [row for row in rows(("a",), 3, (0.25,)) if row.rank == 3]
    figure, _ = drawn(charts.losses, one, replace(CHOICE, rank=3))
    assert [len(lines(axis)) for axis in figure.axes] == [1] * 4


def test_many_parameters_are_told_apart_and_one_that_cannot_be_estimated_has_no_line(drawn: Any) -> None:
    names = ("a", "b", "c", "d", "e", "f")
    table = [replace(row, mean=np.nan) if row.parameter == "c" else row for row in rows(names)]
    figure, _ = drawn(charts.losses, table, CHOICE)
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines(figure.axes[2])}
    assert len(styles) == 5
    assert "c" not in [text.get_text() for text in figure.legends[0].get_texts()]


def tallied(rng: np.random.Generator, labels: dict[str, int], parameters: list[Parameter] = PARAMETERS) -> Tally:
    phi = np.linalg.qr(rng.standard_normal((11, 7)) + 1j * rng.standard_normal((11, 7)))[0]
    tally = Tally(parameters, [np.roll(phi, 1, axis=0), phi])
    for label, n in labels.items():
        signal, jac = random_data(rng, n=n, p=len(parameters))
        if n > 2:
            jac[1, -1] = 0  # cannot be estimated
        tally.update(Batch(rng.random((n, len(parameters))), signal, jac, label))
    return tally


def test_the_regression_is_that_of_numpy(drawn: Any, rng: np.random.Generator) -> None:
    tally = tallied(rng, {"wm": 30, "gm": 12})
    figure, regressions = drawn(charts.scatter, tally, 1, replace(CHOICE, rank=6))
    assert list(regressions) == ["a", "b"]
    for axis, name in zip(figure.axes, ("a", "b"), strict=True):
        x, y = (tally.values("all", name, kind, 1, 6).astype(float) for kind in ("approximate", "exact"))
        known = ~np.isnan(x)
        assert np.count_nonzero(~known) == (2 if name == "b" else 0)
        slope, intercept = np.polyfit(x[known], y[known], 1)
        found = regressions[name]
        # two ways to solve a well-conditioned problem of 42 numbers of order 1
        np.testing.assert_allclose([found["slope"], found["intercept"]], [slope, intercept], rtol=1e-10, atol=1e-12)
        residual = y[known] - slope * x[known] - intercept
        assert np.isclose(found["r_squared"], 1 - residual.var() / y[known].var(), rtol=0, atol=1e-12)
        assert found["n"] == np.count_nonzero(known)
        assert axis.get_title() == f"{name}, K = 6, crb weight 0.25"
        points = [line for line in axis.lines if line.get_linestyle() == "None"]
        assert [line.get_label() for line in points] == ["wm", "gm"]
        for line in points:
            for data, kind in ((line.get_xdata(), "approximate"), (line.get_ydata(), "exact")):
                np.testing.assert_array_equal(data, tally.values(line.get_label(), name, kind, 1, 6))
        (line,) = lines(axis)
        np.testing.assert_allclose(line.get_ydata(), slope * line.get_xdata() + intercept, atol=1e-12)
        assert np.ptp(line.get_xdata()) == np.ptp(x[known])
        assert line.get_label().startswith(f"y = {slope:.3f} x {intercept:+.2g}, r")


def test_one_tissue_called_all_one_parameter_one_atom(drawn: Any, rng: np.random.Generator) -> None:
    figure, regressions = drawn(charts.scatter, tallied(rng, {"all": 9}, PARAMETERS[:1]), 0, CHOICE)
    assert [axis.get_title() for axis in figure.axes] == ["a, K = 4, crb weight 0.25"]
    assert regressions["a"]["n"] == 8
    assert figure.axes[0].lines[0].get_label() == "all"
    # no line through one point, nor through points that all lie at 1: rank 1 estimates nothing
    assert drawn(charts.scatter, tallied(rng, {"x": 1}, PARAMETERS[:1]), 0, CHOICE)[1] == {}
    assert drawn(charts.scatter, tallied(rng, {"x": 9}), 0, replace(CHOICE, rank=1))[1] == {}


def test_what_cannot_be_estimated_is_said_in_its_panel(drawn: Any, rng: np.random.Generator) -> None:
    tally = Tally(PARAMETERS, [np.eye(11)[:, :6]])
    signal, jac = random_data(rng, n=5)
    jac[:, 2] = 1j * signal
    tally.update(Batch(rng.random((5, 3)), signal, jac, "x"))
    figure, regressions = drawn(charts.scatter, tally, 0, replace(CHOICE, rank=6))
    assert list(regressions) == ["a"]
    assert [[text.get_text() for text in axis.texts] for axis in figure.axes] == [[], ["cannot be estimated"]]


def test_of_many_points_some_are_drawn_and_all_are_counted(
    drawn: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "_N_POINTS", 10)
    figure, regressions = drawn(charts.scatter, tallied(rng, {"wm": 41, "gm": 10}), 0, replace(CHOICE, rank=6))
    assert [len(line.get_xdata()) for line in figure.axes[0].lines[:2]] == [9, 10]
    assert regressions["a"]["n"] == 51
