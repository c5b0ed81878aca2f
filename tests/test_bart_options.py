"""What only BART can be asked for: how it is read, what is refused, and what reaches the program, by a stand-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bart_case import recorder, stand_in

from crbsvd_plugin import bart, threads
from crbsvd_plugin.cartesian import CartesianOperator
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.kernel_cache import KernelCache
from crbsvd_plugin.recon import BartOptions, reconstruct
from crbsvd_plugin.recon.bart_options import Term, check_padding

OLD, NEW = "v0.4.04", "v0.9.00-37-g0123456"


def scan(shape: tuple[int, int] = (6, 8), **options: Any) -> tuple[SubspaceOperator, np.ndarray]:
    rng = np.random.default_rng(5)
    traj = rng.uniform(-2, 2, (9, 7, 2))
    phi = np.linalg.qr(rng.standard_normal((3, 2)) + 1j * rng.standard_normal((3, 2)))[0]
    operator = SubspaceOperator(traj, frame=np.arange(9) % 3, phi=phi, sens=np.ones((2, *shape)), **options)
    return operator, operator.forward(rng.standard_normal(operator.coeff_shape))


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("W:7:0:0.01", Term("W", (7, 0), 0.01)),
        ("Q:2", Term("Q", (), 2.0)),
        ("I:64:1e-3", Term("I", (64,), 1e-3)),
        ("T:7:64:.5", Term("T", (7, 64), 0.5)),
        ("C:67:0:1E+2", Term("C", (67, 0), 100.0)),
        ("L:7:7:0", Term("L", (7, 7), 0.0)),
    ],
)
def test_terms_that_are_read(text: str, term: Term) -> None:
    assert Term.read(text) == term
    assert Term.read(str(term)) == term
    assert term.scaled(3).weight == (term.weight if term.kind == "Q" else 3 * term.weight)


@pytest.mark.parametrize(
    "text",
    [
        "", "W", "W:7:0", "W:7:0:", "W:7:0:0.1:2", "W:7:0:-1", "W:7:0:nan", "W:7:0:inf", "W:7:0:1e40", "W:7:0:0x1",
        "W:-7:0:1", "W:7.5:0:1", "W:7:0:1 ", " W:7:0:1", "W:7:0:1\n", "w:7:0:1", "Q:7:0:1", "Q", "X:7:0:1", "h",
        "TF:{/etc/passwd}:1", "TF:graph:0.1", "M:7:7:1", "N:7:0:50", "W:7:0:1;ls", "-R", "W:/tmp/x:0:1", "W:٧:0:1",
        "W:7:0:1 -T truth",
    ],
)  # fmt: skip
def test_terms_that_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^a term of bart is .*, expected Q:C, I:B:C, or X:A:B:C") as caught:
        Term.read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "native"}, "the backend is native; take the backend bart"),
        ({"backend": "sigpy"}, "the backend is sigpy; take the backend bart"),
        ({"lam": 0.1}, "regulariser is l2 and lam is 0.1, but terms of bart have weights of their own"),
        ({"regulariser": "llr"}, "regulariser is llr and lam is 0, but terms"),
        ({"solver": "cg"}, "solver is cg, but bart solves this by fista; leave it out"),
        ({"shift": "overlap"}, "shift is overlap, which bart has for L without W only"),
        ({"bart_options": BartOptions(("Q:1", "Q:2"))}, "bart takes one term Q"),
        ({"bart_options": BartOptions(("W:7:0:1", "oops"))}, "a term of bart is 'oops'"),
        ({"backend": "native", "bart_options": BartOptions(lowmem=True)}, "the backend is native"),
    ],
)
def test_what_does_not_go_together_is_refused_before_bart_runs(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorder(tmp_path, NEW, monkeypatch)
    operator, ksp = scan()
    given = {"backend": "bart", "bart_options": BartOptions(("W:7:0:0.1",))} | options
    with pytest.raises(UserError, match=message):
        reconstruct(operator, ksp, **given)
    assert calls() == []


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"bart_options": BartOptions(lowmem=True)}, r"low-memory mode \(pics -U\) needs BART 0\.7\.00"),
        ({"bart_options": BartOptions(("G:7:0:1",))}, r"pics -R G, C\) needs BART 0\.8\.00"),
        ({"bart_options": BartOptions(("Q:1", "C:67:0:1"))}, r"pics -R G, C\) needs BART 0\.8\.00"),
        ({"regulariser": "llr", "shift": "overlap", "block": 2}, r"pics -N\) needs BART 0\.5\.00"),
        ({"bart_options": BartOptions(("L:7:7:1",)), "shift": "overlap"}, r"pics -N\) needs BART 0\.5\.00"),
        ({"cache": True}, r"pics --psf_export\) needs BART 0\.8\.00"),
    ],
)
def test_an_older_bart_is_told_apart_by_its_version(
    options: dict[str, Any], needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorder(tmp_path, OLD, monkeypatch)
    cache = {"kernel_cache": KernelCache(tmp_path / "cache")} if options.pop("cache", False) else {}
    operator, ksp = scan((12, 16), **cache)
    with pytest.raises(UserError, match=rf"{needed} or newer, but .*bart is 0\.4\.04: install") as caught:
        reconstruct(operator, ksp, backend="bart", **options)
    assert "\n" not in str(caught.value)
    assert calls() == []
    recorder(tmp_path, NEW, monkeypatch)
    reconstruct(operator, ksp, backend="bart", block=4, **{k: v for k, v in options.items() if k != "block"})
    assert len(calls()) == 1


FILES = "-p pattern -B basis ksp sens coeff"


def test_the_arguments_that_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an old BART knows is not asked for by version; a term is one argument, whatever is in it."""
    calls = recorder(tmp_path, OLD, monkeypatch)
    operator, ksp = scan()

    def made(version: str = OLD, **options: Any) -> str:
        recorder(tmp_path, version, monkeypatch)
        reconstruct(operator, ksp, backend="bart", iterations=9, **options)
        return " ".join(calls()[-1])

    def by(*terms: str, lowmem: bool = False, **options: Any) -> str:
        return made(NEW if lowmem else OLD, bart_options=BartOptions(terms, lowmem), **options)

    readouts = f"-t traj {FILES}"
    assert made(lam=0.5) == f"pics -l2 -r 0.5 -i 9 -w 1 {readouts}"
    assert made(lam=0.5, callback=lambda *_: None) == f"pics -l2 -r 0.5 -i 9 -w 1 -d5 {readouts}"
    assert by(lowmem=True) == f"pics -l2 -r 0 -i 9 -w 1 -U {readouts}"
    assert by("Q:0.50") == f"pics -R Q:0.5 -i 9 -w 1 {readouts}"
    assert by("T:7:0:1e-2", "I:64:2") == f"pics -R T:7:0:0.01 -R I:64:2 -i 9 -w 1 {readouts}"
    line = by("W:7:0:0.01", shift="none")
    step = float(line.split("-s ")[1].split()[0])
    assert line == f"pics -R W:7:0:0.01 -n -s {step:.9g} -i 9 -w 1 {readouts}"
    # at most 1 / the largest eigenvalue: the operator is so small that it can be written out
    columns = [operator.normal(one).ravel() for one in np.eye(2 * 6 * 8).reshape(-1, *operator.coeff_shape)]
    assert 0.9 < step * np.linalg.eigvalsh(np.array(columns))[-1] <= 1
    line = by("L:7:7:0.01", "T:3:0:1", block=3)
    assert line == f"pics -R L:7:7:0.01 -R T:3:0:1 -b 3 -i 9 -w 1 {readouts}"


