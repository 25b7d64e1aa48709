"""One record of a TFRecord file, and its two checksums.

A file is a sequence of records: length (uint64, little-endian), its checksum (uint32), the data, their
checksum (uint32). Both are CRC-32C, masked by a rotation and a constant, as TensorFlow writes them
(tensorflow/core/lib/hash/crc32c.h).
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

import google_crc32c

from jaxcnn.data.errors import DamagedRecord, DataError

_HEADER, _FOOTER = struct.Struct("<8sI"), struct.Struct("<I")
HEADER, FOOTER = _HEADER.size, _FOOTER.size
WRONG_LENGTH, WRONG_DATA = (
    f"its {part} does not have the checksum (CRC-32C) that was written with it"
    for part in ("length", "data")
)


class RecordPlace(NamedTuple):
    """Where a record's data begin in its file, their length, and the checksum that the file has for them."""

    offset: int
    length: int
    checksum: int

    @property
    def whole(self) -> tuple[int, int]:
        """(offset, length) of the whole record."""
        return self.offset - HEADER, HEADER + self.length + FOOTER


def masked_crc(data: bytes) -> int:
    """The checksum of `data` as TFRecord files have it."""
    crc = google_crc32c.value(data)
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF


def read_length(header: bytes) -> int | None:
    """Returns the length in a record's first `HEADER` bytes; None if their checksum is wrong."""
    length, checksum = _HEADER.unpack_from(header)
    return int.from_bytes(length, "little") if masked_crc(length) == checksum else None


def record_data(record: bytes, place: RecordPlace, name: Callable[[], str]) -> bytes:
    """Returns the data of a whole record, whose bytes were read from `place`.

    Args:
      name: returns the record's name, which only errors need.

    Raises:
      DamagedRecord: the bytes do not have their checksums.
      DataError: the file is not the one that was indexed.
    """
    if len(record) == place.whole[1]:
        length, data = read_length(record), record[HEADER:-FOOTER]
        (checksum,) = _FOOTER.unpack_from(record, len(record) - FOOTER)
        if length is None or (length == len(data) and masked_crc(data) != checksum):
            raise DamagedRecord(name(), WRONG_LENGTH if length is None else WRONG_DATA)
        if length == len(data) and checksum == place.checksum:
            return data
    raise DataError(
        f"record {name()} is not where the index says: the file changed after it was indexed; start again, "
        "and if that does not help, delete the index (jaxcnn-index-*.npz, beside the data set or in "
        "~/.cache/jaxcnn) and prepare the data set again"
    )
