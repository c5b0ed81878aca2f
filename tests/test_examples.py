"""Every example runs as a script."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crbsvd_plugin import Basis
from crbsvd_plugin.models.qmt import train

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("[a-z0-9]*.py"))
# what each of them leaves behind, and something that it says
MADE = {
    "1_make_a_basis": (["out/fisp.cfl", "out/fisp.hdr", "out/fisp.h5", "out/three_0.cfl"], "bart pics -l2"),
    "2_choose_it": (
        ["out/sweep/sweep.csv", "out/study/study.png", "out/fisp.cfl", "out/exact.cfl", "out/report.html"],
        "take --rank",
    ),
    # its exit status says whether the ways agree
    "3_reconstruct_three_ways": (["out/maps-native/T1map.png", "out/maps-sigpy/T1map.png"], "sigpy: T2 within"),
    "4_online": (["out/bases/fisp.h5"], "\n1 T1map (48, 48, 1) s\n2 T2map (48, 48, 1) s\n"),
    "5_any_sequence": (["out/mine.cfl", "out/scan.seq", "out/scan.cfl", "out/recovery.cfl"], "nothing wrong was found"),
    # K = 15: the SVD loses two thirds or more, the weight leaves a sixth or so, for other fingerprints too
    "6_reproduce_the_paper": (["out/sweep/sweep.csv"], "weight 0.5: paper 0.34, here 0.1"),
    "study_mrf": (
        ["out/findings.md", "out/study.csv", "out/study.json", "out/study.png"],
        "*Standard deviation of T2*",
    ),
    "sweep_mrf": (["out/findings.md", "out/sweep.csv", "out/sweep.png", "out/scatter.png"], "take --rank"),
}


def test_every_example_has_a_test() -> None:
    """A script NAME.py is in the table above, or has a function test_NAME; 4_online runs the client."""
    own = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    scripts = {script.stem for script in EXAMPLES}
    assert MADE.keys() <= scripts
    assert scripts <= MADE.keys() | own | {"online_client"}


def test_the_index_names_every_example() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [script.name for script in EXAMPLES if f"]({script.name})" not in index] == []


@pytest.mark.slow
@pytest.mark.parametrize("script", [path for path in EXAMPLES if path.stem in MADE], ids=lambda path: path.stem)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, script, "out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files, words = MADE[script.stem]
    assert all((tmp_path / name).stat().st_size for name in files)
    assert words in done.stdout


@pytest.mark.slow
def test_paper_phantom(tmp_path: Path) -> None:
    """On a small matrix: what the weight does at K = 3, and that correcting a gradient delay undoes its harm."""
    small = ["--matrix", "48", "--train", "1000", "--atoms", "20000", "--iterations", "20"]
    page = page_of("paper_phantom", tmp_path, *small)
    pictures = [f"{kind}_{method}.png" for kind in ("r1", "errors") for method in ("cg", "llr")]
    assert all((tmp_path / name).stat().st_size for name in pictures)
    assert all(f"({name})" in page for name in pictures)
    with (tmp_path / "errors.csv").open(newline="", encoding="utf-8") as stream:
        table = {
            tuple(row[key] for key in ("method", "delay", "crb_weight", "rank", "quantity", "region")): row
            for row in csv.DictReader(stream)
        }

    def error(*key: str, figure: str = "median_error") -> float:
        return float(table[key][figure])

    for method in ("cg", "llr"):
        for rank in ("3", "4", "5", "10"):
            for weight in ("0.0", "0.3"):
                # the data are complete at this size: half of the voxels are within 10 %, mixed ones too
                assert error(method, "none", weight, rank, "T1", "brain") < 0.1
    # three coefficients of the traditional basis lose T2 of this sequence; so does the full example, by 9 %
    with_weight, without = (error("cg", "none", weight, "3", "T2", "brain") for weight in ("0.3", "0.0"))
    assert with_weight < 0.95 * without
    exact = error("exact", "none", "0.0", "10", "T2", "brain")
    assert exact < 0.5 * error("cg", "none", "0.0", "10", "T2", "brain"), "the dictionary is too coarse for this table"
    before, late, after = (
        error("cg", delay, "0.3", "5", "coefficients", "brain", figure="nrmse")
        for delay in ("none", "uncorrected", "corrected")
    )
    assert late > 1.1 * before
    assert abs(after - before) < 0.1 * (late - before)


def page_of(name: str, folder: Path, *options: str) -> str:
    """Run an example; return its page, which it prints, too."""
    (script,) = (path for path in EXAMPLES if path.stem == name)
    done = subprocess.run([sys.executable, script, folder, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (folder / "findings.md").read_text(encoding="utf-8")
    assert page in done.stdout
    return page


def run_example(name: str, folder: Path, *options: str) -> tuple[str, dict[tuple[str, str], list[float]]]:
    """Run an example; return its page, and the numbers of its table by name and tissue."""
    page = page_of(name, folder, *options)
    assert (folder / "maps.png").stat().st_size
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| .* \| (WM|GM|CSF) \|", line)]
    return page, {(name, tissue): list(map(float, numbers)) for name, tissue, *numbers in rows}


def check_noise(table: dict[tuple[str, str], list[float]]) -> None:
    """What noise changes in white and grey matter is what is predicted.

    The median of n voxels is known to 1.17 / sqrt(n), three times of which are allowed; and of the mask and of steps
    of the dictionary the prediction does not know: 0.9 to 1.5 times, as the README says.
    """
    for (name, tissue), (n_voxels, *_, noise, predicted) in table.items():
        if tissue != "CSF":
            chance = 3 * 1.17 / n_voxels**0.5
            assert 0.9 - chance < noise / predicted < 1.5 + chance, (name, tissue)


def check_paste(page: str) -> None:
    """The printed command gave the image of the backend: threads sum in another order, and iterations amplify that."""
    assert float(re.search(r"gives the images of `--backend bart` to (\S+)\.$", page, re.MULTILINE)[1]) < 1e-4
    # two programs' conjugate gradients, in single precision
    assert float(re.search(r"sigpy (\S+), bart", page)[1]) < 1e-4


TINY = ("--matrix", "32", "--coils", "3", "--train", "400", "--atoms", "2000")


@pytest.mark.bart
def test_t2_shuffling_on_a_small_matrix(tmp_path: Path) -> None:
    few = ("--echoes", "12", "--rank", "3", "--snr", "200", "--iterations", "12")
    page, table = run_example("t2_shuffling", tmp_path, *TINY, *few)
    check_paste(page)
    assert {name for name, _ in table} == {"native", "sigpy", "bart"}
    # 32 voxels along an edge leave 38 pure ones of white matter, next to others
    assert all(table[name, "WM"][4] < 20 for name in ("native", "sigpy", "bart"))
    # with T1 known the fingerprint alone gives T2, to half a step of 0.1 %
    alone = re.findall(r"^\| (?:WM|GM|CSF) \| (\S+) \| \S+ \| \S+ \| (\S+) \|$", page, re.MULTILINE)
    assert len(alone) == 3
    assert all(float(found) == pytest.approx(float(true), rel=1e-3) for true, found in alone)


@pytest.mark.bart
@pytest.mark.slow
def test_t2_shuffling(tmp_path: Path) -> None:
    page, table = run_example("t2_shuffling", tmp_path, "--matrix", "64", "--coils", "6", "--train", "4000")
    check_paste(page)
    check_noise(table)
    # without noise the mask costs next to nothing: a tenth of what resolution and T1 leave where no line is missing
    whole = dict(zip(("WM", "GM"), map(float, re.findall(r"(\S+) % \((?:WM|GM)\)", page)), strict=True))
    for tissue, error in whole.items():
        assert table["native", tissue][5] < 1.1 * error


@pytest.mark.bart
def test_ir_flash_on_a_small_matrix(tmp_path: Path) -> None:
    _, table = run_example("ir_flash", tmp_path, *TINY, "--frames", "400", "--values", "400")
    # two dictionaries with steps of 1 % and more give the same T1, where the scan tells it
    for tissue in ("WM", "GM"):
        found = [table[name, tissue][2] for name in ("ir-flash", "bart signal")]
        assert abs(found[0] - found[1]) < 0.03 * found[0]


@pytest.mark.bart
@pytest.mark.slow
def test_ir_flash(tmp_path: Path) -> None:
    _, table = run_example("ir_flash", tmp_path)
    check_noise(table)
    for name in ("ir-flash", "bart signal"):
        # the demo has 1.2 to 1.8 % of T1 from sampling alone, with three times as many spokes
        assert table[name, "WM"][5] < 2
        assert all(abs(table[name, tissue][3]) < 1.0 for tissue in ("WM", "GM"))


@pytest.fixture
def pulses(tmp_path: Path) -> Path:
    """A file with every tenth pulse of our own train: 3 cycles of 50."""
    alpha, trf = train.built_in()
    np.savez(tmp_path / "pulses.npz", alpha=alpha[:, ::10], TRF=trf[:, ::10])
    return tmp_path / "pulses.npz"


@pytest.mark.slow
def test_qmt_paper(tmp_path: Path, pulses: Path) -> None:
    """With a few fingerprints: both sweeps and a table; at K = 15 the weight keeps most of what the SVD loses."""
    (script,) = (path for path in EXAMPLES if path.stem == "qmt_paper")
    command = [sys.executable, script, tmp_path / "out", "--train", pulses, "--fingerprints", "300"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "findings.md").read_text(encoding="utf-8")
    assert page in done.stdout
    assert (tmp_path / "out" / "losses.png").stat().st_size
    cells = {line.split(" | ")[0]: line.split(" | ")[1:] for line in page.splitlines() if line.startswith("| ")}
    (paper, without, *_), (_, weighted, *_) = (
        cells[name] for name in ("| mean exact CRB loss, K = 15, weight 0", "| the same, weight 0.5")
    )
    assert paper == "0.81"
    assert float(weighted) < 0.6 * float(without)
    # what is there is taken as it is
    before = (tmp_path / "out" / "real" / "sweep.json").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "real" / "sweep.json").read_bytes() == before


@pytest.mark.slow
def test_qmt_phantom(tmp_path: Path, pulses: Path) -> None:
    """On a small matrix: a row for every weight, rank, tissue and parameter, and errors that are not absurd."""
    (script,) = (path for path in EXAMPLES if path.stem == "qmt_phantom")
    small = ["--matrix", "16", "--shots", "8", "--coils", "2", "--fingerprints", "600", "--atoms", "2000"]
    few = ["--iterations", "10", "--voxels", "10", "--train", pulses]
    done = subprocess.run(
        [sys.executable, script, tmp_path / "out", *small, *few], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "findings.md").read_text(encoding="utf-8") in done.stdout
    assert (tmp_path / "out" / "errors.png").stat().st_size
    with (tmp_path / "out" / "errors.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 4 * 2 * 2
    for row in rows:
        assert float(row["coefficient_error"]) < 0.85  # ten iterations leave three quarters, images of nothing 1
        assert (float(row["error_to_reference"]) == 0) == ((row["crb_weight"], row["rank"]) == ("0.5", "30"))


@pytest.mark.slow
def test_nist_phantom(tmp_path: Path) -> None:
    """On a small matrix: the vials are found with their own prior, and with Table I those outside of it are flagged."""
    small = ["--matrix", "56", "--train", "600", "--atoms", "8000", "--repeats", "2", "--rank", "6", "--replicas", "4"]
    page_of("nist_phantom", tmp_path, *small)
    assert (tmp_path / "vials.png").stat().st_size
    with (tmp_path / "vials.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 14 * 2
    own = [row for row in rows if row["prior"] == "nist"]
    for row in own:
        assert row["inside"] == "True"
        assert float(row["predicted_sd"]) > 0
        # two steps of the dictionary (5.2 % in T1, 5.1 % in T2), and the standard error of the median: 1.25 / sqrt(n)
        step = {"T1": 0.052, "T2": 0.051}[row["quantity"]]
        noise = 1.25 * float(row["observed_sd"]) / int(row["n_voxels"]) ** 0.5
        assert abs(float(row["bias"])) < 2 * step + 3 * noise, row
    paper = [row for row in rows if row["prior"] == "mao-mrf-table1"]
    outside = [row for row in paper if row["inside"] == "False"]
    assert len(outside) == 48  # 24 vials
    assert all(float(row["flagged"]) > 0.9 for row in outside)
    assert all(float(row["flagged"]) < 0.1 for row in paper if row["inside"] == "True")


def test_study_qmt(tmp_path: Path, pulses: Path) -> None:
    """With few pulses and measurements: a row for every case, and the CRB basis loses less where ranks are small.

    50 pulses a cycle tell little, so the SNR is high.
    """
    few = ["--train", pulses, "--snr", "200000", "--fingerprints", "200", "--measurements", "12"]
    page = page_of("study_qmt", tmp_path / "out", *few)
    assert str(tmp_path) not in page
    assert (tmp_path / "out" / "snr-200000" / "study.png").stat().st_size
    with (tmp_path / "out" / "snr-200000" / "study.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 7 * 6
    of = {(row["parameter"], row["crb_weight"], row["rank"]): row for row in rows}
    for name in ("m0s", "Rx"):
        traditional, crb = (float(of[name, weight, "10"]["crb_compressed"]) for weight in ("0", "0.5"))
        assert crb < 0.5 * traditional
        # a spread of 12 is known to 1 / sqrt(22) = 21 %, and four times that is allowed
        assert abs(float(of[name, "0.5", "30"]["sd_over_compressed"]) - 1) < 0.85
    # at this SNR a bias is what second derivatives say, and of 12 fits it is known to 29 % of the spread
    claims = [line for line in page.splitlines() if line.startswith(("| 200000 | m0s", "| 200000 | Rx"))]
    assert len(claims) == 6
    for claim in claims:
        parameter, rank, _, _, bias, second_order = claim.split(" | ")[1:7]
        away = abs(float(bias.split(" ± ")[0]) - float(second_order))
        bound = 100 * float(of[parameter, "0.5", rank]["crb_compressed"]) / float(of[parameter, "0.5", rank]["truth"])
        assert away < 4 * 0.29 * bound
    assert "Of 6 cases of m0s and Rx the standard deviation is lower in" in page


@pytest.mark.slow
def test_model_table(tmp_path: Path) -> None:
    """On two models and few fingerprints: every loss is there, and the page says of both where the method pays."""
    (script,) = (path for path in EXAMPLES if path.stem == "model_table")
    few = ["--models", "mese", "mgre", "--train", "300"]
    done = subprocess.run([sys.executable, script, tmp_path, *few], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "findings.md").read_text(encoding="utf-8") in done.stdout
    with (tmp_path / "losses.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    ranks = {name: {int(row["rank"]) for row in rows if row["model"] == name} for name in ("mese", "mgre")}
    assert ranks == {"mese": {2, 3, 4, 5, 6, 8, 10}, "mgre": {2, 3, 4, 5, 6, 8, 10, 15}}
    energy = [float(row["mean loss"]) for row in rows if row["loss of"] == "signal" and row["crb weight"] == "0.0"]
    of_mese = energy[: len(ranks["mese"])]
    assert of_mese == sorted(of_mese, reverse=True)
    assert "- `mese`: " in done.stdout
    assert "- `mgre`: " in done.stdout


def test_jax_model(tmp_path: Path) -> None:
    """A model of JAX passes the checks of its derivatives, and makes a basis."""
    (script,) = (path for path in EXAMPLES if path.stem == "jax_model")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    basis = Basis.load(tmp_path / "balanced")
    assert basis.n_frames == 300
    assert np.abs(basis.phi.conj().T @ basis.phi - np.eye(basis.rank)).max() < 1e-6  # single precision
    # T1 and T2 are told apart, and w0 makes signals complex
    assert all(0 < basis.info["held_out"]["all"][parameter]["exact"] < 1 for parameter in ("T1", "T2", "w0"))
    assert np.iscomplexobj(basis.phi)


@pytest.mark.slow
def test_how_many(tmp_path: Path) -> None:
    """On a small scan: a row for every case, and noise that goes with the SNR."""
    few = ["--train", "300", "--scan-matrix", "48", "--matrix", "32", "--rank", "5", "--replicas", "3", "--cases", "2"]
    page_of("how_many", tmp_path, *few)
    with (tmp_path / "errors.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 5 * 3 * 2
    wanted = [row for row in rows if (row["rank"], row["tissue"]) == ("4", "WM")]
    noise = {(row["shots"], row["snr"]): float(row["noise"]) for row in wanted}
    assert noise["3", "20"] == pytest.approx(2.5 * noise["3", "50"], rel=0.05)  # the same noise, larger


@pytest.mark.slow
def test_exact_bounds(tmp_path: Path) -> None:
    """At equal energy loss the exact bounds lose no more than CRB-SVD, and never less than the certificate."""
    small = ["mrf-fisp", "--train", "1500", "--ranks", "3,6", "--weights", "0.5,0.8"]
    page = page_of("exact_bounds", tmp_path, *small)
    assert (tmp_path / "curves.png").stat().st_size
    rows = re.findall(r"\| (\d) \| ([\d.]+) \| .* \| (-?[\d.]+) % \| (\d+) % \|", page)
    gains = {(int(rank), float(weight)): (float(gain), int(gap)) for rank, weight, gain, gap in rows}
    assert gains.keys() == {(rank, weight) for rank in (3, 6) for weight in (0.5, 0.8)}
    # three coefficients are few: there is something to be gained; at six CRB-SVD is all but the best possible
    assert gains[3, 0.8][0] > 1
    assert gains[3, 0.8][1] > 10
    assert abs(gains[6, 0.5][0]) < 0.2
    assert gains[6, 0.5][1] <= 1


@pytest.mark.slow
def test_exact_study(tmp_path: Path) -> None:
    """What the bounds say of two bases is what estimates do."""
    small = ["mrf-fisp", "--train", "1500", "--random", "6", "--measurements", "300"]
    page = page_of("exact_study", tmp_path, *small)
    rows = re.findall(r"\| (T[12]) \| ([\d.]+) \| ([\d.]+) \+- ([\d.]+) \|", page)
    assert [row[0] for row in rows] == ["T1", "T2"]
    for _, bound, seen, error in rows:
        assert abs(float(seen) - float(bound)) < 3 * float(error)