def test_the_arguments_for_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorder(tmp_path, OLD, monkeypatch)
    operator = CartesianOperator(np.ones((3, 5, 7), bool), phi=np.eye(3, 2), sens=np.ones((2, 5, 7)))
    ksp = operator.forward(np.ones(operator.coeff_shape))
    reconstruct(operator, ksp, backend="bart", iterations=4, bart_options=BartOptions(("T:7:0:2", "F:7:0:1")))
    assert " ".join(calls()[-1]) == f"pics -R T:7:0:2 -R F:7:0:1 -i 4 -w 1 {FILES}"
    recorder(tmp_path, NEW, monkeypatch)
    with pytest.raises(UserError, match="low memory: bart gets grids with l2 or its own terms alone"):
        reconstruct(operator, ksp, backend="bart", bart_options=BartOptions(lowmem=True))
    with pytest.raises(UserError, match="regulariser is llr: bart gets grids with l2 or"):
        reconstruct(operator, ksp, backend="bart", regulariser="llr")


@pytest.mark.bart
@pytest.mark.parametrize("shape", [(6, 10), (5, 7)])
def test_files_of_a_grid_are_kept_with_their_command(
    rng: np.random.Generator, tmp_path: Path, shape: tuple[int, int]
) -> None:
    """T2 shuffling as BART has it, without a trajectory: the command gives the image again, and a second the next."""
    phi = np.linalg.qr(rng.standard_normal((4, 2)) + 1j * rng.standard_normal((4, 2)))[0]
    sens = rng.standard_normal((2, 2, *shape))
    operator = CartesianOperator(rng.random((4, *shape)) < 0.7, phi=phi, sens=sens[0] + 1j * sens[1])
    ksp = operator.forward(rng.standard_normal(operator.coeff_shape))
    options: dict[str, Any] = {"lam": 0.1, "iterations": 6}
    keep = BartOptions(keep=str(tmp_path / "kept"))
    with threads.limit(1):
        found = [reconstruct(operator, factor * ksp, backend="bart", bart_options=keep, **options) for factor in (1, 2)]
    for number, coeff in enumerate(found):
        folder = tmp_path / "kept" / str(number)
        command = json.loads((folder / "pics.json").read_text())["command"]
        assert command == f"bart pics -l2 -r {0.1:.9g} -i 6 -w 1 {FILES}".split()
        bart.run(command[1:], folder=folder, threads=1)
        np.testing.assert_array_equal(bart.read_cfl(folder / "coeff").squeeze().T.reshape(coeff.shape), coeff)
    native = reconstruct(operator, ksp, **options)
    # conjugate gradients of two programs, in single precision
    assert np.linalg.norm(found[0] - native) < 1e-4 * np.linalg.norm(native)


