"""A net's weights as torchvision's state dict: the inverse of the import from it.

torchvision's nets read pixels of 0..1 minus a mean, divided by a deviation. The scale goes into conv1; a mean
that is not torchvision's goes into its bias, which is exact but at the border of the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from jaxcnn.models import net_fields
from jaxcnn.models.window import Window, same
from jaxcnn.weights.folding import MeanShift, shift_mean, unfold_input
from jaxcnn.weights.kernel_layout import stored_shape, to_stored
from jaxcnn.weights.match import FREE
from jaxcnn.weights.names import torchvision
from jaxcnn.weights.naming import BatchNorm, Form, Place
from jaxcnn.weights.net_weights import Leaf, NetWeights
from jaxcnn.weights.sources import SOURCES

# Fields that only training reads.
_TRAINING = ("kernel_init", "init_std", "init_std_hidden", "init_bias", "auxiliary")
# The side of the map that torchvision's first fully connected layer reads, whatever the image.
_SIDES = {"vgg": 7, "alexnet": 6}


@dataclasses.dataclass(frozen=True)
class StateDict:
    """Arrays by torchvision's names, and what a user must know about them."""

    arrays: dict[str, Leaf]
    notes: tuple[str, ...]


def state_dict(weights: NetWeights) -> StateDict:
    """The weights as torchvision's net of the same function has them.

    Raises:
        ValueError: torchvision has no such net, or its input cannot be folded into the first layer.
    """
    model = dict(weights.model)
    form = _form(model)
    convention = SOURCES["torchvision"].conventions[model["name"]]
    kernel, bias = (place.leaf for place in form.places[:2])
    shift = _shift(weights, kernel, bias, np.asarray(convention.mean))
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        kernel: lambda array: unfold_input(array, convention)
    }
    notes = [f"conv1 takes {convention.text()}, as torchvision's does"]
    if shift is not None:
        changes[bias] = lambda _: shift.bias
        mean = ", ".join(f"{value:g}" for value in weights.mean)
        notes.append(f"mean moved from ({mean}) to torchvision's: {shift.text()}")
    arrays: dict[str, Leaf] = {}
    for place in form.places:
        arrays |= _arrays(place, weights.leaves[place.leaf], changes.get(place.leaf))
    return StateDict(arrays, (*notes, *_sizes(weights, model)))


def _form(model: Mapping[str, Any]) -> Form:
    """torchvision's form of a net; a ValueError that says what it lacks."""
    nearest: list[list[str]] = []
    for form in torchvision.forms():
        batch_norm = any(place.norm for place in form.places)
        named = (form.program, form.model["name"]) == ("torchvision", model["name"])
        if named and not (batch_norm and model["name"] == "vgg"):
            differ = _differences(form.model, model)
            if not differ:
                return form
            nearest.append(differ)
    if not nearest:
        raise ValueError(f"torchvision has no {model['name']}; give --format=safetensors or npz")
    fewest = min(map(len, nearest))
    own = " or ".join(", ".join(differ) for differ in nearest if len(differ) == fewest)
    raise ValueError(
        f"torchvision has no counterpart of this {model['name']}: its own has {own}; give "
        "--format=safetensors or npz, or a program (onnx, savedmodel, stablehlo)"
    )


def _differences(form: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Fields of torchvision's net, as FIELD=VALUE, that differ in `model`."""
    defaults = {key: field.default for key, field in net_fields(str(form["name"])).items()}
    own = {**defaults, **form}
    skipped = {*FREE, *_TRAINING, *(["lrn_constants"] if own.get("lrn") in (False, "off") else [])}
    keys = [key for key in own if key not in skipped]
    return [f"{k}={own[k]}" for k in keys if model.get(k, defaults.get(k)) != own[k]]


def _shift(weights: NetWeights, kernel: str, bias: str, mean: np.ndarray) -> MeanShift | None:
    """The first bias for torchvision's mean; None where that is the mean already."""
    if weights.mean.ndim > 1:
        raise ValueError(
            "the net subtracts a mean image, which cannot be folded into its first layer; give "
            "--format=safetensors or npz"
        )
    if np.array_equal(weights.mean, mean.astype(np.float32)):
        return None
    net, first = weights.net, weights.leaves[kernel].read()
    window: Window = same(len(first)) if weights.model["name"] == "vgg" else net.trunk()[0]
    arrays = first, weights.leaves[bias].read()
    try:
        return shift_mean(*arrays, weights.mean, mean, window, net.image_size)
    except ValueError as error:
        text = str(error).partition("; keep")[0]
        raise ValueError(
            f"torchvision's mean is another one: {text}; give --format=safetensors or npz"
        ) from error


def _arrays(
    place: Place, leaf: Leaf, change: Callable[[np.ndarray], np.ndarray] | None
) -> dict[str, Leaf]:
    """The arrays of a parameter."""

    def read() -> np.ndarray:
        array = leaf.read() if change is None else change(leaf.read())
        return to_stored(np.asarray(array, np.float32), place.layout)

    shape = stored_shape(place.layout, leaf.shape)
    if place.norm is None or place.tensor:
        return {place.tensor: Leaf(shape, read)}
    return _identity(place.norm, shape, read)


def _identity(
    norm: BatchNorm, shape: tuple[int, ...], bias: Callable[[], np.ndarray]
) -> dict[str, Leaf]:
    """A batch normalization that adds a bias: in float32, variance + epsilon is exactly 1."""
    values = {norm.scale: 1.0, norm.mean: 0.0, norm.variance: 1.0 - norm.epsilon}
    constants = {
        name: Leaf(shape, partial(np.full, shape, value, np.float32))
        for name, value in values.items()
    }
    return {**constants, norm.offset: Leaf(shape, bias)}


def _sizes(weights: NetWeights, model: Mapping[str, Any]) -> list[str]:
    """What torchvision's own classes cannot load, or compute otherwise."""
    net, name = weights.net, model["name"]
    notes = []
    if net.width != 1.0:
        notes.append(f"torchvision's own class has width 1, this net {net.width:g}")
    side = _SIDES.get(name, net.classifier_side())
    if net.classifier_side() != side:
        notes.append(
            f"torchvision's own class reads a map of {side}x{side}, this net one of "
            f"{net.classifier_side()}x{net.classifier_side()} (image_size={net.image_size})"
        )
    return notes
