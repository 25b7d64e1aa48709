"""The sizes of the feature maps of an ONNX graph, from the attributes of its nodes, beside those of a net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxcnn.models import Net
from jaxcnn.weights.formats.onnx_graph import TO_FIRST, TO_LAST, Graph, Node, node_names
from jaxcnn.weights.tensors import WeightsFile

# Nodes that keep the height and width of a feature map.
_KEEP = {
    "Relu", "LeakyRelu", "PRelu", "Tanh", "Sigmoid", "Clip", "LRN", "Dropout", "BatchNormalization", "Concat",
    "Sum", "Add", "Sub", "Mul", "Div", "Identity", "Cast",
}  # fmt: skip
_POOLS = ("MaxPool", "AveragePool")
_GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool")


def sizes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes that follow from the declared input: 'input', (height, width); 'maps', (height, width) of the
    output of each convolution and pool by the node's name. Empty where the graph leaves its input open."""
    known = {
        name: dims for name, dims in graph.inputs.items() if name not in shapes and len(dims) == 4
    }
    maps: dict[str, tuple[int, int]] = {}
    value: dict[str, tuple[int, int]] = {}
    for name, (_, a, b, c) in known.items():
        size = (a, b) if c in (1, 3) and a not in (1, 3) else (b, c)
        if min(size) > 0:
            value[name] = size
    first = next(iter(value.values()), None)
    for name, node in zip(node_names(graph), graph.nodes, strict=True):
        size = next((value[i] for i in node.inputs if i in value), None)
        if size is None or (node.kind == "Conv" and len(node.inputs) < 2):
            continue
        if node.kind == "Conv" or node.kind in _POOLS:
            kernel = shapes.get(node.inputs[1], ()) if node.kind == "Conv" else ()
            size = _after(node, size, kernel[2:])
        elif node.kind in _GLOBAL_POOLS:
            size = (1, 1)
        elif node.kind not in _KEEP and not (
            node.kind == "Transpose" and node.attributes.get("perm") in (TO_LAST, TO_FIRST)
        ):
            size = None
        if size is not None:
            value[node.outputs[0]] = size
            if node.kind == "Conv" or node.kind.endswith("Pool"):
                maps[name] = size
    return {"input": first, "maps": maps} if first else {}


def _after(node: Node, size: tuple[int, int], kernel: tuple[int, ...]) -> tuple[int, int] | None:
    """The size of a map after a convolution or pool; None where its attributes make no sense."""
    kernel = _integers(node, "kernel_shape", kernel)
    strides, pads = _integers(node, "strides", (1, 1)), _integers(node, "pads", (0, 0, 0, 0))
    dilations = _integers(node, "dilations", (1, 1))
    if [len(kernel), len(strides), len(dilations), len(pads)] != [2, 2, 2, 4] or min(strides) < 1:
        return None
    same = str(node.attributes.get("auto_pad")).startswith("SAME")
    result = []
    for axis in range(2):
        covered = size[axis] - dilations[axis] * (kernel[axis] - 1) - 1
        if same:
            result.append(-(-size[axis] // strides[axis]))
        else:
            covered += pads[axis] + pads[axis + 2]
            up = strides[axis] - 1 if node.attributes.get("ceil_mode") else 0
            result.append((covered + up) // strides[axis] + 1)
    return (result[0], result[1]) if min(result) > 0 else None


def _integers(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute of a node; () if it is no list."""
    value = node.attributes.get(name, default)
    return tuple(value) if isinstance(value, list | tuple) else ()


def map_sizes(file: WeightsFile) -> tuple[int, ...]:
    """The sides of the feature maps of an ONNX file's graph, each time they change: 54, 26, 12, 6 in the
    model zoo's AlexNet. Empty where its graph does not say them, or they are not square."""
    found = list(file.facts.get("graph", {}).get("maps", {}).values())
    if any(height != width for height, width in found):
        return ()
    return _changes(height for height, _ in found)


def graph_difference(file: WeightsFile, net: Net) -> str:
    """How the sizes of a file's graph differ from those of a net on the same images; '' where they do not."""
    graph = map_sizes(file)
    if not graph:
        return ""
    side = file.facts["graph"]["input"][0]
    ours = [side]
    for window in net.trunk():
        ours.append(window.out(ours[-1]))
    here, there = _changes(ours)[1:], _changes([side, *graph])[1:]
    if there[: len(here)] == here:
        return ""
    theirs, own = (", ".join(map(str, sizes)) for sizes in (there[: len(here)], here))
    return f"on images of {side} pixels the file's graph has maps of {theirs}, this net of {own}"


def _changes(values: Iterable[int]) -> tuple[int, ...]:
    found: list[int] = []
    for value in values:
        if not found or found[-1] != value:
            found.append(value)
    return tuple(found)
