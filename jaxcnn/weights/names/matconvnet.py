"""MatConvNet's conversions of Caffe's models: lists of layers, and GoogLeNet as a graph."""

from __future__ import annotations

from jaxcnn.weights.names import layers
from jaxcnn.weights.names.caffe import ALEXNET
from jaxcnn.weights.naming import Form

# Fully connected layers are stored as convolutions.
MATCONVNET = {"conv": "HWIO", "map": "HWIO", "flat": "HWIO"}
_STEM = {"conv1": "conv1", "conv2_reduce": "reduction2", "conv2": "conv2", "fc": "cls3_fc"}
_MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
_BRANCHES = ("out0", "reduction1", "out1", "reduction2", "out2", "out3")


def _list_arrays(layer: str) -> tuple[str, str]:
    return f"{layer}/filters", f"{layer}/biases"


def _graph_arrays(layer: str) -> tuple[str, str]:
    """As Princeton's GoogLeNet, which MatConvNet converted, calls its layers."""
    module, _, name = layer.partition("/")
    if name:
        number = _MODULES.index(module.removeprefix("inception_")) + 1
        there = f"icp{number}_{_BRANCHES[layers.INCEPTION_CONVOLUTIONS.index(name)]}"
    else:
        there = _STEM[layer]
    return f"{there}_filter", f"{there}_bias"


def forms() -> tuple[Form, ...]:
    found = []
    for column in ("A", "B", "D", "E"):
        rows = layers.places(layers.vgg(column), _list_arrays, MATCONVNET)
        found.append(Form("matconvnet", {"name": "vgg", "column": column}, rows))
    rows = layers.places(layers.alexnet(), _list_arrays, MATCONVNET)
    caffenet = {**ALEXNET, "order": "pool_norm"}
    found.append(Form("matconvnet", ALEXNET, rows, layer_order=("lrn", "pool")))
    found.append(Form("matconvnet", caffenet, rows, layer_order=("pool", "lrn")))
    rows = layers.places(layers.googlenet(auxiliary=False), _graph_arrays, MATCONVNET)
    heads = {r"cls[12]_.*": "an auxiliary head, which inference does not need"}
    return (*found, Form("matconvnet", {"name": "googlenet"}, rows, heads))
