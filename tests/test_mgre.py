"""Multi-echo gradient echoes against BART, closed forms of the bounds, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models_case
import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin import crb, models
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.spec import resolve

Array = NDArray[Any]
TIMES = (0.0, 0.0011, 0.002, 0.0047, 0.006, 0.0093, 0.012, 0.0171)
# columns: R2* in 1/s, fat fraction, w0 in rad/s
TISSUES = np.array([[20.0, 0.1, 60.0], [45.0, 0.5, -350.0], [150.0, 0.95, 0.0]])


def model_of(**settings: Any) -> Any:
    return models.build({"name": "mgre", "echo_times": TIMES} | settings)


@pytest.mark.bart
@pytest.mark.parametrize("fat", [False, True])
def test_it_equals_bart(fat: bool, tmp_path: Path) -> None:
    """`bart signal -G`: echoes at n TE, with --fat a fifth of fat with the peaks below (those of 0.8.00).

    Its gamma is 42.577 MHz/T: 4e-4 Hz/T of 3.8 ppm are nothing; the rest is single precision of exp(i phase).
    """
    spacing, n, hertz, t2star = 0.0017, 12, 35.0, 0.03
    kind = ["-G", *(["--fat"] if fat else [])]
    (theirs,) = models_case.bart(
        tmp_path, "signal", *kind, "-0", f"{hertz}:{hertz}:1", "-2", f"{t2star}:{t2star}:1", "-e", spacing, "-n", n
    )
    model = models.build(
        {
            "name": "mgre",
            "echo_times": [spacing * i for i in range(n)],
            "fat": fat,
            "fat_shifts": [-3.8, -3.4, -2.6, -1.94, -0.39, 0.6],
            "fat_amplitudes": [0.086, 0.537, 0.165, 0.046, 0.052, 0.114],
        }
    )
    w0 = 2 * np.pi * hertz
    ours = model.signal(np.array([[1 / t2star, 0.2, w0] if fat else [1 / t2star, w0]]))[0]
    assert np.abs(ours - theirs).max() < 1e-4


def test_only_the_real_fisher_matrix_tells_decay_from_precession() -> None:
    """Over the complex numbers ds/dR2* and ds/dw0 are one direction, with and without fat: no bound at all."""
    for fat in (True, False):
        columns = [0, 1, 2] if fat else [0, 2]
        signal, jac = model_of(fat=fat).signal_and_jacobian(TISSUES[:, columns])
        kept = [0, len(columns) - 1]
        assert np.isinf(crb.orthogonalise(signal, jac, targets=kept, fisher="complex").bound).all()
        assert np.isfinite(crb.orthogonalise(signal, jac, fisher="real").bound).all()


def test_the_bound_of_decay_is_the_spread_of_echo_times() -> None:
    """Without fat: 1 / sum |s|^2 (t - mean t)^2, of R2* and of w0 alike; that of two real, orthogonal pairs."""
    signal, jac = model_of(fat=False).signal_and_jacobian(TISSUES[:, [0, 2]])
    weight, t = np.abs(signal) ** 2, np.array(TIMES)
    mean = (weight @ t) / weight.sum(axis=1)
    spread = (weight * (t - mean[:, None]) ** 2).sum(axis=1)
    bound = crb.orthogonalise(signal, jac).bound
    assert bound == pytest.approx(np.stack([1 / spread] * 2, axis=1), rel=1e-10)


def test_the_first_echo_and_late_ones() -> None:
    """t = 0: everything is in phase, 1 whatever the tissue, and nothing depends on R2* or w0; late: nothing is left."""
    signal, jac = model_of(echo_times=[0.0, 9.0]).signal_and_jacobian(TISSUES)
    assert np.abs(signal[:, 0] - 1).max() < 1e-15
    assert np.abs(jac[:, :, 0]).max() < 1e-15
    assert np.abs(signal[:, 1]).max() < 1e-70


def test_pure_water_and_pure_fat() -> None:
    """At half a turn of a single peak they have opposite signs; half and half, they cancel."""
    field, shift = 1.5, -3.5
    half_turn = 0.5 / (42.577478518 * field * abs(shift))
    model = model_of(echo_times=[half_turn], field=field, fat_shifts=[shift], fat_amplitudes=[3.0])
    signal = model.signal(np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.0]]))[:, 0]
    assert np.abs(signal - [1, -1, 0]).max() < 1e-12


def test_without_fat_off_resonance_conjugates() -> None:
    """So a basis may count conjugates, and is real; with fat it must not."""
    theta = TISSUES[:, [0, 2]]
    water = model_of(fat=False)
    assert np.abs(water.signal(theta * [1, -1]) - water.signal(theta).conj()).max() < 1e-15
    assert resolve("mgre", ["fat=false"]).conjugates
    assert not resolve("mgre").conjugates
    assert np.abs(model_of().signal(TISSUES * [1, 1, -1]) - model_of().signal(TISSUES).conj()).max() > 0.1


def test_no_more_coefficients_than_echoes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rank that the model suggests ends at the number of echoes, where a basis loses nothing."""
    out = str(tmp_path / "b")
    assert main(["basis", "mgre", "--set", "echo_times=[0.001, 0.002, 0.003, 0.0045, 0.006]", "-o", out,
                 "--train", "100", "--atoms", "none"]) == 0  # fmt: skip
    assert main(["info", out]) == 0
    assert "complex basis, 5 frames, 5 coefficients" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["echo_times=[]"], "mgre: echo_times is empty"),
        (["echo_times=[-0.001, 0.002]"], "mgre: echo_times is -0.001 s, expected 0 to 10"),
        (["echo_times=[1.2, 2.4, 36.0]"], "mgre: echo_times is 36 s"),
        (["echo_times=[inf]"], "holds 1 non-finite"),
        (["field=0"], "mgre: field is 0 T, expected above 0"),
        (["fat_shifts=[-3.4]"], "mgre: 1 fat_shifts and 6 fat_amplitudes, expected one of each per peak"),
        (["fat_shifts=[-3.4]", "fat_amplitudes=[0]"], "fat_amplitudes are .0.0., expected positive ones"),
    ],
)
def test_settings_that_are_refused(settings: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        resolve("mgre", settings)
    assert "\n" not in str(error.value)
