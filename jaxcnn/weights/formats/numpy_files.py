"""NumPy's files of arrays (.npz), and the pickled dicts of arrays of Caffe's converters (.npy).

NumPy itself would allocate what a header declares, inflate what a member expands to, and run a pickle.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.formats.restricted_pickle import Built, PickleError, Span, load
from jaxcnn.weights.formats.safetensors import OWN_FACTS, own_facts
from jaxcnn.weights.formats.stored_bytes import AGAIN, Bytes, FileBytes, HeldBytes, tensor
from jaxcnn.weights.formats.zip_members import MAGIC, members
from jaxcnn.weights.tensors import Tensor, WeightsFile

_NPY = b"\x93NUMPY"
_LONGEST_HEADER = 10_000  # as in NumPy
_MOST_AXES, _MOST_TEXT = 8, 1 << 22
_PLAIN = "save its arrays by numpy.savez"
# What converters call the arrays of a layer that is stored as a list.
_LEAVES = ("weights", "biases")


class _Header(NamedTuple):
    """Of an .npy: the array's type, and where it begins."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def is_npz(path: Path, head: bytes) -> bool:
    """Whether the file is a zip file. Asked last of all formats that are zip files."""
    del path
    return head.startswith(MAGIC)


def is_npy(path: Path, head: bytes) -> bool:
    del path
    return head.startswith(_NPY)


def read_npz(path: Path) -> WeightsFile:
    """The headers of the arrays of a .npz. Texts of jaxcnn's own become facts.

    Raises:
        FileError: as `zip_members.members`; a member is no array of numbers, or not of the size that its
            header declares.
    """
    tensors: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    for member_name, member in members(path).items():
        name, content = member_name.removesuffix(".npy"), member.content()
        header = _header(path, name, content)
        if header.start + header.size != content.size:
            problem = f"has {content.size:,} bytes for {name!r} of shape {list(header.shape)}"
            raise FileError(path, problem, AGAIN)
        if name in OWN_FACTS and header.dtype.kind == "U" and not header.shape:
            texts[name] = _text(path, name, content, header)
            continue
        _check_numbers(path, name, header.dtype)
        tensors[name] = tensor(
            name, content, header.start, header.shape, header.dtype, header.fortran
        )
    return WeightsFile(path, "npz", tensors, own_facts(path, texts))


def read_npy(path: Path) -> WeightsFile:
    """The arrays of a pickled dict: layer -> [weights, biases], or layer -> {name: array}. No pickle is run.

    Raises:
        FileError: it is damaged, or holds anything else.
    """
    content = FileBytes(path)
    header = _header(path, "the file", content)
    if not header.dtype.hasobject or header.shape:
        problem = f"is one array of {header.dtype} and shape {list(header.shape)}, not a net"
        raise FileError(path, problem, _PLAIN)
    try:
        found, stop = load(content, header.start, _TABLE)
    except PickleError as error:
        raise FileError(path, f"has a pickle that {error}", _PLAIN) from error
    layers = found.state.data if isinstance(found, _Array) and found.state else None
    if not isinstance(layers, list) or len(layers) != 1 or stop != content.size:
        raise FileError(path, "has a pickle that is not one dict of layers", _PLAIN)
    tensors: dict[str, Tensor] = {}
    for name, array in _named(path, layers[0]):
        if name in tensors:
            raise FileError(path, f"has two arrays {name!r}", _PLAIN)
        tensors[name] = _pickled(content, name, array)
    if (total := sum(array.nbytes for array in tensors.values())) > content.size:
        problem = f"has {content.size:,} bytes for arrays of {total:,}: some have the same bytes"
        raise FileError(path, problem, _PLAIN)
    kinds = dict.fromkeys((name.rpartition("/")[0] for name in tensors), "")
    return WeightsFile(path, "npy", tensors, {"layers": kinds})


