"""The same penalties and the same lambda in ``bart pics`` and in our solvers, and the units of its lambda."""

from __future__ import annotations

import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bart_pics import error, problem, random_coeff, samples, tolerance

from crbsvd_plugin import bart
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.recon.bart_command import pics_command
from crbsvd_plugin.recon.bart_files import export
from crbsvd_plugin.recon.bart_pics import _padded
from crbsvd_plugin.recon.eigenvalue import step_size
from crbsvd_plugin.recon.penalty import penalty
from crbsvd_plugin.recon.scaling import data_scale, llr_width

BLOCK = 4
SLOW = 150  # iterations of BART's FISTA, which is not restarted: 40 of ours


def noisy(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[SubspaceOperator, np.ndarray]:
    operator = problem(rng, shape)
    ksp = samples(operator, random_coeff(rng, operator))
    return operator, ksp + 0.1 * (rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))


# A penalty shrinks the images and is linear where they are smooth; what an error of the operator makes of them is
# what it makes of the least-squares solution, for which `tolerance` stands, times how much smaller they have become.
def allowed(operator: SubspaceOperator, ksp: np.ndarray, found: np.ndarray) -> float:
    plain = reconstruct(operator, ksp, iterations=60)
    return tolerance(operator) * max(1.0, float(np.linalg.norm(plain) / np.linalg.norm(found)))


