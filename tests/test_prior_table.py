"""Priors that are written down as TOML tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crbsvd_plugin.spec
from crbsvd_plugin.distribution import Grid, Normal, Uniform, fixed
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.prior import Prior, Tissue
from crbsvd_plugin.spec import resolve

MODEL = 'name = "mrf-fisp"\nflip_angles = [0.1, 0.2]\nb1 = true\n'
BRAIN = """
[prior]
name = "brain"
ordered = [["T2", "T1"]]
[[prior.tissues]]
label = "wm"
n = 400
weight = 2
T1 = { kind = "normal", mean = "800 ms", sd = "100 ms", low = "0.5 s", high = 1.2 }
T2 = { kind = "log-uniform", low = "20 ms", high = "200ms" }
B1 = { kind = "uniform", low = 0.8, high = 1.2 }
[[prior.tissues]]
label = "csf"
T1 = { kind = "grid", low = 3, high = "5 s", n = 4, spacing = "log" }
T2 = { kind = "grid", low = 1.5, high = 2.5, n = 3 }
B1 = 1
[[prior.tissues]]
label = "fat"
n = 10
T1 = "380 ms"
T2 = { kind = "normal", mean = 0.1, sd = "10 ms" }
B1 = 1.0
"""
EXPECTED = Prior(
    "brain",
    (
        Tissue(
            "wm", {"T1": Normal(0.8, 0.1, 0.5, 1.2), "T2": Uniform(0.02, 0.2, "log"), "B1": Uniform(0.8, 1.2)}, 2.0, 400
        ),
        Tissue("csf", {"T1": Grid(3.0, 5.0, 4, "log"), "T2": Grid(1.5, 2.5, 3), "B1": fixed(1.0)}),
        Tissue("fat", {"T1": fixed(0.38), "T2": Normal(0.1, 0.01), "B1": fixed(1.0)}, 1.0, 10),
    ),
    (("T2", "T1"),),
)


def read(folder: Path, text: str, settings: list[str] | None = None) -> Any:
    path = folder / "spec.toml"
    path.write_text(MODEL + text)
    return resolve(str(path), settings or [])


def table(prior: Prior, key: str) -> str:
    """Write a prior as TOML, from the plain values of a sidecar."""

    def inline(values: dict[str, Any]) -> str:
        return "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in values.items() if v is not None) + "}"

    spec = json.loads(json.dumps(prior.spec, allow_nan=False))
    lines = [f"[{key}]", f"name = {json.dumps(spec['name'])}", f"ordered = {json.dumps(spec['ordered'])}"]
    for tissue in spec["tissues"]:
        lines += [f"[[{key}.tissues]]", f"label = {json.dumps(tissue['label'])}", f"weight = {tissue['weight']}"]
        lines += [f"n = {tissue['n']}"] if tissue["n"] is not None else []
        lines += [f"{name} = {inline(values)}" for name, values in tissue["values"].items()]
    return "\n".join(lines)


def test_a_table_is_the_prior_that_it_describes(tmp_path: Path) -> None:
    spec = read(tmp_path, BRAIN)
    assert spec.prior == EXPECTED
    assert spec.fit_prior.name == "t1-t2"
    sizes = {atoms.label: atoms.theta.shape for atoms in spec.prior.atoms(spec.model.parameters)}
    assert sizes == {"wm": (400, 3), "csf": (12, 3), "fat": (10, 3)}
    # the name of a table without one is that of the key
    assert (
        read(tmp_path, BRAIN.replace('name = "brain"', "").replace("prior", "fit_prior")).fit_prior.name == "fit_prior"
    )


def test_what_a_sidecar_says_can_be_read_again(tmp_path: Path) -> None:
    spec = read(tmp_path, table(EXPECTED, "prior") + "\n" + table(EXPECTED, "fit_prior"))
    assert spec.prior == spec.fit_prior == EXPECTED
    for one, other in zip(spec.prior.atoms(spec.model.parameters), EXPECTED.atoms(spec.model.parameters), strict=True):
        np.testing.assert_array_equal(one.theta, other.theta)


def test_settings_replace_a_table(tmp_path: Path) -> None:
    assert read(tmp_path, BRAIN, ["prior=t1-t2"]).prior.name == "t1-t2"
    inline = 'prior={tissues = [{label = "x", T1 = "1 s", T2 = {kind = "grid", low = 0.1, high = 0.2, n = 5}, B1 = 1}]}'
    spec = read(tmp_path, BRAIN, [inline])
    assert spec.prior.name == "prior"
    assert spec.prior.size(spec.model.parameters) == 5
    assert resolve("mrf-fisp", [inline.replace(", B1 = 1", "")]).prior.size(resolve("mrf-fisp").model.parameters) == 5


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('name = "brain"', 'nam = "brain"', r"prior has 'nam', expected one of: tissues, name, ordered .*'name'\?"),
        ('name = "brain"', "name = 5", "prior: name is 5, expected a text in quotes"),
        ("[[prior.tissues]]", "[[prior.tissue]]", r"prior has 'tissue', expected one of.*did you mean 'tissues'\?"),
        ('[["T2", "T1"]]', '["T2", "T1"]', r"""ordered is \['T2', 'T1'\], expected pairs .*\[\["T2", "T1"\]\]"""),
        ('["T2", "T1"]', '["T2", "T11"]', r"ordered has 'T11', expected one of: T1, T2, B1 \(did you mean 'T1'\?\)"),
        ('["T2", "T1"]', '["T1", "T2"]', "no atom of 'wm' has T1 <= T2"),
        ('label = "wm"', 'lable = "wm"', r"tissue '' has 'lable', expected one of: label, .*did you mean 'label'\?"),
        ('label = "wm"', "", "tissue '' has no label, expected label, T1, T2, B1"),
        ('label = "wm"', "label = 1", "label is 1, expected a text"),
        ('label = "wm"', 'label = "csf"', "prior 'brain' has 2 tissues 'csf'"),
        ('label = "wm"', 'label = "all"', "label 'all' stands for all tissues together, expected another one"),
        ("n = 400", "n = 0", "tissue 'wm' has n = 0"),
        ("n = 400", "n = 1.5", "tissue 'wm': n is 1.5, expected a whole number"),
        ("n = 400", "n = true", "n is True, expected a whole number"),
        ("n = 400", "n = 1000000000", "tissue 'wm' has 1000000000 atoms, expected at most 100000000"),
        ("n = 400", "", "tissue 'wm' has no n, which says how many values of T1 to draw"),
        ("weight = 2", "weight = -2", "tissue 'wm' has weight -2, expected above 0"),
        ("weight = 2", 'weight = "2"', "tissue 'wm': weight: '2' is not a quantity, expected a plain number"),
        ("weight = 2", "weight = inf", "tissue 'wm' has weight inf"),
        ("B1 = 1\n", "", "tissue 'csf' has no B1, expected label, T1, T2, B1"),
        ("B1 = 1\n", "B1 = 1\nB11 = 1\n", r"tissue 'csf' has 'B11', expected one of: label, .*did you mean 'B1'\?"),
        ("B1 = 1\n", 'B1 = "1 s"\n', "tissue 'csf': B1: '1 s' is not a quantity, expected a plain number"),
        ("B1 = 1\n", "B1 = nan\n", "tissue 'csf': B1 is nan, expected a finite number"),
        ("B1 = 1\n", "B1 = true\n", "tissue 'csf': B1: 'True' is not a quantity, expected a plain number"),
        ("B1 = 1\n", "B1 = [1]\n", r"tissue 'csf': B1: '\[1\]' is not a quantity"),
        ("B1 = 1\n", "B1 = 5\n", "'csf' has B1 from 5 to 5, but the model is defined from 0.1 to 2; narrow the prior"),
        ('"800 ms"', '"5 deg"', "tissue 'wm': T1: mean: '5 deg' is not a quantity, expected a number and one of s, ms"),
        ('"380 ms"', '"380 Ms"', "tissue 'fat': T1: '380 Ms' is not a quantity, expected a number and one of s, ms"),
        ('"normal", mean = 0.1', '"norm", mean = 0.1', r"T2: kind 'norm' is unknown.*did you mean 'normal'"),
        ('kind = "normal", mean = 0.1', "mean = 0.1", "T2: kind None is unknown, expected one of: grid, uni"),
        (', sd = "10 ms"', "", "tissue 'fat': T2: normal has no sd, expected kind, mean, sd"),
        ('sd = "10 ms"', 'std = "10 ms"', "tissue 'fat': T2: normal has 'std', expected one of: kind, mean, sd, low"),
        ('sd = "10 ms"', "sd = 0", "tissue 'fat': T2: normal distribution of mean 0.1 and standard deviation 0"),
        ('sd = "10 ms"', "sd = 0.3", r"'fat' has T2 from -0\.\d+ to 0\.\d+ s, but the model is defined from 0.001"),
        ("high = 1.2 }", "high = 0.4 }", "tissue 'wm': T1: normal .* from 0.5 to 0.4, expected the lower limit first"),
        ('"200ms"', '"2 ms"', "tissue 'wm': T2: uniform distribution from 0.02 to 0.002, expected finite limits"),
        ('low = "20 ms"', "low = 0", "T2: uniform distribution from 0 to 0.2 with logarithmic spacing"),
        ("n = 3 }", "n = 2.0 }", "tissue 'csf': T2: n is 2.0, expected a whole number"),
        (", n = 3 }", "}", "tissue 'csf': T2: grid has no n, expected kind, low, high, n"),
        ("n = 3 }", "n = 0 }", "tissue 'csf': T2: grid has n = 0"),
        ("n = 3 }", "n = 100000000 }", "tissue 'csf' has 400000000 atoms, expected at most"),
        ('spacing = "log"', 'spacing = "lin"', "tissue 'csf': T1: grid has spacing 'lin', expected 'linear' or 'log'"),
        ('spacing = "log"', "spacing = 1", "tissue 'csf': T1: grid has spacing 1, expected"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_understood(tmp_path: Path, old: str, new: str, match: str) -> None:
    assert old in BRAIN
    with pytest.raises(UserError, match=match) as error:
        read(tmp_path, BRAIN.replace(old, new))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[prior]", "prior has no tissues, expected tissues"),
        ("[prior]\ntissues = []", "prior 'prior' has no tissues, expected at least one"),
        ("[prior]\ntissues = [1]", r"prior: tissues is \[1\], expected tables, each under \[\[prior.tissues\]\]"),
        ("[fit_prior.tissues]", r"fit_prior: tissues is {}, expected tables, each under \[\[fit_prior.tissues\]\]"),
        ("[prior]\nordered = 5\ntissues = []", "prior: ordered is 5, expected pairs"),
        ("[[prior]]", r"prior \[{}\] is unknown, expected a table or one of"),
    ],
)
def test_what_is_no_table_of_a_prior(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        read(tmp_path, text)


def test_a_parameter_that_the_model_has_only_with_a_setting(tmp_path: Path) -> None:
    assert read(tmp_path, BRAIN, ["b1=true"]).prior == EXPECTED
    with pytest.raises(UserError, match=r"tissue 'wm' has 'B1', expected one of: label, T1, T2, n, weight"):
        read(tmp_path, BRAIN, ["b1=false"])


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "priors.md").read_text(encoding="utf-8")
    path = tmp_path / "spec.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    spec = resolve(str(path))
    wm, csf = spec.prior.atoms(spec.model.parameters)
    assert (wm.label, len(wm.theta)) == ("wm", 8000)
    assert (csf.label, len(csf.theta), csf.weight) == ("csf", 60, 0.5)
    assert np.all(csf.theta[:, 1] == 2.0)
    # and that of the module
    text = str(crbsvd_plugin.spec.__doc__).split("sidecar of a basis:\n")[1]
    path.write_text('name = "mrf-fisp"\n' + text, encoding="utf-8")
    assert [atoms.label for atoms in resolve(str(path)).prior.atoms(spec.model.parameters)] == ["wm", "csf"]
