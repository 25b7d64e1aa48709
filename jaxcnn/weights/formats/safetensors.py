"""safetensors files: a JSON header with the place of each array, then the arrays."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from jaxcnn.files import FileError, atomic_file, parse_json
from jaxcnn.weights.formats.stored_rows import open_regular, stored_rows
from jaxcnn.weights.tensors import Tensor, WeightsFile

TITLE = "safetensors (.safetensors)"
DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip
# As in the reference implementation.
_LARGEST_HEADER = 100_000_000
_ALIGNMENT = 64
_ADVICE = "take the file again from where it comes from"
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
    tensors: dict[str, Tensor] = {}
    header, start, size = _header(path)
    metadata = header.pop("__metadata__", {})
    end = start
    rows = sorted(header.items(), key=lambda row: row[1]["data_offsets"])
    for name, row in rows:
        kind = DTYPES.get(row["dtype"])
        if kind is None:
            raise FileError(path, f"has an array {name} of {row['dtype']}", "save it in float32")
        shape, (first, last) = tuple(row["shape"]), row["data_offsets"]
        if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != last - first:
            raise FileError(
                path, f"has {last - first} bytes for {name} of shape {list(shape)}", _ADVICE
            )
        if start + first != end:
            raise FileError(path, f"has arrays that overlap, or a gap, at {name}", _ADVICE)
        end = start + last
        tensors[name] = Tensor(name, shape, kind, stored_rows(path, start + first, shape, kind))
    if end != size:
        raise FileError(path, f"has {size:,} bytes, its arrays end at {end:,}", _ADVICE)
    ordered = {name: tensors[name] for name in header}  # as the header lists them
    return WeightsFile(path, "safetensors", ordered, own_facts(path, metadata))


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file as read-only views of its mapping into memory.

    Raises:
        FileError: it is damaged or cut short.
    """
    header, start, _ = _header(path)
    file = read(path)
    mapped = np.memmap(path, np.uint8, "r") if file.tensors else np.zeros(0, np.uint8)
    arrays = {}
    for name, tensor in file.tensors.items():
        first, last = header[name]["data_offsets"]
        arrays[name] = mapped[start + first : start + last].view(tensor.dtype).reshape(tensor.shape)
    return arrays


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Callable[[str], np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes float32 arrays, one after the other, so that one at a time is in memory.

    Args:
        path: written completely or not at all.
        shapes: by name.
        arrays: the array of a name.
        metadata: text by name.

    Raises:
        WriteError: it cannot be written. ValueError: an array of another shape.
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
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.asarray(arrays(name), "<f4", order="C")
            if array.shape != shapes[name]:
                raise ValueError(f"{name} has shape {array.shape}, expected {shapes[name]}")
            file.write(array.reshape(-1).view(np.uint8).data)


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """(the JSON header, where the arrays begin, size of the file)."""
    with open_regular(path, _ADVICE) as (file, size):
        length = int.from_bytes(os.pread(file, 8, 0), "little")
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            problem = f"has {size:,} bytes, but a header of {length:,}"
            raise FileError(path, problem, _ADVICE)
        text = os.pread(file, length, 8)
    row = {"dtype": str, "shape": [int], "data_offsets": [int]}
    found = parse_json(text, dict, path=path, advice=_ADVICE, where="header")
    metadata = found.get("__metadata__", {})
    rows = [value for name, value in found.items() if name != "__metadata__"]
    parse_json(json.dumps(rows), [row], path=path, advice=_ADVICE, where="header")
    if any(len(value["data_offsets"]) != 2 for value in rows) or not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise FileError(path, "(header) is not valid", _ADVICE)
    return found, 8 + length, size


def own_facts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What jaxcnn wrote about the net, as JSON texts by name; {} for files of others."""
    if "model" not in metadata:
        return {}
    expected = {"model": dict, "mean": list, "classes": [str], "origin": dict}
    return {
        name: parse_json(metadata[name], expected[name], path=path, advice=_ADVICE, where=name)
        for name in OWN_FACTS
        if name in metadata
    }