def test_terms_that_more_voxels_would_change() -> None:
    fourier = Term.read("F:1:0:1")
    check_padding([fourier], (5, 8), (6, 8))  # bit 0 is the last axis
    check_padding([Term.read("F:64:0:1"), Term.read("W:7:0:1")], (5, 7), (6, 8))
    with pytest.raises(UserError, match=r"the term F:1:0:1 transforms an axis that bart must be given longer"):
        check_padding([fourier], (8, 5), (8, 6))
    with pytest.raises(UserError, match="F:4:0:1"):
        check_padding([Term.read("F:4:0:1")], (5, 8, 8), (6, 8, 8))


def test_kernels_of_bart_are_kept_under_all_that_they_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorder(tmp_path, NEW, monkeypatch)
    cache = KernelCache(tmp_path / "cache")

    def use(**changes: Any) -> str:
        operator, ksp = scan(kernel_cache=cache)
        for name in changes.keys() & {"traj", "frame", "weights", "phi"}:
            setattr(operator, name, changes.pop(name))
        reconstruct(operator, ksp, backend="bart", iterations=1, **changes)
        (word,) = [word for word in calls()[-1] if word.startswith("--psf")]
        assert calls()[-1][calls()[-1].index(word) + 1] == "psf"
        return word

    assert [use(), use(), use(lam=0.3)] == ["--psf_export", "--psf_import", "--psf_import"]
    operator, _ = scan()
    changes: list[dict[str, Any]] = [
        {"traj": operator.traj * 0.9}, {"frame": operator.frame[::-1].copy()}, {"weights": operator.weights * 2},
        {"phi": operator.phi.conj()}, {"bart_options": BartOptions(lowmem=True)},
        {"regulariser": "llr", "block": 5, "shift": "none"},  # another padding
    ]  # fmt: skip
    for change in changes:
        assert [use(**change), use(**change)] == ["--psf_export", "--psf_import"]
    recorder(tmp_path, "v1.0.00", monkeypatch)
    assert use() == "--psf_export"
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 2 + len(changes) + 1  # and our own kernel, for the step of llr
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_damaged_kernel_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = recorder(tmp_path, NEW, monkeypatch)
    operator, ksp = scan(kernel_cache=KernelCache(tmp_path / "cache"))
    reconstruct(operator, ksp, backend="bart")
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    reconstruct(operator, ksp, backend="bart")
    assert "--psf_export" in calls()[-1]
    assert "it is made anew" in caplog.text


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (r"printf '#0: 1\n#1: 2\n\t cg:  2\nTotal\n'", [1, 2]),
        (r"printf '#It 000: 1\n' >&2; printf '#It 001: 1\n' >&2", [1, 2]),
        (r"for i in 0 1 2 3 4 5 6; do echo \#$i: 3; done", [1, 2, 3, 4]),  # ADMM may go beyond
    ],
)
def test_iterations_are_counted(
    printed: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever stream they come on; the images come from a recorder that the script calls."""
    (tmp_path / "python").mkdir()
    inner = recorder(tmp_path / "python", NEW, monkeypatch)
    stand_in(tmp_path, f"{printed}\nexec '{tmp_path}/python/bin/bart' \"$@\"", monkeypatch)
    operator, ksp = scan()
    seen: list[tuple[int, Any]] = []
    reconstruct(operator, ksp, backend="bart", iterations=4, callback=lambda *given: seen.append(given))
    assert seen == [(i, None) for i in expected]
    assert len(inner()) == 1


@pytest.mark.parametrize("where", ["traj", "phi", "sens"])
def test_arrays_that_are_not_finite_are_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bart.program, "run", lambda *_, **__: pytest.fail("BART was run"))
    operator, ksp = scan()
    getattr(operator, where).flat[3] = np.nan
    with pytest.raises(ValueError, match=f"{where} holds values that are not finite"):
        reconstruct(operator, ksp, backend="bart")


def test_k_space_that_is_not_finite_is_refused() -> None:
    operator, ksp = scan()
    ksp[1, 2, 3] = np.inf
    with pytest.raises(UserError, match="k-space holds values that are not finite"):
        reconstruct(operator, ksp, backend="bart")
    grid = CartesianOperator(np.ones((3, 6, 8), bool), phi=np.eye(3, 2), sens=np.ones((2, 6, 8)))
    with pytest.raises(UserError, match="k-space holds values that are not finite"):
        reconstruct(grid, np.full(grid.ksp_shape, np.nan), backend="bart")
