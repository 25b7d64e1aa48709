"""Caffe's models, which are Oxford's VGG and BVLC's nets, and Caffe2's of the ONNX model zoo."""

from __future__ import annotations

from collections.abc import Callable

from jaxcnn.weights.names import layers
from jaxcnn.weights.naming import Form

CAFFE = {"conv": "OIHW", "map": "O(IHW)", "flat": "OI"}
ALEXNET = {"name": "alexnet", "image_size": 227, "lrn": "whole", "lrn_constants": "caffe"}
_STEM = {
    "conv1": "conv1/7x7_s2", "conv2_reduce": "conv2/3x3_reduce", "conv2": "conv2/3x3",
    "fc": "loss3/classifier",
}  # fmt: skip
_BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
_HEADS = {"conv": "conv", "fc1": "fc", "fc2": "classifier"}


def googlenet_layer(layer: str) -> str:
    """BVLC's name of a layer."""
    module, _, name = layer.partition("/")
    if not name:
        return _STEM[layer]
    if module.startswith("aux_"):
        return f"loss{1 if module == 'aux_4a' else 2}/{_HEADS[name]}"
    return f"{module}/{_BRANCHES[layers.INCEPTION_CONVOLUTIONS.index(name)]}"


def _blobs(layer: str) -> tuple[str, str]:
    return f"{layer}/0", f"{layer}/1"


def _caffe2(layer: str) -> tuple[str, str]:
    return f"{layer}_w_0", f"{layer}_b_0"


def _forms(program: str, arrays: Callable[[str], tuple[str, str]], pool: str) -> list[Form]:
    found = [
        Form(
            program,
            {"name": "vgg", "column": column},
            layers.places(layers.vgg(column), arrays, CAFFE),
        )
        for column in ("A", "B", "D", "E")
    ]
    rows = layers.places(layers.alexnet(), arrays, CAFFE)
    # CaffeNet has the arrays of AlexNet.
    caffenet = {**ALEXNET, "order": "pool_norm"}
    found.append(Form(program, ALEXNET, rows, layer_order=("LRN", pool)))
    found.append(Form(program, caffenet, rows, layer_order=(pool, "LRN")))
    rows = layers.places(
        layers.googlenet(auxiliary=True), lambda layer: arrays(googlenet_layer(layer)), CAFFE
    )
    return [*found, Form(program, {"name": "googlenet"}, rows)]


def forms() -> tuple[Form, ...]:
    return (*_forms("caffe", _blobs, "Pooling"), *_forms("caffe2", _caffe2, "MaxPool"))
