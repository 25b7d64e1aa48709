"""Files of prepared data sets, read by ranges: from a disk, or from a bucket."""

import abc
import os

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
