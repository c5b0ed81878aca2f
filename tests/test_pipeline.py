"""The pipeline on streams made in memory against direct calls of its parts, and the runs on files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from mrd_stream import header, readout, spokes

from crbsvd_plugin import bart, coils, equations, mrd, run
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.config import Config
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.matching import match
from crbsvd_plugin.group import Reconstruction
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.pipeline import reconstruct_stream
from crbsvd_plugin.recon import reconstruct, solve
from crbsvd_plugin.trajectory import radial
from crbsvd_plugin.volumes import gathered

T, K, N, C = 6, 2, 16, 3
# threads add in another order in every run, and sensitivities and CG amplify that
SAME = 1e-3
STEP = (0.0, 1.0, 8.0)
SIGNAL = np.exp(-np.arange(T) / 4 + 0.3j * np.arange(T))[:, None]


@pytest.fixture
def basis(rng: np.random.Generator, tmp_path: Path) -> str:
    """Write a basis, and return its name."""
    return write_basis(rng, tmp_path)


def write_basis(rng: np.random.Generator, tmp_path: Path) -> str:
    """Write a complex basis with a dictionary of random atoms beside it, and return its name."""
    other = rng.standard_normal((T, K - 1)) + 1j * rng.standard_normal((T, K - 1))
    phi = np.linalg.qr(np.hstack([SIGNAL, other]))[0]
    name = str(tmp_path / "basis_0.5")
    made = Basis(phi, np.ones(K), {"model": {"name": "mrf-fisp"}})
    made.save(name)
    atoms = rng.standard_normal((40, K)) + 1j * rng.standard_normal((40, K))
    norm = np.linalg.norm(atoms, axis=1)
    Dictionary(
        (Parameter("T1", "s", 0.1, 5.0), Parameter("T2", "s", 0.01, 3.0)), rng.uniform(0.1, 3, (40, 2)),
        (atoms / norm[:, None]).astype(np.complex64), norm.astype(np.float32), rng.random(40) < 0.5, made.digest,
    ).write(tmp_path / "basis_0.5.h5")  # fmt: skip
    return name


def scan(rng: np.random.Generator, *, noise: bool = True, dwell: float = 5.0, n_slices: int = 2) -> list[Any]:
    """Return the readouts of slices of a disc, the later one first, after a noise scan of correlated coils."""
    mixing = np.eye(C) + 0.4j * np.eye(C, k=1)
    y, x = np.meshgrid(*2 * [(np.arange(N) - N // 2) / N], indexing="ij")
    sens = np.stack([np.exp(-2 * (x - 0.4 * i) ** 2 - y**2 + 1j * i * (1 + y)) for i in (-1, 0, 1)])
    items: list[Any] = []
    for number in range(n_slices)[::-1]:
        slices = spokes(rng, T, N, n_coils=C, n_shots=5, slice=number, position=number * np.array(STEP))
        object_ = 300 * (x**2 + (y - 0.1 * number) ** 2 < 0.1)[None] * (1 + x)
        operator = SubspaceOperator(
            np.stack([item.traj for item in slices])[..., ::-1], frame=np.tile(np.arange(T), 5), phi=SIGNAL, sens=sens
        )
        for item, samples in zip(slices, np.moveaxis(operator.forward(object_), 1, 0), strict=True):
            item.data[:] += samples
        items += slices
    if noise:
        white = rng.standard_normal((C, 4000)) + 1j * rng.standard_normal((C, 4000))
        items.insert(0, readout(3 * mixing @ white, flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT, sample_time_us=dwell))
    return items


def head(n_slices: int = 2) -> Any:
    return header((N, N, 1), T, repetition=4, slice=n_slices - 1)


def error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def direct(items: list[Any], phi: np.ndarray, number: int, lam: float) -> np.ndarray:
    """Reconstruct a slice from its readouts, with the parts of the package but without the pipeline."""
    noise = [item for item in items if item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    chosen = [item for item in items if item not in noise and item.idx.slice == number]
    ksp = np.stack([item.data for item in chosen], axis=1)
    if noise:
        whiten = coils.whitening_matrix(noise[0].data) * np.sqrt(5.0 / noise[0].sample_time_us)
        ksp = np.einsum("ij,jrs->irs", whiten, ksp).astype(np.complex64)
    traj = np.stack([item.traj for item in chosen])[..., ::-1].astype(float)
    frame = np.array([item.idx.contrast for item in chosen])
    sens = coils.estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=(N, N))
    return reconstruct(SubspaceOperator(traj, frame=frame, phi=phi, sens=sens), ksp, lam=lam, iterations=8)


@pytest.mark.parametrize("noise", [True, False])
def test_stream_gives_what_its_parts_give(
    rng: np.random.Generator, basis: str, noise: bool, caplog: pytest.LogCaptureFixture
) -> None:
    items = scan(rng, noise=noise, dwell=2.5)
    config = Config(basis=basis, lam=0.5, iterations=8)
    stages: list[tuple[str, int, int]] = []
    with caplog.at_level(logging.WARNING):
        results = list(reconstruct_stream(head(), iter(items), config, report=lambda *step: stages.append(step)))
    phi, dictionary = Basis.load(basis).phi, Dictionary.load(basis, Basis.load(basis))
    assert np.iscomplexobj(phi)
    assert [result.key for result in results] == [{"slice": i, "set": 0, "phase": 0} for i in range(2)]
    for number, result in enumerate(results):
        assert error(result.coeff, direct(items, phi, number, 0.5)) < SAME
        expected = match(result.coeff, dictionary, mask_level=0.05)
        assert result.maps is not None
        np.testing.assert_array_equal(result.maps.theta, expected.theta)
        np.testing.assert_allclose(result.geometry.position, number * np.array(STEP))
        # sigma sqrt(T n_voxels / n_samples per coil), sigma = 1
        assert result.sigma == pytest.approx(np.sqrt(T * N * N / (5 * T * 2 * N)) if noise else 0)
    assert ("no noise scan: taken as prewhitened" in caplog.text) is not noise
    assert ("reconstruction", 8, 8) in stages
    assert stages[-1] == ("fit", N * N, N * N)


def test_shuffled_readouts_give_the_same(rng: np.random.Generator, basis: str) -> None:
    items, config = scan(rng), Config(basis=basis, lam=0.5, iterations=8, fit=False)
    straight = list(reconstruct_stream(head(), items, config))
    shuffled = list(reconstruct_stream(head(), [items[i] for i in rng.permutation(len(items))], config))
    for one, other in zip(straight, shuffled, strict=True):
        assert one.maps is None
        assert error(other.coeff, one.coeff) < SAME


@pytest.mark.parametrize(("start", "preconditioner"), [("density", "none"), ("zero", "circulant")])
def test_start_and_preconditioner_reach_the_solver(
    rng: np.random.Generator, basis: str, start: str, preconditioner: str
) -> None:
    items, phi = scan(rng, n_slices=1, noise=False), Basis.load(basis).phi
    options: dict[str, Any] = {"start": start, "preconditioner": preconditioner}
    (result,) = reconstruct_stream(head(), items, Config(basis=basis, lam=0.5, iterations=2, fit=False, **options))
    ksp = np.stack([item.data for item in items], axis=1)
    traj = np.stack([item.traj for item in items])[..., ::-1].astype(float)
    frame = np.array([item.idx.contrast for item in items])
    sens = coils.estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=(N, N))
    operator = SubspaceOperator(traj, frame=frame, phi=phi, sens=sens)
    expected = reconstruct(operator, ksp, lam=0.5, iterations=2, **options)
    assert error(result.coeff, expected) < SAME
    assert error(reconstruct(operator, ksp, lam=0.5, iterations=2), expected) > 10 * SAME
    assert gathered([result], Config(basis=basis, **options)).info.items() >= options.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "density", "backend": "sigpy"}, "start is density, but sigpy begins with zero"),
        ({"preconditioner": "circulant", "regulariser": "llr"}, "which is for cg in the backend native"),
    ],
)
def test_what_does_not_go_together_is_refused_before_reading(basis: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        next(reconstruct_stream(head(), iter(()), Config(basis=basis, **options)))


def test_rank_cuts_the_basis_and_the_dictionary(rng: np.random.Generator, basis: str) -> None:
    (result,) = reconstruct_stream(head(), scan(rng, n_slices=1), Config(basis=basis, rank=1, lam=0.5, iterations=3))
    assert result.coeff.shape == (1, N, N)
    with pytest.raises(UserError, match="rank is 3, but the basis has 2 columns"):
        list(reconstruct_stream(head(), scan(rng), Config(basis=basis, rank=3)))


@pytest.mark.parametrize(("dwell", "bandwidth"), [(5.0, 1.0), (1.25, 1.0), (20.0, 0.793), (5.0, None)])
def test_whitened_data_have_unit_noise_whatever_the_dwell_times(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, basis: str, dwell: float, bandwidth: float | None
) -> None:
    """White noise has a power of bandwidth, 1 / dwell; the receiver's filter takes its share of the noise scan only."""
    mixing = 1e-3 * (np.eye(C) + 0.4j * np.eye(C, k=1))

    def noise(n: int, power: float) -> np.ndarray:
        return np.sqrt(power) * mixing @ (rng.standard_normal((C, n)) + 1j * rng.standard_normal((C, n)))

    traj = radial(5 * T, N)
    items: list[Any] = [
        readout(noise(2 * N, 1 / 5.0), one[:, ::-1], contrast=i % T, sample_time_us=5.0) for i, one in enumerate(traj)
    ]
    items.append(
        readout(noise(20_000, (bandwidth or 1) / dwell), flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT, sample_time_us=dwell)
    )
    seen: list[np.ndarray] = []

    def spy(operator: Any, ksp: np.ndarray, **_: Any) -> np.ndarray:
        seen.append(ksp)
        return np.zeros(operator.coeff_shape, np.complex64)

    monkeypatch.setattr(equations, "reconstruct", spy)
    told = head()
    told.acquisitionSystemInformation.relativeReceiverNoiseBandwidth = bandwidth
    list(reconstruct_stream(told, items, Config(basis=basis, fit=False, backend="sigpy")))
    white = seen[0].reshape(C, -1)
    n = white.shape[1]
    covariance = white @ white.conj().T / (2 * n)
    assert np.abs(covariance - np.eye(C)).max() < 5 / np.sqrt(n) + 5 / np.sqrt(20_000)


