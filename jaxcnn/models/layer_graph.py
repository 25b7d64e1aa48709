"""A net as a graph of its layers, for writers of other program formats.

The net's own code is traced, with each layer of `layers` as one opaque operation: what remains between them
are splits and concatenations of channels. So nothing lists the layers of a net a second time, and an option
of a net is in the graph or is an error; it cannot be forgotten.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import JaxprEqn, Literal, Primitive

from jaxcnn.models.context import Context
from jaxcnn.models.layers import (
    AveragePool,
    Conv,
    Dropout,
    FullyConnected,
    LocallyConnected,
    LocalResponseNorm,
    MaxPool,
)
from jaxcnn.models.net import Net

LAYERS = (AveragePool, Conv, Dropout, FullyConnected, LocallyConnected, LocalResponseNorm, MaxPool)
# These treat each channel alone, or (LRN) take the border of a part from `groups`.
_BY_CHANNEL = (AveragePool, Dropout, LocalResponseNorm, MaxPool)


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The input: images minus their mean, (height, width, 3)."""

    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LayerNode:
    """The output of a layer.

    Attributes:
      path: in the parameter tree, 'inception_3a/conv3x3'.
      layer: its fields say what it computes.
      source: what it reads.
      shape: of one image's output: (height, width, channels), or (features,).
      groups: equal parts of the channels that it computes apart from each other: AlexNet's towers.
      slides: whether a fully connected layer is computed at every position of a map.
    """

    path: str
    layer: Any
    source: Node
    shape: tuple[int, ...]
    groups: int
    slides: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Concatenation:
    """Maps side by side along the channels."""

    sources: tuple[Node, ...]
    shape: tuple[int, ...]


Node = Images | LayerNode | Concatenation


class LayerGraph(NamedTuple):
    """The class scores, and the output of every layer and inception module by path."""

    scores: Node
    outputs: Mapping[str, Node]


