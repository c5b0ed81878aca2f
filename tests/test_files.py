"""Products that appear whole or not at all, whatever happens midway."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from crbsvd_plugin import files, staging
from crbsvd_plugin.errors import UserError

NAMES = ["p_0.5.cfl", "p_0.5.hdr"]


def write(folder: Path, text: str = "new", *, force: bool = False) -> None:
    with files.product(folder / "p_0.5.json", NAMES, force=force, kind="test/1") as product:
        for name in NAMES:
            product.path(name).write_text(f"{text} {name}")
        product.commit({"text": text})


def state(folder: Path) -> str:
    """Return the text of the product if it is whole; nothing else may lie there, hidden or not."""
    found = sorted(path.name for path in folder.iterdir())
    if not found:
        return "nothing"
    assert found == sorted([*NAMES, "p_0.5.json"])
    content = files.read_json(folder / "p_0.5.json", "product")
    files.verify(folder / "p_0.5.json", content, "product")
    assert sorted(content["files"]) == NAMES
    assert {(folder / name).read_text() for name in NAMES} == {f"{content['text']} {name}" for name in NAMES}
    return str(content["text"])


def test_a_product_is_whole_and_alone(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on the way"
    write(folder)
    assert state(folder) == "new"
    assert (folder / "p_0.5.json").read_text().endswith("}\n")


def test_suffixes_are_appended() -> None:
    assert files.with_suffix("a/basis_0.5", ".json") == Path("a/basis_0.5.json")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_exception_midway_leaves_what_was_there(
    tmp_path: Path, after: int, error: type[BaseException], old: bool
) -> None:
    if old:
        write(tmp_path, "old")

    def failing() -> None:
        with files.product(tmp_path / "p_0.5.json", NAMES, force=True, kind="test/1") as product:
            for name in NAMES[:after]:
                product.path(name).write_text("half")
            raise error("midway")

    with pytest.raises(error, match="midway"):
        failing()
    assert state(tmp_path) == ("old" if old else "nothing")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("at", range(4))
def test_an_interrupt_between_the_renames_leaves_a_whole_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, old: bool
) -> None:
    if old:
        write(tmp_path, "old")
    rename, calls = os.replace, iter(range(100))

    def interrupted(source: Path, target: Path) -> None:
        if next(calls) == at:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, force=True)
    # the first rename makes the commit mark: from then on it is the new one
    assert state(tmp_path) == ("new" if at > 0 else "old" if old else "nothing")


def test_the_folder_of_a_living_run_is_left_alone(tmp_path: Path) -> None:
    with files.product(tmp_path / "p_0.5.json", NAMES, kind="test/1") as product:
        product.path(NAMES[0]).write_text("mine")
        write(tmp_path, "other")
        assert product.path(NAMES[0]).read_text() == "mine"
    assert state(tmp_path) == "other"


@pytest.mark.parametrize("when", ["before the lock", "with the lock"])
def test_a_folder_that_another_run_sweeps_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    lock, swept = staging.lock, []

    def late(folder: Path) -> int | None:
        if swept:
            return lock(folder)
        swept.append(folder)
        if when == "before the lock":
            shutil.rmtree(folder)
            return None
        handle = lock(folder)
        shutil.rmtree(folder)
        return handle

    monkeypatch.setattr(staging, "lock", late)
    write(tmp_path)
    assert state(tmp_path) == "new"
    assert len(swept) == 1


def test_of_two_runs_that_found_the_name_free_one_is_refused(tmp_path: Path) -> None:
    with files.product(tmp_path / "p_0.5.json", NAMES, kind="test/1") as product:
        for name in NAMES:
            product.path(name).write_text("mine")
        write(tmp_path, "other")
        with pytest.raises(UserError, match=r"p_0.5.* exists already"):
            product.commit({"text": "mine"})
    assert state(tmp_path) == "other"


def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "far" / "away" / "p.json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, expected a folder"):
        files.check_writable(tmp_path / "file" / "p.json")
    with pytest.raises(UserError, match="the name is too long"):
        files.check_writable(tmp_path / ("x" * 250))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "[!x]"])
def test_names_that_look_like_patterns(tmp_path: Path, name: str) -> None:
    for owner in (name, "a1", "ab"):
        (tmp_path / f".{owner}.json{staging._MARK}leftover").mkdir()
    files.check_free(tmp_path / f"{name}.json", [], force=False, kind="test/1")
    left = {path.name.split(".json")[0] for path in tmp_path.iterdir()}
    assert left == {".a1", ".ab"}


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    write(tmp_path, "old")
    with pytest.raises(UserError, match=r"p_0\.5\.cfl exists already: choose another name, or say --force"):
        write(tmp_path)
    write(tmp_path, force=True)
    assert state(tmp_path) == "new"


@pytest.mark.parametrize("taken", [*NAMES, "p_0.5.json"])
@pytest.mark.parametrize("content", ["no JSON", "{}", '{"files": ["p_0.5.cfl"]}', '{"name": "a study of mine"}', "[]"])
def test_force_replaces_only_files_of_its_own(tmp_path: Path, taken: str, content: str) -> None:
    (tmp_path / taken).write_text(content)
    with pytest.raises(UserError, match=r"is not part of|is not of the kind|not valid JSON|holds a list"):
        write(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == content


def test_force_keeps_a_file_that_the_sidecar_does_not_list(tmp_path: Path) -> None:
    with files.product(tmp_path / "p_0.5.json", [], kind="test/1") as product:
        product.commit({"text": "old"})
    (tmp_path / NAMES[1]).write_text("mine")
    with pytest.raises(UserError, match=r"p_0\.5\.hdr exists and is not part of .*--force does not replace it"):
        write(tmp_path, force=True)
    assert (tmp_path / NAMES[1]).read_text() == "mine"


def test_members_are_plain_names(tmp_path: Path) -> None:
    with files.product(tmp_path / "p.json", [], kind="test/1") as product:
        for name in ("../x", "a/b", "p.json", "", ".", ".."):
            with pytest.raises(ValueError, match="is not the plain name of a member file"):
                product.path(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"files": {"../secret": "00"}}, r"lists '\.\./secret', expected a plain file name"),
        ({"files": {"gone": "00"}}, r"gone is missing, but p\.json lists it"),
        ({"files": {"there": "00"}}, r"the hash of .*there does not match p\.json"),
        ({"files": ["there"]}, r"has no list of its files"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, content: dict, message: str) -> None:
    (tmp_path / "there").write_text("x")
    with pytest.raises(UserError, match=message):
        files.verify(tmp_path / "p.json", content, "thing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; check the name"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[1]", "holds a list, expected an object"),
        (b'{"a": 1', "is not valid JSON"),
    ],
)
def test_unreadable_json_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "p.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        files.read_json(path, "thing")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is a folder"):
        files.read_json(tmp_path, "thing")


def test_a_single_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.h5"

    def failing() -> None:
        with files.single(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert not list(tmp_path.iterdir())
    with files.single(path) as part:
        part.write_text("whole")
    with pytest.raises(UserError, match="exists already"), files.single(path):
        pass
    with files.single(path, force=True) as part:
        part.write_text("again")
    assert path.read_text() == "again"
    assert [one.name for one in path.parent.iterdir()] == ["a.h5"]
    with pytest.raises(UserError, match="is a folder, expected the name of a file"), files.single(tmp_path, force=True):
        pass


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_a_folder_that_is_a_file_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"is a file"):
        write(tmp_path / place)


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="the name is too long"),
        files.product(tmp_path / ("x" * 300), [], kind="test/1"),
    ):
        pass


def test_another_error_of_the_system_is_ours(tmp_path: Path) -> None:
    with files.product(tmp_path / "p.json", [], kind="test/1") as product:
        product.path("a")
        with pytest.raises(FileNotFoundError):
            product.commit({})  # the member was never written
    assert not list(tmp_path.iterdir())


def test_a_failure_of_hdf5_is_understood() -> None:
    error = OSError("Unable to write (file write failed: errno = 28, error message = 'No space left on device')")
    assert staging.unwritable(error) == "no space is left there"
    assert staging.unwritable(OSError("errno = 281, ...")) is None
    assert staging.unwritable(OSError(2, "gone")) is None


def test_sidecars_hold_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"), files.product(tmp_path / "p.json", [], kind="test/1") as product:
        product.commit({"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with files.product(tmp_path / "p.json", [], kind="test/1") as product:
        product.path("b").write_bytes(b"abc")
        product.commit({})
    assert json.loads((tmp_path / "p.json").read_text())["files"] == {"b": files.sha256(tmp_path / "a")}