def results(*keys: dict[str, int], shape: tuple[int, ...] = (K, 4, 5), digest: str = "") -> list[Reconstruction]:
    return [
        Reconstruction(
            key,
            np.full(shape, i + 1, np.complex64),
            mrd.geometry_of(
                header((shape[-1], shape[-2], 1 if len(shape) == 3 else shape[1]), T),
                readout(np.ones((1, 1)), position=key.get("slice", 0) * np.array(STEP)),
            ),
            0.5,
            None,
            digest,
        )
        for i, key in enumerate(keys)
    ]


def test_groups_are_joined_by_slice_and_by_the_rest(basis: str, caplog: pytest.LogCaptureFixture) -> None:
    digest = Basis.load(basis).digest
    made = results({"slice": 2, "set": 0}, {"slice": 0, "set": 1}, {"slice": 2, "set": 1}, digest=digest)
    with caplog.at_level(logging.WARNING):
        joined = gathered(made, Config(basis=basis, lam=0.25))
    assert joined.coeff.shape == (2, 2, K, 4, 5)
    np.testing.assert_array_equal(joined.coeff[:, :, 0, 0, 0], [[0, 1], [2, 3]])
    assert "1 of 4 images have no readouts" in caplog.text
    assert joined.info["groups"] == [{"set": 0}, {"set": 1}]
    assert joined.info["slices"] == [0, 2]
    assert (joined.info["lam"], joined.info["sigma"], joined.info["backend"]) == (0.25, 0.5, "native")
    np.testing.assert_allclose(joined.slice_step, 2 * np.array(STEP))
    assert joined.geometry == made[1].geometry
    assert joined.digest == digest


