"""A net as a table: shapes, parameters, multiply-adds and receptive fields, with the paper's figures.

All figures come from tracing the training form with shapes alone; nothing is computed. Multiply-adds (MACs)
count convolutions and fully connected layers: output height · width · kernel values, or the kernel values
alone where every position has its own kernel.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.models.net import Net
from jaxcnn.models.paper_figures import PaperFigure, paper_rows, paper_totals
from jaxcnn.models.vgg import VGG
from jaxcnn.models.window import Window


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels along one side of the image that one cell of a feature map depends on.

    The first cell depends on `start` to `start + size - 1`, where pixels below zero or past the image are
    padding; each next cell is `stride` pixels further.
    """

    size: int = 1
    stride: int = 1
    start: int = 0

    def after(self, window: Window) -> "ReceptiveField":
        return ReceptiveField(
            self.size + (window.size - 1) * self.stride,
            self.stride * window.stride,
            self.start - window.before * self.stride,
        )


WEIGHTED = ("Conv", "LocallyConnected", "FullyConnected")


@dataclass(frozen=True)
class Row:
    """A layer; or an inception module or auxiliary head, whose counts are the sums of its layers."""

    layer: str  # path in the parameter tree, 'inception_3a/conv3x3'
    kind: str
    shape: tuple[int, ...]  # of one image's output
    parameters: int
    macs: int
    field: ReceptiveField
    paper: tuple[PaperFigure, ...] = ()

    @property
    def training_only(self) -> bool:
        return self.layer.startswith("aux_")

    @property
    def neurons(self) -> int:
        """Outputs for one image, of a layer that has weights."""
        return math.prod(self.shape) if self.kind in WEIGHTED else 0

    @property
    def depth(self) -> int:
        return self.layer.count("/")


@dataclass(frozen=True)
class Summary:
    """A net's rows in the order of computation, and its totals without training-only layers."""

    net: str
    rows: tuple[Row, ...]
    parameters: int
    training_parameters: int  # with the auxiliary heads
    macs: int
    neurons: int  # outputs of the layers with weights for one image
    activations: int  # outputs of all layers for one image
    paper: tuple[PaperFigure, ...]


CONTAINERS = ("Inception", "Auxiliary")


def order_of_computation(net: Net) -> tuple[str, ...]:
    """Paths of the layers with parameters, in the order in which the net computes them."""
    rows = _training_rows(net)  # pyright: ignore[reportArgumentType]  (Flax makes modules hashable)
    return tuple(row.layer for row in rows if row.kind in WEIGHTED)


def summarise(net: Net) -> Summary:
    """The summary of a net at its image_size. Computes nothing."""
    rows = _training_rows(net)  # pyright: ignore[reportArgumentType]
    leaves = [row for row in rows if row.kind not in CONTAINERS]
    inference = [row for row in leaves if not row.training_only]
    totals = {
        "parameters": sum(row.parameters for row in inference),
        "macs": sum(row.macs for row in inference),
        "neurons": sum(row.neurons for row in inference),
    }
    return Summary(
        net=_title(net),
        rows=tuple(_with_paper(rows, paper_rows(net))),
        training_parameters=sum(row.parameters for row in leaves),
        activations=sum(math.prod(row.shape) for row in inference),
        paper=tuple(replace(figure, ours=totals[figure.of]) for figure in paper_totals(net)),
        **totals,
    )


def score_map_macs(net: Net, height: int, width: int) -> int:
    """Multiply-adds of `score_map` of one image of height x width without padding. Computes nothing."""
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return sum(
        row.macs
        for row in _trace(net, _image(height, width), size, method="score_map")
        if row.kind not in CONTAINERS
    )


def _title(net: Net) -> str:
    """The net's name and every field that is not at its default."""
    changed = [
        f"{field.name}={getattr(net, field.name)!r}"
        for field in dataclasses.fields(net)
        if field.name not in ("parent", "name") and getattr(net, field.name) != field.default
    ]
    if isinstance(net, VGG):
        changed = [f"column={net.column!r}"] + [c for c in changed if not c.startswith("column=")]
    return f"{type(net).__name__}({', '.join(changed)})"


