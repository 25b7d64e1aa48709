"""Copies of shards in a local folder: what is read, what is kept, and what happens to damaged ones."""

import errno
import fcntl
import itertools
import os
import resource
import shutil
import signal
import threading
import time

import pytest

from jaxcnn import object_store, retries
from jaxcnn.data.errors import DataError
from jaxcnn.data.sources import cache_folder, shard_cache
from jaxcnn.data.sources.shard_cache import ShardCache, open_shards
from jaxcnn.data.sources.shard_files import LocalFile

SIZE = 1000


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(shard_cache, "_CHUNK", 300)


@pytest.fixture
def shards(bucket):
    """Paths of three objects of `SIZE` bytes, and their contents."""
    found = {bucket / "set" / f"a.tfrecord-0000{i}-of-00003": os.urandom(SIZE) for i in range(3)}
    for path, content in found.items():
        object_store.write(path, content)
    return found


def until(condition):
    """Waits for what another thread does."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def fill(files):
    """Reads a byte of each file, and waits until each has its copy."""
    for file in files:
        file.read(0, 1)
    until(lambda: all(file.copy for file in files))


def copies(folder):
    return sorted(p for p in folder.glob("*/*") if p.name != "source")


def said(caplog):
    """What jaxcnn logged; gcsfs and its like log that there are no credentials."""
    return [one.getMessage() for one in caplog.records if one.name.startswith("jaxcnn")]


@pytest.mark.usefixtures("small_chunks")
def test_shards_are_kept_and_read_from_the_disk(tmp_path, shards, bucket_proxy):
    files = open_shards([*shards], ShardCache(tmp_path))
    fill(files)
    assert [copy.read_bytes() for copy in copies(tmp_path)] == [*shards.values()]
    bucket_proxy.requests.clear()
    for file, content in zip(files, shards.values(), strict=True):
        assert file.read(10, 50) == content[10:60]
        assert file.read(0, SIZE) == content
    assert not bucket_proxy.requests
    # The next process asks the bucket once a shard, whether the copy is of its generation.
    for file, content in zip(
        open_shards([*shards], ShardCache(tmp_path)), shards.values(), strict=True
    ):
        assert file.read(10, 50) == file.read(10, 50) == content[10:60]
    assert len(bucket_proxy.requests) == len(shards)


def test_local_files_are_not_copied(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (file,) = open_shards([tmp_path / "a"], ShardCache(tmp_path / "cache"))
    assert file.read(1, 2) == b"bc"
    assert not file.distrust()
    assert not copies(tmp_path / "cache")


def test_a_shard_that_was_written_again_is_copied_again(tmp_path, shards):
    path = next(iter(shards))
    fill(open_shards([path], ShardCache(tmp_path)))
    object_store.write(path, b"b" * SIZE)
    (file,) = open_shards([path], ShardCache(tmp_path))
    assert file.read(0, 3) == b"bbb"
    until(lambda: file.copy)
    assert [copy.read_bytes() for copy in copies(tmp_path)] == [b"b" * SIZE]


def test_a_shard_that_is_replaced_while_it_is_read_is_an_error(tmp_path, shards):
    path, content = next(iter(shards.items()))
    (plain,), (cached,) = open_shards([path]), open_shards([path], ShardCache(tmp_path))
    assert plain.read(0, 5) == content[:5]
    fill([cached])
    object_store.write(path, content)
    with pytest.raises(DataError, match="was replaced while it was in use"):
        plain.read(0, 5)
    assert cached.read(0, 5) == content[:5]  # the bytes that were there at the start
    object_store.delete(path)
    with pytest.raises(FileNotFoundError):
        plain.read(0, 5)


@pytest.mark.usefixtures("small_chunks")
def test_a_shard_that_is_replaced_while_it_is_copied_is_not_kept(tmp_path, shards):
    path = next(iter(shards))
    (file,) = open_shards([path], ShardCache(tmp_path))
    read, reads = file.read_object, []

    def replaced(offset, length):
        if offset == 600:
            object_store.write(path, b"b" * SIZE)
        reads.append(offset)
        return read(offset, length)

    file.read_object = replaced
    assert file.read(0, 1)
    until(lambda: not file.asked)
    assert reads == [0, 0, 300, 600]
    assert not copies(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "replaced"])
def test_a_damaged_copy_is_read_from_the_bucket(tmp_path, shards, caplog, damage):
    path, content = next(iter(shards.items()))
    (file,) = open_shards([path], ShardCache(tmp_path))
    fill([file])
    (copy,) = copies(tmp_path)
    if damage == "flipped":
        copy.write_bytes(bytes(255 - byte for byte in content))
        assert file.read(10, 50) != content[10:60]
        assert file.distrust()
    elif damage == "cut":
        copy.write_bytes(content[:20])
    else:
        copy.rename(tmp_path / "moved")
        copy.write_bytes(b"")
        file.copy = LocalFile(copy)  # as where files cannot stay open
    assert file.read(10, 50) == file.read(10, 50) == content[10:60]
    assert file.distrust()  # other threads may have read it too
    assert not copy.exists()
    assert caplog.text.count("is not used any more") == 1


def test_the_limit_keeps_what_fits(tmp_path, shards, caplog):
    files = open_shards([*shards], ShardCache(tmp_path, 2.5 * SIZE / 1e9))
    fill(files[:2])
    content = [*shards.values()][2]
    assert files[2].read(0, 5) == content[:5]
    until(lambda: "is full (data.cache_gb=2.5e-06)" in caplog.text)
    assert files[2].read(5, 5) == content[5:10]
    assert [copy.read_bytes() for copy in copies(tmp_path)] == [*shards.values()][:2]
    assert len(said(caplog)) == 1


def test_other_data_sets_make_room_unless_they_are_in_use(tmp_path, shards, bucket, caplog):
    limit, folders = 4.5 * SIZE / 1e9, [bucket / name for name in ("old", "older", "new")]
    for folder in folders:
        object_store.write(folder / "x", bytes(SIZE))

    def filled(*paths):
        cache = ShardCache(tmp_path, limit)
        files = open_shards(paths, cache)
        fill(files)
        return files

    kept = filled(*shards)  # in use
    for folder, name in zip(folders[:2], ("old", "older"), strict=True):
        before = {*copies(tmp_path)}
        filled(folder / "x")
        if name == "old":
            (old,) = {*copies(tmp_path)} - before
            os.utime(old.parent / "source", (1, 1))
    assert not old.exists()  # made room for "older"
    assert len(filled(folders[2] / "x")) == 1
    assert len(copies(tmp_path)) == 4
    assert all(file.copy for file in kept)
    assert not said(caplog)


def test_a_tenth_of_the_free_space_is_left(tmp_path, shards, monkeypatch, caplog):
    def disk(_):
        used = sum(path.stat().st_size for path in copies(tmp_path))
        return usage._replace(free=3 * SIZE - used)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", disk)
    files = open_shards([*shards], ShardCache(tmp_path))
    fill(files[:2])
    assert files[2].read(0, 1)
    until(lambda: "a tenth of the free space is left" in caplog.text)
    assert len(copies(tmp_path)) == 2


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_does_not_take_more_ends_the_cache(tmp_path, shards, monkeypatch, caplog, code):
    def full(_):
        raise OSError(code, os.strerror(code))

    files = open_shards([*shards], ShardCache(tmp_path))
    fill(files[:1])
    monkeypatch.setattr(cache_folder.os, "fsync", full)
    for file, content in zip(files, shards.values(), strict=True):
        assert file.read(20, 5) == content[20:25]
    until(lambda: "no further shards are kept" in caplog.text)
    for file, content in zip(files, shards.values(), strict=True):
        assert file.read(20, 5) == content[20:25]
    assert os.strerror(code) in caplog.text
    until(lambda: len(copies(tmp_path)) == 1)
    assert len(said(caplog)) == 1


def test_the_limit_of_files_ends_the_cache(tmp_path, bucket, caplog):
    content = os.urandom(200_000)
    object_store.write(bucket / "x", content)
    (file,) = open_shards([bucket / "x"], ShardCache(tmp_path))
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        assert file.read(5, 5) == content[5:10]
        until(lambda: "no further shards are kept" in caplog.text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "ulimit -f" in caplog.text
    assert file.read(150_000, 5) == content[150_000:150_005]
    assert not copies(tmp_path)


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.cache_dir=.*Not a directory.*cache_dir=''"):
        ShardCache(tmp_path / "file" / "cache")

    def unlocked(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(cache_folder.fcntl, "flock", unlocked)
    with pytest.raises(DataError, match=os.strerror(errno.ENOLCK)):
        ShardCache(tmp_path / "cache")


def test_a_folder_that_goes_away_ends_the_cache(tmp_path, shards, caplog):
    files = open_shards([*shards], ShardCache(tmp_path / "cache"))
    fill(files[:1])
    assert files[0].read(0, 1)  # from the copy, which stays open
    os.rename(tmp_path / "cache", tmp_path / "away")
    for _ in range(2):
        for file, content in zip(files, shards.values(), strict=True):
            assert file.read(20, 5) == content[20:25]
    until(lambda: "no further shards are kept" in caplog.text)
    assert len(said(caplog)) == 1


@pytest.mark.usefixtures("small_chunks")
def test_two_processes_share_the_work(tmp_path, shards, bucket_proxy):
    """Two caches lock as two processes do: each opens the files itself."""
    path, content = next(iter(shards.items()))
    one, two = (open_shards([path], ShardCache(tmp_path))[0] for _ in range(2))
    begun, go_on, read = threading.Event(), threading.Event(), one.read_object

    def slow(offset, length):
        if offset == 600:
            begun.set()
            assert go_on.wait(30)
        return read(offset, length)

    one.read_object = slow
    one.read(0, 1)
    assert begun.wait(30)
    two.read(0, 1)
    until(lambda: not two.asked)
    assert [path.suffix for path in copies(tmp_path)] == [".part"]
    go_on.set()
    until(lambda: one.copy)
    assert two.read(10, 50) == content[10:60]
    assert two.copy
    gets = [path for method, path in bucket_proxy.requests if "alt=media" in path]
    assert len(gets) == 3 + 4  # three reads, and four chunks of one copy


def test_what_a_killed_process_left_does_not_count(tmp_path, shards):
    path, content = next(iter(shards.items()))
    (file,) = open_shards([path], ShardCache(tmp_path))
    fill([file])
    (copy,) = copies(tmp_path)
    left, held = (copy.with_name(f"{name}.00.part") for name in ("x", "y"))
    left.write_bytes(bytes(10**4))
    with open(held, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        copy.rename(copy.with_name(copy.name + ".part"))
        (file,) = open_shards([path], ShardCache(tmp_path))
        assert copies(tmp_path) == [held]
    fill([file])
    assert copy.read_bytes() == content


def test_a_bucket_that_does_not_answer_is_asked_again_for_a_copy(
    tmp_path, shards, bucket_proxy, monkeypatch
):
    monkeypatch.setattr(retries, "PAUSES", (0.0,))
    path, content = next(iter(shards.items()))
    (file,) = open_shards([path], ShardCache(tmp_path))
    monkeypatch.setattr(shard_cache.ShardCache, "_size", lambda *_: SIZE)
    gets = itertools.count()
    bucket_proxy.wrong = lambda *_: 503 if next(gets) else 0  # after the first
    assert file.read(0, 5) == content[:5]
    until(lambda: not file.asked)
    with pytest.raises(DataError, match="cannot read"):
        file.read(0, 5)
    bucket_proxy.behave()
    fill([file])
    assert file.read(0, SIZE) == content
