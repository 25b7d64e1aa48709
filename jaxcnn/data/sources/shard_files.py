"""Files of prepared data sets, read by ranges: from a disk, or from a bucket."""

import abc
import collections
import contextlib
import os
import resource
from collections.abc import Callable, Iterator, Sequence

from jaxcnn import object_store
from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.retries import retry
from jaxcnn.paths import Path, file_size, is_remote


class ShardFile(abc.ABC):
    """A file of records, `path`. Reads are thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @abc.abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Returns `length` bytes from `offset` on; fewer at the file's end.

        Raises:
          DataError: the disk or the bucket does not answer, or the file was replaced.
          OSError: it cannot be read for another reason.
        """

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int, int], bytes]]:
        """`read`, for many reads in a row."""
        yield self.read

    def distrust(self) -> bool:
        """Whether what was read may have come from a copy, which is not used from here on."""
        return False

    @abc.abstractmethod
    def size(self) -> int:
        """Returns the file's size in bytes. Raises as `read`."""


_MOST_FILES = 1 << 16


def _room() -> collections.deque[None]:
    """An item for each file that may stay open: half of what this process may open, since ImageNet has 1,088
    files, more than many systems allow. A semaphore could not be released in a `__del__`, which may run while
    the same thread holds its lock."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = _MOST_FILES
    return collections.deque([None] * (min(limit, _MOST_FILES) // 2))


_ROOM = _room()


class _Descriptor:
    """An open file, which is closed when nobody uses it any more. `kept`: it has an item of `_ROOM`."""

    number, kept = -1, False

    def __init__(self, path: Path) -> None:
        # Globals may be gone in a `__del__` at the program's end.
        self._close, self._room = os.close, _ROOM
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(IndexError):
            _ROOM.pop()
            self.kept = True

    def __del__(self) -> None:
        if self.number >= 0:
            self._close(self.number)
        if self.kept:
            self._room.append(None)


class LocalFile(ShardFile):
    """A file on a disk.

    It stays open, if there is room for its descriptor; else it is opened for each read. Opening and closing
    take as long as the rest of reading a small record, and each hands Python's lock to another thread.
    """

    _kept: _Descriptor | None = None

    def read(self, offset: int, length: int) -> bytes:
        file = self._kept or self._open()
        try:
            return os.pread(file.number, length, offset)
        except OSError:
            self._kept = None  # such as one of a file that was replaced on a network disk
            raise

    def _open(self) -> _Descriptor:
        file = _Descriptor(self.path)
        if file.kept:
            self._kept = file
        return file

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int, int], bytes]]:
        with open(self.path, "rb", buffering=0) as file:
            yield lambda offset, length: os.pread(file.fileno(), length, offset)

    def size(self) -> int:
        return file_size(self.path)


class BucketFile(ShardFile):
    """An object in a bucket.

    `generation` is that of the first read, b"" before. Every read returns it, at no cost, so that an object
    that is replaced by another is an error at the next read.
    """

    generation = b""

    def read(self, offset: int, length: int) -> bytes:
        def content() -> object_store.Content:
            return object_store.read_content(self.path, offset, offset + length)

        data, generation = retry(content, self.path)
        if generation:  # not of a read that begins beyond the end
            self.generation = self.generation or generation
            if generation != self.generation:
                raise DataError(
                    f"{self.path} was replaced while it was in use: start again, and do not write to a data "
                    "set that runs read"
                )
        return data

    def size(self) -> int:
        return retry(lambda: file_size(self.path), self.path)


def shard_file(path: Path) -> ShardFile:
    """Returns the file at `path`, which need not exist."""
    return BucketFile(path) if is_remote(path) else LocalFile(path)


def shard_sizes(files: Sequence[ShardFile]) -> list[int | None]:
    """Returns the sizes of files of one folder in bytes, None of those that do not exist."""
    folder = files[0].path.parent
    if not is_remote(folder):
        return [file_size(file.path) if file.path.is_file() else None for file in files]
    # One request for a thousand objects.
    found = retry(lambda: object_store.list_sizes(folder), folder)
    return [found.get(file.name) for file in files]
