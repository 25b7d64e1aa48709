"""The bytes of a pickle: numbers, texts and runs of bytes, one after the other, none longer than there is."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from jaxcnn.weights.formats.stored_bytes import Bytes

_LONGEST_TEXT, _MOST_TEXT = 2**16, 2**22
_SHORT = 256
_WINDOW = 2**16


class PickleError(ValueError):
    """A pickle that is damaged or needs more than it may have.

    Attributes:
        name: 'module.name' of what it asks for and does not get, or ''.
    """

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(problem)
        self.name = name


class Span(NamedTuple):
    """Bytes that were left where they are: [start, start + size) of the source of the pickle."""

    start: int
    size: int


class PickleReader:
    """Reads a source from a position on. Every method raises PickleError at its end.

    Attributes:
        position: of the next byte.
    """

    def __init__(self, source: Bytes, start: int) -> None:
        self._source, self.position = source, start
        self._window, self._base = b"", start
        self._text_left = _MOST_TEXT

    def take(self, count: int) -> bytes:
        first = self.position - self._base
        if first + count > len(self._window):
            self._check(count)
            size = min(max(count, _WINDOW), self._source.size - self.position)
            self._window = self._source.read(self.position, size).tobytes()
            self._base, first = self.position, 0
        self.position += count
        return self._window[first : first + count]

    def number(self, form: str) -> Any:
        """A number of a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def integer(self) -> int:
        """Of up to 255 bytes."""
        return int.from_bytes(self.take(self.number("<B")), "little", signed=True)

    def line(self) -> str:
        line = bytearray()
        while (byte := self.take(1)) != b"\n":
            line += byte
            if len(line) >= _SHORT:
                raise PickleError(f"has a name of {len(line)} bytes at byte {self.position:,}")
        return line.decode()

    def text(self, form: str) -> str:
        size = self.number(form)
        self._text_left -= size
        if size > _LONGEST_TEXT or self._text_left < 0:
            raise PickleError(f"has a text of {size:,} bytes, too many, at byte {self.position:,}")
        return self.take(size).decode()

    def run(self, form: str) -> bytes | Span:
        """A run of bytes after its length; a long one is skipped."""
        size = self.number(form)
        if size < _SHORT:
            return self.take(size)
        self._check(size)
        self.position += size
        return Span(self.position - size, size)

    def string(self, form: str) -> str | Span:
        """Python 2's str, text or bytes: as `run`, but a short one is decoded as Latin-1."""
        content = self.run(form)
        return content if isinstance(content, Span) else content.decode("latin-1")

    def _check(self, count: int) -> None:
        if self.position + count > self._source.size:
            raise PickleError("is cut short")