@pytest.mark.bart
@pytest.mark.parametrize("shape", [(8, 8), (11, 9), (6, 7, 5)])
def test_locally_low_rank_is_the_same_for_every_size(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    operator, ksp = noisy(rng, shape)
    options: dict[str, Any] = {"regulariser": "llr", "block": BLOCK, "shift": "none", "iterations": 60}
    native = reconstruct(operator, ksp, lam=1.0, **options)
    found = reconstruct(operator, ksp, lam=1.0, backend="bart", **(options | {"iterations": SLOW}))
    assert found.dtype == np.complex64
    assert error(found, native) < allowed(operator, ksp, native)
    # another lambda, another block or another place of the blocks is far outside of that
    assert error(reconstruct(operator, ksp, lam=1.1, **options), native) > 4 * allowed(operator, ksp, native)
    assert error(reconstruct(operator, ksp, lam=1.0, **(options | {"block": 3})), native) > 0.05


@pytest.mark.bart
@pytest.mark.parametrize(("shape", "block"), [((11, 9), 3), ((5, 4, 6), 2)])
def test_overlapping_blocks_are_the_same(rng: np.random.Generator, shape: tuple[int, ...], block: int) -> None:
    operator, ksp = noisy(rng, shape)
    # a small lambda, so that few blocks are close to their threshold, where BART may lose them
    options: dict[str, Any] = {"lam": 0.3, "regulariser": "llr", "block": block, "shift": "overlap"}
    native = reconstruct(operator, ksp, iterations=SLOW, **options)
    limit = allowed(operator, ksp, native)
    assert error(reconstruct(operator, ksp, backend="bart", iterations=SLOW, **options), native) < limit
    assert error(reconstruct(operator, ksp, iterations=50, **(options | {"shift": "none"})), native) > 10 * limit


@pytest.mark.bart
def test_wavelets_are_the_same_away_from_the_edges(rng: np.random.Generator) -> None:
    """Coils see the middle only: images end before the edge, where BART mirrors them and we do not."""
    like = problem(rng, (21, 24))
    seen = np.zeros((21, 24))
    seen[5:16, 6:18] = 1
    operator = SubspaceOperator(
        like.traj, frame=like.frame, phi=like.phi, sens=like.sens * seen, weights=like.weights, dtype=np.complex128
    )
    ksp = operator.forward(random_coeff(rng, operator) * seen)
    options: dict[str, Any] = {"regulariser": "wavelet", "shift": "none", "iterations": 60}
    native = reconstruct(operator, ksp, lam=0.2, **options)
    found = reconstruct(operator, ksp, lam=0.2, backend="bart", **(options | {"iterations": SLOW}))
    assert error(found, native) < allowed(operator, ksp, native)
    assert error(reconstruct(operator, ksp, lam=0.22, **options), native) > 4 * allowed(operator, ksp, native)


@pytest.mark.bart
def test_a_start_is_taken(rng: np.random.Generator) -> None:
    operator, ksp = noisy(rng, (11, 9))
    options: dict[str, Any] = {"lam": 1.0, "regulariser": "llr", "block": BLOCK, "shift": "none"}
    best = reconstruct(operator, ksp, iterations=100, **options)
    limit = allowed(operator, ksp, best)
    assert error(reconstruct(operator, ksp, start=best, iterations=2, backend="bart", **options), best) < limit
    assert error(reconstruct(operator, ksp, iterations=2, backend="bart", **options), best) > 10 * limit


@pytest.mark.bart
def test_its_scaling_and_its_lambda(rng: np.random.Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a user of BART who leaves out -w gets, and what it says it divides the data by."""
    operator, ksp = noisy(rng, (8, 8))
    ksp = 1000 * ksp  # it prints six decimals
    padded, inner = _padded((8, 8), BLOCK, overlap=False)
    assert padded == (8, 8)
    export(operator, ksp, tmp_path, padded, inner)
    step = step_size(operator.normal, operator.coeff_shape, operator.dtype)
    lam = 0.02
    command = pics_command(lam=lam, iterations=SLOW, regulariser="llr", block=BLOCK, shift="none", step=step)
    place = command.index("-w")
    command[place : place + 2] = ["-S", "-d5"]
    command[0] = bart.find()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (scale,) = re.findall(r"Inverse scaling of the data: ([0-9.]+)", done.stdout + done.stderr)
    found = data_scale(operator.adjoint(ksp))
    # an order statistic is no more wrong than the image at its largest
    assert abs(found / float(scale) - 1) < 2 * tolerance(operator)
    assert found > 100
    with caplog.at_level(logging.INFO, logger="crbsvd_plugin"):
        native = reconstruct(
            operator, ksp, lam=lam, scaling="bart", regulariser="llr", block=BLOCK, shift="none", iterations=60
        )
    factor = found * llr_width((8, 8), 3, BLOCK, overlap=False)
    assert f"lam {lam * factor:.6g}, which bart pics without -w calls {lam:.6g}" in caplog.text
    images = bart.read_cfl(tmp_path / "coeff").T.reshape(operator.coeff_shape)
    weight = lam * factor
    one = penalty("llr", (8, 8), block=BLOCK, shift="none")
    # the map that it leaves out at the end
    assert error(one.prox(images, step * weight), native) < allowed(operator, ksp, native)
    plain = reconstruct(operator, ksp, lam=lam, regulariser="llr", block=BLOCK, shift="none", iterations=60)
    assert error(plain, native) > 0.05


def test_scale_is_a_percentile_or_the_largest() -> None:
    def scale(*sizes: float) -> float:
        turned = np.array(sizes) * np.exp(1j * np.arange(len(sizes)))
        return data_scale(np.random.default_rng(0).permutation(turned).reshape(1, 2, -1))

    # of ten: the sixth (p50) and the last (p90, largest); of twenty: the 11th, the 19th and the 20th
    assert scale(1, 1, 1, 1, 1, 2, 3, 3, 3, 4) == pytest.approx(4)
    ramp = [float(i) for i in range(1, 20)]
    assert scale(*ramp, 20.0) == pytest.approx(19)  # 1 < 2 * (19 - 11)
    assert scale(*ramp, 34.9) == pytest.approx(19)
    assert scale(*ramp, 35.1) == pytest.approx(35.1)
    assert data_scale(np.zeros((2, 3, 4))) == 1


def test_weight_of_l2_does_not_depend_on_the_scaling(rng: np.random.Generator) -> None:
    operator, ksp = noisy(rng, (6, 6))
    plain = reconstruct(operator, ksp, lam=0.3, iterations=20)
    assert error(reconstruct(operator, ksp, lam=0.3, iterations=20, scaling="bart"), plain) < 1e-10


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_with_its_scaling_the_size_of_the_data_does_not_matter(rng: np.random.Generator, scale: float) -> None:
    operator, ksp = noisy(rng, (6, 6))
    for regulariser in ("llr", "wavelet"):
        options: dict[str, Any] = {"lam": 0.02, "regulariser": regulariser, "scaling": "bart", "iterations": 20}
        expected = reconstruct(operator, ksp, **options)
        assert error(reconstruct(operator, scale * ksp, **options) / scale, expected) < 1e-9


def test_command_lines() -> None:
    files = "-t traj -p pattern -B basis ksp sens coeff"
    options: dict[str, Any] = {"lam": 0.5, "iterations": 9, "step": 0.25}
    made = [
        (pics_command(regulariser="llr", block=6, shift="none", **options), "-R L:7:7:0.5 -b 6 -n -s 0.25 -i 9 -w 1"),
        (pics_command(regulariser="llr", shift="random", **options), "-R L:7:7:0.5 -b 8 -s 0.25 -i 9 -w 1"),
        (pics_command(regulariser="llr", shift="overlap", **options), "-R L:7:7:0.5 -b 8 -n -N -s 0.25 -i 9 -w 1"),
        (pics_command(regulariser="wavelet", shift="none", **options), "-R W:7:0:0.5 -n -s 0.25 -i 9 -w 1"),
        (pics_command(regulariser="l2", start=True, **options), "-l2 -r 0.5 -i 9 -w 1 -W start"),
    ]
    for command, expected in made:
        assert " ".join(command) == f"bart pics {expected} {files}"


def test_padding() -> None:
    assert _padded((17, 1, 8), 1, overlap=False)[0] == (18, 1, 8)
    assert _padded((17, 1, 8), 8, overlap=False)[0] == (24, 1, 8)
    assert _padded((17, 7, 9), 3, overlap=False)[0] == (18, 12, 12)
    padded, inner = _padded((17, 1, 8), 4, overlap=True)
    assert padded == (24, 1, 14)
    assert inner == (slice(3, 20), slice(0, 1), slice(3, 11))
