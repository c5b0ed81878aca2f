"""Pulse trains of qmt-hsfp: from files, in TOML, built in; its priors; and what is refused, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from crbsvd_plugin import Basis, models
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.models.qmt import saturation, train
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.prior import Prior
from crbsvd_plugin.spec import resolve

Array = NDArray[Any]
ALPHA = np.array([[np.pi, 0.3, 0.0, 0.9, 0.2], [np.pi, 1.2, 0.1, 0.4, 0.0]])
TRF = np.array([[5e-4, 1e-4, 2e-4, 3e-4, 1.5e-4], [5e-4, 4e-4, 2e-4, 3e-4, 2.5e-4]])


def write(path: Path, alpha: Any = ALPHA, trf: Any = TRF, *, old: bool = False) -> Path:
    """Write a train; in .mat files a cycle is a column."""
    if path.suffix == ".npz":
        np.savez(path, alpha=alpha, TRF=trf)
    elif path.suffix == ".csv":
        rows = [(k, *pair) for k in range(len(alpha)) for pair in zip(alpha[k], trf[k], strict=True)]
        np.savetxt(path, rows, "%.17g", delimiter=",", header="cycle,alpha,TRF", comments="")
    elif old:
        savemat(path, {"alpha": np.transpose(alpha), "TRF": np.transpose(trf)})
    else:
        with h5py.File(path, "w", userblock_size=512) as file:  # as MATLAB does: the transpose of the transpose
            file["alpha"], file["TRF"] = alpha, trf
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file")
    return path


@pytest.mark.parametrize(("name", "old"), [("a.npz", False), ("a.csv", False), ("a.mat", False), ("a.mat", True)])
def test_read(tmp_path: Path, name: str, old: bool) -> None:
    alpha, trf = train.read(write(tmp_path / name, old=old))
    assert np.array_equal(alpha, ALPHA)
    assert np.array_equal(trf, TRF)


@pytest.mark.parametrize(("name", "old"), [("a.npz", False), ("a.mat", False), ("a.mat", True)])
def test_one_cycle(tmp_path: Path, name: str, old: bool) -> None:
    alpha, trf = train.read(write(tmp_path / name, ALPHA[:1], TRF[:1], old=old))
    assert alpha.shape == trf.shape == (1, 5)


def test_csv_of_one_cycle(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("TRF,alpha\n5e-4,3.1\n1e-4,0.2\n")
    assert train.read(path)[0].tolist() == [[3.1, 0.2]]


def test_spec_reads_a_train_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in the TOML file is seen from there, one on the command line from here; the sidecar holds the arrays."""
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "pulses.npz")
    write(tmp_path / "here.csv", ALPHA / 2)
    spec = tmp_path / "deep" / "spec.toml"
    spec.write_text('name = "qmt-hsfp"\ntrain = "pulses.npz"\n')
    monkeypatch.chdir(tmp_path)
    model = resolve(str(spec)).model
    assert model.spec == {"name": "qmt-hsfp", "alpha": ALPHA.tolist(), "TRF": TRF.tolist(), "tr": 3.5e-3}
    assert resolve("qmt-hsfp", ["train=here.csv", "tr=4 ms"]).model.spec["alpha"] == (ALPHA / 2).tolist()
    assert resolve(str(spec), ["train=here.csv"]).model.spec["alpha"] == (ALPHA / 2).tolist()


