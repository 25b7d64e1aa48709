"""safetensors files: a JSON header with the place of each array, then the arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_dtypes import bfloat16

from jaxcnn.file_shapes import misfit
from jaxcnn.files import FileError, atomic_file, parse_json
from jaxcnn.weights.formats.stored_bytes import AGAIN, FileBytes, tensor
from jaxcnn.weights.tensors import WeightsFile

TITLE = "safetensors (.safetensors)"
DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip
# With a mean image and 20,000 classes: 4 MB, 55,000 lists. JSON takes many times its size in memory.
_LARGEST_HEADER, _MOST_BRACKETS = 2**23, 200_000
_ALIGNMENT, _MOST_AXES = 64, 16
# JSON text that jaxcnn keeps in the metadata.
OWN_FACTS = ("model", "mean", "classes", "origin")


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file begins with the length of a JSON header."""
    del path
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def read(path: Path) -> WeightsFile:
    """The headers of a safetensors file. Every byte belongs to one array.

    Raises:
        FileError: it is damaged or cut short.
    """
    file, metadata, places = _header(path)
    tensors = {
        name: tensor(name, file, place.start, place.shape, place.dtype)
        for name, place in places.items()
    }
    return WeightsFile(path, "safetensors", tensors, own_facts(path, metadata))


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file as read-only views of its mapping into memory.

    Raises:
        FileError: it is damaged or cut short.
    """
    places = _header(path)[2]
    mapped = np.memmap(path, np.uint8, "r")
    return {
        name: mapped[place.start : place.stop].view(place.dtype).reshape(place.shape)
        for name, place in places.items()
    }


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Callable[[str], np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes float32 arrays, one after the other: one is written while the next is computed.

    Args:
        path: written completely or not at all.
        shapes: by name.
        arrays: the array of a name.
        metadata: text by name.

    Raises:
        WriteError: it cannot be written. ValueError: an array has another shape, or NaN or infinite values.
    """
    # Arrays whose sizes are multiples of the alignment come first, so that they stay aligned.
    order = sorted(shapes, key=lambda name: 4 * math.prod(shapes[name]) % _ALIGNMENT != 0)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        first, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {
            "dtype": "F32",
            "shape": list(shapes[name]),
            "data_offsets": [first, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with atomic_file(path) as file, ThreadPoolExecutor(1) as writer:
        file.write(len(text).to_bytes(8, "little") + text)
        written = writer.submit(lambda: 0)
        for name in order:
            array = np.asarray(arrays(name), "<f4", order="C")
            if array.shape != shapes[name]:
                raise ValueError(f"{name} has shape {array.shape}, expected {shapes[name]}")
            if not _is_finite(array):
                raise ValueError(f"{name} has values that are not finite (NaN or infinite)")
            written.result()
            written = writer.submit(file.write, array.reshape(-1).view(np.uint8).data)
            del array
        written.result()


def _is_finite(array: np.ndarray) -> bool:
    """Whether all values are finite, without an array of as many answers where they are."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


class _Place(NamedTuple):
    """An array in the file: its bytes are [start, stop)."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def _header(path: Path) -> tuple[FileBytes, dict[str, str], dict[str, _Place]]:
    """(the file, metadata, where the arrays are, by name in the order of the header)."""
    file = FileBytes(path)
    length = int.from_bytes(file.read(0, min(8, file.size)).tobytes(), "little")
    if not 2 <= length <= min(_LARGEST_HEADER, file.size - 8):
        raise FileError(path, f"has {file.size:,} bytes, but a header of {length:,}", AGAIN)
    text = file.read(8, length).tobytes()
    if text.count(b"[") + text.count(b"{") > _MOST_BRACKETS:
        raise FileError(path, f"has a header of more than {_MOST_BRACKETS:,} lists", AGAIN)
    found = parse_json(text, dict, path=path, advice=AGAIN, where="header")
    metadata = found.pop("__metadata__", {})
    row = {"dtype": str, "shape": [int], "data_offsets": [int]}
    problem = misfit(list(found.values()), [row], "") or misfit([metadata], [dict], "")
    if problem or not all(isinstance(value, str) for value in metadata.values()):
        raise FileError(path, f"(header) is not valid: {problem or 'metadata'}", AGAIN)
    places = {name: _place(path, name, row, 8 + length) for name, row in found.items()}
    end = 8 + length
    for name, place in sorted(places.items(), key=lambda item: item[1][2:]):
        if place.start != end:
            raise FileError(path, f"has arrays that overlap, or a gap, at {name}", AGAIN)
        end = place.stop
    if end != file.size:
        raise FileError(path, f"has {file.size:,} bytes, its arrays end at {end:,}", AGAIN)
    return file, metadata, places


def _place(path: Path, name: str, row: dict[str, Any], base: int) -> _Place:
    dtype, shape, offsets = DTYPES.get(row["dtype"]), tuple(row["shape"]), row["data_offsets"]
    if dtype is None:
        raise FileError(path, f"has an array {name} of {row['dtype']}", "save it in float32")
    if len(shape) > _MOST_AXES or len(offsets) != 2 or not _are_sizes(*shape, *offsets):
        raise FileError(path, f"has {name} without a shape and a place", AGAIN)
    size = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != size:
        problem = f"has the bytes {offsets} for {name} of shape {list(shape)}, expected {size:,}"
        raise FileError(path, problem, AGAIN)
    return _Place(dtype, shape, base + offsets[0], base + offsets[1])


def _are_sizes(*numbers: int) -> bool:
    """Whether they can be sizes, before they are multiplied or shown: JSON has numbers of 4,000 digits."""
    return all(0 <= number < 2**60 for number in numbers)


def own_facts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What jaxcnn wrote about the net, as JSON texts by name; {} for files of others."""
    if "model" not in metadata:
        return {}
    expected = {"model": dict, "mean": list, "classes": [str], "origin": dict}
    if missing := [name for name in expected if name not in metadata and name != "origin"]:
        raise FileError(path, f"names its net, but not its {', '.join(missing)}", AGAIN)
    facts = {
        name: parse_json(metadata[name], expected[name], path=path, advice=AGAIN, where=name)
        for name in OWN_FACTS
        if name in metadata
    }
    try:
        mean = np.asarray(facts["mean"], np.float32)
    except (TypeError, ValueError):
        mean = np.zeros(0, np.float32)
    is_one = mean.shape == (3,) or (mean.ndim == 3 and mean.shape[-1] == 3)
    if not (is_one and np.isfinite(mean).all()):
        raise FileError(path, "(mean) is neither three numbers nor an image", AGAIN)
    return facts
