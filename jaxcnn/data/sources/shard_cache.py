"""Shards of data sets in buckets, kept whole in a local folder (`data.cache_dir`).

The first read of a shard starts one download of it in the background, while reads go on by range. When it is
complete, reads come from the disk. A copy's name has the object's generation, which every read of a range
returns, so that a data set that changed never gives old bytes. A copy that is not complete has another name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.cache_folder import CacheFolder
from jaxcnn.data.sources.shard_files import (
    BucketFile,
    LocalFile,
    ShardFile,
    shard_file,
    shard_sizes,
)
from jaxcnn.data.threads import ThreadPool
from jaxcnn.file_errors import disk_advice
from jaxcnn.paths import Path, is_remote, local_path

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

# Downloads at a time, each with one read of a chunk in flight.
_DOWNLOADS = 4
_CHUNK = 8 << 20


def open_shards(
    paths: Sequence[Path], cache: ShardCache | None = None, sums: Sequence[str] = ()
) -> tuple[ShardFile, ...]:
    """Returns the files at `paths`; those in buckets are kept in `cache`, if there is one.

    Args:
      sums: SHA-256 of the files, for those whose records have no checksums; copies are compared with it.
    """
    known = sums or [""] * len(paths)
    return tuple(
        CachedFile(path, cache, sha256) if cache and is_remote(path) else shard_file(path)
        for path, sha256 in zip(paths, known, strict=True)
    )


def open_cache(data: Path, folder: str, gigabytes: float) -> ShardCache | None:
    """Returns the cache in `folder` (see `ShardCache`) of the data at `data`; None if `folder` is '' or the
    data are on a disk. Raises DataError."""
    if not folder or not is_remote(data):
        return None
    return ShardCache(local_path(folder, "data.cache_dir"), gigabytes)


class CachedFile(BucketFile):
    """An object in a bucket, read from its copy on a disk as soon as there is one."""

    def __init__(self, path: Path, cache: ShardCache, sha256: str = "") -> None:
        super().__init__(path)
        self.sha256 = sha256  # of the whole object; '' if the copy's readers find damage
        self._cache, self.folder = cache, cache.use(path)
        self.copy: LocalFile | None = None
        self.asked, self._lost = False, False

    def read(self, offset: int, length: int) -> bytes:
        if (copy := self.copy) is not None:
            data = self._read_copy(copy, offset, length)
            if data is not None:
                return data
        data = self.read_object(offset, length)
        self._ask()
        return data

    def begin(self, offset: int, length: int) -> Callable[[], bytes]:
        if self.copy is not None:
            return functools.partial(self.read, offset, length)
        wait = super().begin(offset, length)

        def result() -> bytes:
            data = wait()
            self._ask()
            return data

        return result

    def read_object(self, offset: int, length: int) -> bytes:
        return super().begin(offset, length)()

    def _ask(self) -> None:
        """Asks for a copy, once."""
        if not self.asked and self.generation:
            self.asked = True
            self._cache.keep(self)

    def distrust(self) -> bool:
        if (copy := self.copy) is not None:
            self._lose(copy, "is damaged")
            _remove(copy)
        return self._lost

    def make_copy(self) -> None:
        self._cache.download(self)

    def place(self) -> pathlib.Path:
        """Where the copy of the object of this generation is, or will be."""
        return self.folder / f"{self.name}.{self.generation.hex()}"

    def _read_copy(self, copy: LocalFile, offset: int, length: int) -> bytes | None:
        try:
            data = copy.read(offset, length)
        except OSError as error:
            self._lose(copy, f"cannot be read ({error.strerror})")
            return None
        if len(data) < length:
            self._lose(copy, "was cut short")
            _remove(copy)
            return None
        return data

    def _lose(self, copy: LocalFile, problem: str) -> None:
        """Reads the object from the bucket from here on."""
        if self.copy is copy:
            self.copy, self._lost = None, True
            text = "a copy in data.cache_dir %s, and is not used any more: %s; its original is read instead"
            self._cache.warn(text, problem, copy.path)


class ShardCache:
    """Makes copies of shards, in threads. Thread-safe; several processes may use one folder."""

    def __init__(self, folder: pathlib.Path, gigabytes: float = 0.0) -> None:
        """`gigabytes` (10^9 bytes) is the most that the folder may hold; 0: nine tenths of what is free.

        Raises:
          DataError: files cannot be written or locked there.
        """
        self._limit = (
            f"data.cache_gb={gigabytes:g}" if gigabytes else "a tenth of the free space is left"
        )
        self._guard, self._said, self._closed = threading.RLock(), set[str](), False
        self._shards: dict[Path, list[BucketFile]] = {}
        self._sizes: dict[Path, int | None] = {}
        try:
            self._folder = CacheFolder(folder, gigabytes * 1e9)
        except OSError as error:
            raise DataError(
                f"data.cache_dir={folder} cannot be used ({error.strerror}): give a folder on a local disk "
                "that has room and that you may write to, or none: --config.data.cache_dir=''"
            ) from error
        self._pool = ThreadPool(_DOWNLOADS, "jaxcnn-cache")

    def use(self, shard: Path) -> pathlib.Path:
        """Returns the folder of the copies of a shard's data set, which no process empties while this one has
        it."""
        data_set = shard.parent
        with self._guard:
            self._shards.setdefault(data_set, []).append(BucketFile(shard))
        try:
            self._folder.use(data_set)
        except OSError as error:
            self._give_up(error)
        return self._folder.of(data_set)

    def keep(self, file: CachedFile) -> None:
        """Gives `file` its copy, or begins to make one."""
        if os.path.exists(file.place()) and not file.sha256:
            file.copy = LocalFile(file.place())
        elif not self._closed:
            # What is not needed any more, at the end of a run, is not downloaded.
            self._pool.submit(_download, weakref.ref(file))

    def download(self, file: CachedFile) -> None:
        """Makes the copy of a file, if there is room."""
        place = file.place()
        try:
            if file.sha256 and place.exists():
                if _digest(place) == file.sha256:
                    file.copy = LocalFile(place)
                    return
                self.warn("a copy in data.cache_dir is damaged, and is made again: %s", place)
                place.unlink()
            if not self._closed:
                size = _from_bucket(lambda: self._size(file.path))
                if size is None:
                    return
                with self._folder.new_copy(place, file.name, size) as part:
                    if part is not None and not _copy(file, part, size):
                        text = "%s does not have its recorded SHA-256: no copy is kept; see prepare --verify"
                        self.warn(text, file.path)
                        raise _NotRead
                if place.exists():
                    file.copy = LocalFile(place)
                else:
                    self._closed = True
                    text = "data.cache_dir %s is full (%s): other shards are read from the bucket"
                    self.warn(text, self._folder.path, self._limit)
        except (BlockingIOError, _NotRead):
            # Another process makes this copy; or the bucket does not answer, as it does not to others.
            file.asked = False
        except OSError as error:
            self._give_up(error)

    def _size(self, path: Path) -> int | None:
        """The size of an object, by one listing for all of its data set."""
        with self._guard:
            if path not in self._sizes:
                shards = self._shards[path.parent]
                sizes = shard_sizes(shards)
                self._sizes |= {one.path: size for one, size in zip(shards, sizes, strict=True)}
            return self._sizes[path]

    def warn(self, text: str, *arguments: object) -> None:
        """Logs a warning, the first of its kind."""
        with self._guard:
            said = text in self._said
            self._said.add(text)
        if not said:
            _LOGGER.warning(text, *arguments)

    def _give_up(self, error: OSError) -> None:
        self._closed = True
        text = "no further shards are kept in data.cache_dir %s (%s; %s): they are read from the bucket"
        self.warn(text, self._folder.path, error.strerror, disk_advice(error))


def _remove(copy: LocalFile) -> None:
    with contextlib.suppress(OSError):
        os.unlink(copy.path)


class _NotRead(Exception):
    """A shard cannot be read from the bucket."""


def _download(reference: weakref.ref[CachedFile]) -> None:
    if (file := reference()) is not None:
        file.make_copy()


def _from_bucket(read: Callable[[], _T]) -> _T:
    try:
        return read()
    except Exception as error:  # gcsfs raises many types
        raise _NotRead from error


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(file: CachedFile, part: IO[bytes], size: int) -> bool:
    """Writes an object of `size` bytes into a partial file; returns whether it has its checksum, if known."""
    digest = hashlib.sha256()
    for offset in range(0, size, _CHUNK):
        length = min(_CHUNK, size - offset)
        data = _from_bucket(lambda: file.read_object(offset, length))  # noqa: B023 (called at once)
        if len(data) != length:
            raise _NotRead
        part.write(data)
        if file.sha256:
            digest.update(data)
    return file.sha256 in ("", digest.hexdigest())
