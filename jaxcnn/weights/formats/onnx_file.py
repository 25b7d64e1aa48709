"""ONNX files, their weights only, read without the onnx package.

The graph of a file may be another function than the net it was made from (the model zoo's AlexNet and
Inception lost the padding of Caffe's pools), so it is not run. It says in which order weights are used and
in which layouts (`onnx_graph`), and on maps of which sizes (`onnx_sizes`). The numbers of fields are
those of onnx.proto.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.formats.onnx_graph import Graph, Node, node_names, readings
from jaxcnn.weights.formats.onnx_own import own_onnx_facts
from jaxcnn.weights.formats.onnx_sizes import sizes
from jaxcnn.weights.formats.proto_numbers import Numbers, Varints
from jaxcnn.weights.formats.protobuf import (
    BYTES,
    VARINT,
    Field,
    ProtoFile,
    integers,
    leading_fields,
)
from jaxcnn.weights.tensors import Tensor, WeightsFile

_ADVICE = "copy or download the file again, and compare its size with its publisher's"
# Fields of ModelProto, and those that a file may begin with.
_IR_VERSION, _GRAPH = 1, 7
_MODEL = {(1, VARINT), (2, BYTES), (3, BYTES), (4, BYTES), (5, VARINT), (6, BYTES), (7, BYTES), (8, BYTES),
          (14, BYTES), (20, BYTES), (25, BYTES)}  # fmt: skip
# Fields of TensorProto.
_DIMS, _TYPE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
_STRINGS = 8


class _Stored(NamedTuple):
    """How a type of ONNX is stored: as `bits`, in raw_data or in the field `number`."""

    dtype: np.dtype
    bits: np.dtype
    number: int


def _stored(number: int, dtype: Any, bits: Any = None) -> _Stored:
    return _Stored(np.dtype(dtype), np.dtype(bits or dtype), number)


_TYPES = {
    1: _stored(4, np.float32), 2: _stored(5, np.uint8), 3: _stored(5, np.int8), 4: _stored(5, np.uint16),
    5: _stored(5, np.int16), 6: _stored(5, np.int32), 7: _stored(7, np.int64),
    9: _stored(5, np.bool_, np.uint8), 10: _stored(5, np.float16, np.uint16), 11: _stored(10, np.float64),
    12: _stored(11, np.uint32), 13: _stored(11, np.uint64), 16: _stored(5, jnp.bfloat16, np.uint16),
}  # fmt: skip
_NUMBERS = {stored.number for stored in _TYPES.values()}


def is_onnx(path: Path, head: bytes) -> bool:
    """Whether a file that begins with these bytes is a ModelProto."""
    del path
    found = [(number, kind) for number, kind, _ in leading_fields(head)]
    if (_GRAPH, BYTES) in found:
        found = found[: found.index((_GRAPH, BYTES)) + 1]
    return len(found) > 1 and found[0] == (_IR_VERSION, VARINT) and set(found) <= _MODEL


def read_onnx(path: Path) -> WeightsFile:
    """The headers of an ONNX file.

    The tensors are the initializers and constants of the graph, in the order in which its nodes use them,
    without lists of integers (shapes and axes). One that the graph fills with a single number, as in light
    copies of the model zoo, has a name and a shape, and gives a FileError when it is read. Facts: 'layers',
    name -> type of the nodes; 'reads', the weights that each Conv, Gemm and MatMul uses
    (`onnx_graph.Reading`), in order; 'graph', sizes of feature maps (`onnx_sizes.sizes`). A file that
    jaxcnn wrote has its parameters alone, and the facts of `own_onnx_facts`.

    Raises:
        FileError: it is no such file, is damaged, or keeps its arrays in other files.
    """
    file = ProtoFile(path, _ADVICE)
    graph = _graph(file)
    stored = _tensors(file, graph)
    if own := own_onnx_facts(file):
        leaves = {k: v for k, v in stored.items() if k.endswith(("/kernel", "/bias"))}
        return WeightsFile(path, "onnx", leaves, own)
    used = [name for node in graph.nodes for name in node.inputs if name in stored]
    names = dict.fromkeys([*used, *stored])
    tensors = {name: stored[name] for name in names if not _is_a_list(stored[name])}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    reads = readings(graph, shapes, file)
    for name in {r.kernel for r in reads if r.kind != "Conv" and r.kernel in tensors}:
        tensors[name] = _matrix(tensors[name])
    layers = {name: node.kind for name, node in zip(node_names(graph), graph.nodes, strict=True)}
    facts = {"layers": layers, "reads": reads, "graph": sizes(graph, shapes)}
    return WeightsFile(path, "onnx", tensors, facts)


def initializers(path: Path) -> dict[str, Tensor]:
    """All initializers and constants of an ONNX file, in its order."""
    file = ProtoFile(path, _ADVICE)
    return _tensors(file, _graph(file))


def _matrix(tensor: Tensor) -> Tensor:
    """An array without axes of length one before its last two."""
    shape = tensor.shape
    if set(shape[:-2]) != {1}:
        return tensor

    def rows(start: int, stop: int) -> np.ndarray:
        return tensor.read().reshape(shape[-2:])[start:stop]

    return dataclasses.replace(tensor, shape=shape[-2:], rows=rows)


def _is_a_list(tensor: Tensor) -> bool:
    return len(tensor.shape) < 2 and tensor.dtype.kind in "iub"


def _graph(file: ProtoFile) -> Graph:
    graphs = [field for field in file.fields() if field.number == _GRAPH]
    if len(graphs) != 1:
        raise file.error(f"is no ONNX model: it has {len(graphs)} graphs, expected one")
    return Graph.read(file, graphs[0])


def _tensors(file: ProtoFile, graph: Graph) -> dict[str, Tensor]:
    """Every array of the graph by name."""
    found: dict[str, Tensor] = {}

    def add(name: str, tensor: Tensor | None) -> None:
        if name in found:
            raise file.error(f"has two arrays {name!r}")
        if tensor is not None:
            found[name] = tensor

    for field in graph.initializers:
        name, tensor = _tensor(file, field)
        add(name, tensor)
    for node in graph.nodes:
        if node.kind == "Constant" and isinstance(value := node.attributes.get("value"), Field):
            _, tensor = _tensor(file, value, node.outputs[0])
            add(node.outputs[0], tensor)
    for node in graph.nodes:
        if node.kind == "ConstantOfShape" and (filled := _filled(file, node, found)):
            add(filled.name, filled)
    return found


def _tensor(file: ProtoFile, message: Field, name: str = "") -> tuple[str, Tensor | None]:
    """(name, array) of a TensorProto; None for texts, which are no weights."""
    dims: list[Field] = []
    data: dict[int, list[Field]] = {}
    kind, external = 0, False
    for field in file.fields(message):
        if field.number == _DIMS:
            dims.append(field)
        elif field.number == _TYPE:
            kind = field.value
        elif field.number == _NAME and not name:
            name = file.text(field)
        elif field.number == _RAW or field.number in _NUMBERS:
            data.setdefault(field.number, []).append(field)
        elif field.number == _EXTERNAL or (field.number == _LOCATION and field.value):
            external = True
        elif field.number == _SEGMENT:
            raise file.error(f"has a part of the array {name!r} only")
    if kind == _STRINGS:
        return name, None
    if external:
        raise FileError(
            file.path, f"keeps the array {name!r} in another file, which is not followed",
            "make one file of both: onnx.save_model(onnx.load(FILE), WHOLE)",
        )  # fmt: skip
    if kind not in _TYPES:
        raise FileError(
            file.path, f"has the array {name!r} of ONNX's type {kind}, which is not read",
            "save the weights as float32, float16 or bfloat16",
        )  # fmt: skip
    return name, _array(file, name, tuple(integers(file, dims)), _TYPES[kind], data)


def _array(
    file: ProtoFile,
    name: str,
    shape: tuple[int, ...],
    stored: _Stored,
    data: Mapping[int, list[Field]],
) -> Tensor:
    typed = {number for number, fields in data.items() if any(field.size for field in fields)}
    if len(typed) > 1 or not typed <= {_RAW, stored.number}:
        raise file.error(
            f"is damaged: the array {name!r} of type {stored.dtype.name} has data in the fields "
            f"{', '.join(map(str, sorted(typed)))} of its message"
        )
    number = min(typed, default=_RAW)
    floating = number == _RAW or stored.bits.kind == "f"
    numbers = (Numbers if floating else Varints)(file, stored.bits)
    for field in data.get(number, []):
        numbers.add(field)
    if min(shape, default=1) < 0 or math.prod(shape) != numbers.count:
        problem = f"has the shape {list(shape)}, but {numbers.count:,} numbers are stored"
        raise file.error(f"is damaged: the array {name!r} {problem}")
    row = math.prod(shape[1:])

    def rows(start: int, stop: int) -> np.ndarray:
        found = numbers.read(start * row, stop * row)
        if stored.dtype != stored.bits:
            found = found != 0 if stored.dtype == np.bool_ else found.view(stored.dtype)
        return found.reshape(stop - start, *shape[1:]) if shape else found.reshape(())

    return Tensor(name, shape, stored.dtype, rows)


def _filled(file: ProtoFile, node: Node, known: Mapping[str, Tensor]) -> Tensor | None:
    """The name and shape of an array that the graph fills with one number."""
    shape = known.get(node.inputs[0]) if node.inputs else None
    if shape is None or len(shape.shape) != 1 or shape.shape[0] > 32 or shape.dtype.kind != "i":
        return None  # a shape that only a run of the graph gives
    dims = tuple(shape.read().tolist())
    if min(dims, default=1) < 0:
        return None
    value, name = node.attributes.get("value"), node.outputs[0]
    example = _tensor(file, value)[1] if isinstance(value, Field) else None
    dtype = example.dtype if example else np.dtype(np.float32)
    return Tensor(name, dims, dtype, _refusal(file.path, name))


def _refusal(path: Path, name: str) -> Callable[[int, int], np.ndarray]:
    def rows(start: int, stop: int) -> NoReturn:
        del start, stop
        raise FileError(
            path, f"does not store the array {name!r}: its graph fills it with one number",
            "give the file that has the trained weights",
        )  # fmt: skip

    return rows
