"""The layers of the nets, by the kind of their kernels: what every program's table of names goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from jaxcnn.models.googlenet import INCEPTION
from jaxcnn.models.vgg import COLUMNS
from jaxcnn.weights.naming import BatchNorm, Place


class Layer(NamedTuple):
    """A layer with a kernel and a bias.

    Attributes:
        name: here.
        kind: 'conv'; 'map', fully connected on a feature map; or 'flat', fully connected on a vector.
    """

    name: str
    kind: str


def _fully_connected() -> tuple[Layer, ...]:
    return Layer("fc6", "map"), Layer("fc7", "flat"), Layer("fc8", "flat")


def vgg(column: str) -> tuple[Layer, ...]:
    blocks = enumerate(COLUMNS[column].kernels, start=1)
    names = [f"conv{b}_{i}" for b, kernels in blocks for i in range(1, len(kernels) + 1)]
    return (*(Layer(name, "conv") for name in names), *_fully_connected())


def alexnet() -> tuple[Layer, ...]:
    return (*(Layer(f"conv{i}", "conv") for i in range(1, 6)), *_fully_connected())


INCEPTION_CONVOLUTIONS = (
    "conv1x1", "conv3x3_reduce", "conv3x3", "conv5x5_reduce", "conv5x5", "pool_proj",
)  # fmt: skip


def googlenet(*, auxiliary: bool) -> tuple[Layer, ...]:
    stem = [Layer(name, "conv") for name in ("conv1", "conv2_reduce", "conv2")]
    modules = [
        Layer(f"inception_{m}/{c}", "conv") for m in INCEPTION for c in INCEPTION_CONVOLUTIONS
    ]
    heads = [
        Layer(f"aux_{m}/{name}", kind)
        for m in ("4a", "4d")
        for name, kind in (("conv", "conv"), ("fc1", "map"), ("fc2", "flat"))
    ]
    return (*stem, *modules, *(heads if auxiliary else ()), Layer("fc", "flat"))


def places(
    layers: Iterable[Layer],
    arrays: Callable[[str], tuple[str, str]],
    layouts: Mapping[str, str],
    norm: Callable[[str], BatchNorm | None] = lambda _: None,
) -> tuple[Place, ...]:
    """The places of all kernels and biases.

    Args:
        arrays: name of a layer here -> names of its kernel and its bias there; '' for no bias.
        layouts: kind of a layer -> layout of its kernel there.
        norm: name of a layer here -> the batch normalization after it, or None.
    """
    found = []
    for layer in layers:
        kernel, bias = arrays(layer.name)
        found.append(Place(f"{layer.name}/kernel", kernel, layouts[layer.kind], norm(layer.name)))
        found.append(Place(f"{layer.name}/bias", bias, "O", norm(layer.name)))
    return tuple(found)
