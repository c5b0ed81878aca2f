"""The study: its statistics, its noise, and that efficient fits are as good as the bounds beside them say."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import cli_case
import fit_case
import numpy as np
import pytest

from crbsvd_plugin import charts, crb, models, study
from crbsvd_plugin.assess import Tally
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.bench import Bench, Way, measured
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.estimates import Estimates, statistics
from crbsvd_plugin.fit import perk_training
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.fitter import Fitter
from crbsvd_plugin.fit.perk import Perk
from crbsvd_plugin.fit.result import Maps
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.outcome import Outcome, Row
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import resolve
from crbsvd_plugin.truths import chosen

AT = "T1=0.81,T2=60ms"
# quadratic phases: complex signals, and a complex basis
PHASES = f"phases={[round(0.05 * i * i % 6.28, 4) for i in range(cli_case.N_FRAMES)]}"


pytestmark = pytest.mark.usefixtures("undrawn")


def made(name: str = "out", **options: Any) -> Outcome:
    asked: dict[str, Any] = {"at": [AT], "train": "200", "atoms": "800", "ranks": (4, 5), **options}
    return study.plan(study.Request(spec="spec.toml", **asked), name, force=False).make(report=silent)


def test_standard_errors_are_the_spread_of_repeated_studies(rng: np.random.Generator) -> None:
    """Of a skewed distribution, for which s / sqrt(2 n) would be 0.5 of the truth, in 2000 studies of 400 each."""
    n, repeats = 400, 2000
    found = np.array([statistics(rng.exponential(size=n) + 1) for _ in range(repeats)])
    # the spread of 2000 is known to 1 / sqrt(2 * 2000) = 1.6 %, and 4 times that is allowed; sd's standard error needs
    # the fourth moment, whose mean is low by O(1 / n) times a kurtosis of 9: 3 % more
    for value, error, more in ((0, 1, 0.0), (2, 3, 0.03), (4, 5, 0.0)):
        assert abs(found[:, error].mean() / found[:, value].std() - 1) < 0.064 + more
    # bias 2, sd 1, rmse sqrt(5), each known to its own standard error over sqrt(2000), the sd being low by O(1 / n)
    for value, truth in ((0, 2.0), (2, 1.0), (4, math.sqrt(5))):
        assert abs(found[:, value].mean() - truth) < 4 * found[:, value].std() / math.sqrt(repeats) + 1.5 / n


def test_statistics_of_few_and_of_equal_errors() -> None:
    assert all(math.isnan(value) for value in statistics(np.array([1.0])))
    assert statistics(np.array([0.0, 0.0])) == (0, 0, 0, 0, 0, 0)
    found = statistics(np.array([1.0, 3.0]))
    assert found[:5] == (2.0, 1.0, math.sqrt(2), pytest.approx(found.sd_se), math.sqrt(5))


def test_failed_fits_are_left_out_and_counted() -> None:
    theta = np.array([[1.0, 2.0, 1e9, np.nan, 4.0]], np.float32)
    mask, edge = np.array([True, True, True, True, True]), np.array([False, True, True, False, False])
    converged = np.array([True, True, False, True, True])
    parameters = (models.build({"name": "mrf-fisp"}).parameters[0],)
    estimates = Estimates(2, 1, 3, 7, 1)
    maps = Maps(parameters, theta, np.ones(5, np.complex64), edge, mask, converged)
    estimates.put(1, 0, 2, slice(0, 3), maps, slice(0, 3))
    estimates.put(1, 0, 2, slice(3, 5), maps, slice(3, 5))
    estimates.put(1, 0, 2, slice(5, 7), maps, slice(0, 2))
    assert (estimates.failed(1, 0, 2), estimates.at_edge(1, 0, 2)) == (2, 2)
    # 1, 2, 4, 1, 2 are left
    assert estimates.statistics(1, 0, 2, 0, 1.0).bias == 1.0
    values, arrays = estimates.state()
    again = Estimates(2, 1, 3, 7, 1)
    again.restore(values, arrays)
    assert again.statistics(1, 0, 2, 0, 1.0) == estimates.statistics(1, 0, 2, 0, 1.0)
    with pytest.raises(ValueError, match="another size"):
        Estimates(2, 1, 3, 8, 1).restore(values, arrays)


@pytest.mark.parametrize(("n_frames", "rank"), [(7, 3), (1, 1)])
def test_noise_is_white_with_sigma_per_component(rng: np.random.Generator, n_frames: int, rank: int) -> None:
    n, sigma = 40_000, 0.3
    phi = np.linalg.qr(fit_case.complex_normal(rng, n_frames, rank))[0]
    signal = fit_case.complex_normal(rng, n_frames)
    coeff = measured(signal, phi, sigma, n, np.random.default_rng(5))
    noise = coeff - phi.conj().T @ signal
    parts = np.concatenate([noise.real, noise.imag], axis=1)
    # a mean has the error sigma / sqrt(n), a covariance at most sqrt(2) sigma^2 / sqrt(n): five times that
    assert np.abs(parts.mean(axis=0)).max() < 5 * sigma / math.sqrt(n)
    assert np.abs(np.cov(parts.T) - sigma**2 * np.eye(2 * rank)).max() < 5 * math.sqrt(2 / n) * sigma**2


@pytest.mark.parametrize(("phases", "start"), [((), "dictionary"), ((PHASES,), "truth")], ids=["real", "complex"])
def test_an_efficient_fit_is_as_good_as_the_bound(folder: Path, phases: tuple[str, ...], start: Any) -> None:
    """Least squares at an SNR where the model is straight over its errors: what curves it is (1 / SNR)^2."""
    n = 2000
    outcome = made(snr=5000.0, measurements=n, settings=phases, way=Way(method="nlls", start=start))
    assert len(outcome.rows) == 2 * 2 * 2
    for row in outcome.rows:
        assert (row.failed, row.edge) == (0, 0)
        # s^2 (n - 1) / sigma^2 is chi-square: s has the relative error 1 / sqrt(2 (n - 1)); four of them, in 8 rows
        assert abs(row.sd / row.crb_compressed - 1) < 4 / math.sqrt(2 * (n - 1))
        assert row.sd_se == pytest.approx(row.sd / math.sqrt(2 * (n - 1)), rel=0.2)
        assert abs(row.bias) < 4 * row.bias_se
        assert row.rmse == pytest.approx(math.hypot(row.bias, row.sd), rel=1 / n)
        # the same measurements show that all frames would be better, where that is by more than the error
        assert row.crb <= row.crb_compressed * (1 + 1e-9)


def test_bounds_are_those_of_an_inverse_fisher_matrix_and_of_assess(folder: Path) -> None:
    settings = (PHASES, "accuracy=0.0")
    asked = study.Request(
        spec="spec.toml", settings=settings, at=[AT], train="200", ranks=(3, 6), crb_weights=(0.0, 0.7), snr=20.0,
        measurements=2, way=Way(method="nlls", start="truth"),
    )  # fmt: skip
    plan = study.plan(asked, "out", force=False)
    rows = plan.make(report=silent).rows
    accumulator = asked.run(plan.training, pool=None, report=silent)
    signal, jac = plan.model.signal_and_jacobian(plan.truth)
    for i, weight in enumerate(asked.crb_weights):
        phi = asked.basis(accumulator, 6, weight).phi
        assert np.iscomplexobj(phi)
        tally = Tally(plan.model.parameters, [phi])
        tally.update(plan.campaign.simulated(slice(None)))
        for k, rank in enumerate(asked.ranks):
            for j, name in enumerate(("T1", "T2")):
                row = rows[(i * 2 + k) * 2 + j]
                assert (row.crb_weight, row.rank, row.parameter) == (weight, rank, name)
                for projection, bound in ((np.eye(len(phi)), row.crb), (phi[:, :rank], row.crb_compressed)):
                    columns = np.stack([signal[0], 1j * signal[0], *jac[0]]) @ projection.conj()
                    fisher = (columns.conj() @ columns.T).real
                    # the inverse loses its condition, 1e4 once columns have unit norm
                    assert bound == pytest.approx(math.sqrt(np.linalg.inv(fisher)[2 + j, 2 + j]) / 20, rel=1e-9)
                exact = tally.values("study", name, "exact", 0, rank)[0]
                assert 1 - (row.crb / row.crb_compressed) ** 2 == pytest.approx(exact, abs=1e-6)  # a float32


def test_what_the_fit_holds_is_no_unknown_of_the_bound(folder: Path) -> None:
    """B1 is a parameter of the model, but of one value in the fit prior."""
    way = Way(method="nlls", start="truth")
    free = made("free", measurements=2, way=way).rows
    held = made("held", measurements=2, way=way, settings=("b1=true",)).rows
    model = models.build({**resolve("spec.toml").model.spec, "b1": True, "accuracy": 0.0})
    signal, jac = model.signal_and_jacobian(np.array([[0.81, 0.06, 1.0]]))
    for one, other in zip(free, held, strict=True):
        assert other.crb == pytest.approx(one.crb, rel=1e-6)
    unknown = 1 / crb.orthogonalise(signal, jac, targets=[0]).norm[0, 0] / 50
    assert unknown > 1.01 * held[0].crb
    # bounds free it, or hold what the prior leaves free
    wide = Way(method="nlls", start="truth", bounds=("B1=0.8:1.2",))
    rows = made("wide", measurements=2, way=wide, settings=("b1=true",), at=[f"{AT},B1=1"]).rows
    assert rows[0].crb == pytest.approx(unknown, rel=1e-9)
    alone = made("alone", measurements=2, way=Way(method="nlls", start="truth", bounds=("T2=0.06:0.06",))).rows
    assert {row.parameter for row in alone} == {"T1"}
    assert alone[0].crb == pytest.approx(1 / crb.orthogonalise(signal, jac[:, :1]).norm[0, 0] / 50, rel=1e-6)


def test_bounds_are_where_estimates_end(folder: Path) -> None:
    """At an SNR where T1 is hardly known half of the fits end at a bound on the truth; wide bounds leave none there."""
    options: dict[str, Any] = {"snr": 50.0, "measurements": 400, "ranks": (5,), "crb_weights": (0.5,)}
    for start in ("truth", "dictionary"):
        way = Way(method="nlls", start=start, bounds=("T1=0.2:0.81",))
        (one, _) = made(f"narrow-{start}", way=way, **options).rows
        # half, to three standard deviations of a binomial of 400
        assert abs(one.edge - 200) < 3 * 10
        assert one.bias < -5 * one.bias_se
    (two, _) = made("wide", way=Way(method="nlls", bounds=("T1=0.05:20",)), **options).rows
    assert two.edge == 0


def test_matching_ends_on_the_grid_and_refining_off_it(folder: Path) -> None:
    """At an SNR of 1e6 a fit off the grid is right to 1e-3; matching is wrong by what the grid is away, every time."""
    coarse = made("coarse", snr=1e6, measurements=40).rows
    refined = made("fine", snr=1e6, measurements=40, way=Way(refine=True)).rows
    for one, other in zip(coarse, refined, strict=True):
        assert one.sd == 0
        assert abs(one.bias) > 5 * abs(other.bias)
        assert other.sd > 0


@pytest.mark.slow
def test_a_regression_is_trained_at_every_rank(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks: list[int] = []
    fit = Fitter.fit

    def told(self: Fitter, coeff: Any, **options: Any) -> Maps:
        assert isinstance(self.perk, Perk)
        ranks.append(self.perk.rank)
        return fit(self, coeff, **options)

    monkeypatch.setattr(Fitter, "fit", told)
    # as good as it needs to be here, in a twentieth of the time
    small = partial(perk_training.train, n_features=300, n_draws=8000)
    monkeypatch.setattr(perk_training, "train", small)
    rows = made(way=Way(method="perk"), measurements=400, crb_weights=(0.5,), ranks=(4, 5), snr=200.0).rows
    assert ranks == [4, 5]
    for row in rows:
        # the prior spans a factor of 50 in T1 and of 600 in T2: a regression of another basis would be anywhere
        assert 0 < row.sd < row.rmse < 0.1 * row.truth


def test_a_regression_is_not_truncated() -> None:
    fitter = Fitter(fit_case.gridded(5), perk=cast(Perk, object()))
    with pytest.raises(ValueError, match="belongs to the rank"):
        fitter.truncated(Basis(np.eye(5)[:, :3], np.ones(3)))


def test_signals_of_the_first_coefficients(rng: np.random.Generator) -> None:
    exact, close = fit_case.simulated(rank=5), fit_case.emulated(rank=5)
    theta = exact.box.theta(rng.uniform(-1, 1, (20, len(exact.box.parameters))))
    for forward in (exact, close):
        whole, cut = forward.value_and_jacobian(theta), forward.truncated(3)
        assert cut.rank == 3
        for one, other in zip(whole, cut.value_and_jacobian(theta), strict=True):
            # sums of products in another order: 1e-15 of the largest, and no more than 20 terms
            np.testing.assert_allclose(other, one[..., :3], rtol=0, atol=1e-13 * np.abs(one).max())


def test_what_does_not_go_together() -> None:
    box = fit_case.simulated().box
    for way, message in (
        (Way(start="truth"), "belong to --method nlls"),
        (Way(method="perk", signals="exact"), "belong to --method nlls"),
        (Way(bounds=("p0=0:1",)), "belong to --method nlls"),
        (Way(method="nlls", refine=True), "--refine belongs"),
        (Way(method="nlls", start="truth", fit_starts=2), "--start truth has none"),
    ):
        with pytest.raises(UserError, match=message):
            way.check([5], box)
    for method in ("nlls", "perk"):
        with pytest.raises(UserError, match="2 coefficients cannot tell M0 and 2 parameters"):
            Way(method=method).check([5, 2], box)  # type: ignore[arg-type]
    Way().check([1], box)
    many = Box(tuple(Parameter(f"p{i}", "", 0, 1) for i in range(6)), np.zeros(6), np.ones(6))
    Way(method="nlls").check([7], many)
    with pytest.raises(UserError, match="signals of 6 parameters cannot be emulated"):
        Way(method="nlls", signals="emulated").check([7], many)


def test_draws_lie_in_the_prior_and_off_its_grid() -> None:
    model = models.build({"name": "mrf-fisp"})
    prior = PRESETS["t1-t2"].thinned(2000, model.parameters)
    atoms = prior.atoms(model.parameters)[0].theta
    box = Box.around(model.parameters, atoms)
    theta = chosen(box, prior, random=50, seed=3)
    assert theta.shape == (50, 2)
    assert np.all((theta >= atoms.min(axis=0)) & (theta <= atoms.max(axis=0)))
    assert np.all(theta[:, 1] <= theta[:, 0])
    assert not np.isin(theta, atoms).any()
    assert np.array_equal(theta, chosen(box, prior, random=50, seed=3))
    assert not np.array_equal(theta, chosen(box, prior, random=50, seed=4))


def test_several_are_drawn_relative_to_their_bounds() -> None:
    def row(fingerprint: int, bias: float, bound: float) -> Row:
        return Row(fingerprint, 0.0, 3, "T1", "s", 1.0, 10, 0, 0, bias, 0.2, 1.0, 0.1, 1.0, 0.1, bound, bound)

    rows = [row(0, 3.0, 1.0), row(1, 8.0, 2.0), row(2, 9.0, math.inf)]
    # sqrt((3^2 + 4^2) / 2), and its error from 0.2 and 0.1
    value, error = charts._together(rows, ("bias", "bias_se"), True)
    assert value == pytest.approx(math.sqrt(12.5))
    assert error == pytest.approx(math.hypot(3 * 0.2, 4 * 0.1) / 2 / value)
    assert charts._together(rows[:1], ("bias", "bias_se"), False) == (3.0, 0.2)
    assert math.isnan(rows[2].sd_over_crb)
    assert Outcome(rows * 30).text.endswith("and 30 rows more: see study.csv")


def test_bench_fits_every_rank(rng: np.random.Generator) -> None:
    """One bench serves ranks in any order, each as if it were alone."""
    exact = fit_case.simulated(rank=6)
    basis = Basis(exact.phi, np.ones(6), {"model": dict(exact.model.spec)})
    bench = Bench(Way(method="nlls", start="truth"), basis, None, exact.box, seed=0, report=silent)
    theta = exact.box.theta(rng.uniform(-0.5, 0.5, (30, len(exact.box.parameters))))
    clean = exact.value_and_jacobian(theta)[0].T
    for rank in (6, 4, 6):
        maps = bench.fit(clean[:rank], theta)
        # the emulator is off by 1e-5 of a signal; a bound of 0.1 of the range at unit noise would make it 1e-4
        np.testing.assert_allclose(maps.theta.T, theta, rtol=1e-3)
