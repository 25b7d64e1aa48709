"""array_record files, as TFDS writes them: one record a chunk, and an index of the chunks at the end.

The package array_record reads the records: it decompresses them, and compares the hashes (HighwayHash) of
each chunk's header and data. Its `read(begin, end)` takes 4 us for a small record and releases Python's lock;
`read([i])`, which `tfds.data_source` calls, makes a list of all chunks of the file first.

The package does not say where the records lie and how long they are; that is read from the index here.
Riegeli's doc/riegeli_records_file_format.md has the form of a chunk, array_record's cpp/layout.proto that of
the index.
"""

import dataclasses
import functools
import importlib
import resource
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.errors import DamagedRecord, DataError
from jaxcnn.data.sources.shard_files import ShardFile, shard_file
from jaxcnn.data.sources.tfrecord_index import RecordIndex
from jaxcnn.paths import Path

ARRAY_RECORD = "array_record"
# A header of 24 bytes interrupts the chunks at each multiple of the block size. The last block has the offset
# of the index, which ends before it.
BLOCK, _BLOCK_HEADER = 1 << 16, 24
# Of a chunk: a hash, the length of its data, their hash, type and number of records, length of the records.
_CHUNK_HEADER = struct.Struct("<8xQ8x8x8x")
_CODECS = {ord("z"): "zstd", ord("b"): "brotli", ord("s"): "snappy"}
# Before the numbers of a row of the index: offset of a chunk, length of its records, their number.
_TAGS = [1 << 3, 2 << 3, 3 << 3]
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
    def scan(shard: Path, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reader = open_reader(shard)
        offsets, lengths = read_tail(shard_file(shard)).rows(shard)
        if not len(offsets) == reader.num_records() == count:
            raise damaged(shard, f"expected {count} records, found {reader.num_records()}")
        return offsets, lengths, np.zeros(count, np.uint32)

    def read(self, shards: Sequence[Path], record: int) -> bytes:
        shard = self.shard.item(record)
        number = record - self._first[shard]
        try:
            (data,) = self._reader(shards[shard]).read(number, number + 1)
        except (RuntimeError, IndexError) as error:
            self._reader.cache_clear()  # of a file that was replaced on a network disk
            # An OSError, which the package makes a RuntimeError, if it was one.
            shard_file(shards[shard]).read(self.offset.item(record), self.length.item(record))
            raise DamagedRecord(self.name(shards, record), f"array_record: {error}") from error
        if len(data) != self.length.item(record):
            raise DataError(
                f"record {self.name(shards, record)} has {len(data)} bytes, expected "
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


def open_reader(shard: Path) -> Any:
    """Returns the package's reader of a file, which has checked the hashes of the file's index.

    Raises:
      DataError: the file is damaged.
      OSError: it cannot be read.
    """
    reader = load_array_record().ArrayRecordReader(
        str(shard), options=_READ_AT_RANDOM, file_reader_buffer_size=_BUFFER
    )
    if not reader.ok():
        shard_file(shard).read(0, 1)  # an OSError, if it is one
        try:
            reader.close()
        except RuntimeError as error:  # which alone has the reason
            raise damaged(shard, str(error)) from error
    return reader


def damaged(shard: Path, reason: str) -> DataError:
    return DataError(f"{shard} is damaged: {reason}; copy or prepare the data set again")


class Tail(NamedTuple):
    """The end of a file: where its index begins, the index, and the last block, which has that number."""

    start: int
    index: bytes
    last: bytes

    def rows(self, shard: Path) -> tuple[np.ndarray, np.ndarray]:
        """The offset of the chunk, and the length, of each record: int64[N] each.

        Raises:
          DataError: there are chunks of more than one record.
        """
        lengths, values = _decode(self.index, self.start)
        metadata = lengths.item(0)
        rows = _varints(values[metadata:]).reshape(-1, 2 * len(_TAGS))
        offsets, sizes, counts = rows[:, 1::2].T
        if (rows[:, ::2] != _TAGS).any() or (counts != 1).any():
            raise DataError(
                f"{shard} has chunks of more than one record, expected one in each (group_size:1), as TFDS "
                "writes them; prepare the data set with TFDS"
            )
        return offsets, sizes


def read_tail(file: ShardFile) -> Tail:
    """Reads the end of a file. Raises DataError or OSError."""
    end = file.size() - BLOCK
    last = file.read(max(0, end), BLOCK)
    try:
        start = _varints(_decode(last, end)[1]).item(1)
    except (struct.error, IndexError) as error:
        raise damaged(file.path, f"its last block cannot be read ({error})") from error
    if not 0 < start < end:
        raise damaged(file.path, f"its index would begin at byte {start} of {end + BLOCK}")
    return Tail(start, file.read(start, end - start), last)


def _decode(raw: bytes, offset: int) -> tuple[np.ndarray, bytes]:
    """The lengths of the records of a chunk, and the records, of the bytes of a file from `offset` on."""
    kept = np.ones(len(raw), bool)
    for block in range(-offset % BLOCK, len(raw), BLOCK):
        kept[block : block + _BLOCK_HEADER] = False
    chunk = np.frombuffer(raw, np.uint8)[kept].tobytes()
    (size,) = _CHUNK_HEADER.unpack_from(chunk)
    data = chunk[_CHUNK_HEADER.size : _CHUNK_HEADER.size + size]
    codec, (length, rest) = data[0], _split(data[1:])
    return _varints(_decompress(codec, rest[:length])), _decompress(codec, rest[length:])


def _decompress(codec: int, data: bytes) -> bytes:
    if not codec:
        return data
    import pyarrow

    size, rest = _split(data)
    return pyarrow.decompress(rest, size, _CODECS[codec], asbytes=True)


def _split(data: bytes) -> tuple[int, bytes]:
    """The number at the beginning of `data`, and the rest."""
    end = next(i for i, byte in enumerate(data) if byte < 128) + 1
    return _varints(data[:end]).item(), data[end:]


def _varints(data: bytes) -> np.ndarray:
    """int64[n]: numbers of 7 bits a byte, least significant first; the last byte of each is below 128."""
    digits = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(digits < 128) + 1
    if not len(ends):
        return np.empty(0, np.int64)
    starts = np.append(0, ends[:-1])
    place = np.arange(ends[-1]) - np.repeat(starts, ends - starts)
    return np.add.reduceat((digits[: ends[-1]] & 127).astype(np.int64) << 7 * place, starts)


def _room() -> int | None:
    """How many files may stay open: half of what the process may open; None is any number."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else max(1, limit // 2)