def _header(path: Path, name: str, content: Bytes) -> _Header:
    """The header of an .npy; what is read ends where the array begins."""
    first = content.read(0, min(8, content.size)).tobytes()
    versions = {
        b"\x01\x00": (2, np.lib.format.read_array_header_1_0),
        b"\x02\x00": (4, np.lib.format.read_array_header_2_0),
    }
    if first[:6] != _NPY or first[6:] not in versions:
        raise FileError(path, f"has no array of NumPy in {name!r}", _PLAIN)
    width, parse = versions[first[6:]]
    length = content.read(8, width).tobytes()
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise FileError(path, f"has a header of {size:,} bytes for {name!r}", AGAIN)
    text = content.read(8 + width, size).tobytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers of Python 2 have numbers such as 3L
            shape, fortran, dtype = parse(io.BytesIO(length + text), _LONGEST_HEADER)
    except Exception as error:  # NumPy and Python's parser raise half a dozen types
        problem = f"has a damaged header for {name!r} ({type(error).__name__})"
        raise FileError(path, problem, AGAIN) from error
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0:
        raise FileError(path, f"has the array {name!r} of shape {list(shape)}", AGAIN)
    return _Header(tuple(map(int, shape)), fortran, dtype, 8 + width + size)


def _check_numbers(path: Path, name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "fiub" or dtype.hasobject:
        raise FileError(path, f"has the array {name!r} of {dtype}, not of numbers", _PLAIN)


def _text(path: Path, name: str, content: Bytes, header: _Header) -> str:
    if header.size > _MOST_TEXT:
        raise FileError(path, f"has a text {name!r} of {header.size:,} bytes", AGAIN)
    codes = content.read(header.start, header.size).tobytes()
    try:
        return codes.decode("utf-32-be" if header.dtype.byteorder == ">" else "utf-32-le").rstrip(
            "\0"
        )
    except UnicodeDecodeError as error:
        raise FileError(path, f"has a damaged text {name!r}", AGAIN) from error


class _Dtype(Built):
    """A dtype of a pickle: of numbers, or 'O' of the dict itself."""

    def __init__(self, text: Any, *_: Any) -> None:
        if not isinstance(text, str) or not re.fullmatch(r"[fiub][1248]|O8?", text):
            raise ValueError(f"an array of type {str(text)[:20]!r}")
        self.dtype = np.dtype(text)

    def set_state(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("a byte order")
        self.dtype = self.dtype.newbyteorder(order)


class _State(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    data: Any


class _Array(Built):
    """An array of a pickle: its state, with the bytes left where they are."""

    def __init__(self, *_: Any) -> None:
        self.state: _State | None = None

    def set_state(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Dtype) or type(shape) is not tuple or len(shape) > _MOST_AXES:
            raise ValueError("an array without shape and type")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array of a wrong shape")
        self.state = _State(shape, kind.dtype, bool(fortran), data)


_TABLE = {
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    "numpy.dtype": _Dtype,
    "numpy.ndarray": "ndarray",
}


def _named(path: Path, layers: Any) -> Iterator[tuple[str, Any]]:
    """('LAYER/weights', array) of a dict of layers."""
    if type(layers) is not dict:
        raise FileError(path, "has a pickle that is not one dict of layers", _PLAIN)
    for layer, held in layers.items():
        if type(held) in (list, tuple) and len(held) <= len(_LEAVES):
            held = dict(zip(_LEAVES, held, strict=False))
        if type(held) is not dict or not isinstance(layer, str):
            problem = f"has a layer {str(layer)[:60]!r} that is no list of weights and biases"
            raise FileError(path, problem, _PLAIN)
        for leaf, array in held.items():
            yield f"{layer}/{leaf}", array


def _pickled(content: FileBytes, name: str, array: Any) -> Tensor:
    state = array.state if isinstance(array, _Array) else None
    if state is None:
        raise FileError(content.path, f"has {name!r}, which is no array", _PLAIN)
    _check_numbers(content.path, name, state.dtype)
    data = state.data.encode("latin-1") if isinstance(state.data, str) else state.data
    if isinstance(data, Span):
        source: Bytes = content.part(*data)
    elif isinstance(data, bytes):
        source = HeldBytes(content.path, data)
    else:
        raise FileError(content.path, f"has {name!r} without bytes", _PLAIN)
    if source.size != math.prod(state.shape) * state.dtype.itemsize:
        problem = f"has {source.size:,} bytes for {name!r} of shape {list(state.shape)}"
        raise FileError(content.path, problem, AGAIN)
    return tensor(name, source, 0, state.shape, state.dtype, state.fortran)
