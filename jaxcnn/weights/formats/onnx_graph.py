"""The graph of an ONNX file: its nodes, and which stored arrays they use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.weights.formats.protobuf import (
    BYTES,
    FIXED32,
    VARINT,
    Field,
    ProtoFile,
    integers,
    signed,
)
from jaxcnn.weights.naming import BatchNorm

# Fields of GraphProto, NodeProto, AttributeProto, and down to the sizes of a ValueInfoProto.
_NODE, _INITIALIZER, _INPUT, _SPARSE = 1, 5, 11, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _FLOAT, _INTEGER, _TEXT, _TENSOR, _INTEGERS, _SPARSE_TENSOR = 1, 2, 3, 4, 5, 8, 22
_TO_DIMENSIONS = (2, 1, 2, 1)  # type, tensor_type, shape, dim

_FLATTEN = ("Reshape", "Flatten", "Dropout", "Identity", "Cast", "Relu", "Squeeze")
_PASS = ("Identity", "Transpose", "Reshape")  # between an array and the product that uses it
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # a Transpose's perm: channels last, channels first
_LISTS = ("kernel_shape", "strides", "pads", "dilations", "perm")  # the attributes that are read


class Node(NamedTuple):
    """A node. Its attributes are numbers, texts, lists of integers, and tensors as the field with one."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A graph.

    Attributes:
        nodes: in its order, in which a node comes after those whose outputs it reads.
        initializers: the fields of its stored arrays.
        inputs: its inputs with their sizes; 0 for one that it leaves open.
    """

    nodes: tuple[Node, ...]
    initializers: tuple[Field, ...]
    inputs: Mapping[str, tuple[int, ...]]

    @staticmethod
    def read(file: ProtoFile, message: Field) -> Graph:
        """Raises FileError if the graph is damaged or has sparse arrays."""
        nodes, stored, inputs = [], [], {}
        for field in file.fields(message):
            if field.number == _NODE:
                nodes.append(_node(file, field))
            elif field.number == _INITIALIZER:
                stored.append(field)
            elif field.number == _INPUT:
                name, dims = _input(file, field)
                inputs[name] = dims
            elif field.number == _SPARSE:
                raise file.error("has a sparse array, which is not read")
        return Graph(tuple(nodes), tuple(stored), inputs)


@dataclasses.dataclass(frozen=True)
class Reading:
    """A convolution or matrix product, and the stored arrays that it uses.

    Attributes:
        node: its name.
        kind: Conv, Gemm or MatMul.
        kernel: the array's name. Of a product it is a matrix; axes of length one before do not count.
        layout: of the kernel (`kernel_layout`), by the kind, its attributes and the map before it.
        bias: the array's name; '' without one.
        norm: the batch normalization of its output, or None.
    """

    node: str
    kind: str
    kernel: str
    layout: str
    bias: str
    norm: BatchNorm | None = None


def node_names(graph: Graph) -> list[str]:
    """A name for every node: its own, or its first output's where it has none or one that is taken."""
    taken: dict[str, None] = {}
    for index, node in enumerate(graph.nodes):
        choices = (node.name, *node.outputs[:1], f"{node.kind}.{index}")
        taken[next(name for name in choices if name and name not in taken)] = None
    return list(taken)


