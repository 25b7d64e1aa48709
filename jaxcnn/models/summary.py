"""A net as a table: shapes, parameters, multiply-adds and receptive fields, with the paper's figures.

All figures come from tracing the layers that train on abstract images; nothing is computed. Multiply-adds
(MACs) are output height · width · kernel values, for convolutions and fully connected layers, and the kernel
values alone where every position has its own; biases, activations, LRN and pools are not counted.
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
    rows = _trace(net)  # pyright: ignore[reportArgumentType]
    return tuple(row.layer for row in rows if row.kind in WEIGHTED)


def summarise(net: Net) -> Summary:
    """The summary of a net at its image_size. Computes nothing."""
    rows = _trace(net)  # pyright: ignore[reportArgumentType]  (Flax makes modules hashable)
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
        paper=tuple(figure.with_ours(totals[figure.of]) for figure in paper_totals(net)),
        **totals,
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
        replace(row, paper=tuple(f.with_ours(ours(f)) for f in printed.get(row.layer, ())))
        for row in rows
    ]


def called_modules(net: Net) -> tuple[dict[str, list[nn.Module]], Any]:
    """(the module of each call in training by path, in the order of first calls; abstract parameters)."""
    calls: dict[str, list[nn.Module]] = {}

    def record(call, args, kwargs, context):
        if context.method_name == "__call__" and context.module.path:
            calls.setdefault("/".join(context.module.path), []).append(context.module)
        return call(*args, **kwargs)

    return calls, _init_abstract(net, record)


def _init_abstract(net: Net, interceptor: Any) -> Any:
    """Abstract parameters of the training form, from an init with calls of modules intercepted."""
    net = net.clone(remat=False)

    def init(key):
        images = jnp.zeros((1, net.image_size, net.image_size, 3), jnp.float32)
        with nn.intercept_methods(interceptor):
            return net.init({"params": key, "dropout": key}, images, train=True)

    return jax.eval_shape(init, jax.random.key(0))["params"]


@functools.cache
def _trace(net: Net) -> tuple[Row, ...]:
    """A row for each module that the training form of the net calls, in order. Cached: a run asks three
    times, and nothing else in a summary takes as long."""
    calls: dict[str, Row] = {}
    # By id(array); the dict keeps the array alive, so that no other array takes its id.
    known: dict[int, tuple[jax.Array, ReceptiveField]] = {}
    last = ReceptiveField()

    def record(call, args, kwargs, context):
        nonlocal last
        module, path = context.module, "/".join(context.module.path)
        if context.method_name != "__call__" or not path:
            return call(*args, **kwargs)
        if path not in calls:
            # An array that was sliced or concatenated after its layer: it has the last layer's field.
            field = known[id(args[0])][1] if id(args[0]) in known else last
            calls[path] = Row(path, type(module).__name__, (), 0, 0, field)
        result = call(*args, **kwargs)
        row = calls[path] = _called(calls, path, module, result.shape[1:])
        known[id(result)], last = (result, row.field), row.field
        return result

    params = _init_abstract(net, record)
    rows = [_counted(row, params) for row in calls.values()]
    return tuple(_summed(row, rows) if row.kind in CONTAINERS else row for row in rows)


def _called(calls: Mapping[str, Row], path: str, module: Any, shape: tuple[int, ...]) -> Row:
    """A row after a call of its module; a further call, for another tower, adds its channels."""
    row = calls[path]
    if row.shape:
        return replace(row, shape=(*shape[:-1], row.shape[-1] + shape[-1]))
    if row.kind in CONTAINERS:
        inner = [other.field for name, other in calls.items() if name.startswith(f"{path}/")]
        return replace(row, shape=shape, field=max(inner, key=lambda field: field.size))
    return replace(row, shape=shape, field=row.field.after(module.window))


def _counted(row: Row, params: Any) -> Row:
    """The row with its own parameters and their multiply-adds."""
    for part in row.layer.split("/"):
        params = params.get(part, {})
    if row.kind in CONTAINERS or "kernel" not in params:
        return row
    parameters = sum(math.prod(leaf.shape) for leaf in params.values())
    positions = 1 if row.kind == "LocallyConnected" else math.prod(row.shape[:-1])
    macs = positions * math.prod(params["kernel"].shape)
    return replace(row, parameters=parameters, macs=macs)


def _summed(row: Row, rows: Sequence[Row]) -> Row:
    """A module's row with the sums over its layers."""
    inner = [other for other in rows if other.layer.startswith(f"{row.layer}/")]
    parameters, macs = sum(r.parameters for r in inner), sum(r.macs for r in inner)
    return replace(row, parameters=parameters, macs=macs)


