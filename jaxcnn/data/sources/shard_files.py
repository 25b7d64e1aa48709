"""Files of prepared data sets, read by ranges: from a disk, or from a bucket."""

import abc
import collections
import contextlib
import functools
import os
import resource
from collections.abc import Callable, Iterator, Sequence

from jaxcnn import object_store
from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.retries import retry
from jaxcnn.paths import Path, bucket_and_key, file_size, is_remote

# 256 scans at a time hold a block each.
_BLOCK, _READS_A_BLOCK = 1 << 20, 16


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

    def begin(self, offset: int, length: int) -> Callable[[], bytes]:
        """Begins `read`, where that is possible; the call of what this returns waits for the bytes."""
        return functools.partial(self.read, offset, length)

    @contextlib.contextmanager
    def opened(self, size: int, reads: int) -> Iterator[Callable[[int, int], bytes]]:
        """`read`, for about `reads` small reads with growing offsets, of a file of `size` bytes."""
        del size, reads
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
    def opened(self, size: int, reads: int) -> Iterator[Callable[[int, int], bytes]]:
        del size, reads
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
        return self.begin(offset, length)()

    def begin(self, offset: int, length: int) -> Callable[[], bytes]:
        again = functools.partial(object_store.begin_read, self.path, offset, offset + length)
        begun = [again()]
        return lambda: self._checked(
            retry(lambda: (begun.pop() if begun else again())(), self.path)
        )

    def _checked(self, content: object_store.Content) -> bytes:
        data, generation = content
        if generation:  # not of a read that begins beyond the end
            self.generation = self.generation or generation
            if generation != self.generation:
                raise DataError(
                    f"{self.path} was replaced while it was in use: start again, and do not write to a data "
                    "set that runs read"
                )
        return data

    @contextlib.contextmanager
    def opened(self, size: int, reads: int) -> Iterator[Callable[[int, int], bytes]]:
        """Reads whole blocks if a block has many of the reads, since each request waits for the network."""
        least = _BLOCK if reads * _BLOCK > size * _READS_A_BLOCK else 0
        begin, block = 0, b""

        def read(offset: int, length: int) -> bytes:
            nonlocal begin, block
            stop = min(offset + length, size)
            if offset < stop and not begin <= offset < stop <= begin + len(block):
                begin = offset
                block = self.read(offset, min(max(length, least), size - offset))
            return block[offset - begin : stop - begin]

        yield read

    def size(self) -> int:
        def size() -> int:
            with object_store.errors_of_gcsfs(self.path):
                return file_size(self.path)

        return retry(size, self.path)


def shard_file(path: Path) -> ShardFile:
    """Returns the file at `path`, which need not exist."""
    return BucketFile(path) if is_remote(path) else LocalFile(path)


def shard_sizes(files: Sequence[ShardFile]) -> list[int | None]:
    """Returns the sizes of files of one folder in bytes, None of those that do not exist."""
    folder = files[0].path.parent
    if not is_remote(folder):
        return [file_size(file.path) if file.path.is_file() else None for file in files]
    found = list_bucket_folder(folder)
    return [found.get(file.name) for file in files]


def list_bucket_folder(folder: Path) -> dict[str, int | None]:
    """Returns the names in a folder in a bucket, with the sizes of objects in bytes and None for folders; no
    names if there is no such folder. One request for thousands of objects.

    Raises:
      DataError: there is no such bucket, it does not answer, or access is denied.
    """
    try:
        return retry(lambda: object_store.list_folder(folder), folder)
    except FileNotFoundError:
        # A bucket without objects is listed as one of no names, if it exists.
        bucket = type(folder)(f"gs://{bucket_and_key(folder)[0]}")
        if bucket != folder:
            list_bucket_folder(bucket)
            return {}
        raise DataError(f"there is no bucket {bucket}; give the path of one that exists") from None
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}): give this machine's account the right to list "
            "and read the bucket's objects (storage.objects.list and .get), and see that its credentials are "
            "found"
        ) from error