def readings(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], file: ProtoFile
) -> tuple[Reading, ...]:
    """What each Conv, Gemm and MatMul with a stored kernel uses, in order.

    Raises:
        FileError: a Gemm scales its terms.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    users = {name: node for node in reversed(graph.nodes) for name in node.inputs}
    found = []
    for name, node in zip(node_names(graph), graph.nodes, strict=True):
        if node.kind not in ("Conv", "Gemm", "MatMul") or len(node.inputs) < 2:
            continue
        kernel, turned = _source(node.inputs[1], makers)
        if len(shapes.get(kernel, ())) < 2:
            continue
        bias, layout = node.inputs[2] if len(node.inputs) > 2 else "", "OIHW"
        if node.kind != "Conv":
            scales = {node.attributes.get(k, 1.0) for k in ("alpha", "beta")}
            if scales != {1.0} or node.attributes.get("transA", 0):
                raise file.error(f"has the node {name!r}, a Gemm that is more than W x + b")
            turned ^= bool(node.attributes.get("transB", 0))
            rows = "HWI" if _is_channels_last(node.inputs[0], makers) else "IHW"
            layout = f"O({rows})" if turned else f"({rows})O"
        after = users.get(node.outputs[0])
        if not bias and after is not None and after.kind == "Add":
            bias = next((i for i in after.inputs if _source(i, makers)[0] in shapes), "")
            after = users.get(after.outputs[0])
        norm = _norm(after)
        found.append(Reading(name, node.kind, kernel, layout, _source(bias, makers)[0], norm))
    return tuple(found)


def _norm(node: Node | None) -> BatchNorm | None:
    if node is None or node.kind != "BatchNormalization" or len(node.inputs) != 5:
        return None
    _, scale, offset, mean, variance = node.inputs
    epsilon = node.attributes.get("epsilon")
    return BatchNorm(scale, offset, mean, variance, epsilon if isinstance(epsilon, float) else 1e-5)


def _source(name: str, makers: Mapping[str, Node]) -> tuple[str, bool]:
    """The stored array behind a value, and whether a Transpose turns it on the way."""
    turned = False
    for _ in range(8):
        node = makers.get(name)
        if node is None or not node.inputs or node.kind not in _PASS:
            break
        if node.kind == "Transpose":
            if node.attributes.get("perm", [1, 0]) != [1, 0]:
                break
            turned = not turned
        name = node.inputs[0]
    return name, turned


def _is_channels_last(name: str, makers: Mapping[str, Node]) -> bool:
    """Whether a matrix product reads the rows of a map with channels last."""
    for _ in range(8):
        node = makers.get(name)
        if node is None or not node.inputs:
            return False
        if node.kind == "Transpose":
            return node.attributes.get("perm") == TO_LAST
        if node.kind not in _FLATTEN:
            return False
        name = node.inputs[0]
    return False


def _node(file: ProtoFile, message: Field) -> Node:
    inputs, outputs, attributes = [], [], {}
    name, kind = "", ""
    for field in file.fields(message):
        if field.number == _NODE_INPUT:
            inputs.append(file.text(field))
        elif field.number == _NODE_OUTPUT:
            outputs.append(file.text(field))
        elif field.number == _NODE_NAME:
            name = file.text(field)
        elif field.number == _NODE_TYPE:
            kind = file.text(field)
        elif field.number == _ATTRIBUTE:
            key, value = _attribute(file, field)
            attributes[key] = value
    if not outputs:
        raise file.error(f"is damaged: the node {name!r} of type {kind!r} has no outputs")
    return Node(name, kind, tuple(inputs), tuple(outputs), attributes)


def _attribute(file: ProtoFile, message: Field) -> tuple[str, Any]:
    name, value, lists = "", None, []
    for field in file.fields(message):
        if field.number == _ATTRIBUTE_NAME:
            name = file.text(field)
        elif (field.number, field.kind) == (_FLOAT, FIXED32):
            value = float(np.frombuffer(file.read(field.start, field.start + 4), "<f4")[0])
        elif (field.number, field.kind) == (_INTEGER, VARINT):
            value = signed(field.value)
        elif field.number == _TEXT and field.size < 64:
            value = file.read(field.start, field.stop).decode(errors="replace")
        elif (field.number, field.kind) == (_TENSOR, BYTES):
            value = field
        elif field.number == _INTEGERS:
            lists.append(field)
        elif field.number == _SPARSE_TENSOR:
            raise file.error("has a sparse array, which is not read")
    return name, integers(file, lists) if lists and name in _LISTS else value


def _input(file: ProtoFile, message: Field) -> tuple[str, tuple[int, ...]]:
    """(name, sizes) of a ValueInfoProto."""
    name, level = "", [message]
    for depth, number in enumerate(_TO_DIMENSIONS):
        inner = []
        for outer in level:
            for field in file.fields(outer):
                if depth == 0 and field.number == 1:
                    name = file.text(field)
                elif field.number == number and field.kind == BYTES:
                    inner.append(field)
        level = inner
    dims = []
    for dim in level:
        found = [signed(f.value) for f in file.fields(dim) if f.number == 1 and f.kind == VARINT]
        dims.append(found[0] if found and 0 < found[0] < 2**31 else 0)
    return name, tuple(dims)
