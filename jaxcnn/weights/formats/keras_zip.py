"""Keras 3's whole models (.keras): a zip file with the net as JSON and the weights as HDF5.

The HDF5 member is read where it lies, so that nothing is unpacked; it gives kinds and numbers of the layers,
and the JSON their names.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jaxcnn.files import FileError, parse_json
from jaxcnn.weights.formats.keras_h5 import read_keras
from jaxcnn.weights.formats.zip_members import MAGIC, Member, members
from jaxcnn.weights.tensors import WeightsFile

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
_LARGEST_CONFIG = 1 << 22
_ANEW = "save it again with Keras 3, which compresses nothing"


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file is a zip file with Keras's two members."""
    if not head.startswith(MAGIC):
        return False
    try:
        return {_WEIGHTS, _CONFIG} <= members(path).keys()
    except FileError:
        return False


def read(path: Path) -> WeightsFile:
    """The headers of a .keras file.

    Raises:
        FileError: it is damaged, a member is compressed, its two members disagree, or as `keras_h5.read`.
    """
    found = members(path)
    for name in (_WEIGHTS, _CONFIG):
        if name not in found:
            raise FileError(path, f"has no member {name!r}", _ANEW)
        if not found[name].stored:
            raise FileError(path, f"has the member {name!r} compressed", _ANEW)
    file = read_keras(found[_WEIGHTS].packed, "keras_zip")
    names = _layers(path, found[_CONFIG])
    tensors, layers = {}, {}
    for name, tensor in file.tensors.items():
        layer, _, leaf = name.rpartition("/")
        if layer not in names:
            continue
        tensors[name] = dataclasses.replace(tensor, name=f"{names[layer][0]}/{leaf}")
        layers[layer] = None
    if len(tensors) < len(file.tensors):
        extra = next(name for name in file.tensors if name not in tensors)
        raise FileError(path, f"has the array {extra!r} of a layer that {_CONFIG} lacks", _ANEW)
    order = {layer: number for number, layer in enumerate(names)}
    rows = sorted(tensors.items(), key=lambda row: order[row[0].rpartition("/")[0]])
    ordered = {tensor.name: tensor for _, tensor in rows}
    kinds = {name: kind for layer, (name, kind) in names.items() if layer in layers}
    facts = {**file.facts, "dialect": "Keras 3 .keras", "layers": kinds}
    return WeightsFile(path, "keras_zip", ordered, facts)


def _layers(path: Path, config: Member) -> Mapping[str, tuple[str, str]]:
    """'conv2d_3' -> (its name, its class), in the order of the net."""
    if config.size > _LARGEST_CONFIG:
        problem = f"has {_CONFIG} of {config.size:,} bytes, more than a net's"
        raise FileError(path, problem, _ANEW)
    text = config.content().read(0, config.size).tobytes()
    row = {"class_name": str, "config": {"name": str}}
    expected = {"config": {"layers": [row]}}
    net = parse_json(text, expected, path=path, advice=_ANEW, where=_CONFIG)
    counts, found = Counter(), {}
    for layer in net["config"]["layers"]:
        kind, name = layer["class_name"], layer["config"]["name"]
        # As Keras makes the names of groups: Conv2D -> conv2d, BatchNormalization -> batch_normalization.
        group = re.sub(
            r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
        ).lower()
        number = f"_{counts[group]}" if counts[group] else ""
        found[f"{group}{number}"] = name, kind
        counts[group] += 1
    if len({name for name, _ in found.values()}) < len(found):
        raise FileError(path, f"has two layers of one name in {_CONFIG}", _ANEW)
    return found
