"""PyTorch's .pth files, written without torch: a zip file of arrays and of a pickle, which names them.

The pickle is made of its few instructions here: an OrderedDict of name to a contiguous float32 tensor, as
`torch.save(net.state_dict(), path)` writes it and `torch.load(path, weights_only=True)` allows it.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from jaxcnn.files import atomic_file

_FOLDER = "archive"
_ALIGNMENT = 64  # of the arrays, so that torch can map the file into memory
_PADDING_ID = b"FB"  # of the extra field that torch pads with
# Fixed, so that equal weights are equal files; the first that zip can say.
_DATE = (1980, 1, 1, 0, 0, 0)
_ORDERED_DICT = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE


def write_torch(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Callable[[str], np.ndarray],
) -> None:
    """Writes float32 arrays, one after the other, so that one at a time is in memory.

    Args:
        path: written completely or not at all.
        shapes: by name.
        arrays: the array of a name.

    Raises:
        WriteError: it cannot be written. ValueError: an array of another shape.
    """
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, file, "data.pkl", _state_dict(shapes))
        _add(archive, file, "byteorder", b"little")
        for number, (name, shape) in enumerate(shapes.items()):
            array = np.asarray(arrays(name), "<f4", order="C")
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            _add(archive, file, f"data/{number}", array.reshape(-1).view(np.uint8).data)
        _add(archive, file, "version", b"3\n")


def _add(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: bytes | memoryview) -> None:
    """Adds a member whose content begins at a multiple of the alignment."""
    member = zipfile.ZipInfo(f"{_FOLDER}/{name}", _DATE)
    begin = (
        file.tell() + 30 + len(member.filename) + 4
    )  # after the headers of the member and its field
    padding = -begin % _ALIGNMENT
    member.extra = _PADDING_ID + padding.to_bytes(2, "little") + b"Z" * padding
    member.file_size = len(content)
    archive.writestr(member, content)  # pyright: ignore[reportArgumentType]


def _state_dict(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The pickle of the dict; the array of number n is the member data/n."""
    parts = [pickle.PROTO + b"\x02", _ORDERED_DICT, pickle.MARK]
    for number, (name, shape) in enumerate(shapes.items()):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", pickle.MARK]
        parts += [pickle.MARK, _text("storage"), b"ctorch\nFloatStorage\n", _text(str(number))]
        parts += [_text("cpu"), _number(math.prod(shape)), pickle.TUPLE, pickle.BINPERSID]
        parts += [_number(0), _numbers(shape), _numbers(strides), pickle.NEWFALSE]
        parts += [_ORDERED_DICT, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + len(text.encode()).to_bytes(4, "little") + text.encode()


def _number(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def _numbers(values: tuple[int, ...]) -> bytes:
    return pickle.MARK + b"".join(map(_number, values)) + pickle.TUPLE
