"""One run at a time in a folder."""

import errno
import fcntl
import os

import pytest

from holdfast.errors import InvalidInput
from holdfast.runs.folder import FolderInUse, claim


def test_a_folder_is_made_and_left_clean(tmp_path):
    with claim(tmp_path / "a/b") as folder:
        assert folder == tmp_path / "a/b"
        assert os.listdir(folder) == [".lock"]
    assert os.listdir(folder) == []


def test_a_second_run_is_kept_out_until_the_first_has_ended(tmp_path):
    with claim(tmp_path):
        with pytest.raises(FolderInUse, match="in use by another run"), claim(tmp_path):
            pass
        assert os.listdir(tmp_path) == [".lock"]
    with claim(tmp_path):
        pass


def test_a_run_that_fails_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyError), claim(tmp_path):
        raise KeyError
    with claim(tmp_path):
        pass


def test_a_lock_file_that_a_killed_run_left_is_no_lock(tmp_path):
    (tmp_path / ".lock").write_text("")
    with claim(tmp_path):
        pass


def test_a_lock_on_a_file_that_is_gone_keeps_nobody_out(tmp_path, monkeypatch):
    """Another run removes its lock file between our opening it and our locking it."""
    lock, calls = fcntl.flock, []

    def late(descriptor, operation):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(descriptor)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with claim(tmp_path):
        assert len(calls) == 2
        with pytest.raises(FolderInUse), claim(tmp_path):
            pass


@pytest.mark.parametrize("name", ["file", "file/deep"])
def test_a_path_that_is_no_folder_is_bad_input(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"out: got .*, wanted a folder"), claim(tmp_path / name):
        pass


def test_a_file_system_without_locks_is_bad_input(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InvalidInput, match="No locks available"), claim(tmp_path):
        pass


def test_a_full_disk_stays_a_full_disk(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="No space left"), claim(tmp_path):
        pass
