"""MatConvNet's nets (.mat): layers with their arrays, the mean that belongs to them, and the classes.

A net is a list of layers (SimpleNN), whose arrays are called LAYER/filters and LAYER/biases here, or a graph
(DagNN), whose arrays have names of their own. Kernels are (height, width, inputs, outputs).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.formats.mat5 import Cells, Structs, Value, read_variables
from jaxcnn.weights.formats.stored_bytes import FileBytes
from jaxcnn.weights.tensors import Tensor, WeightsFile

_VARIABLES = ("layers", "params", "meta", "normalization", "classes", "net")
_LEAVES = ("filters", "biases")
_LARGEST_MEAN = 1 << 20  # values of a mean image
_ADVICE = "save the net with save('FILE', '-struct', 'net', '-v7')"


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file has the header of a MATLAB file of version 5 to 7.3."""
    del path
    return head.startswith(b"MATLAB ") and head[126:128] in (b"IM", b"MI")


def read(path: Path) -> WeightsFile:
    """The headers of a net of MatConvNet; facts: layers, mean (of R, G and B, or an image) and classes.

    Raises:
        FileError: as `read_variables`; it holds no net; or two arrays have one name.
    """
    variables = read_variables(FileBytes(path), _VARIABLES)
    net = {**_fields(variables.pop("net", None)), **variables}
    meta = {**net, **_fields(net.get("meta"))}
    tensors: dict[str, Tensor] = {}
    for name, array in [*_layer_arrays(net), *_graph_arrays(net)]:
        if name in tensors:
            raise FileError(path, f"has two arrays {name!r}", _ADVICE)
        tensors[name] = dataclasses.replace(array, name=name)
    if not tensors:
        problem = (
            f"is a MATLAB file without a net of MatConvNet (variables: {', '.join(net) or 'none'})"
        )
        raise FileError(path, problem, _ADVICE)
    facts: dict[str, Any] = {"layers": {name: kind for name, kind, _ in _layers(net)}}
    mean = _fields(meta.get("normalization")).get("averageImage")
    if isinstance(mean, Tensor):
        facts["mean"] = _mean(path, mean)
    if classes := _classes(_fields(meta.get("classes"))):
        facts["classes"] = classes
    return WeightsFile(path, "matconvnet", tensors, facts)


def _fields(value: Value) -> dict[str, Value]:
    """The fields of a single struct; {} for anything else."""
    return value.values[0] if isinstance(value, Structs) and len(value.values) == 1 else {}


def _layers(net: dict[str, Value]) -> Iterator[tuple[str, str, dict[str, Value]]]:
    """(name, type, fields) of each layer that has a name."""
    layers = net.get("layers")
    if isinstance(layers, Cells):
        rows = [_fields(value) for value in layers.values]
    else:
        rows = layers.values if isinstance(layers, Structs) else []
    for row in rows:
        name, kind = row.get("name"), row.get("type")
        if isinstance(name, str):
            kind = kind if isinstance(kind, str) else ""
            yield name, "lrn" if kind == "normalize" else kind, row  # the older name


def _layer_arrays(net: dict[str, Value]) -> Iterator[tuple[str, Tensor]]:
    for name, _, row in _layers(net):
        weights = row.get("weights")
        old = [row.get(leaf) for leaf in _LEAVES]  # before version 1.0-beta8
        values = weights.values if isinstance(weights, Cells) else old
        for number, array in enumerate(values):
            if isinstance(array, Tensor):
                yield f"{name}/{_LEAVES[number] if number < len(_LEAVES) else number}", array


def _graph_arrays(net: dict[str, Value]) -> Iterator[tuple[str, Tensor]]:
    params = net.get("params")
    for row in params.values if isinstance(params, Structs) else []:
        name, array = row.get("name"), row.get("value")
        if isinstance(name, str) and isinstance(array, Tensor):
            yield name, array


def _mean(path: Path, tensor: Tensor) -> np.ndarray:
    """float32 of R, G and B, or of an image (height, width, 3)."""
    values = int(np.prod(tensor.shape, dtype=object))
    if values != 3 and (tensor.shape[2:] != (3,) or values > _LARGEST_MEAN):
        problem = f"has a mean image of shape {list(tensor.shape)}, expected [3] or [H, W, 3]"
        raise FileError(path, problem, _ADVICE)
    with np.errstate(over="ignore"):  # float64 of a damaged file
        mean = tensor.read().reshape(3 if values == 3 else tensor.shape).astype(np.float32)
    if not np.isfinite(mean).all():
        raise FileError(path, "has a mean that is not finite", _ADVICE)
    return mean


def _classes(fields: dict[str, Value]) -> tuple[str, ...]:
    """Names by label: WNIDs where the file has them, else descriptions."""
    for key in ("name", "description"):
        names = fields.get(key)
        if isinstance(names, Cells) and all(isinstance(name, str) for name in names.values):
            return tuple(str(name) for name in names.values)
    return ()
