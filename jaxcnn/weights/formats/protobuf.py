"""Protocol buffers on disk: the fields of a message, found without a schema and without copying.

A message is a span of the file. Its fields are read one by one; the content of a field that nobody asks for
is skipped. A damaged file gives a FileError: every length is checked against the span that holds it, and the
number of fields is limited, so that nothing is allocated for what a file only declares.

The encoding: developers.google.com/protocol-buffers/docs/encoding.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.files import FileError, disk_advice
from jaxcnn.weights.formats.stored_bytes import open_regular

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
# GoogLeNet's graph has some 3,000 fields. A field takes two bytes of a file and 200 of memory.
_MOST_FIELDS = 1_000_000
_DEEPEST_GROUP = 32
_LONGEST_TEXT = 2**16
_FIXED = {FIXED32: 4, FIXED64: 8}
_WINDOW = 4096
_CHUNK = 2**22


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: in the schema.
        kind: its wire type: VARINT, FIXED64, BYTES or FIXED32.
        value: of a VARINT, as an unsigned number; of FIXED32 and FIXED64 how often the field repeats, each
            time after one byte for its tag; 0 otherwise.
        start, stop: of its content in the file, from the first number to the last.
    """

    number: int
    kind: int
    value: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class ProtoFile:
    """A file that holds one message.

    Attributes:
        path: the file.
        size: its bytes.
        advice: what to do about a damaged one.
    """

    def __init__(self, path: Path, advice: str) -> None:
        """Opens the file. Raises FileError if it is not a readable file."""
        self.path, self.advice = path, advice
        with open_regular(path, advice) as (file, self.size):
            self._descriptor = os.dup(file)
        weakref.finalize(self, os.close, self._descriptor)
        self._fields = 0

    def error(self, problem: str) -> FileError:
        return FileError(self.path, problem, self.advice)

    def read_into(self, start: int, target: memoryview) -> None:
        """Fills `target` with the bytes from `start` on."""
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self._descriptor, [target[done : done + 2**30]], start + done)
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
                raise FileError(self.path, problem, disk_advice(error)) from error
            if not count:
                raise self.error(f"is cut short: byte {start + done:,} is missing")
            done += count

    def read(self, start: int, stop: int) -> bytes:
        content = bytearray(stop - start)
        self.read_into(start, memoryview(content))
        return bytes(content)

    def text(self, field: Field) -> str:
        """The text of a field."""
        if field.kind != BYTES or field.size > _LONGEST_TEXT:
            raise self.error(f"is damaged: byte {field.start:,} begins no name")
        try:
            return self.read(field.start, field.stop).decode()
        except UnicodeDecodeError:
            raise self.error(f"is damaged: the name at byte {field.start:,} is not UTF-8") from None

    def fields(self, message: Field | None = None) -> Iterator[Field]:
        """The fields of a message, in order; of the file itself without one. Groups are skipped."""
        position, end = (message.start, message.stop) if message else (0, self.size)
        if message and message.kind != BYTES:
            raise self.error(f"is damaged: byte {position:,} begins no message")
        groups: list[int] = []
        window, base = b"", position
        while position < end:
            if position - base > len(window) - 20 and base + len(window) < end:
                window, base = self.read(position, min(position + _WINDOW, end)), position
            field = self._field(window, base, position, end)
            position = field.stop
            if field.kind == GROUP:
                groups.append(field.number)
                if len(groups) > _DEEPEST_GROUP:
                    raise self.error(f"is damaged: groups within groups at byte {position:,}")
            elif field.kind == END_GROUP:
                if not groups or groups.pop() != field.number:
                    raise self.error(
                        f"is damaged: a group ends at byte {position:,} that never began"
                    )
            elif not groups:
                yield field
        if groups:
            raise self.error(f"is damaged: a group that begins before byte {end:,} does not end")

    def _field(self, window: bytes, base: int, position: int, end: int) -> Field:
        """The field at `position`; `window` as for `varint`."""
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise self.error(f"has more than {_MOST_FIELDS:,} fields, too many for weights")
        tag, after = window[position - base], position + 1
        if tag > 127:
            tag, after = self.varint(window, base, position)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number < 2**29 or kind > FIXED32:
            raise self.error(f"is damaged: byte {position:,} begins no field")
        value, size = 0, _FIXED.get(kind, 0)
        start = after
        if kind == VARINT:
            value, after = self.varint(window, base, after)
        elif kind == BYTES:
            size, start = self.varint(window, base, after)
        stop = after if kind == VARINT else start + size
        if stop > end:
            where = "the file has" if end == self.size else "what holds it ends at"
            problem = f"field {number} at byte {position:,} ends at byte {stop:,}, {where} {end:,}"
            raise self.error(f"is {'cut short' if end == self.size else 'damaged'}: {problem}")
        if kind in _FIXED:
            value = 1
            if start == position + 1:  # a tag of one byte
                value += self._repeats(stop, end, tag, size + 1)
                stop += (value - 1) * (size + 1)
        return Field(number, kind, value, start, stop)

    def _repeats(self, position: int, end: int, tag: int, stride: int) -> int:
        """How many records of `stride` bytes that begin with `tag` follow `position`."""
        count = 0
        while rows := min((end - position) // stride, _CHUNK // stride if count else 64):
            content = np.frombuffer(self.read(position, position + rows * stride), np.uint8)
            others = content[::stride] != tag
            alike = int(others.argmax()) if others.any() else rows
            count, position = count + alike, position + alike * stride
            if alike < rows:
                break
        return count

    def varint(self, window: bytes, base: int, position: int) -> tuple[int, int]:
        """The number at `position` and where it ends; `window` holds the file's bytes from `base` on."""
        try:
            value, end = _varint(window, position - base)
        except IndexError:
            problem = f"is damaged or cut short: the number at byte {position:,} does not end"
            raise self.error(problem) from None
        return value, base + end


def leading_fields(first: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(number, wire type, content as far as it is there) of the fields that a file begins with.

    The last one is (0, 0, b"") where the bytes are no fields.
    """
    position = 0
    try:
        while position < len(first):
            tag, position = _varint(first, position)
            kind, size = tag & 7, _FIXED.get(tag & 7, 0)
            if kind in (VARINT, BYTES):
                value, after = _varint(first, position)
                position, size = (position, after - position) if kind == VARINT else (after, value)
            if kind in (GROUP, END_GROUP) or kind > FIXED32 or not tag >> 3:
                break
            yield tag >> 3, kind, first[position : position + size]
            position += size
        else:
            return
    except IndexError:  # the bytes end within a number
        return
    yield 0, 0, b""


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends. Raises IndexError where `content` ends within it."""
    value = 0
    for shift in range(10):
        byte = content[position + shift]
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value & (2**64 - 1), position + shift + 1
    raise IndexError("a number has more than ten bytes")


def signed(value: int) -> int:
    """An int64 from the unsigned number of a VARINT field."""
    return value - 2**64 if value >= 2**63 else value


def integers(file: ProtoFile, fields: Sequence[Field], most: int = 64) -> list[int]:
    """The values of a repeated int64 field, packed or not; at most so many."""
    found: list[int] = []
    for field in fields:
        if field.kind == VARINT:
            found.append(signed(field.value))
        elif field.kind == BYTES and field.size <= 10 * most:
            content, position = file.read(field.start, field.stop), field.start
            while position < field.stop:
                value, position = file.varint(content, field.start, position)
                found.append(signed(value))
        else:
            raise file.error(f"is damaged: byte {field.start:,} begins no list of integers")
        if len(found) > most:
            raise file.error(f"is damaged: {len(found):,} integers at byte {field.start:,}")
    return found
