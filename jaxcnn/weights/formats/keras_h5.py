"""Keras's HDF5 files, of all its versions, with one name for each array: LAYER/kernel, LAYER/bias.

Keras 1 and 2 (.h5): LAYER/LAYER_W_1:0 or LAYER/LAYER/kernel:0, and the attribute layer_names.
Keras 3 (.h5): model_weights/LAYER/.../kernel, and the same attribute.
Keras 3 (.weights.h5): layers/conv2d_3/vars/0. The layers' own names are not there, only their kinds and
numbers; HDF5 lists conv2d_10 before conv2d_2, so they are ordered by the number.
HDF5 files of others keep the paths of their arrays as names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxcnn.files import FileError
from jaxcnn.weights.formats.hdf5 import read_objects
from jaxcnn.weights.formats.stored_bytes import AGAIN, FileBytes
from jaxcnn.weights.tensors import Tensor, WeightsFile

MAGIC = b"\x89HDF\r\n\x1a\n"
_VARS = re.compile(r"layers/(?P<layer>.+)/vars/(?P<number>\d+)")
_LEAVES = {"conv2d": ("kernel", "bias"), "dense": ("kernel", "bias")}
_SHORT = {"W": "kernel", "b": "bias"}


class _Row(NamedTuple):
    layer: str
    leaf: str
    array: Tensor

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.leaf}" if self.layer else self.leaf


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file begins with the signature of HDF5."""
    del path
    return head.startswith(MAGIC)


def read(path: Path) -> WeightsFile:
    """The headers of an HDF5 file. Its facts say which kind it is ('dialect'), name the layers, and say what
    beside the layers' arrays is left out, such as the state of an optimizer.

    Raises:
        FileError: as `read_objects`; two arrays have one name; or an array belongs to no layer.
    """
    return read_keras(FileBytes(path), "keras_h5")


def read_keras(source: FileBytes, kind: str) -> WeightsFile:
    """As `read`, of an HDF5 file that may be a part of another file."""
    arrays, texts = read_objects(source, "layer_names")
    root = "model_weights" if "model_weights" in texts else ""
    if root in texts:
        dialect, rows = "Keras .h5", _by_group(source, root, texts[root], arrays)
    elif any(_VARS.fullmatch(path) for path in arrays):
        dialect, rows = "Keras 3 .weights.h5", _by_number(arrays)
    else:
        dialect, rows = "not of Keras", [_Row("", path, array) for path, array in arrays.items()]
    tensors: dict[str, Tensor] = {}
    for row in rows:
        if row.name in tensors:
            raise FileError(source.path, f"has two arrays {row.name!r}", AGAIN)
        tensors[row.name] = dataclasses.replace(row.array, name=row.name)
    used = {id(row.array) for row in rows}
    left_out = [path for path, array in arrays.items() if id(array) not in used]
    layers = {
        row.layer: _kind(row.layer) if "weights" in dialect else "" for row in rows if row.layer
    }
    facts = {"dialect": dialect, "layers": layers, "left_out": left_out}
    return WeightsFile(source.path, kind, tensors, facts)


def _by_group(
    source: FileBytes, root: str, order: Sequence[str], arrays: Mapping[str, Tensor]
) -> list[_Row]:
    """Rows of the groups of layers under `root`, in their order."""
    found: dict[str, list[tuple[str, _Row]]] = {}
    for path, array in arrays.items():
        parts = path.removeprefix(root).lstrip("/").split("/")
        if root and not path.startswith(f"{root}/"):
            continue
        if len(parts) < 2 or (order and parts[0] not in order):
            raise FileError(
                source.path, f"has the array {path!r}, which belongs to no layer", AGAIN
            )
        parent, leaf = parts[-2], parts[-1].partition(":")[0].removeprefix(f"{parts[-2]}_")
        leaf = re.sub(r"_\d+$", "", leaf)
        row = _Row(parts[0], _SHORT.get(leaf, leaf), array)
        found.setdefault(parts[0], []).append((parent, row))
    rows = []
    for layer in sorted(found, key=lambda name: (order.index(name) if order else 0, _number(name))):
        inside = found[layer]
        if len({row.leaf for _, row in inside}) < len(inside):  # a net as a layer of another one
            inside = [(parent, row._replace(layer=parent)) for parent, row in inside]
        rows += sorted((row for _, row in inside), key=_position)
    return rows


def _by_number(arrays: Mapping[str, Tensor]) -> list[_Row]:
    """Rows of numbered layers, in the order of their numbers."""
    rows = []
    for path, array in arrays.items():
        if where := _VARS.fullmatch(path):
            layer = "/".join(part for part in where["layer"].split("/") if part != "layers")
            leaves, number = _LEAVES.get(_kind(layer), ()), int(where["number"])
            leaf = leaves[number] if number < len(leaves) else f"{number}"
            rows.append(_Row(layer, leaf, array))
    return sorted(rows, key=_position)


def _kind(layer: str) -> str:
    """'conv2d' of 'conv2d_3'."""
    return re.sub(r"_\d+$", "", layer.rpartition("/")[2])


def _position(row: _Row) -> tuple[list[tuple[str, int]], bool, str]:
    return _number(row.layer), row.leaf != "kernel", row.leaf


def _number(layer: str) -> list[tuple[str, int]]:
    """A key that sorts conv2d, conv2d_2, conv2d_10, and block1_conv2 before block1_conv10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D+|^)(\d{0,9})", layer)]