def format_table(summary: Summary, detail: bool = False) -> str:
    """The summary as text of at most 100 columns; `detail` adds the layers inside the modules."""
    rows = [row for row in summary.rows if detail or row.depth == 0]
    rows = [row for row in rows if row.kind != "Dropout"]
    head = ("layer", "output", "parameters", "MACs", "field", "stride", "paper")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head) - 1)]
    lines = [summary.net, ""]
    for line in cells:
        left = line[0].ljust(widths[0])
        right = "  ".join(c.rjust(w) for c, w in zip(line[1:-1], widths[1:], strict=True))
        lines.append(f"{left}  {right}  {line[-1]}".rstrip())
    rule = "-" * max(map(len, lines))
    lines.insert(3, rule)
    return "\n".join([*lines, rule, *_totals(summary), *_notes(summary)])


def _cells(row: Row) -> tuple[str, ...]:
    name = "  " * row.depth + row.layer.rpartition("/")[-1] + (" +" if row.training_only else "")
    shape = "x".join(map(str, row.shape))
    counts = [f"{count:,}" if count else "" for count in (row.parameters, row.macs)]
    paper = ", ".join(_figure(figure) for figure in row.paper)
    return (name, shape, *counts, str(row.field.size), str(row.field.stride), paper)


def _figure(figure: PaperFigure) -> str:
    """The printed figure; marked, with ours where no column shows it, if the two differ."""
    if figure.of != "neurons":
        return figure.text if figure.agrees else f"{figure.text} *"
    return f"{figure.text} neurons" + ("" if figure.agrees else f" * ({figure.ours:,})")


def _totals(summary: Summary) -> list[str]:
    lines = []
    for of, label in (("parameters", "parameters"), ("macs", "MACs"), ("neurons", "neurons")):
        printed = [f for f in summary.paper if f.of == of]
        paper = "".join(f"  (paper: {_figure(f)}, {f.where})" for f in printed)
        lines.append(f"{label:<24}{getattr(summary, of):>16,}{paper}")
    if summary.training_parameters != summary.parameters:
        lines.append(f"{'parameters in training':<24}{summary.training_parameters:>16,}")
    lines.append(f"{'activations an image':<24}{summary.activations:>16,}")
    return lines


def _notes(summary: Summary) -> list[str]:
    notes = []
    if any(row.training_only for row in summary.rows):
        notes.append("+ in training only; not in the totals but where they say so")
    if any(not f.agrees for row in summary.rows for f in row.paper):
        notes.append("* printed so, but not what the paper's own layer table gives")
    return notes


def score_map_macs(net: Net, height: int, width: int) -> int:
    """Multiply-adds of `score_map` of one image of height x width without padding. Computes nothing."""
    total = 0

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal total
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and type(context.module).__name__ in WEIGHTED:
            kernel = context.module.variables["params"]["kernel"].shape
            total += math.prod(output.shape) * math.prod(kernel[-4:-1])
        return output

    def trace(key: Any) -> Any:
        image, size = jnp.zeros((1, height, width, 3), jnp.float32), jnp.array([[height, width]])
        return net.init(key, image, size, method="score_map")

    with nn.intercept_methods(record):
        jax.eval_shape(trace, jax.random.key(0))
    return total
