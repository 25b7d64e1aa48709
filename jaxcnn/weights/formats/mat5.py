"""MATLAB's files of version 5 to 7 (.mat): their values as a tree, with numbers left where they lie.

The format is that of MathWorks' "MAT-File Format", chapter 1. scipy.io would read everything at once and
allocate what a damaged file declares; this reader walks the tags, inflates compressed variables on the way,
and gives arrays as tensors.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Container
from typing import NamedTuple

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.formats.stored_bytes import AGAIN, Bytes, FileBytes, Inflated, tensor
from jaxcnn.weights.tensors import Tensor

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_TEXTS = {1: "latin-1", 2: "latin-1", 16: "utf-8", 17: "utf-16", 4: "utf-16"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
_REFUSED = {3: "an object", 5: "a sparse array", 16: "a function handle", 17: "an object"}
_COMPLEX = 0x08
_MOST_VALUES, _DEEPEST, _MOST_AXES = 100_000, 16, 8
_LONGEST_TEXT = 4096
_PLAIN = (
    "in MATLAB, save only arrays, cells, structs and texts: save('FILE', '-struct', 'net', '-v7')"
)


class Cells(NamedTuple):
    """A cell array; `values` in MATLAB's order."""

    values: list[Value]


class Structs(NamedTuple):
    """A struct array: fields by name, one mapping an element."""

    values: list[dict[str, Value]]


Value = Tensor | str | Cells | Structs | None


class _Tag(NamedTuple):
    kind: int
    start: int
    size: int
    stop: int  # where the next element begins


def read_variables(file: FileBytes, wanted: Container[str]) -> dict[str, Value]:
    """The variables of a file whose names are wanted.

    Raises:
        FileError: it is damaged, its version is another, a compressed variable expands too far, or a wanted
            one has objects, function handles, sparse or complex arrays.
    """
    order = _byte_order(file)
    found: dict[str, Value] = {}
    offset, budget = _HEADER, [_MOST_VALUES]
    while offset < file.size:
        tag = _Walker(file, order, budget).tag(offset, file.size)
        source: Bytes = file
        start, stop, offset = tag.start, tag.start + tag.size, tag.stop
        if tag.kind == _COMPRESSED:
            source, offset = _inflated(file.part(start, tag.size), order), stop
            start, stop = 8, source.size
        elif tag.kind != _MATRIX:
            raise FileError(file.path, f"has an element of type {tag.kind}, not a variable", AGAIN)
        walker = _Walker(source, order, budget)
        name = walker.name(start, stop)
        if name in wanted:
            found[name] = walker.value(name, start, stop, 0)
            if isinstance(source, Inflated) and not source.ends():
                raise FileError(file.path, f"has a damaged compressed variable {name!r}", AGAIN)
    return found


def _byte_order(file: FileBytes) -> str:
    if file.size < _HEADER:
        raise FileError(file.path, "is cut short: it has no whole header", AGAIN)
    head = file.read(0, _HEADER).tobytes()
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    version = head[125] if order == "<" else head[124]
    if version == 2:
        problem = "is a file of MATLAB 7.3, which is HDF5 with MATLAB's own references"
        raise FileError(file.path, problem, "in MATLAB, load it and save it with -v7")
    if order is None or version != 1:
        raise FileError(file.path, "is no MATLAB file of version 5 to 7", "save it with -v7")
    return order


def _inflated(packed: FileBytes, order: str) -> Inflated:
    """A compressed variable. The size is that of the one element that it holds."""
    tag = _Walker(Inflated(packed, 8, zlib.MAX_WBITS), order, [1]).tag(0, 1 << 62)
    if tag.kind != _MATRIX:
        raise FileError(packed.path, "has a compressed element that is not a variable", AGAIN)
    return Inflated(packed, 8 + tag.size, zlib.MAX_WBITS)


