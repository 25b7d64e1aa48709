"""Files of records on a disk: which stay open, and what happens when they are replaced or fail."""

import collections
import errno
import os

import pytest

from jaxcnn.data.sources import shard_files
from jaxcnn.data.sources.shard_files import shard_file


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three files; two may stay open."""
    monkeypatch.setattr(shard_files, "_ROOM", collections.deque([None] * 2))
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode() * 10 + b"end")
    return [shard_file(path) for path in paths]


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_ranges_are_read_up_to_the_end(files):
    assert [file.read(9, 2) for file in files] == [b"ae", b"be", b"ce"]
    assert files[0].read(11, 100) == b"nd"
    assert files[0].read(100, 1) == b""


def test_files_stay_open_within_the_limit_and_are_closed_with_their_owner(files):
    before = open_files()
    for _ in range(2):
        assert [file.read(0, 1) for file in files] == [b"a", b"b", b"c"]
        assert open_files() == before + 2
    del files[0]  # makes room
    assert open_files() == before + 1
    files[-1].read(0, 1)
    assert open_files() == before + 2
    files.clear()
    assert open_files() == before
    assert len(shard_files._ROOM) == 2


def test_a_file_that_fails_is_opened_again(files, monkeypatch):
    """As one on a network disk that was replaced."""
    file, read, numbers = files[0], os.pread, []
    assert file.read(0, 1) == b"a"

    def stale(number, *arguments):
        numbers.append(number)
        if len(numbers) == 1:
            raise OSError(errno.ESTALE, "stale")
        return read(number, *arguments)

    monkeypatch.setattr(os, "pread", stale)
    with pytest.raises(OSError, match="stale"):
        file.read(0, 1)
    file.path.rename(file.path.with_name("old"))
    file.path.write_bytes(b"new")
    assert file.read(0, 3) == b"new"


def test_a_missing_file_takes_no_room(tmp_path):
    room = len(shard_files._ROOM)
    with pytest.raises(FileNotFoundError):
        shard_file(tmp_path / "none").read(0, 1)
    assert len(shard_files._ROOM) == room
