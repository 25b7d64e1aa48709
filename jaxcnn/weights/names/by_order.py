"""Nets whose layers are known by their order: ONNX files with names of their converter's own.

The graph says which arrays its convolutions and matrix products use, one after the other, and in which
layouts. Kernels fit one net only, so a wrong order does not pass the check of shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxcnn.weights.formats.onnx_graph import Reading
from jaxcnn.weights.names import layers
from jaxcnn.weights.names.caffe import ALEXNET
from jaxcnn.weights.naming import Form, Place


def forms(reads: Sequence[Reading]) -> tuple[Form, ...]:
    """The nets with as many layers as the file uses kernels, if each has a bias or a normalization."""
    nets = [
        Form("onnx", {"name": "vgg", "column": column}, _places(layers.vgg(column), reads))
        for column in ("A", "B", "D", "E")
    ]
    rows = _places(layers.alexnet(), reads)
    nets.append(Form("onnx", ALEXNET, rows, layer_order=("LRN", "MaxPool")))
    caffenet = {**ALEXNET, "order": "pool_norm"}
    nets.append(Form("onnx", caffenet, rows, layer_order=("MaxPool", "LRN")))
    return tuple(form for form in nets if form.places)


def _places(rows: Sequence[layers.Layer], reads: Sequence[Reading]) -> tuple[Place, ...]:
    """() where the numbers of layers differ, or one has no bias."""
    if len(rows) != len(reads) or not all(read.bias or read.norm for read in reads):
        return ()
    found = []
    for layer, read in zip(rows, reads, strict=True):
        found.append(Place(f"{layer.name}/kernel", read.kernel, read.layout, read.norm))
        found.append(Place(f"{layer.name}/bias", read.bias, "O", read.norm))
    return tuple(found)
