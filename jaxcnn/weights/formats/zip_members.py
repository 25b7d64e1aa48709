"""Members of zip files: where each lies, checked before anything is inflated.

zipfile would read a directory of any size and trust what it declares. Here a directory has a largest size,
members may not overlap, and their sizes are those of their streams.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.formats.stored_bytes import AGAIN, Bytes, FileBytes, Inflated

MAGIC = b"PK\x03\x04"
_END, _END64, _LOCATOR64, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_LARGEST_DIRECTORY = 1 << 20
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
# Deflate expands no byte to more.
_MOST_EXPANSION = 1032


class Member(NamedTuple):
    """A member of a zip file.

    Attributes:
        packed: its bytes in the file.
        size: of its content.
        crc: CRC-32 of its content.
        stored: whether it is not compressed.
    """

    packed: FileBytes
    size: int
    crc: int
    stored: bool

    def content(self) -> Bytes:
        """What it holds. A reader that takes all of it in order gets a FileError where its checksum is wrong."""
        inside = self.packed if self.stored else Inflated(self.packed, self.size, -zlib.MAX_WBITS)
        return _Checked(inside, self.crc)


def members(path: Path) -> dict[str, Member]:
    """The members of a zip file by name, in the order of its directory.

    Raises:
        FileError: it is damaged, encrypted, or not compressed by deflate, or members overlap or have one name.
    """
    file = FileBytes(path)
    found: dict[str, Member] = {}
    places: list[tuple[int, int]] = []
    for name, flags, method, crc, packed, size, offset in _directory(file):
        if name in found:
            raise FileError(path, f"has two members {name!r}", AGAIN)
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            raise FileError(path, f"has the member {name!r} encrypted or compressed unusually", AGAIN)
        if size > packed * (1 if method == _STORED else _MOST_EXPANSION):
            problem = f"declares {size:,} bytes in the member {name!r}, which has {packed:,}"
            raise FileError(path, problem, AGAIN)
        local = file.read(offset, 30).tobytes()
        names, extra = struct.unpack_from("<HH", local, 26)
        if local[:4] != MAGIC or file.read(offset + 30, names).tobytes() != name.encode("utf-8", "surrogateescape"):
            raise FileError(path, f"has no member where {name!r} should be", AGAIN)
        start = offset + 30 + names + extra
        found[name] = Member(file.part(start, packed), size, crc, method == _STORED)
        places.append((offset, start + packed))
    places.sort()
    if any(end > after for (_, end), (after, _) in zip(places, places[1:], strict=False)):
        raise FileError(path, "has members that overlap", AGAIN)
    return found


def _directory(file: FileBytes) -> Iterator[tuple[str, int, int, int, int, int, int]]:
    """(name, flags, method, CRC, packed size, size, offset of the local header) of each entry."""
    entries = _directory_bytes(file)
    position = 0
    while position < len(entries):
        if entries[position : position + 4] != _ENTRY or position + 46 > len(entries):
            raise FileError(file.path, "has a damaged zip directory", AGAIN)
        flags, method, _, crc, *sizes = struct.unpack_from("<HHIIII", entries, position + 8)
        names, extra, comment = struct.unpack_from("<HHH", entries, position + 28)
        (offset,) = struct.unpack_from("<I", entries, position + 42)
        first = position + 46
        name = entries[first : first + names].decode("utf-8", "surrogateescape")
        packed, size, offset = _zip64(entries[first + names : first + names + extra], *sizes, offset)
        yield name, flags, method, crc, packed, size, offset
        position = first + names + extra + comment


def _zip64(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """(packed, size, offset), those that are 2**32 - 1 from the extra field of large files."""
    fields = {"size": size, "packed": packed, "offset": offset}  # in the order of the extra field
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - 4) // 8}Q", extra, 4))
            fields = {k: next(wide, v) if v == 2**32 - 1 else v for k, v in fields.items()}
        extra = extra[4 + length :]
    return fields["packed"], fields["size"], fields["offset"]


def _directory_bytes(file: FileBytes) -> bytes:
    tail_start = max(0, file.size - 22 - 65_535)
    tail = file.read(tail_start, file.size - tail_start).tobytes()
    end = tail.rfind(_END)
    if end < 0 or end + 22 > len(tail):
        raise FileError(file.path, "has no zip directory: it is cut short or damaged", AGAIN)
    count, size, offset = struct.unpack_from("<HII", tail, end + 10)
    if (count == 2**16 - 1 or 2**32 - 1 in (size, offset)) and tail[end - 20 : end - 16] == _LOCATOR64:
        (at,) = struct.unpack_from("<Q", tail, end - 12)
        record = file.read(at, 56).tobytes()
        if record[:4] != _END64:
            raise FileError(file.path, "has a damaged zip directory", AGAIN)
        size, offset = struct.unpack_from("<QQ", record, 40)
    if size > _LARGEST_DIRECTORY:
        raise FileError(file.path, f"has a zip directory of {size:,} bytes, too many", AGAIN)
    return file.read(offset, size).tobytes()


class _Checked:
    """Bytes with a checksum, compared when a reader that began at the start reaches the end."""

    def __init__(self, inside: Bytes, crc: int) -> None:
        self.path, self.size = inside.path, inside.size
        self._inside, self._expected = inside, crc
        self._position, self._crc = 0, 0

    def read(self, offset: int, count: int) -> np.ndarray:
        data = self._inside.read(offset, count)
        if offset == 0:
            self._position, self._crc = 0, 0
        if offset == self._position:
            self._crc = zlib.crc32(data.data, self._crc)
            self._position = offset + count
            if count and self._position == self.size and self._crc != self._expected:
                raise FileError(self.path, "is damaged: a checksum is wrong", AGAIN)
        else:
            self._position = -1
        return data
