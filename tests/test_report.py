"""The verb `report`: what stands on the page, that it is what was found, and that nothing in it can run or load."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cli_case
import numpy as np
import pytest
from report_case import EVIL, Read, build, certified, changed, rank_of, renamed

import crbsvd_plugin as crb
from crbsvd_plugin import bart, costs, evidence, models, paste, report
from crbsvd_plugin.advice import Choice
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.footprint import GIB, IMPORTS, Problem
from crbsvd_plugin.plots import library

SECTIONS = [
    "Recommendation", "The basis", "Energy and CRB loss", "Approximate against exact bounds", "Certificate",
    "Basis functions", "How many coefficients for this scan", "Bias and standard deviation",
    "Memory and time against the rank", "Lines to paste", "What is not on this page",
]  # fmt: skip
FIGURE = {
    "exact": "loss, exact bound B_ec",
    "approximate": "loss, approximate bound B_ac",
    "retained": "kept, B_u / B_ec",
}
STATISTIC = {"mean": "mean", "median": "median", "worst_decile": "worst tenth"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of one sequence, to be copied and not changed."""
    return build(tmp_path_factory.mktemp("results"))


@pytest.fixture
def folder(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(results, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the command in this process, and return the one line that it says."""
    yield from cli_case.refuser(folder, capsys)


def made(*paths: str) -> Read:
    """Make a report through the command, and read it."""
    assert main(["report", *paths, "-o", "page.html", "--force"]) == 0
    return Read.of(Path("page.html").read_text(encoding="utf-8"))


def content(name: str) -> dict[str, Any]:
    return json.loads(Path(name, f"{name}.json").read_text())


def percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def close(shown: list[float | None], expected: list[float | None]) -> None:
    """Compare values of six digits; None only where nothing can be estimated."""
    assert [value is None for value in shown] == [value is None for value in expected]
    for one, other in zip(shown, expected, strict=True):
        assert one is None or other is None or math.isclose(one, other, rel_tol=6e-6, abs_tol=1e-9)


def test_all_sections_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(folder, "sweep", "certain", certified)
    page = made("study", "b", "rank", "certain")
    assert capsys.readouterr() == ("", "")
    assert page.headings == SECTIONS[:-1]
    chosen = content("sweep")["recommended"]
    take = f"Take --rank {chosen['rank']} --crb-weight {chosen['crb_weight']:g}: its worst parameter loses"
    assert take.lower() in page.text.lower() or "No basis keeps the budget" in page.text
    assert f"Rule: {chosen['rule']}." in page.text
    # the check of convergence, in words
    assert page.text.count("of the training fingerprints its subspace turns by") == 2
    assert Basis.load("b").digest in page.text
    assert "3 coefficients. Rule: least." in page.text


def test_losses_of_every_switch_are_those_of_the_sweep(folder: Path) -> None:
    page, rows = made("sweep"), content("sweep")["rows"]
    cases = {(r["tissue"], r["parameter"], r["figure"]) for r in rows}
    assert len(cases) == 4 * (1 + 2 * 3)
    by_rank, by_weight = page.figures["Against the rank"], page.figures["Against the weight"]
    for tissue, parameter, figure in cases:
        for statistic, label in STATISTIC.items():
            chosen = {
                "Parameter": "signal energy" if parameter == "signal" else parameter, "Over": label,
                "Tissue": "all tissues" if tissue == "all" else tissue,
                "Figure": FIGURE.get(figure, "kept, B_u / B_ec"),
            }  # fmt: skip
            found = {
                (r["crb_weight"], r["rank"]): percent(r[statistic])
                for r in rows
                if (r["tissue"], r["parameter"], r["figure"]) == (tissue, parameter, figure)
            }
            if figure != "retained":
                found = {key: None if value is None else max(value, 1e-7) for key, value in found.items()}
            view = by_rank.view(**chosen)
            assert view["data"]["x"] == [[1, 2, 3, 4, 5]] * 2
            for weight, y in zip((0, 0.5), view["data"]["y"], strict=True):
                close(y, [found[weight, k] for k in range(1, 6)])
            assert view["layout"]["yaxis.type"] == ("linear" if figure == "retained" else "log")
            view = by_weight.view(**chosen)
            for k, y in zip(range(1, 6), view["data"]["y"], strict=True):
                close(y, [found[weight, k] for weight in (0, 0.5)])
    # every setting shows something, the signals for any figure
    assert all(by_rank.view(**setting) for setting in page.settings("Against the rank"))


def test_the_tables_say_the_same(folder: Path) -> None:
    page, found = made("sweep"), content("sweep")
    chosen = found["recommended"]
    table = next(table for table in page.tables if table[0][0] == f"K (weight {chosen['crb_weight']:g})")
    assert len(table) == 6
    rows = {(r["crb_weight"], r["rank"], r["tissue"], r["parameter"], r["figure"]): r["mean"] for r in found["rows"]}
    for k, *cells in table[1:]:
        for head, cell in zip(table[0][1:], cells, strict=True):
            parameter, tissue = head.removesuffix(" [%]").split(", ")
            case = (tissue, "signal", "energy") if parameter == "energy" else (tissue, parameter, "exact")
            expected = percent(rows[chosen["crb_weight"], int(k), *case])
            assert cell == "-" if expected is None else math.isclose(float(cell), expected, rel_tol=6e-3)


def test_approximate_against_exact(folder: Path) -> None:
    page, found = made("sweep"), content("sweep")
    figure = page.figures["All weights and ranks"]
    rows = {tuple(r.values())[:5]: r for r in found["rows"]}
    for setting in page.settings("All weights and ranks"):
        data = figure.view(**setting)["data"]
        tissue = setting["Tissue"].replace("all tissues", "all")
        statistic = next(name for name, label in STATISTIC.items() if label == setting["Over"])
        for i, weight in enumerate((0, 0.5)):
            for axis, kind in (("x", "approximate"), ("y", "exact")):
                case = [rows[weight, k, tissue, setting["Parameter"], kind][statistic] for k in range(1, 6)]
                close(data[axis][i], [None if v is None else max(100 * v, 1e-7) for v in case])
        # the last one is where both are the same
        assert data["x"][-1] == data["y"][-1]
    (points,) = (one for title, one in page.figures.items() if title.startswith("Single fingerprints"))
    for name in ("T1", "T2"):
        view = points.view(Parameter=name)
        for i, trace in enumerate(points.content["data"][:3]):
            close(view["data"]["x"][i], [100 * v for v in found["points"][name][trace["name"]][0]])
            close(view["data"]["y"][i], [100 * v for v in found["points"][name][trace["name"]][1]])
        line, (x, y) = found["regressions"][name], (view["data"][axis][3] for axis in "xy")
        np.testing.assert_allclose(y, line["slope"] * np.array(x) + 100 * line["intercept"], rtol=2e-5, atol=1e-5)
        assert f"= {line['r_squared']:.4f}, over {line['n']} fingerprints" in view["said"]
    with Path("sweep/regressions.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    (table,) = (table for table in page.tables if "slope" in table[0])
    assert len(table) == 1 + len(lines)
    for row, line in zip(table[1:], lines, strict=True):
        assert row[:2] == [line["rank"], f"{float(line['crb_weight']):g}"]
        assert math.isclose(float(row[3]), float(line["slope"]), abs_tol=6e-5)


def test_the_columns_of_the_basis(folder: Path) -> None:
    basis, figure = Basis.load("b"), made("b", "sweep").figures["Columns of phi"]
    (view,) = figure.content["views"].values()
    np.testing.assert_allclose(np.transpose(view["data"]["y"]), basis.phi, rtol=6e-6, atol=1e-9)
    assert figure.switches == []
    # without a basis, those that are recommended
    found = content("sweep")
    (view,) = made("sweep").figures["Columns of phi"].content["views"].values()
    assert view["data"]["y"] == found["functions"]["real"]
    assert len(view["data"]["y"]) == found["recommended"]["rank"]


def test_a_complex_basis_without_a_sidecar(folder: Path, rng: np.random.Generator) -> None:
    phi = np.linalg.qr(rng.standard_normal((1101, 3)) + 1j * rng.standard_normal((1101, 3)))[0]
    Basis(phi, np.ones(3)).save("c")
    Path("c.json").unlink()
    page = made("c")
    assert "Where it comes from is not known" in page.text
    figure = page.figures["Columns of phi"]
    stored = Basis.load("c").phi[::3].T
    for part, expected in (("real part", stored.real), ("imaginary part", stored.imag), ("magnitude", abs(stored))):
        # six digits, of values of six digits
        np.testing.assert_allclose(figure.view(Part=part)["data"]["y"], expected, rtol=1.1e-5, atol=1e-9)
    assert "for a volume of 160 x 150 x 120 voxels" in page.text
    assert "a complex basis" in page.text


def test_the_study(folder: Path) -> None:
    page, rows = made("study"), content("study")["rows"]
    cases = {(r["parameter"], r["fingerprint"], r["crb_weight"], r["rank"]): r for r in rows}
    labels = ["T1 0.8 s, T2 0.05 s", "T1 1.4 s, T2 0.1 s"]
    for title, key in (("Bias", "bias"), ("Standard deviation", "sd")):
        figure = page.figures[title]
        assert dict(figure.switches)["Fingerprint"] == labels
        for name in ("T1", "T2"):
            for i, label in enumerate(labels):
                data = figure.view(Parameter=name, Fingerprint=label)["data"]
                for w, weight in enumerate((0, 0.5)):
                    of = [cases[name, i, weight, k] for k in (3, 4)]
                    close(data["y"][w], [r[key] for r in of])
                    close(data["error_y"][w]["array"], [r[f"{key}_se"] for r in of])
                    if key == "sd":
                        close(data["y"][2 + w], [r["crb_compressed"] for r in of])
                        close(data["y"][4], [r["crb"] for r in of])
    assert "20 noisy measurements of each fingerprint at an SNR of 50" in page.text


def test_the_coefficients_for_a_scan(folder: Path) -> None:
    figure, rows = made("rank").figures["Error against the rank"], rank_of(folder)["rows"]
    for name in ("T1", "T2"):
        for tissue in ("gm+wm", "csf"):
            of = [r for r in rows if (r["parameter"], r["tissue"]) == (name, tissue)]
            y = figure.view(Parameter=name, Tissue=tissue)["data"]["y"]
            for i, key in enumerate(("noise", "leak", "total")):
                close(y[i], [percent(r[key]) for r in of])
    assert figure.content["layout"]["shapes"][0]["x0"] == 3
    assert "with the sampling of a<b>.h5: noise" in made("rank").text


def test_certificates(folder: Path) -> None:
    path = changed(folder, "sweep", "certain", certified)
    figure = made(path).figures["Cost against the rank"]
    (_, weights), *_ = figure.switches
    assert sorted(weights) == ["0", "0.5"]
    assert float(weights[0]) == content("sweep")["recommended"]["crb_weight"]
    for weight in weights:
        cost, bound = figure.view(Weight=weight)["data"]["y"]
        close(cost, [100 * (0.2 + float(weight)) / k for k in range(1, 6)])
        close(bound, [None, *(10 / k for k in range(2, 6))])
    basis = Basis.load("b")
    facts = {"worst": False, "energy_loss": None, "cost": 0.021, "start": 0.022, "least": 0.0205}
    facts |= {"cost_held_out": 0.0211, "start_held_out": 0.0221}
    info = {**basis.info, "method": "exact", "exact": facts}
    Basis(basis.phi, basis.singular_values, info).save("e")
    page = made("e")
    assert "Certificate" in page.headings
    assert (
        "Weighted loss with exact bounds: 2.1 %, of CRB-SVD 2.2 %, of no basis of this rank less than 2.05 %; "
        "held out 2.11 % and 2.21 %." in page.text
    )
    assert "methodexact" in page.text
    assert "crb weight0.3" in page.text
    # at an energy loss there is no weight, and it is not the basis of the sweep
    Basis(basis.phi, basis.singular_values, {**info, "exact": {**facts, "energy_loss": 0.02}}).save("limited")
    page = made("limited", "sweep")
    assert "Mean CRB loss at an energy loss of 2 % with exact bounds: 2.1 %" in page.text
    assert "crb weight0.3" not in page.text
    assert "The basis limited is another one: rank 4, exact bounds, energy loss 2.00 %." in page.text


@pytest.mark.parametrize(
    ("path", "sections", "commands"),
    [
        ("b", {1, 5}, ["sweep", "study", "rank"]),
        ("sweep", {0, 1, 2, 3, 4, 5}, ["basis", "study", "rank"]),
        ("study", {1, 7}, ["basis", "sweep", "rank"]),
        ("rank", {1, 6}, ["basis", "sweep", "study"]),
    ],
)
def test_what_is_not_there_is_left_out_and_said(
    folder: Path, path: str, sections: set[int], commands: list[str]
) -> None:
    page = made(path)
    assert page.headings == [SECTIONS[i] for i in sorted(sections | {8, 9, 10})]
    said = page.text[page.text.rindex(SECTIONS[10]) :]
    assert list(dict.fromkeys(re.findall(r"crbsvd (basis|sweep|study|rank)\b", said))) == commands


def test_results_in_one_folder(folder: Path) -> None:
    for name in ("study", "rank"):
        for path in Path(name).iterdir():
            shutil.copy(path, "sweep")
    page = made("sweep", "b")
    assert {"Against the rank", "Bias", "Error against the rank", "Columns of phi"} <= page.figures.keys()


def test_names_are_text_whatever_they_are(folder: Path) -> None:
    path = changed(folder, "sweep", "renamed", renamed)
    page = made(path)
    kinds = [tag for tag, _ in page.tags]
    n_figures = len(page.figures)
    assert n_figures == 8
    assert kinds.count("script") == 2 + n_figures
    assert "img" not in kinds
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    # it is all there, as text
    assert f"Basis for {EVIL}" in page.text
    assert f"Rule: {EVIL}." in page.text
    options = dict(page.figures["Against the rank"].switches)
    assert EVIL in options["Tissue"]
    assert "</script>T2" in options["Parameter"]
    data = page.figures["Against the rank"].view(Parameter="</script>T2", Tissue=EVIL)
    assert data["layout"]["yaxis.title.text"] == "loss of the CRB of &lt;/script&gt;T2 [%]"
    (points,) = (one for title, one in page.figures.items() if title.startswith("Single"))
    names = [trace["name"] for trace in points.content["data"]]
    assert not [name for name in names if "<" in name]
    assert "&lt;script&gt;alert" in "".join(names)


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    page = made("sweep", "b", "study", "rank")
    loading = [
        (tag, name, value)
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster", "background")
    ]
    assert loading
    assert all(tag == "a" and value and value.startswith("#s") for tag, _, value in loading)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    # the script that draws is there once
    assert [script for script in page.scripts if script == library()] == [page.scripts[0]]
    assert len(page.scripts) == 2
    text = Path("page.html").read_text(encoding="utf-8")
    assert "http" not in text.replace(library(), "").replace("http-equiv", "")
    # a browser runs these scripts and no other, and loads nothing
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'; style-src 'unsafe-inline'; "
        "img-src data: blob:"
    )
    # it can be read without: a sentence and a table for every plot
    assert sum(a.get("role") == "img" and bool(a.get("aria-label")) for _, a in page.tags) == len(page.figures)
    assert len(page.tables) == len(page.figures) + 1
    assert all(len(table) > 1 and len({len(row) for row in table}) == 1 for table in page.tables)
    assert f"{len(library().encode()) / 1e6:.1f} MB of this page are the script that draws" in page.text
    assert Path("page.html").stat().st_size < len(library().encode()) + 1e6


ERRORS: list[tuple[tuple[str, ...], str]] = [
    (("nothing",), "nothing is no basis and no folder that sweep, study or rank has written; check the name"),
    ((".",), ". is no basis and no folder that"),
    (("spec.toml",), "spec.toml is no basis"),
    (("sweep", "b", "sweep"), "sweep and sweep are both of the verb sweep; a report shows one of each"),
    (("b", "b"), "b and b are both of the verb basis"),
    (("sweep", "-o", "sweep"), "sweep is a folder, expected the name of a file"),
    (("sweep", "-o", "b.json"), "b.json exists already: choose another name, or say --force"),
    (("sweep", "-o", ""), "the name is empty"),
    (("sweep", "-o", "spec.toml/page.html"), "spec.toml"),
    ((), "Missing argument 'PATH...'"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_what_the_user_can_mend(refused: Callable[..., str], arguments: tuple[str, ...], message: str) -> None:
    output = () if "-o" in arguments else ("-o", "page.html")
    assert message in refused("report", *arguments, *output)


def set_to(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets content[keys[0]][keys[1]]... to the last of the keys."""

    def change(found: Any) -> None:
        *path, last, value = keys
        for key in path:
            found = found[key]
        found[last] = value

    return change


DAMAGE = [
    ("sweep", lambda found: found.pop("rows"), "Object missing required field `rows`"),
    ("sweep", set_to("rows", []), "the recommended basis is not among the rows"),
    ("sweep", set_to("recommended", "rank", 9), "the recommended basis is not among the rows"),
    ("sweep", set_to("rows", 0, "rank", "many"), "Expected `int`"),
    ("sweep", set_to("functions", "real", 0, []), "have not as many values as there are frames"),
    ("sweep", set_to("format", "crbsvd-sweep/9"), "has format 'crbsvd-sweep/9', expected 'crbsvd-sweep/1'"),
    ("sweep", set_to("files", "sweep.png", "0"), "does not match"),
    ("sweep", set_to("rows", 0, "rank", 10**30), "Expected `int`"),
    ("sweep", set_to("rows", 0, "rank", 10**400), "is not valid JSON (int too large to convert to float)"),
    ("sweep", set_to("rows", 0, "mean", float("nan")), "is not valid JSON (NaN is no number of JSON)"),
    ("sweep", set_to("rows", 0, "mean", 1e308), "Expected `float` <= 1e+300"),
    ("sweep", set_to("points", "T1", "csf", [[]]), "Expected `array` of length 2"),
    ("sweep", set_to("points", "T1", "csf", [[0.1], []]), "not as many exact losses as approximate ones"),
    ("sweep", set_to("regressions", "T2", {"slope": 1.0}), "Object missing required field `intercept`"),
    ("study", set_to("rows", 0, "parameter", "<script>"), "a fingerprint lacks a parameter that others have"),
    ("study", set_to("rows", []), "the rows are not those of the fingerprints"),
    ("study", set_to("rows", 0, "fingerprint", 7), "the rows are not those of the fingerprints"),
    ("study", set_to("fingerprints", 0, [1.0]), "have not as many values as there are parameters"),
    ("rank", set_to("rows", []), "there are no rows"),
    ("rank", set_to("recommended", None), "Expected `int`"),
]


@pytest.mark.parametrize(("name", "change", "message"), DAMAGE)
def test_damaged_results(folder: Path, refused: Callable[..., str], name: str, change: Any, message: str) -> None:
    path = changed(folder, name, "damaged", change)
    assert message in refused("report", path, "-o", "page.html")


@pytest.mark.parametrize(
    "change",
    [
        set_to("info", "crb_weight", "<script>"),
        set_to("info", "prior", []),
        set_to("info", "n_atoms", {"csf": "many"}),
        set_to("info", "held_out", "csf", {}),
        set_to("info", "held_out", "csf", "T1", "exact", [1]),
        lambda found: found["info"]["held_out"]["csf"]["T1"].pop("approximate"),
        set_to("info", "exact", {"cost": 0.1}),
        set_to("info", []),
        set_to("singular_values", 3),
        set_to("singular_values", 0, "<script>"),
    ],
)
def test_damaged_bases(folder: Path, refused: Callable[..., str], change: Any) -> None:
    content = json.loads(Path("b.json").read_text())
    change(content)
    Path("b.json").write_text(json.dumps(content))
    assert "b.json is not what it was written as" in refused("report", "b", "-o", "page.html")


def test_what_is_no_json(folder: Path, refused: Callable[..., str]) -> None:
    for text in ("{", "[" * 100_000, '{"format": 1' + "0" * 5000 + "}"):
        Path("rank/rank.json").write_text(text)
        assert "rank.json is not valid JSON" in refused("report", "rank", "-o", "page.html")
    Path("sweep/regressions.csv").unlink()
    assert "regressions.csv is missing" in refused("report", "sweep", "-o", "page.html")


def test_different_sequences(folder: Path, refused: Callable[..., str]) -> None:
    other = changed(folder, "study", "other", set_to("model", "te", 0.004))
    said = refused("report", "sweep", other, "-o", "page.html")
    assert f"sweep and {other} are of different sequences (both mrf-fisp, but with another te)" in said
    other = changed(folder, "rank", "third", set_to("model", {"name": "fse"}))
    assert "b and " + other + " are of different sequences (mrf-fisp and fse)" in refused(
        "report", other, "b", "-o", "page.html"
    )
    # what says nothing of its sequence goes with all
    silent = changed(folder, "rank", "silent", lambda found: found.pop("model"))
    assert made(silent, "b").headings


def test_plotly_is_missing(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert "needs the package plotly: pip install 'crbsvd-plugin[report]'" in refused(
        "report", "sweep", "-o", "new/page.html"
    )


def test_the_page_replaces_another_only_when_told(folder: Path, refused: Callable[..., str]) -> None:
    made("b")
    first = Path("page.html").read_bytes()
    assert "page.html exists already" in refused("report", "sweep", "-o", "page.html")
    made("sweep")
    assert Path("page.html").read_bytes() != first
    # the same once more has the same bytes
    made("b")
    assert Path("page.html").read_bytes() == first


def test_what_is_left_of_a_failure_is_the_former_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("b")
    before = cli_case.listing(folder)
    monkeypatch.setattr(report, "html", lambda found: "\ud800")  # no text that can be written
    with pytest.raises(UnicodeEncodeError):
        report.write(["b"], "page.html", force=True)
    assert cli_case.listing(folder) == before


def test_what_a_sequence_is_called() -> None:
    assert paste.spec_of(models.build({"name": "mrf-fisp"}).spec) == "mrf-fisp"
    assert paste.spec_of({**models.build({"name": "mrf-fisp"}).spec, "te": 0.004}) == "SPEC"
    assert paste.spec_of({"name": "my_model.py:MyModel"}) == "SPEC"
    assert paste.spec_of({"name": ["mrf-fisp"]}) == "SPEC"
    assert paste.spec_of(None) == "SPEC"
    made_first = paste.lines(None, "mrf-fisp", Choice(0.4, 5, 0.1, 0.1, True, ""))
    assert next(iter(made_first.values())) == "crbsvd basis mrf-fisp --rank 5 --crb-weight 0.4 -o NAME"


def test_the_lines_are_lines_of_the_command(folder: Path) -> None:
    """Every verb takes its arguments, and a name of a strange folder arrives as it is."""
    strange = "a b's/c"
    lines = [line for text in paste.lines(strange, "SPEC", None).values() for line in text.splitlines()]
    lines += [next(iter(paste.lines(None, "mrf-fisp", Choice(0.4, 5, 0.1, 0.1, True, "")).values()))]
    verbs = []
    for line in lines:
        if not line.startswith("crbsvd "):
            continue
        _, verb, *arguments = shlex.split(line.split(" < ")[0])
        command = importlib.import_module(f"crbsvd_plugin.cli.{verb}").command
        given = command.make_context(verb, arguments).params
        verbs.append(verb)
        if verb != "basis":
            assert {"serve": "a b's"}.get(verb, strange) in given.values()
    assert verbs == ["fit", "maps", "stream", "serve", "basis"]
    gadget = next(line for line in lines if line.startswith("python -m "))
    _, _, module, *options = shlex.split(gadget)
    assert options == ["--bases", "a b's", "--port", "18000"]
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert "--bases" in done.stdout
    assert "--port" in done.stdout


def scan(rng: np.random.Generator) -> tuple[Any, ...]:
    """Return ksp, sens, traj and frame of a small radial scan, every frame three spokes, more data than unknowns."""
    n_frames, n_spokes, n = 40, 3, 12
    angles = np.pi * (np.arange(n_frames * n_spokes) * 0.618 % 1)
    radius = np.arange(-n, n) / 2
    traj = np.stack([np.outer(np.sin(angles), radius), np.outer(np.cos(angles), radius)], axis=-1)
    sens = 1 + 0.3 * rng.standard_normal((2, n, n)) + 0.3j * rng.standard_normal((2, n, n))
    ksp = rng.standard_normal((2, len(angles), 2 * n)) + 1j * rng.standard_normal((2, len(angles), 2 * n))
    return ksp, sens, traj, np.arange(len(angles)) % n_frames


def test_the_lines_of_sigpy_reconstruct(folder: Path, rng: np.random.Generator) -> None:
    arrays = dict(zip(("ksp", "sens", "traj", "frame"), scan(rng), strict=True))
    np.savez("scan.npz", **arrays)
    (lines,) = (text for title, text in paste.lines("b", "SPEC", None).items() if title.startswith("SigPy"))
    code = f"import numpy\nglobals().update(numpy.load('scan.npz'))\n{lines}\nnumpy.save('coeff.npy', coeff)\n"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    phi = Basis.load("b").phi
    operator = crb.SubspaceOperator(arrays["traj"], frame=arrays["frame"], phi=phi, sens=arrays["sens"])
    exact = crb.reconstruct(operator, arrays["ksp"], lam=0.001, iterations=100)
    found = np.load("coeff.npy")
    assert found.shape == exact.shape == (4, 12, 12)
    # SigPy stops after 100 iterations, too; both are single precision, whose rounding the condition takes up
    assert np.linalg.norm(found - exact) < 1e-2 * np.linalg.norm(exact)


@pytest.mark.bart
def test_the_line_of_bart_reconstructs(folder: Path, rng: np.random.Generator) -> None:
    _, sens, traj, frame = scan(rng)
    operator = crb.SubspaceOperator(traj, frame=frame, phi=Basis.load("b").phi, sens=sens)
    places = np.exp(-(np.arange(-6, 6) ** 2) / 8)
    truth = np.outer(places, np.roll(places, 1)) * np.array([1, 0.5j, -0.3, 0.2])[:, None, None]
    ksp = operator.forward(truth)
    order = np.argsort(frame, kind="stable").reshape(40, 3)
    # BART: dims 1 RO SPK COIL 1 T, and kx first
    by_frame = ksp[:, order].transpose(3, 2, 0, 1)
    bart.write_cfl("ksp", by_frame[None, :, :, :, None])
    places = traj[order][..., ::-1].transpose(3, 2, 1, 0)
    places = np.concatenate([places, np.zeros_like(places[:1])])
    bart.write_cfl("traj", places[:, :, :, None, None])
    bart.write_cfl("sens", sens.transpose(2, 1, 0)[:, :, None])
    (lines,) = (text for title, text in paste.lines("b", "SPEC", None).items() if title.startswith("BART"))
    subprocess.run(shlex.split(lines.splitlines()[0]), check=True, capture_output=True)
    coeff = bart.read_cfl("coeff").squeeze()
    # thirty iterations of data without noise; with axes or conjugates that are wrong, most of the image is
    assert coeff.shape == (12, 12, 4)
    assert np.linalg.norm(coeff.transpose(2, 1, 0) - truth) < 0.06 * np.linalg.norm(truth)


def test_memory_is_counted_and_time_is_that_of_the_design() -> None:
    for rank in (1, 5, 15):
        problem = Problem(
            shape=(120, 150, 160), n_readouts=205_560, n_samples=320, n_receivers=8, n_coils=8, rank=rank, n_threads=2
        )
        found = costs.memory(rank, real=True)
        assert found == {"whole process": (IMPORTS + problem.peak) / GIB, "kernels alone": problem.kernels / GIB}
        # K (K + 1) / 2 of them
        assert math.isclose(found["kernels alone"], rank * (rank + 1) / 2 * costs.memory(1, real=True)["kernels alone"])
    # the README's
    assert f"{costs.memory(15, real=True)['kernels alone']:.1f}" == "10.3"
    assert costs.memory(5, real=False)["whole process"] > costs.memory(5, real=True)["whole process"]
    # the figures that the times are carried over from
    design = Path(__file__, "../../docs/design.md").resolve().read_text(encoding="utf-8")
    at = costs.seconds(5)
    assert f"ours {at['all']:.1f} s" in design
    assert f"{at['right-hand side (NUFFT)']:.1f} s are the adjoint NUFFT" in design
    assert f"{at['kernels']:.1f} s the fifteen kernels, {at['iterations']:.1f} s the iterations" in design
    assert "grows as K^1.2" in design
    more = costs.seconds(10)
    assert math.isclose(more["right-hand side (NUFFT)"], 2 * at["right-hand side (NUFFT)"])
    assert math.isclose(more["kernels"], 55 / 15 * at["kernels"])
    assert math.isclose(more["iterations"], 2**1.2 * at["iterations"])
    parts = sum(value for name, value in more.items() if name != "all")
    assert math.isclose(more["all"] - parts, at["all"] - 1.5 - 0.5 - 1.4)


def test_evidence_needs_nothing_heavy() -> None:
    code = (
        "import sys; from crbsvd_plugin.cli import main; assert main(['report', '--help']) == 0; "
        "assert not {'plotly', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert set(evidence.COMMANDS) == {"basis", "sweep", "study", "rank"}
