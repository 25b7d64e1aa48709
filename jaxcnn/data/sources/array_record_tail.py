"""The end of an array_record file: the index of its chunks, one for each record.

It says where the records lie and how long they are, which the package array_record does not. Riegeli's
doc/riegeli_records_file_format.md has the form of a chunk, array_record's cpp/layout.proto that of the index.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.shard_files import ShardFile
from jaxcnn.paths import Path

# A header of 24 bytes interrupts the chunks at each multiple of the block size. The last block has the offset
# of the index, which ends before it.
BLOCK, _BLOCK_HEADER = 1 << 16, 24
# Of a chunk: a hash, the length of its data, their hash, type and number of records, length of the records.
_CHUNK_HEADER = struct.Struct("<8xQ8x8x8x")
_CODECS = {ord("z"): "zstd", ord("b"): "brotli", ord("s"): "snappy"}
# Before the numbers of a row of the index: offset of a chunk, length of its records, their number.
_TAGS = [1 << 3, 2 << 3, 3 << 3]


def damaged(shard: Path, reason: str) -> DataError:
    return DataError(f"{shard} is damaged: {reason}; copy or prepare the data set again")


class Tail(NamedTuple):
    """The end of a file: where its index begins, the index, and the last block, which has that number."""

    start: int
    index: bytes
    last: bytes

    def rows(self, shard: Path) -> tuple[np.ndarray, np.ndarray]:
        """The offset of the chunk, and the length, of each record: int64[N] each.

        The index is trusted: the package compares its hashes when it opens the file.

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


def read_tail(file: ShardFile, size: int) -> Tail:
    """Reads the end of a file of `size` bytes. Raises DataError or OSError."""
    if size < 2 * BLOCK:
        raise damaged(file.path, f"it has {size:,} bytes, expected at least {2 * BLOCK:,}")
    with file.opened(size, 1) as read:
        return _read_tail(read, size, file.path)


def _read_tail(read: Callable[[int, int], bytes], size: int, path: Path) -> Tail:
    end = size - BLOCK
    # One request to a bucket: the index is mostly in the last block but one.
    blocks = read(end - BLOCK, 2 * BLOCK)
    last = blocks[BLOCK:]
    try:
        start = _varints(_decode(last, end)[1]).item(1)
    except Exception as error:  # other bytes fail in many ways
        raise damaged(path, f"its last {BLOCK:,} bytes are not an end") from error
    if not 0 < start < end:
        raise damaged(path, f"its index would begin at byte {start:,} of {size:,}")
    rest = start - end + BLOCK
    return Tail(start, blocks[rest:BLOCK] if rest >= 0 else read(start, end - start), last)


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
