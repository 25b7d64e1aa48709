"""The folder of a cache of shards (see shard_cache.py), which several processes use at a time.

Each copy is made by the process that locks its partial file; the system unlocks the files of a process that
ends, however it ends. A data set that a process reads is locked too: only copies of others are removed to
make room.

    FOLDER/lock                                locked while room is looked for
    FOLDER/KEY/source                          the data set's path; locked while it is in use
    FOLDER/KEY/SHARD.GENERATION                a whole copy
    FOLDER/KEY/SHARD.GENERATION.part           a copy that is being made, locked
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import threading
import weakref
from collections.abc import Iterator
from typing import IO

from jaxcnn.paths import Path

# Without a limit, this share of what the cache may have stays free.
_FREE = 0.1
_SOURCE, _LOCK, _PART = "source", "lock", ".part"


class CacheFolder:
    """A folder of copies of shards. Thread-safe. Every method raises OSError if the disk does not work."""

    def __init__(self, path: pathlib.Path, limit: float) -> None:
        """Makes the folder, and tries whether files can be written and locked there.

        Args:
          path: of the folder.
          limit: bytes that it may hold; 0: nine tenths of what is free.
        """
        self.path, self._limit = path, limit
        self._in_use: set[Path] = set()
        self._guard = threading.Lock()
        path.mkdir(parents=True, exist_ok=True)
        with self._locked() as lock:
            lock.write(b"0")

    def of(self, data_set: Path) -> pathlib.Path:
        """The folder of the copies of a data set."""
        return self.path / hashlib.sha256(os.fsencode(data_set)).hexdigest()[:16]

    def use(self, data_set: Path) -> None:
        """Keeps other processes from removing copies of a data set, as long as this object exists. Removes
        what a process that was killed has left."""
        folder = self.of(data_set)
        with self._guard:
            if data_set in self._in_use:
                return
            folder.mkdir(exist_ok=True)
            source = os.open(folder / _SOURCE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            weakref.finalize(self, os.close, source)  # which unlocks it
            fcntl.flock(source, fcntl.LOCK_SH)
            os.write(source, os.fsencode(data_set))
            self._in_use.add(data_set)
        for part in folder.glob(f"*{_PART}"):
            with contextlib.suppress(BlockingIOError), _locked_part(part):
                pass

    @contextlib.contextmanager
    def new_copy(self, place: pathlib.Path, shard: str, size: int) -> Iterator[IO[bytes] | None]:
        """The file in which to write a copy of `size` bytes, which appears at `place` after the block, and
        replaces those of earlier generations of the shard. None if there is a copy, or no room.

        Raises:
          BlockingIOError: another process makes this copy.
        """
        path = place.with_name(place.name + _PART)
        with _locked_part(path) as part:
            _remove_others(place, shard)
            if place.exists() or not self._reserve(part, size):
                yield None
                return
            part.seek(0)
            yield part
            part.flush()
            os.fsync(part.fileno())
            path.rename(place)

    def _reserve(self, part: IO[bytes], size: int) -> bool:
        """Gives a partial file its size, if there is room or other data sets can make it."""
        with self._locked():
            part.truncate(0)
            others = sorted(self.path.glob(f"*/{_SOURCE}"), key=lambda path: path.stat().st_mtime)
            while self._room() < size and others:
                _remove_unused(others.pop(0))
            if self._room() >= size:
                os.posix_fallocate(part.fileno(), 0, size)  # other downloads see that it is taken
                return True
        return False

    def _room(self) -> float:
        """How many bytes may be added."""
        used = 0
        for path in self.path.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                used += path.stat().st_size
        if self._limit:
            return self._limit - used
        free = shutil.disk_usage(self.path).free
        return free - _FREE * (free + used)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        with open(self.path / _LOCK, "wb", buffering=0) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock


@contextlib.contextmanager
def _locked_part(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens a partial file to write, which no other process has; it is removed unless the block renames it.

    Raises:
      BlockingIOError: another process has it.
    """
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(file, path):  # the process that had it renamed it
            raise BlockingIOError
        try:
            yield file
        finally:
            if _is_at(file, path):
                path.unlink()


def _is_at(file: IO[bytes], path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_others(place: pathlib.Path, name: str) -> None:
    """Removes the copies of earlier generations of a shard."""
    copies = re.compile(re.escape(name) + r"\.[0-9a-f]+")
    for path in place.parent.iterdir():
        if path != place and copies.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _remove_unused(source: pathlib.Path) -> None:
    """Removes the copies of a data set, unless a process uses it."""
    with contextlib.suppress(BlockingIOError), open(source, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in source.parent.iterdir():
            if path != source:
                path.unlink()