def layer_graph(net: Net, dense: tuple[int, int] | None = None) -> LayerGraph:
    """The graph of a net at test time. Computes nothing.

    Args:
      dense: (height, width) of the images of a score map; None for images of the net's image_size.

    Raises:
      NotImplementedError: the net computes something between its layers that the graph cannot hold.
    """
    size = dense or (net.image_size, net.image_size)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    # Each block traced plainly, and without the casts of another dtype between layers.
    net = net.clone(remat=False, dtype="float32")

    def trace(key: jax.Array, images: jax.Array) -> Any:
        context = Context(jnp.array([size], jnp.int32) if dense else None)
        (scores, _, _), found = net.init_with_output(
            key,
            images,
            method=lambda net, images: net.forward(images, context),
            capture_intermediates=True,
            mutable=True,
        )
        outputs = flatten_dict(found["intermediates"], sep="/")
        return scores, {path.removesuffix("/__call__"): calls for path, calls in outputs.items()}

    with nn.intercept_methods(_as_one_operation):
        traced, tree = jax.make_jaxpr(trace, return_shape=True)(jax.random.key(0), images)
    reader = _Reader(type(net).__name__)
    found = reader.read(traced, [_Other("a key"), Images((*size, 3))])
    scores, outputs = jax.tree.unflatten(jax.tree.structure(tree), found)
    return LayerGraph(
        reader.node([scores]), {path: reader.node(calls) for path, calls in outputs.items()}
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Call:
    """A call of a layer in the trace; `tower` is the part of its outputs that it computes."""

    path: str
    layer: Any
    tower: int | None
    slides: bool


_LAYER = Primitive("layer_of_a_net")
_LAYER.def_abstract_eval(lambda x, **params: x.update(shape=params["shape"]))


def _as_one_operation(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Interceptor: replaces the output of a layer by that of one operation on its input."""
    layer, result = context.module, call(*args, **kwargs)
    if context.method_name != "__call__" or type(layer) not in LAYERS:
        return result
    given = inspect.signature(type(layer).__call__).bind(layer, *args, **kwargs).arguments
    state, tower = given.get("context"), given.get("tower")
    slides = isinstance(layer, FullyConnected) and state is not None and state.sizes is not None
    name = "/".join(layer.path)
    return _LAYER.bind(args[0], call=_Call(name, layer, tower, slides), shape=result.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """The part `index` of `count` equal parts of a node's channels."""

    node: Node
    index: int
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Other:
    """The result of an operation that is no layer. Most are inside layers, and not part of the graph."""

    operation: str


_Value = Node | _Part | _Other


class _Reader:
    """Reads nodes from a traced net. A layer that was called on each part of a node is one node."""

    def __init__(self, net: str):
        self.net = net
        self.nodes: dict[tuple[str, int], LayerNode] = {}

    def read(self, traced: Any, inputs: Sequence[_Value]) -> list[_Value]:
        """What a traced function returns for these inputs."""
        values: dict[Any, _Value] = dict(zip(traced.jaxpr.invars, inputs, strict=True))
        for equation in traced.jaxpr.eqns:
            operands = [self.value(values, operand) for operand in equation.invars]
            values.update(zip(equation.outvars, self.results(equation, operands), strict=True))
        return [self.value(values, output) for output in traced.jaxpr.outvars]

    def value(self, values: Mapping[Any, _Value], operand: Any) -> _Value:
        constant = isinstance(operand, Literal) or operand not in values
        return _Other("a constant") if constant else values[operand]

    def results(self, equation: JaxprEqn, operands: Sequence[_Value]) -> Sequence[_Value]:
        name, params, outputs = equation.primitive.name, equation.params, equation.outvars
        if equation.primitive is _LAYER:
            return [self.called(params["call"], operands[0], params["shape"][1:])]
        if name in ("jit", "pjit"):
            return self.read(params["jaxpr"], operands)
        last = outputs[0].aval.ndim - 1  # pyright: ignore[reportAttributeAccessIssue]
        if name == "split" and params["axis"] == last and len(set(params["sizes"])) == 1:
            (whole,), count = operands, len(outputs)
            if isinstance(whole, Node):
                return [_Part(whole, index, count) for index in range(count)]
        if name == "concatenate" and params["dimension"] == last:
            return [self.joined(operands)]
        return [_Other(name)] * len(outputs)

    def called(self, call: _Call, source: _Value, shape: tuple[int, ...]) -> _Value:
        """The output of a call of a layer."""
        if isinstance(source, _Part):
            of_tower = (call.tower, getattr(call.layer, "towers", 1)) == (
                source.index,
                source.count,
            )
            if not (of_tower or isinstance(call.layer, _BY_CHANNEL)):
                raise self.unknown(f"{call.path} on a part of its input")
            whole = (*shape[:-1], shape[-1] * source.count)
            node = self.called_on(call, source.node, whole, source.count)
            return _Part(node, source.index, source.count)
        if isinstance(source, _Other):
            raise self.unknown(f"{source.operation} before {call.path}")
        if call.tower is not None:
            raise self.unknown(f"tower {call.tower} of {call.path} on all channels")
        return self.called_on(call, source, shape, 1)

    def called_on(
        self, call: _Call, source: Node, shape: tuple[int, ...], groups: int
    ) -> LayerNode:
        node = LayerNode(call.path, call.layer, source, shape, groups, call.slides)
        return self.nodes.setdefault((call.path, id(source)), node)

    def joined(self, values: Sequence[_Value]) -> _Value:
        """Values side by side along the channels."""
        first, count = values[0], len(values)
        if isinstance(first, _Part):
            parts = [(v.node, v.index, v.count) for v in values if isinstance(v, _Part)]
            if parts == [(first.node, index, count) for index in range(count)]:
                return first.node
        nodes = tuple(value for value in values if isinstance(value, Node))
        if len(nodes) < count:
            return _Other("a concatenation of parts")
        channels = sum(node.shape[-1] for node in nodes)
        return nodes[0] if count == 1 else Concatenation(nodes, (*nodes[0].shape[:-1], channels))

    def node(self, values: Sequence[_Value]) -> Node:
        """The node of an output; of a layer that was called tower by tower, its outputs side by side."""
        value = self.joined(values)
        if isinstance(value, _Part | _Other):
            raise self.unknown(f"{getattr(value, 'operation', 'a part')} as an output")
        return value

    def unknown(self, what: str) -> NotImplementedError:
        return NotImplementedError(f"{self.net} computes {what}, which `layer_graph` does not know")
