"""Bytes of a weights file that hold arrays: read where they lie, or inflated on the way, as many as asked."""

from __future__ import annotations

import abc
import contextlib
import math
import os
import stat
import weakref
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jaxcnn.files import FileError, disk_advice
from jaxcnn.weights.tensors import Tensor

AGAIN = "copy or download it again"
_PIECE = 1 << 22  # bytes of one step of transposing
_WINDOW = 1 << 18  # bytes of one step of inflating
# Trained float32 weights compress by a tenth, pruned ones to a tenth.
_MOST_EXPANSION = 16


class Bytes(abc.ABC):
    """A run of bytes with a known size.

    Attributes:
        path: the file that they come from.
        size: how many there are.
    """

    path: Path
    size: int

    @abc.abstractmethod
    def read(self, offset: int, count: int) -> np.ndarray:
        """The bytes [offset, offset + count) as uint8, writable. Raises FileError where they end earlier."""


class FileBytes(Bytes):
    """The bytes [start, start + size) of a regular file; the whole file without them."""

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        with open_regular(path, AGAIN) as (file, whole):
            self._written = os.fstat(file).st_mtime_ns
        self.path, self.start = path, start
        self.size = whole - start if size is None else size
        if start < 0 or self.size < 0 or start + self.size > whole:
            raise FileError(path, f"ends before byte {start + self.size:,}, which it names", AGAIN)

    def read(self, offset: int, count: int) -> np.ndarray:
        check_range(self, offset, count)
        array, done = np.empty(count, np.uint8), 0
        with open_regular(self.path, AGAIN) as (file, _):
            if os.fstat(file).st_mtime_ns != self._written:
                raise FileError(self.path, "changed while it was read", "read it again")
            while done < count:
                got = os.preadv(file, [array.data[done:]], self.start + offset + done)
                if not got:
                    raise FileError(self.path, "became shorter while it was read", "read it again")
                done += got
        return array

    def part(self, start: int, size: int) -> FileBytes:
        """The bytes [start, start + size) of these."""
        check_range(self, start, size)
        return FileBytes(self.path, self.start + start, size)


class HeldBytes(Bytes):
    """Few bytes, held in memory."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.size = path, len(content)
        self._content = content

    def read(self, offset: int, count: int) -> np.ndarray:
        check_range(self, offset, count)
        return np.frombuffer(self._content[offset : offset + count], np.uint8).copy()


class Inflated(Bytes):
    """What a zlib or deflate stream expands to.

    It is inflated from its start again when a read begins before the last one; reads in the order of the
    stream inflate it once. No more is held than what is asked for and a window.

    Args:
        packed: the stream.
        size: how many bytes it is said to expand to.
        wbits: as of `zlib.decompressobj`: 15 for zlib, -15 for raw deflate.

    Raises:
        FileError: that is far more than weights compress to.
    """

    def __init__(self, packed: FileBytes, size: int, wbits: int) -> None:
        self.path, self.size = packed.path, size
        self._packed, self._wbits = packed, wbits
        if size > _MOST_EXPANSION * packed.size + _WINDOW:
            problem = f"has {packed.size:,} compressed bytes that expand to {size:,}"
            raise FileError(packed.path, problem, "save it without compression")
        self._restart()

    def _restart(self) -> None:
        self._stream = zlib.decompressobj(self._wbits)
        self._taken, self._rest = 0, b""
        self._window, self._start = b"", 0  # what was inflated last, and where it begins

    def read(self, offset: int, count: int) -> np.ndarray:
        check_range(self, offset, count)
        if offset < self._start:
            self._restart()
        array, filled = np.empty(count, np.uint8), 0
        while filled < count:
            inside = offset + filled - self._start
            piece = self._window[inside : inside + count - filled]
            array[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
            if filled < count:
                self._advance()
        return array

    def ends(self) -> bool:
        """Whether the stream ends after its `size` bytes with the right checksum. Inflates what is left."""
        while self._start + len(self._window) < self.size:
            self._advance()
        whole = self._start + len(self._window) == self.size
        self._advance(end=True)
        return whole and not self._window and self._stream.eof

    def _advance(self, end: bool = False) -> None:
        self._start += len(self._window)
        self._window = self._inflate()
        if not self._window and not end:
            raise FileError(self.path, "has a compressed stream that ends too early", AGAIN)

    def _inflate(self) -> bytes:
        """The next bytes; none where the stream ends."""
        try:
            while not self._stream.eof:
                if not self._rest:
                    count = min(_WINDOW, self._packed.size - self._taken)
                    self._rest = self._packed.read(self._taken, count).tobytes()
                    self._taken += count
                empty = not self._rest
                piece = self._stream.decompress(self._rest, _WINDOW)
                self._rest = self._stream.unconsumed_tail
                if piece or empty:
                    return piece
        except zlib.error as error:
            problem = f"has a damaged compressed stream ({error})"
            raise FileError(self.path, problem, AGAIN) from error
        return b""


def tensor(
    name: str,
    source: Bytes,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    fortran: bool = False,
) -> Tensor:
    """The array of `shape` at `offset` of `source`; with `fortran`, its first axis is the fastest one.

    Raises:
        FileError: `source` ends before it.
    """
    needed = math.prod(shape) * dtype.itemsize
    if offset < 0 or offset + needed > source.size:
        problem = f"declares {name!r} with {needed:,} bytes, more than it holds"
        raise FileError(source.path, problem, AGAIN)

    if not fortran or len(shape) < 2:
        return Tensor(name, shape, dtype, partial(_rows, source, offset, shape, dtype))
    kept: list[weakref.ref[np.ndarray]] = []
    return Tensor(name, shape, dtype, partial(_rows_of_columns, source, offset, shape, dtype, kept))


def _rows(
    source: Bytes, offset: int, shape: tuple[int, ...], dtype: np.dtype, start: int, stop: int
) -> np.ndarray:
    row = math.prod(shape[1:]) * dtype.itemsize
    count = (stop - start) if shape else 1
    data = source.read(offset + start * row, count * row)
    return data.view(dtype).reshape((count, *shape[1:]) if shape else ())


def _rows_of_columns(
    source: Bytes,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    kept: list[weakref.ref[np.ndarray]],
    start: int,
    stop: int,
) -> np.ndarray:
    # Rows lie all over the array: it is read at once, and lives as long as any of its rows does.
    whole = kept[0]() if kept else None
    if whole is None:
        whole = _columns(source, offset, shape, dtype)
        kept[:] = [weakref.ref(whole)]
    return whole[start:stop]


def _columns(source: Bytes, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    found = np.empty(shape, dtype)
    column = math.prod(shape[:-1]) * dtype.itemsize
    step = max(1, _PIECE // max(column, 1))
    for first in range(0, shape[-1], step):
        last = min(first + step, shape[-1])
        data = source.read(offset + first * column, (last - first) * column)
        found[..., first:last] = data.view(dtype).reshape(*shape[:-1], last - first, order="F")
    return found


@contextlib.contextmanager
def open_regular(path: Path, advice: str) -> Iterator[tuple[int, int]]:
    """(descriptor, size) of a regular file. An error of the system in the block becomes a FileError."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise FileError(path, "is not a regular file", advice)
            yield file, status.st_size
        finally:
            os.close(file)
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", disk_advice(error)) from error


def check_range(source: Bytes, offset: int, count: int) -> None:
    """Raises FileError unless [offset, offset + count) lies in `source`."""
    if offset < 0 or count < 0 or offset + count > source.size:
        problem = f"ends before byte {offset + count:,} of a part that it names"
        raise FileError(source.path, problem, AGAIN)
