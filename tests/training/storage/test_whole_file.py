"""A write is atomic: a file is complete, or unchanged."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from optimiz import training
from optimiz.training.storage import whole_file


def test_text_and_bytes_are_written_and_nothing_else_is_left(tmp_path):
    training.write_whole(tmp_path / "a.txt", "± \udcff")  # a name of bytes that are not UTF-8
    training.write_whole(tmp_path / "a.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "± ?"
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.txt"]


@pytest.mark.parametrize("at", ["write_bytes", "flush", "replace"])
def test_what_was_there_stays_where_the_disk_is_full(tmp_path, monkeypatch, at):
    path = tmp_path / "record.json"
    training.write_whole(path, "before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(*((whole_file, at) if at == "flush" else (Path, at)), full)
        with pytest.raises(OSError, match=r"No space left on device: '.*record\.json'"):
            training.write_whole(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_windows_flushes_files_by_a_handle_that_writes_and_no_directory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    modes = []

    def note(descriptor):
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", note)
        patched.setattr(os, "name", "nt")
        whole_file.flush(tmp_path)
        whole_file.flush(tmp_path / "file")
    assert modes == [os.O_RDWR]