class _Walker:
    """Reads the tags of one variable."""

    def __init__(self, source: Bytes, order: str, budget: list[int]) -> None:
        self._source, self._order, self._budget = source, order, budget

    def tag(self, offset: int, end: int) -> _Tag:
        """The tag at `offset` of an element that must end by `end`."""
        if offset + 8 > end:
            raise self._error(f"is damaged: no element fits at byte {offset:,}")
        words = self._source.read(offset, 8).view(f"{self._order}u4")
        kind, size = int(words[0]), int(words[1])
        start = offset + 8
        if kind >> 16:  # a small element, within its tag
            kind, size, start, stop = kind & 0xFFFF, kind >> 16, offset + 4, offset + 8
            if size > 4:
                raise self._error(f"is damaged: byte {offset:,} begins no element")
        else:
            stop = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > end:
            raise self._error(
                f"is damaged or cut short: byte {start + size:,} of an element is missing"
            )
        return _Tag(kind, start, size, min(stop, end))

    def name(self, start: int, stop: int) -> str:
        """The name of the variable whose content lies at [start, stop)."""
        if start == stop:
            return ""
        flags = self.tag(start, stop)
        return self._text(self.tag(self.tag(flags.stop, stop).stop, stop))

    def value(self, name: str, start: int, stop: int, depth: int) -> Value:
        """The value whose content lies at [start, stop); None for an empty one. `name` is for errors."""
        self._budget[0] -= 1
        if self._budget[0] < 0 or depth > _DEEPEST:
            raise self._error("has more values, or values nested deeper, than weights have")
        if start == stop:
            return None
        flags = self.tag(start, stop)
        if flags.size != 8:
            raise self._error(f"is damaged: {name!r} has no flags")
        words = self._source.read(flags.start, 4).view(f"{self._order}u4")
        kind, marks = int(words[0]) & 0xFF, int(words[0]) >> 8 & 0xFF
        if kind in _REFUSED or marks & _COMPLEX:
            what = _REFUSED.get(kind, "a complex array")
            raise FileError(self._source.path, f"has {what} in {name!r}, which is not read", _PLAIN)
        sizes = self.tag(flags.stop, stop)
        if sizes.kind != 5 or sizes.size % 4 or not 8 <= sizes.size <= 4 * _MOST_AXES:
            raise self._error(f"is damaged: {name!r} has no sizes")
        shape = tuple(map(int, self._source.read(sizes.start, sizes.size).view(f"{self._order}i4")))
        if min(shape) < 0:
            raise self._error(f"is damaged: {name!r} has negative sizes")
        content = self.tag(sizes.stop, stop).stop
        if kind == _CELL:
            return Cells(self._values(name, math.prod(shape), content, stop, depth))
        if kind == _STRUCT:
            return self._structs(name, math.prod(shape), content, stop, depth)
        if kind == _CHAR:
            return self._text(self.tag(content, stop)) if math.prod(shape) else ""
        if kind not in _CLASSES:
            raise self._error(f"is damaged: {name!r} is of the unknown class {kind}")
        return self._array(name, shape, np.dtype(self._order + _CLASSES[kind]), content, stop)

    def _values(self, name: str, count: int, start: int, stop: int, depth: int) -> list[Value]:
        values: list[Value] = []
        for number in range(count):
            tag = self.tag(start, stop)
            if tag.kind != _MATRIX:
                raise self._error(f"is damaged: {name!r} has an element of type {tag.kind}")
            where = f"{name}{{{number + 1}}}"
            values.append(self.value(where, tag.start, tag.start + tag.size, depth + 1))
            start = tag.stop
        return values

    def _structs(self, name: str, count: int, start: int, stop: int, depth: int) -> Structs:
        length = self.tag(start, stop)
        names = self.tag(length.stop, stop)
        width = int(self._source.read(length.start, 4).view(f"{self._order}i4")[0])
        if length.size != 4 or not 0 < width <= 64 or names.size % width or names.size > 1 << 16:
            raise self._error(f"is damaged: {name!r} has no field names")
        text = self._source.read(names.start, names.size).tobytes()
        pieces = [text[i : i + width] for i in range(0, len(text), width)]
        fields = [piece.partition(b"\0")[0].decode("latin-1") for piece in pieces]
        count = count if fields else 0
        values = self._values(name, count * len(fields), names.stop, stop, depth)
        rows = [values[i : i + len(fields)] for i in range(0, len(values), len(fields) or 1)]
        return Structs([dict(zip(fields, row, strict=True)) for row in rows])

    def _array(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, start: int, stop: int
    ) -> Tensor | None:
        if not math.prod(shape):
            return None
        tag = self.tag(start, stop)
        stored = np.dtype(self._order + _NUMBERS.get(tag.kind, "V"))
        if tag.kind not in _NUMBERS or math.prod(shape) * stored.itemsize != tag.size:
            raise self._error(f"is damaged: {name!r} is {list(shape)}, but has {tag.size:,} bytes")
        found = tensor(name, self._source, tag.start, shape, stored, fortran=True)
        if stored == dtype:
            return found
        # MATLAB stores numbers that happen to be whole in fewer bytes.
        return dataclasses.replace(
            found, dtype=dtype, rows=lambda first, last: found.rows(first, last).astype(dtype)
        )

    def _text(self, tag: _Tag) -> str:
        if tag.kind not in _TEXTS or tag.size > _LONGEST_TEXT:
            raise self._error(f"is damaged: a text of {tag.size:,} bytes and type {tag.kind}")
        encoding = _TEXTS[tag.kind]
        if encoding == "utf-16":
            encoding += "-le" if self._order == "<" else "-be"
        return self._source.read(tag.start, tag.size).tobytes().decode(encoding, "replace")

    def _error(self, problem: str) -> FileError:
        return FileError(self._source.path, problem, AGAIN)
