"""Arrays whose bytes lie in a file one after the other."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jaxcnn.files import FileError, disk_advice


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


def stored_rows(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[int, int], np.ndarray]:
    """`Tensor.rows` of an array of C order at an offset of a file."""
    return partial(_read_rows, path, offset, shape, dtype)


def _read_rows(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype, start: int, stop: int
) -> np.ndarray:
    inner = shape[1:] if shape else ()
    row = math.prod(inner) * dtype.itemsize
    array = np.empty((stop - start, *inner) if shape else (), dtype)
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    with open_regular(path, "take the file again") as (file, _):
        while done < len(view):
            count = os.preadv(file, [view[done:]], offset + start * row + done)
            if not count:
                raise FileError(path, "became shorter while it was read", "read it again")
            done += count
    return array
