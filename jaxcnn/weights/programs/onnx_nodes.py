"""The nodes of an ONNX graph for a net, from the graph of its layers.

Feature maps are (N, channels, height, width) here, kernels (outputs, inputs, height, width).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from jaxcnn.models import layers, ops
from jaxcnn.models.layer_graph import Concatenation, LayerGraph, LayerNode, Node
from jaxcnn.models.window import Window
from jaxcnn.weights.kernel_layout import stored_blocks, stored_shape

OPSET = 18
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "none": ""}


@dataclasses.dataclass(frozen=True)
class Initializer:
    """A constant of the graph: float32 or int64, written block by block."""

    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[np.ndarray]]


class OnnxGraph:
    """Nodes and constants, in the order in which they were added.

    Attributes:
        weights: the parameters by path.
        nodes: onnx.NodeProto; a node and its output have the same name, that of the layer.
        initializers: by name, that of the parameter.
        layouts: of the kernels that are not stored as here (`kernel_layout`).
    """

    def __init__(
        self, make_node: Callable[..., Any], graph: LayerGraph, weights: Mapping[str, Any]
    ):
        self.make_node, self.weights = make_node, weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, Initializer] = {}
        self.layouts: dict[str, str] = {}
        self.paths = {id(node): path for path, node in graph.outputs.items()}
        self.written: dict[int, str] = {}

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output; returns its name."""
        self.nodes.append(self.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array)
        self.initializers[name] = Initializer(array.dtype, array.shape, lambda: [array])
        return name

    def kernel(self, path: str, layout: str) -> str:
        name = f"{path}/kernel"
        array = np.asarray(self.weights[name])
        shape, blocks = stored_shape(layout, array.shape), partial(stored_blocks, array, layout)
        self.initializers[name] = Initializer(array.dtype, shape, blocks)
        self.layouts[name] = layout
        return name

    def bias(self, path: str) -> str:
        return self.constant(f"{path}/bias", np.asarray(self.weights[f"{path}/bias"]))

    def input(self, node: Node, name: str) -> None:
        """Says that the tensor `name` is a node of the graph of layers."""
        self.written[id(node)] = name

    def output(self, node: Node) -> str:
        """The name of a node's output, after all that it needs."""
        if id(node) not in self.written:
            self.written[id(node)] = self._write(node)
        return self.written[id(node)]

    def with_activation(
        self, node: LayerNode, operator: str, inputs: list[str], **more: Any
    ) -> str:
        activation = _ACTIVATIONS[node.layer.activation]
        if not activation:
            return self.add(operator, inputs, node.path, **more)
        before = self.add(operator, inputs, f"{node.path}/sum", **more)
        return self.add(activation, [before], node.path)

    def _write(self, node: Node) -> str:
        if isinstance(node, Concatenation):
            sources = [self.output(source) for source in node.sources]
            name = self.paths.get(id(node), f"concatenation_{len(self.nodes)}")
            return self.add("Concat", sources, name, axis=1)
        assert isinstance(node, LayerNode), node
        return WRITERS[type(node.layer)](self, node, self.output(node.source))


def _conv(graph: OnnxGraph, node: LayerNode, source: str) -> str:
    layer, inputs = node.layer, [source, graph.kernel(node.path, "OIHW")]
    if not layer.depthwise:
        inputs.append(graph.bias(node.path))
    groups = node.source.shape[-1] if layer.depthwise else node.groups
    return graph.with_activation(node, "Conv", inputs, group=groups, **_window(layer.window))


def _fully_connected(graph: OnnxGraph, node: LayerNode, source: str) -> str:
    if node.slides:
        inputs = [source, graph.kernel(node.path, "OIHW"), graph.bias(node.path)]
        return graph.with_activation(node, "Conv", inputs, **_window(node.layer.window))
    if len(node.source.shape) > 1:
        source = graph.add("Flatten", [source], f"{node.path}/input", axis=1)
    inputs = [source, graph.kernel(node.path, "O(IHW)"), graph.bias(node.path)]
    return graph.with_activation(node, "Gemm", inputs, transB=1)


