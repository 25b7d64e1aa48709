"""Members of zip files: where each lies, checked before anything is inflated.

zipfile would read a directory of any size and trust what it declares. Here a directory has a largest size,
members may not overlap, and their sizes are those of their streams.
"""

from __future__ import annotations

import itertools
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
        """What it holds. Whoever reads all of it in order gets a FileError if its checksum is wrong."""
        inside = self.packed if self.stored else Inflated(self.packed, self.size, -zlib.MAX_WBITS)
        return _Checked(inside, self.crc)


class _Entry(NamedTuple):
    """What the directory says of a member. `offset` is that of its local header."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def members(path: Path) -> dict[str, Member]:
    """The members of a zip file by name, in the order of its directory.

    Raises:
        FileError: it is damaged or encrypted, compressed otherwise than by deflate, or members overlap or
            have one name.
    """
    file = FileBytes(path)
    found: dict[str, Member] = {}
    places: list[tuple[int, int]] = []
    for entry in _directory(file):
        name = entry.name.decode("utf-8", "replace")
        if name in found:
            raise FileError(path, f"has two members {name!r}", AGAIN)
        if entry.flags & _ENCRYPTED or entry.method not in (_STORED, _DEFLATED):
            problem = f"has the member {name!r} encrypted, or compressed otherwise than by deflate"
            raise FileError(path, problem, AGAIN)
        stored = entry.method == _STORED
        if stored and entry.size != entry.packed:
            problem = f"declares {entry.size:,} bytes in {name!r}, which has {entry.packed:,}"
            raise FileError(path, problem, AGAIN)
        local = file.read(entry.offset, 30).tobytes()
        names, extra = struct.unpack_from("<HH", local, 26)
        if local[:4] != MAGIC or file.read(entry.offset + 30, names).tobytes() != entry.name:
            raise FileError(path, f"has no member where {name!r} should be", AGAIN)
        start = entry.offset + 30 + names + extra
        packed = file.part(start, entry.packed)
        found[name] = Member(packed, entry.size, entry.crc, stored)
        places.append((entry.offset, start + entry.packed))
    places.sort()
    if any(end > after for (_, end), (after, _) in itertools.pairwise(places)):
        raise FileError(path, "has members that overlap", AGAIN)
    return found


def _directory(file: FileBytes) -> Iterator[_Entry]:
    entries = _directory_bytes(file)
    position = 0
    while position < len(entries):
        if entries[position : position + 4] != _ENTRY or position + 46 > len(entries):
            raise FileError(file.path, "has a damaged zip directory", AGAIN)
        flags, method, _, crc, packed, size = struct.unpack_from("<HHIIII", entries, position + 8)
        names, extra, comment = struct.unpack_from("<HHH", entries, position + 28)
        (offset,) = struct.unpack_from("<I", entries, position + 42)
        first, last = position + 46, position + 46 + names
        wide = _zip64(entries[last : last + extra], packed, size, offset)
        yield _Entry(entries[first:last], flags, method, crc, *wide)
        position = last + extra + comment


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
    if (count == 2**16 - 1 or 2**32 - 1 in (size, offset)) and tail[
        end - 20 : end - 16
    ] == _LOCATOR64:
        (at,) = struct.unpack_from("<Q", tail, end - 12)
        record = file.read(at, 56).tobytes()
        if record[:4] != _END64:
            raise FileError(file.path, "has a damaged zip directory", AGAIN)
        size, offset = struct.unpack_from("<QQ", record, 40)
    if size > _LARGEST_DIRECTORY:
        raise FileError(file.path, f"has a zip directory of {size:,} bytes, too many", AGAIN)
    return file.read(offset, size).tobytes()


class _Checked(Bytes):
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