def test_groups_that_cannot_be_joined_are_refused(basis: str) -> None:
    mixed = results({"slice": 0}) + results({"slice": 1}, shape=(K, 4, 6))
    with pytest.raises(UserError, match=r"groups have images of .*expected one size"):
        gathered(mixed, Config(basis=basis))
    with pytest.raises(UserError, match="2 volumes told apart by 'slice', expected one"):
        gathered(results({"slice": 0}, {"slice": 1}, shape=(K, 3, 4, 5)), Config(basis=basis))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda": 1}, r"config: Object contains unknown field `lambda`"),
        ({"lam": "strong"}, r"config: Expected `float`, got `str` - at `\$\.lam`"),
        ({"backend": "fast"}, r"config: Invalid enum value 'fast'"),
        ({"iterations": 2.5}, r"config: Expected `int`"),
        ({"basis": None}, r"config: Expected `str`"),
    ],
)
def test_a_config_is_strict(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run.config(**{"basis": "b", **settings})
    assert run.config(basis="b", shots=["average"]).shots == ("average",)


def test_the_penalty_of_a_config_reaches_the_solver_and_the_sidecar(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, basis: str
) -> None:
    chosen = {
        "regulariser": "llr", "lam": 0.25, "block": 3, "shift": "none", "scaling": "bart", "iterations": 4,
        "tolerance": 0.01,
    }  # fmt: skip
    seen: list[dict[str, Any]] = []

    def spy(normal: Any, right: np.ndarray, **options: Any) -> np.ndarray:
        seen.append(options)
        return solve(normal, right, **options)

    monkeypatch.setattr(equations, "solve", spy)
    config = run.config(basis=basis, fit=False, **chosen)
    stages: list[tuple[str, int, int]] = []
    found = list(reconstruct_stream(head(), scan(rng, n_slices=1), config, report=lambda *step: stages.append(step)))
    options = seen[0]
    options.pop("callback")
    assert options == {**chosen, "solver": None, "start": None, "preconditioner": None}
    assert ("reconstruction", 1, 4) in stages
    info = gathered(found, config).info
    assert info["lam_scaling"] == "bart"
    kept = ("regulariser", "lam", "block", "shift", "iterations", "tolerance")
    assert info["backend"] == "native"
    assert {key: info[key] for key in kept} == {key: chosen[key] for key in kept}
    assert info["solver"] == "fista"
    with pytest.raises(UserError, match="solver is cg, which cannot solve llr"):
        next(reconstruct_stream(head(), iter(()), run.config(basis="none", solver="cg", regulariser="llr")))


def silent(*_: object) -> None:
    pass


@pytest.fixture
def raw(rng: np.random.Generator, tmp_path: Path) -> str:
    mrd.write_raw(tmp_path / "raw.h5", head(), scan(rng))
    return str(tmp_path / "raw.h5")


def test_files_hold_what_the_stream_gives(raw: str, basis: str, tmp_path: Path) -> None:
    config = run.config(basis=basis, lam=0.5, iterations=8)
    with mrd.open_raw(raw) as (told, items):
        expected = list(reconstruct_stream(told, items, config))
    images = run.recon(raw, config, str(tmp_path / "coeff"), force=False, report=silent)
    read = CoefficientImages.load(tmp_path / "coeff")
    np.testing.assert_array_equal(read.coeff, images.coeff)
    assert error(read.coeff[0], np.stack([one.coeff for one in expected])) < SAME
    written = run.maps(raw, config, str(tmp_path / "maps"), force=False, report=silent)
    again = run.fit(
        str(tmp_path / "coeff"), basis, str(tmp_path / "fit"), like=None, mask_level=0.05, force=False, report=silent
    )
    assert [path.name for path in written] == [path.name for path in again]
    assert written[-1] == tmp_path / "maps" / "maps.json"
    t1, affine = load_map(tmp_path / "maps" / "T1map.nii.gz")
    assert t1.shape == (2, N, N)
    # slices one STEP apart, from LPS to RAS; the centre of the first lies at the origin
    np.testing.assert_allclose(affine[:3, 2], [0, -1, 8], atol=1e-5)
    np.testing.assert_allclose((affine @ [N // 2, N // 2, 0, 1])[:3], 0, atol=1e-5)
    fitted, other = load_map(tmp_path / "fit" / "T1map.nii.gz")
    np.testing.assert_array_equal(other, affine)
    # the maps come from two runs: a few voxels may be at the limit between two atoms or of the mask
    assert (np.isclose(fitted, t1)).mean() > 0.98
    with pytest.raises(UserError, match="exists already"):
        run.maps(raw, config, str(tmp_path / "maps"), force=False, report=silent)
    with pytest.raises(UserError, match="exists already"):
        run.recon(raw, config, str(tmp_path / "coeff"), force=False, report=silent)


def test_plain_images_take_their_place_from_the_raw_file(rng: np.random.Generator, basis: str, tmp_path: Path) -> None:
    """From the first readout of an image: a noise scan lies nowhere."""
    place = (4.0, -5.0, 6.0)
    items = [
        readout(np.ones((C, 50)), flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT),
        *spokes(rng, T, N, n_coils=C, position=place),
    ]
    mrd.write_raw(tmp_path / "like.h5", head(), items)
    bart.write_cfl(tmp_path / "pics", rng.standard_normal((N, N, 1, 1, 1, 1, K)).astype(np.complex64))
    run.fit(
        str(tmp_path / "pics"), basis, str(tmp_path / "maps"), like=str(tmp_path / "like.h5"), mask_level=0.0,
        force=False, report=silent,
    )  # fmt: skip
    _, affine = load_map(tmp_path / "maps" / "T1map.nii.gz")
    np.testing.assert_allclose((affine @ [N // 2, N // 2, 0, 1])[:3], [-4, 5, 6], atol=1e-5)
    mrd.write_raw(tmp_path / "noise.h5", head(), items[:1])
    with pytest.raises(UserError, match="holds no imaging readouts"):
        run.fit(
            str(tmp_path / "pics"), basis, str(tmp_path / "x"), like=str(tmp_path / "noise.h5"), mask_level=0.0,
            force=False, report=silent,
        )  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_images_of_another_basis_are_refused(raw: str, basis: str, tmp_path: Path, rng: np.random.Generator) -> None:
    run.recon(raw, run.config(basis=basis, lam=1.0, iterations=2), str(tmp_path / "c"), force=False, report=silent)
    options: dict[str, Any] = {"like": None, "mask_level": 0.05, "force": False, "report": silent}
    other = Basis(np.linalg.qr(rng.standard_normal((T, 1)))[0], np.ones(1), Basis.load(basis).info)
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match=r"c has 2 coefficients, the basis .*other 1"):
        run.fit(str(tmp_path / "c"), str(tmp_path / "other"), str(tmp_path / "x"), **options)
    bare = CoefficientImages.load(tmp_path / "c")
    CoefficientImages(bare.coeff, bare.geometry, bare.slice_step, "0" * 64, bare.info).save(tmp_path / "foreign")
    with pytest.raises(UserError, match=r"foreign was reconstructed in another basis than .*hashes differ"):
        run.fit(str(tmp_path / "foreign"), basis, str(tmp_path / "x"), **options)
    assert not (tmp_path / "x").exists()