def test_train_in_the_toml_file(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('name = "qmt-hsfp"\nalpha = ["180 deg", "90 deg", 0]\nTRF = ["500 us", "300 us", "300 us"]\n')
    found = resolve(str(spec)).model.spec
    assert np.allclose(found["alpha"], [[np.pi, np.pi / 2, 0]], rtol=1e-15)
    assert np.allclose(found["TRF"], [[5e-4, 3e-4, 3e-4]], rtol=1e-15)


def test_built_in() -> None:
    """Smooth, w1 up to 2 pi 1000 rad/s, pulses of 100 to 500 us, an inversion first."""
    alpha, trf = train.built_in()
    assert alpha.shape == trf.shape == (3, 500)
    assert (alpha[:, 0] == np.pi).all()
    assert (trf[:, 0] == 500e-6).all()
    assert (alpha / trf).max() <= 2 * np.pi * 1000 * (1 + 1e-12)
    assert alpha.min() >= 0
    assert trf.min() >= 100e-6 * (1 - 1e-12)
    assert trf.max() <= 500e-6 * (1 + 1e-12)
    # second differences of a smooth function with at most 12 periods of its harmonics in 500 steps
    for values in (alpha[:, 1:], trf[:, 1:]):
        assert np.abs(np.diff(values, 2)).max() < 0.05 * np.ptp(values)


def test_ranges_follow_the_table() -> None:
    model = models.build({"name": "qmt-hsfp", "alpha": ALPHA, "TRF": TRF})
    ranges = {p.name: (p.low, p.high) for p in model.parameters}
    # pulses of 100 to 500 us; the one of 200 us has no angle
    assert ranges["T2s"] == (5e-4 / saturation.TAU[1], 1e-4 / saturation.TAU[0])
    assert ranges["B1"] == (0.1, saturation.THETA / np.pi)
    assert [p.name for p in model.parameters if p.nuisance] == ["w0", "B1"]


BAD = {
    "alpha = [3.1, 0.2, 0.3]\nTRF = [5e-4, 1e-4]": "alpha has shape (1, 3) and TRF (1, 2), expected the same",
    "alpha = [[3.1, 0.2], [3.1, 0.2, 0.1]]\nTRF = [[5e-4, 1e-4]]": "cycles of [2, 3] pulses, expected as many",
    "alpha = [3.1, 0.2, 0.3]": "TRF is not given, expected both alpha and TRF",
    "alpha = [180, 90, 20]\nTRF = [5e-4, 1e-4, 1e-4]": "alpha reaches 180, more than 2 pi: degrees? expected rad",
    "alpha = [3.1, 5, 0.3]\nTRF = [5e-4, 5e-4, 1e-4]": "alpha reaches 5 rad, but the table of R2sl ends at B1",
    "alpha = [3.1, -0.2]\nTRF = [5e-4, 1e-4]": "alpha falls to -0.2 rad, expected at least 0",
    "alpha = [3.1, 0.2]\nTRF = [5e-4, -1e-4]": "TRF runs from -0.0001 to 0.0005 s, expected above 0",
    "alpha = [3.1, 0.2]\nTRF = [500, 100]": "TRF runs from 100 to 500 s, expected above 0, to a quarter of tr",
    "alpha = [3.1, 0.2]\nTRF = [5e-4, 1e-5]": "holds TRF / T2s from 3.9 to 102, which leaves no T2s for all pulses",
    "alpha = [3.1, nan]\nTRF = [5e-4, 1e-4]": "alpha holds 1 non-finite values",
    "alpha = [3.1]\nTRF = [5e-4]": "a train of 1 cycles of 1 pulses, expected (cycles, pulses)",
    "alpha = [[3.1, 1], [3.1, 1], [3.1, 1]]\nTRF = [[5e-4, 5e-4], [5e-4, 5e-4], [5e-4, 5e-4]]": "transpose it?",
    "tr = 0.2": "tr is 0.2 s, expected above 0, to 0.01 s",
    'alpha = ["5 deg", "3 deg"]\nTRF = 3': "TRF has a wrong type",
    'train = "a.npz"\nalpha = [3.1, 1]': "both train and alpha are given, expected one of them",
    'train = "no.npz"': "no.npz does not exist; check the path",
    'train = "a.txt"': "a.txt is of an unknown kind, expected one of: .mat, .npz, .csv",
    "train = 3": "train is 3, expected the name of a file",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_train_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text(f'name = "qmt-hsfp"\n{text}\n')
    assert main(["basis", "spec.toml", "-o", "b"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert BAD[text] in line
    assert [path.name for path in tmp_path.iterdir()] == ["spec.toml"]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ('T2s = "40 us"', "has T2s from 4e-05 to 4e-05 s, but the model is defined from 4.90196e-06 to 2.5641e-05"),
        ("B1 = 1.5", "has B1 from 1.5 to 1.5, but the model is defined from 0.1 to 1.32"),
    ],
)
def test_prior_outside_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prior: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"m0s": 0.2, "R1f": 0.5, "R2f": 13, "Rx": 16, "R1s": 3, "T2s": '"12 us"', "w0": '"10 Hz"', "B1": 1}
    lines = [f"{key} = {value}" for key, value in values.items() if not prior.startswith(f"{key} ")]
    Path("spec.toml").write_text("\n".join(['name = "qmt-hsfp"', "[[prior.tissues]]", 'label = "a"', *lines, prior]))
    assert main(["basis", "spec.toml", "-o", "b"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("damage", ["text", "half", "no-trf", "pickle", "link", "text-array", "uneven"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.mat"
    if damage == "text":
        path.write_text("alpha")
    elif damage == "half":
        write(path, old=True)
        path.write_bytes(path.read_bytes()[:250])
    elif damage == "no-trf":
        savemat(path, {"alpha": ALPHA})
    elif damage == "pickle":
        path = tmp_path / "a.npz"
        np.savez(path, alpha=np.array([{}]), TRF=TRF, allow_pickle=True)
    elif damage == "link":
        other = write(tmp_path / "other.mat")
        with h5py.File(path, "w") as file:
            file["TRF"], file["alpha"] = TRF, h5py.ExternalLink(str(other), "alpha")
    elif damage == "text-array":
        savemat(path, {"alpha": "text", "TRF": TRF})
    else:
        path = tmp_path / "a.csv"
        path.write_text("cycle,alpha,TRF\n0,1,1e-4\n0,1,1e-4\n1,1,1e-4\n")
    with pytest.raises(UserError, match=r"train .*a\.(mat|npz|csv)|links to other files are refused"):
        train.read(path)


@pytest.mark.parametrize("name", ["mao-table1", "crbbasis", "qmt-tissue"])
def test_presets_fit_the_model(name: str) -> None:
    """All atoms, those of a held-out set too, lie where the model is defined, with R1f below R2f."""
    parameters = models.build({"name": "qmt-hsfp"}).parameters
    prior = PRESETS[name].thinned(4000, parameters)
    for some in (prior, prior.shifted()):
        for atoms in some.atoms(parameters):
            assert (atoms.theta[:, 1] <= atoms.theta[:, 2]).all()
    assert prior.symmetric("w0")
    assert not prior.symmetric("B1")
    assert not prior.symmetric("R3")


def test_a_rate_whose_time_is_normal(tmp_path: Path) -> None:
    """In TOML its numbers are those of the time; without a limit above zero it is refused."""
    values = {"m0s": 0.2, "R2f": 13, "Rx": 16, "R1s": 3, "T2s": '"12 us"', "w0": '"-10 Hz"', "B1": 1}
    text = 'name = "qmt-hsfp"\n[[prior.tissues]]\nlabel = "a"\nn = 50'
    text += "\n" + "\n".join(f"{key} = {value}" for key, value in values.items())
    spec = tmp_path / "spec.toml"
    spec.write_text(f'{text}\nR1f = {{ kind = "reciprocal-normal", mean = "2 s", sd = "500 ms", low = 1, high = 3 }}\n')
    found = resolve(str(spec))
    assert not found.conjugates
    (atoms,) = found.prior.atoms(found.model.parameters)
    time = 1 / atoms.theta[:, 1]
    assert (time.min() >= 1, time.max() <= 3) == (True, True)
    assert time.mean() == pytest.approx(2, abs=0.05)
    spec.write_text(f'{text}\nR1f = {{ kind = "reciprocal-normal", mean = "2 s", sd = "500 ms", low = "1/s" }}\n')
    with pytest.raises(UserError, match="R1f: low: '1/s' is not a quantity"):
        resolve(str(spec))


def shares(prior: Prior) -> dict[str, float]:
    return {tissue.label: tissue.n or 0 for tissue in prior.tissues}


def test_presets_are_those_of_the_literature() -> None:
    """Counts; means and deviations of what is hardly truncated (1 %), and all ranges, by 40,000 draws."""
    parameters = models.build({"name": "qmt-hsfp"}).parameters
    names = [p.name for p in parameters]
    assert shares(PRESETS["crbbasis"]) == {"parenchyma": 32768, "csf": 4096, "fat": 4096}
    assert shares(PRESETS["mao-table1"]) == {"gm+wm": 480_000, "fat": 60_000, "csf": 60_000}
    table = {atoms.label: atoms.theta for atoms in PRESETS["mao-table1"].thinned(40_000, parameters).atoms(parameters)}
    example = {atoms.label: atoms.theta for atoms in PRESETS["crbbasis"].atoms(parameters)}

    def moments(theta: Array, name: str, *, reciprocal: bool = False) -> tuple[float, float]:
        values = theta[:, names.index(name)]
        values = 1 / values if reciprocal else values
        return float(values.mean()), float(values.std())

    # three standard deviations on either side leave 98.7 % of the deviation
    assert moments(table["gm+wm"], "Rx") == pytest.approx((30, 10), rel=0.03)
    assert moments(table["csf"], "R1f", reciprocal=True) == pytest.approx((4, 0.5), rel=0.03)
    assert moments(table["fat"], "R2f", reciprocal=True) == pytest.approx((0.1, 0.02), rel=0.03)
    assert moments(example["fat"], "R1f", reciprocal=True) == pytest.approx((0.4, 0.075), rel=0.03)
    assert moments(example["parenchyma"], "R1s") == pytest.approx((3, 0.75), rel=0.03)
    assert moments(table["csf"], "m0s") == pytest.approx((1e-3, 0))
    for theta, name, low, high in (
        (table["gm+wm"], "T2s", 5e-6, 20e-6), (table["gm+wm"], "B1", 0.6, 1.2), (table["csf"], "w0", -898, 898),
        (example["parenchyma"], "T2s", 5e-6, 25e-6), (example["parenchyma"], "m0s", 0, 0.35),
    ):  # fmt: skip
        values = theta[:, names.index(name)]
        assert low <= values.min() < low + 0.1 * (high - low), name
        assert high - 0.1 * (high - low) < values.max() <= high, name


def test_basis_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A real basis of rank 15 by default, losses of the six tissue parameters, the train in the sidecar."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    alpha, trf = rng.uniform(0.1, 1.5, (2, 60)), rng.uniform(2e-4, 5e-4, (2, 60))
    alpha[:, 0], trf[:, 0] = np.pi, 5e-4
    write(Path("pulses.npz"), alpha, trf)
    assert main(["basis", "qmt-hsfp", "--set", "train=pulses.npz", "-o", "b", "--train", "300", "--atoms", "200"]) == 0
    table = capsys.readouterr().out
    for name in ("m0s", "R1f", "R2f", "Rx", "R1s", "T2s"):
        assert f"CRB {name}" in table
    assert "CRB w0" not in table
    basis = Basis.load("b")
    assert (basis.n_frames, basis.rank) == (120, 15)
    assert np.isrealobj(basis.phi)
    assert basis.info["conjugate"] is True
    assert basis.info["model"]["alpha"] == alpha.tolist()
    assert basis.info["model"]["TRF"] == trf.tolist()
    theta = np.array([[0.15, 0.5, 14, 20, 3, 11e-6, w0, 1] for w0 in (-150.0, 0.0, 150.0)])
    assert basis.model().signal(theta).shape == (3, 120)
    # without conjugates it is not: half of the band is missing in no tissue, but no draw has its mirror image
    assert main(["basis", "qmt-hsfp", "--set", "train=pulses.npz", "-o", "c", "--train", "300", "--atoms", "none",
                 "--no-conjugate", "--rank", "4"]) == 0  # fmt: skip
    other = Basis.load("c")
    assert np.iscomplexobj(other.phi)
    assert other.rank == 4


def test_basis_of_another_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A basis whose frames are not those of the train in its sidecar is refused where the two meet."""
    from crbsvd_plugin.tangents import compressed_tangents

    model = models.build({"name": "qmt-hsfp", "alpha": ALPHA, "TRF": TRF})
    phi = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 3)))[0]
    basis = Basis(phi, np.ones(3), json.loads(json.dumps({"model": model.spec})))
    with pytest.raises(UserError, match="the model has 10 frames, the basis 12: they do not belong together"):
        compressed_tangents(np.array([[0.2, 0.5, 13, 16, 3, 12e-6, 0, 1]]), basis=basis)
