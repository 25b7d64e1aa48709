"""Files of prepared data sets, read by ranges: from a disk, or from a bucket."""

import abc
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from jaxcnn import object_store
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
          DataError: the disk or the bucket does not answer.
          OSError: it cannot be read for another reason.
        """

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int, int], bytes]]:
        """`read`, for many reads in a row."""
        yield self.read

    @abc.abstractmethod
    def size(self) -> int:
        """Returns the file's size in bytes. Raises as `read`."""


class LocalFile(ShardFile):
    """A file on a disk. It is opened for each read, which takes microseconds: ImageNet has 1,088 files, more
    than many systems allow a process to keep open."""

    def read(self, offset: int, length: int) -> bytes:
        file = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(file, length, offset)
        finally:
            os.close(file)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int, int], bytes]]:
        with open(self.path, "rb", buffering=0) as file:
            yield lambda offset, length: os.pread(file.fileno(), length, offset)

    def size(self) -> int:
        return file_size(self.path)


class BucketFile(ShardFile):
    """An object in a bucket."""

    def read(self, offset: int, length: int) -> bytes:
        return retry(lambda: object_store.read(self.path, offset, offset + length), self.path)

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
