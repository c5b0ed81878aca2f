"""The folder for BART's files: private, and removed, by the next run if this one is killed."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bart_case import SLEEPER, stand_in, wait_until

from crbsvd_plugin import bart
from crbsvd_plugin.errors import UserError


def test_temporary_folder_is_private_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def interrupted():
        with bart.temporary_folder() as folder:
            assert folder.parent == tmp_path
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "a").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


KILLED = """
import os, sys
from crbsvd_plugin import bart
with bart.temporary_folder() as folder:
    (folder / "ksp.cfl").write_text("x")
    print(folder, flush=True)
    if sys.argv[1] == "in bart":
        bart.run(["x"], folder=folder, threads=1)
    sys.stdin.read()
"""


@pytest.mark.parametrize("where", ["in bart", "in python"])
def test_what_a_killed_run_leaves_is_removed_by_the_next_and_a_living_one_keeps_its_own(tmp_path, monkeypatch, where):
    stand_in(tmp_path, SLEEPER.format(tmp_path), monkeypatch)
    place = tmp_path / "tmp"
    place.mkdir()
    # what belongs to others: an ordinary file and folder, and what only looks like ours
    (place / "crbsvd-bart-file").write_text("x")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").touch()
    (place / "crbsvd-bart-link").symlink_to(tmp_path / "far")
    (place / "folder").mkdir()
    others = set(place.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(place))
    environment = {**os.environ, "PYTHONPATH": str(Path(bart.__file__).parents[2]), "TMPDIR": str(place)}
    command = [sys.executable, "-c", KILLED, where]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            left = Path(process.stdout.readline().strip())
            assert left.parent == place
            if where == "in bart":
                assert wait_until((tmp_path / "pid").exists)
            with bart.temporary_folder() as folder:
                assert set(place.iterdir()) == {*others, left, folder}  # the other one lives
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)
        finally:
            process.kill()
    assert (left / "ksp.cfl").exists()
    with bart.temporary_folder() as folder:
        assert set(place.iterdir()) == {*others, folder}
    assert set(place.iterdir()) == others
    assert (tmp_path / "far" / "file").exists()


def test_two_threads_keep_their_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with bart.temporary_folder() as first, bart.temporary_folder() as second:
        assert set(tmp_path.iterdir()) == {first, second}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user's")
def test_folders_of_other_users_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = tmp_path / "crbsvd-bart-0123456789abcdef"
    other.mkdir(mode=0o777)
    os.chown(other, 12345, 12345)
    with bart.temporary_folder():
        pass
    assert list(tmp_path.iterdir()) == [other]


def test_no_place_for_temporary_files_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError), bart.temporary_folder():
        pass
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", list)
    message = "cannot write in the folder for temporary files: No usable temporary"
    with pytest.raises(UserError, match=message), bart.temporary_folder():
        pass


def test_full_disk_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    message = r"cannot write in .*larger than allowed.*TMPDIR"
    try:
        with pytest.raises(UserError, match=message), bart.temporary_folder() as folder:
            bart.write_cfl(folder / "a", np.zeros(1 << 18, np.complex64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_errors_about_other_places_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), bart.temporary_folder() as folder:
        (folder / "missing").read_text()
    with pytest.raises(OSError, match="elsewhere"), bart.temporary_folder():
        raise OSError(errno.ENOSPC, "no space", str(tmp_path / "elsewhere"))