def _with_paper(rows: Sequence[Row], printed: Mapping[str, tuple[PaperFigure, ...]]) -> list[Row]:
    """The rows with the paper's figures, each with our count of the same layers."""
    by_name = {row.layer: row for row in rows}

    def ours(figure: PaperFigure) -> int:
        return sum(getattr(by_name[layer], figure.of) for layer in figure.layers)

    return [
        replace(row, paper=tuple(replace(f, ours=ours(f)) for f in printed.get(row.layer, ())))
        for row in rows
    ]


def _image(height: int, width: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)


def called_modules(net: Net) -> tuple[dict[str, list[nn.Module]], Any]:
    """(the module of each call in training by path, in the order of first calls; abstract parameters)."""
    calls: dict[str, list[nn.Module]] = {}

    def record(call, args, kwargs, context):
        if context.method_name == "__call__" and context.module.path:
            calls.setdefault("/".join(context.module.path), []).append(context.module)
        return call(*args, **kwargs)

    image = _image(net.image_size, net.image_size)
    return calls, _init_abstract(net, record, image, train=True)["params"]


def _init_abstract(
    net: Net, interceptor: Any, *inputs: jax.ShapeDtypeStruct, **options: Any
) -> Any:
    """Abstract variables, from an init with calls of modules intercepted."""
    net = net.clone(remat=False)

    def init(key: jax.Array, *inputs: jax.Array) -> Any:
        return net.init({"params": key, "dropout": key}, *inputs, **options)

    with nn.intercept_methods(interceptor):
        return jax.eval_shape(init, jax.random.key(0), *inputs)


@functools.cache
def _training_rows(net: Net) -> tuple[Row, ...]:
    return _trace(net, _image(net.image_size, net.image_size), train=True)


def _trace(net: Net, *inputs: jax.ShapeDtypeStruct, **options: Any) -> tuple[Row, ...]:
    """A row for each module that the net calls, in order, from an abstract init."""
    rows: dict[str, Row] = {}
    # By id(array); the dict keeps the array alive, so that no other array takes its id.
    fields: dict[int, tuple[jax.Array, ReceptiveField]] = {}
    last = ReceptiveField()

    def record(call, args, kwargs, context):
        nonlocal last
        module, path = context.module, "/".join(context.module.path)
        if context.method_name != "__call__" or not path:
            return call(*args, **kwargs)
        # An array that was sliced or concatenated after its layer has the last layer's field.
        field = fields[id(args[0])][1] if id(args[0]) in fields else last
        row = rows.setdefault(path, Row(path, type(module).__name__, (), 0, 0, field))
        result = call(*args, **kwargs)
        inner = [other for name, other in rows.items() if name.startswith(f"{path}/")]
        row = rows[path] = _called(row, module, result.shape[1:], inner)
        fields[id(result)], last = (result, row.field), row.field
        return result

    _init_abstract(net, record, *inputs, **options)
    return tuple(rows.values())


def _called(row: Row, module: Any, shape: tuple[int, ...], inner: Sequence[Row]) -> Row:
    """A row after a call of its module, given the rows of the modules inside it."""
    if row.shape:  # a second tower adds its channels; the first call has counted the parameters
        return replace(row, shape=(*shape[:-1], row.shape[-1] + shape[-1]))
    params = module.variables.get("params", {})
    if row.kind in CONTAINERS:
        field = max((other.field for other in inner), key=lambda field: field.size)
        macs = sum(other.macs for other in inner)
    else:
        field = row.field.after(module.window)
        positions = 1 if row.kind == "LocallyConnected" else math.prod(shape[:-1])
        macs = positions * params["kernel"].size if "kernel" in params else 0
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return replace(row, shape=shape, field=field, macs=macs, parameters=parameters)
