"""Factors of the squared losses of blocks, by hand, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.weighting import Kind, Weighting

BLOCKS = [(label, name) for label in ("water", "fat") for name in ("signal", "T1", "T2")]


@pytest.mark.parametrize(("kind", "power"), [("svd", 2), ("loss", 1)])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_signals_against_derivatives(kind: Kind, power: int, weight: float) -> None:
    factors = Weighting(weight, kind).factors(BLOCKS)
    assert list(factors) == BLOCKS
    for (_, name), factor in factors.items():
        assert factor == pytest.approx(((1 - weight) if name == "signal" else weight) ** power, rel=1e-15)


def test_weights_of_parameters_and_classes_multiply_squared_losses() -> None:
    classes: dict[Any, float] = {"fat": 5.0, ("fat", "T2"): 0.0, ("water", "signal"): 2.0, ("fat", "T1"): 0.5}
    factors = Weighting(0.25, parameters={"T1": 3.0}, classes=classes).factors(iter(BLOCKS))
    assert factors == pytest.approx({
        ("water", "signal"): 2 * 0.5625, ("water", "T1"): 3 * 0.0625, ("water", "T2"): 0.0625,
        ("fat", "signal"): 5 * 0.5625, ("fat", "T1"): 5 * 3 * 0.5 * 0.0625, ("fat", "T2"): 0,
    }, rel=1e-15)  # fmt: skip


def test_a_class_weight_changes_no_other_class() -> None:
    plain = Weighting(0.5).factors(BLOCKS)
    weighted = Weighting(0.5, classes={"fat": 0.0}).factors(BLOCKS)
    for key in BLOCKS:
        assert weighted[key] == (plain[key] if key[0] == "water" else 0)


def test_weights_are_recorded_as_plain_values() -> None:
    classes: dict[Any, float] = {"fat": 5.0, ("fat", "T2"): 0.0}
    info = Weighting(0.25, "loss", {"T1": 3.0}, classes).info
    assert json.loads(json.dumps(info)) == info == {
        "crb_weight": 0.25, "weighting": "loss", "parameter_weights": {"T1": 3.0},
        "class_weights": {"fat": 5.0, "fat:T2": 0.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("weight", "options", "match"),
    [
        (1.1, {}, "crb weight is 1.1, expected 0"),
        (-0.1, {}, "crb weight is -0.1"),
        (float("nan"), {}, "crb weight is nan"),
        (0.3, {"kind": "lost"}, "weighting is 'lost', expected 'svd'"),
        (0.3, {"parameters": {"T1": -1.0}}, r"weight of 'T1' is -1.0, expected 0 to 1e\+12"),
        (0.3, {"parameters": {"T1": float("nan")}}, "weight of 'T1' is nan"),
        (0.3, {"classes": {"fat": float("inf")}}, "weight of 'fat' is inf"),
        (0.3, {"classes": {("fat", "T1"): -2.0}}, "weight of 'fat:T1' is -2.0"),
    ],
)
def test_weights_out_of_range(weight: float, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as e:
        Weighting(weight, **options)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"parameters": {"T3": 1.0}}, r"parameter weight of 'T3': unknown, expected one of \['T1', 'T2'\]$"),
        ({"parameters": {"signal": 1.0}}, "parameter weight of 'signal': unknown"),
        ({"classes": {"watre": 1.0}}, "class weight of 'watre': unknown.*did you mean 'water'"),
        ({"classes": {("fta", "T1"): 1.0}}, "did you mean 'fat'"),
        ({"classes": {("fat", "signl"): 1.0}}, "did you mean 'signal'"),
    ],
)
def test_unknown_names(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as e:
        Weighting(0.3, **options).factors(BLOCKS)
    assert "\n" not in str(e.value)