def _locally_connected(graph: OnnxGraph, node: LayerNode, source: str) -> str:
    """A product with a kernel per position: (h, w, N, k·k·inputs) by (h, w, k·k·inputs, outputs)."""
    path, window, (height, width, outputs) = node.path, node.layer.window, node.shape
    edges = [0, 0, window.before, window.before, 0, 0, window.after, window.after]
    padding = graph.constant(f"{path}/padding", np.array(edges, np.int64))
    padded = graph.add("Pad", [source, padding], f"{path}/padded")
    axes = graph.constant(f"{path}/axes", np.array([2, 3], np.int64))
    steps = graph.constant(f"{path}/steps", np.array([window.stride] * 2, np.int64))
    reach = (np.array([height, width]) - 1) * window.stride + 1
    shifted = []
    for i in range(window.size):
        for j in range(window.size):
            name, first = f"{path}/shifted_{i}_{j}", np.array([i, j], np.int64)
            start, stop = (
                graph.constant(f"{name}/{end}", value)
                for end, value in (("start", first), ("stop", first + reach))
            )
            shifted.append(graph.add("Slice", [padded, start, stop, axes, steps], name))
    patches = graph.add("Concat", shifted, f"{path}/patches", axis=1)
    rows = graph.add("Transpose", [patches], f"{path}/rows", perm=[2, 3, 0, 1])
    shapes = {"kernel": [height, width, -1, outputs], "bias": [height, width, 1, outputs]}
    kernel, bias = (
        graph.add(
            "Reshape",
            [
                graph.constant(f"{path}/{leaf}", np.asarray(graph.weights[f"{path}/{leaf}"])),
                graph.constant(f"{path}/{leaf}_shape", np.array(shape, np.int64)),
            ],
            f"{path}/{leaf}_rows",
        )
        for leaf, shape in shapes.items()
    )
    products = graph.add("MatMul", [rows, kernel], f"{path}/products")
    sums = graph.add("Add", [products, bias], f"{path}/sums")
    return graph.with_activation(node, "Transpose", [sums], perm=[2, 3, 0, 1])


def _max_pool(graph: OnnxGraph, node: LayerNode, source: str) -> str:
    return graph.add("MaxPool", [source], node.path, **_window(node.layer.window))


def _average_pool(graph: OnnxGraph, node: LayerNode, source: str) -> str:
    return graph.add("AveragePool", [source], node.path, **_window(node.layer.window))


def _lrn(graph: OnnxGraph, node: LayerNode, source: str) -> str:
    """LRN, whose alpha ONNX divides by the size of the window; in groups, on each of them alone."""
    k, n, alpha, beta, alpha_over_n = ops.LRN_CONSTANTS[node.layer.constants]
    alpha = alpha if alpha_over_n else n * alpha
    lrn = partial(graph.add, "LRN", size=n, alpha=alpha, beta=beta, bias=k)
    if node.groups == 1:
        return lrn([source], node.path)
    parts = [f"{node.path}/part_{index}" for index in range(node.groups)]
    split = graph.make_node(
        "Split", [source], parts, name=f"{node.path}/split", axis=1, num_outputs=node.groups
    )
    graph.nodes.append(split)
    normalised = [lrn([part], f"{part}/normalised") for part in parts]
    return graph.add("Concat", normalised, node.path, axis=1)


def _dropout(graph: OnnxGraph, node: LayerNode, source: str) -> str:
    """Nothing; in the paper's convention the values times the probability of being kept."""
    if node.layer.convention == "inverted" or node.layer.rate == 0.0:
        return source
    kept = graph.constant(f"{node.path}/kept", np.array(1.0 - node.layer.rate, np.float32))
    return graph.add("Mul", [source, kept], node.path)


def _window(window: Window) -> dict[str, Any]:
    return {
        "kernel_shape": [window.size] * 2,
        "strides": [window.stride] * 2,
        "pads": [window.before] * 2 + [window.after] * 2,
    }


WRITERS: dict[type, Callable[[OnnxGraph, LayerNode, str], str]] = {
    layers.AveragePool: _average_pool,
    layers.Conv: _conv,
    layers.Dropout: _dropout,
    layers.FullyConnected: _fully_connected,
    layers.LocallyConnected: _locally_connected,
    layers.LocalResponseNorm: _lrn,
    layers.MaxPool: _max_pool,
}
