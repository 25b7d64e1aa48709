"""Conversions of Caffe's models for TensorFlow: Frossard's VGG-16 (.npz), and the dicts of caffe-tensorflow
(.npy), which Toronto's and other pages have."""

from __future__ import annotations

from jaxcnn.weights.names import layers
from jaxcnn.weights.names.caffe import ALEXNET
from jaxcnn.weights.names.keras import KERAS
from jaxcnn.weights.naming import Form


def _frossard(layer: str) -> tuple[str, str]:
    return f"{layer}_W", f"{layer}_b"


def _dict(layer: str) -> tuple[str, str]:
    return f"{layer}/weights", f"{layer}/biases"


def forms() -> tuple[Form, ...]:
    vgg16 = {"name": "vgg", "column": "D"}
    found = [Form("frossard", vgg16, layers.places(layers.vgg("D"), _frossard, KERAS))]
    for column in ("D", "E"):
        rows = layers.places(layers.vgg(column), _dict, KERAS)
        found.append(Form("toronto", {"name": "vgg", "column": column}, rows))
    # CaffeNet has the same arrays, and the file has no types of layers: the user says which.
    for order in ("norm_pool", "pool_norm"):
        model = {**ALEXNET, "order": order}
        found.append(Form("toronto", model, layers.places(layers.alexnet(), _dict, KERAS)))
    return tuple(found)
