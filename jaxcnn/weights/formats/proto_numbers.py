"""The numbers of a repeated field of a protocol buffer, read when they are asked for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxcnn.weights.formats.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, ProtoFile

# A piece takes six bytes of a file and 100 of memory; programs write one piece an array.
_MOST_PIECES = 10_000
_CHUNK = 2**18


class _Piece(NamedTuple):
    """Consecutive numbers in a file: `count` records of `stride` bytes that end in the number; of varints,
    `stride` bytes in all."""

    start: int
    count: int
    stride: int


class Numbers:
    """A repeated float, double or bytes field, packed or not.

    Attributes:
        dtype: of the numbers.
        count: how many there are.
    """

    def __init__(self, file: ProtoFile, dtype: np.dtype) -> None:
        self._file, self.dtype, self.count = file, dtype, 0
        self._pieces: list[_Piece] = []

    def add(self, field: Field) -> None:
        """Appends the values of a field."""
        self._pieces.append(self._piece(field))
        self.count += self._pieces[-1].count
        if len(self._pieces) > _MOST_PIECES:
            raise self._file.error(f"is damaged: an array in more than {_MOST_PIECES:,} pieces")

    def read(self, start: int, stop: int) -> np.ndarray:
        """The values [start, stop)."""
        found, first = np.empty(stop - start, self.dtype), 0
        for piece in self._pieces:
            low, high = max(start, first), min(stop, first + piece.count)
            if low < high:
                self._fill(piece, low - first, found[low - start : high - start])
            first += piece.count
        return found

    def _piece(self, field: Field) -> _Piece:
        size = self.dtype.itemsize
        if field.kind == BYTES and field.size % size == 0:
            return _Piece(field.start, field.size // size, size)
        if field.kind in (FIXED32, FIXED64) and size == (4 if field.kind == FIXED32 else 8):
            return _Piece(field.start - 1, field.value, size + 1)
        problem = f"is damaged: byte {field.start:,} begins no {self.dtype.name} numbers"
        raise self._file.error(problem)

    def _fill(self, piece: _Piece, first: int, target: np.ndarray) -> None:
        """The values of a piece from `first` on."""
        place = piece.start + first * piece.stride
        stored = self.dtype.newbyteorder("<")
        if piece.stride == self.dtype.itemsize:
            self._file.read_into(place, target.view(np.uint8).data)
            target[:] = target.view(stored)
            return
        rows = _CHUNK // piece.stride
        for low in range(0, len(target), rows):
            part = target[low : low + rows]
            content = self._file.read(place, place + len(part) * piece.stride)
            records = np.frombuffer(content, np.uint8).reshape(len(part), piece.stride)
            part[:] = np.ascontiguousarray(records[:, 1:]).view(stored)[:, 0]
            place += len(content)


class Varints(Numbers):
    """A repeated integer field, packed or not, of any integer dtype."""

    def _piece(self, field: Field) -> _Piece:
        if field.kind == VARINT:
            return _Piece(field.start, 1, field.size)
        if field.kind != BYTES:
            raise self._file.error(f"is damaged: byte {field.start:,} begins no integers")
        count, last = 0, 0
        for low in range(field.start, field.stop, _CHUNK):
            content = self._bytes(low, min(low + _CHUNK, field.stop))
            count, last = count + int((content < 128).sum()), int(content[-1])
        if last >= 128:
            raise self._file.error(f"is damaged: the integers at byte {field.start:,} do not end")
        return _Piece(field.start, count, field.size)

    def _fill(self, piece: _Piece, first: int, target: np.ndarray) -> None:
        place, end, seen = piece.start, piece.start + piece.stride, 0
        while seen < first + len(target):
            content = self._bytes(place, min(place + _CHUNK, end))
            last = np.flatnonzero(content < 128)
            begin = np.concatenate([[0], last[:-1] + 1]) if last.size else last
            lengths = last - begin + 1
            if not last.size or lengths.max() > 10:
                raise self._file.error(f"is damaged: a long integer after byte {place:,}")
            values = np.zeros(len(last), np.uint64)
            for byte in range(int(lengths.max())):
                longer = lengths > byte
                bits = content[begin[longer] + byte].astype(np.uint64) & np.uint64(127)
                values[longer] |= bits << np.uint64(7 * byte)
            low, high = max(first - seen, 0), min(first + len(target) - seen, len(values))
            if low < high:
                part = values[low:high].astype(self.dtype)  # modulo its size, as signs are stored
                target[seen + low - first : seen + high - first] = part
            seen, place = seen + len(values), place + int(last[-1]) + 1

    def _bytes(self, start: int, stop: int) -> np.ndarray:
        return np.frombuffer(self._file.read(start, stop), np.uint8)
