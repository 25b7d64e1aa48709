"""Records in array_record files, as TFDS writes them, read at random from a disk or a bucket.

The package array_record reads them: it decompresses them, and compares the hashes (HighwayHash) of each
chunk's header and data. Its `read(begin, end)` takes 4 us for a small record and releases Python's lock;
`read([i])`, which `tfds.data_source` calls, makes a list of all chunks of the file first.
"""

import dataclasses
import functools
import importlib
import os
import pathlib
import resource
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcnn.data.errors import DamagedRecord, DataError
from jaxcnn.data.sources.array_record_tail import Tail, damaged, read_tail
from jaxcnn.data.sources.shard_files import ShardFile
from jaxcnn.data.sources.tfrecord_index import RecordIndex
from jaxcnn.paths import Path, is_remote

ARRAY_RECORD = "array_record"
_READ_AT_RANDOM = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER = 4096  # bytes; longer records are read past it


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayRecordIndex(RecordIndex):
    """A RecordIndex whose offsets are those of the records' chunks. `checksum` is 0: the files have none that
    can be known without reading the records."""

    @property
    def checksums(self) -> None:
        return None

    @staticmethod
    def scan(file: ShardFile, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tail = read_tail(file, size)
        reader = open_reader(file, tail)
        offsets, lengths = tail.rows(file.path)
        if not len(offsets) == reader.num_records() == count:
            raise damaged(file.path, f"expected {count} records, found {reader.num_records()}")
        return offsets, lengths, np.zeros(count, np.uint32)

    def read(self, files: Sequence[ShardFile], record: int) -> bytes:
        shard = self.shard.item(record)
        number = record - self._first[shard]
        return self._data(
            files, record, lambda: self._reader(files[shard]).read(number, number + 1)
        )

    def begin(self, files: Sequence[ShardFile], record: int) -> Callable[[], bytes]:
        shard = self.shard.item(record)
        number = record - self._first[shard]
        reader = self._reader(files[shard])
        wait = reader.begin(number) if isinstance(reader, _RangeReader) else None
        if wait is None:
            return functools.partial(self.read, files, record)
        return functools.partial(self._data, files, record, wait)

    def _data(
        self, files: Sequence[ShardFile], record: int, read: Callable[[], list[bytes]]
    ) -> bytes:
        file = files[self.shard.item(record)]
        try:
            (data,) = read()
        except (RuntimeError, IndexError) as error:
            self._reader.cache_clear()  # of a file that was replaced on a network disk
            # An OSError, which the package makes a RuntimeError, if it was one.
            file.read(self.offset.item(record), self.length.item(record))
            raise DamagedRecord(self.name(files, record), f"array_record: {error}") from error
        if len(data) != self.length.item(record):
            raise DataError(
                f"record {self.name(files, record)} has {len(data)} bytes, expected "
                f"{self.length.item(record)}: the file changed after it was indexed; start again, and "
                "prepare the data set again if that does not help"
            )
        return data

    @functools.cached_property
    def _first(self) -> list[int]:
        """The first record of each file."""
        shards = np.arange(self.shard.max(initial=-1) + 1)
        return np.searchsorted(self.shard, shards).tolist()

    @functools.cached_property
    def _reader(self) -> Any:
        """Returns the reader of a file, which stays open. Thread-safe."""
        return functools.lru_cache(_room())(open_reader)


def load_array_record() -> Any:
    """Returns the package's module.

    Raises:
      DataError: it is not installed.
    """
    try:
        return importlib.import_module("array_record.python.array_record_module")
    except ImportError as error:
        raise DataError(
            f"data sets stored as {ARRAY_RECORD} need the package array_record, which cannot be imported "
            f"({error}); install it with: pip install array_record (there is none for Windows), or use the "
            "data set in TFDS's default format, tfrecord"
        ) from error


def open_reader(file: ShardFile, tail: Tail | None = None) -> Any:
    """Returns the reader of a file, which has compared the hashes of the file's index: the package's, or one
    with the same `read` and `num_records`.

    Args:
      tail: of the file, if it is known.

    Raises:
      DataError: the file is damaged.
      OSError: it cannot be read.
    """
    if not is_remote(file.path):
        return _local_reader(file.path, file)
    return _RangeReader(file, tail or read_tail(file, file.size()))


def _local_reader(path: Path, file: ShardFile) -> Any:
    """Returns the package's reader of a file on a disk; errors name `file`."""
    reader = load_array_record().ArrayRecordReader(
        str(path), options=_READ_AT_RANDOM, file_reader_buffer_size=_BUFFER
    )
    if not reader.ok():
        file.read(0, 1)  # an OSError, if it is one
        try:
            reader.close()
        except RuntimeError as error:  # which alone has the reason
            raise damaged(file.path, str(error)) from error
    return reader


class _RangeReader:
    """Reads a file in a bucket, of which only the end and the records that are wanted are transferred.

    The package reads gs:// itself, but with a client for each file (ImageNet has 1,088) and three connections
    of each, in three times the processor time of `object_store`, and by its own rules for errors. So it gets
    a scratch file as long as the true one, which holds the end while it is opened, and then one record at a
    time, where it lies in the true file. The scratch file is unlinked, and its pages are dropped after each
    read: nothing is written to the disk.
    """

    def __init__(self, file: ShardFile, tail: Tail) -> None:
        self._file, self._lock = file, threading.Lock()
        self._scratch, name = tempfile.mkstemp(prefix="jaxcnn-")
        weakref.finalize(self, os.close, self._scratch)
        try:
            os.pwrite(self._scratch, tail.index, tail.start)
            os.pwrite(self._scratch, tail.last, tail.start + len(tail.index))
            self._reader = _local_reader(pathlib.Path(name), file)
        finally:
            os.unlink(name)
        os.ftruncate(self._scratch, 0)
        self._offsets = np.append(tail.rows(file.path)[0], tail.start)

    def num_records(self) -> int:
        return self._reader.num_records()

    def read(self, begin: int, end: int) -> list[bytes]:
        start, stop = self._offsets.item(begin), self._offsets.item(end)
        return self._decode(self._file.read(start, stop - start), begin, end)

    def begin(self, number: int) -> Callable[[], list[bytes]]:
        """Begins `read` of one record; the call of what this returns waits for it."""
        start, stop = self._offsets.item(number), self._offsets.item(number + 1)
        wait = self._file.begin(start, stop - start)
        return lambda: self._decode(wait(), number, number + 1)

    def _decode(self, chunks: bytes, begin: int, end: int) -> list[bytes]:
        with self._lock:
            try:
                os.pwrite(self._scratch, chunks, self._offsets.item(begin))
                return self._reader.read(begin, end)
            finally:
                os.ftruncate(self._scratch, 0)


def _room() -> int | None:
    """How many readers may stay open; None is any number.

    Each has up to two files, and may have half of those that the process may open.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else max(1, limit // 4)
