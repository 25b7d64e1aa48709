"""Caffe's files: a net with its weights (.caffemodel), and a mean image (.binaryproto).

Two kinds of layers exist: `layer` (since 2014), whose type is a text, and `layers` (V1), whose type is a
number. Both are read. The numbers of the fields are those of BVLC's caffe.proto.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxcnn.files import FileError
from jaxcnn.weights.formats.proto_numbers import Numbers
from jaxcnn.weights.formats.protobuf import (
    BYTES,
    VARINT,
    Field,
    ProtoFile,
    integers,
    leading_fields,
    signed,
)
from jaxcnn.weights.tensors import Tensor, WeightsFile

_ADVICE = "copy or download the file again, and compare its size with its publisher's"
_MOST_LAYERS, _MOST_BLOBS = 10_000, 16


class _Schema(NamedTuple):
    """Numbers of the fields of a layer."""

    name: int
    kind: int
    blobs: int


# Fields of NetParameter.
_NET_NAME, _V1_LAYER, _LAYER = 1, 2, 100
_SCHEMAS = {_LAYER: _Schema(1, 2, 7), _V1_LAYER: _Schema(4, 5, 6)}
_V0_LAYER = 1  # of a V1 layer: holds a layer of the format before it
# Fields of BlobProto.
_LEGACY_SHAPE, _DATA, _SHAPE, _DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8

# The names that the numeric types of V1 layers have today.
_V1_TYPES = {
    1: "Accuracy", 2: "BNLL", 3: "Concat", 4: "Convolution", 5: "Data", 6: "Dropout", 7: "EuclideanLoss",
    8: "Flatten", 9: "HDF5Data", 10: "HDF5Output", 11: "Im2col", 12: "ImageData", 13: "InfogainLoss",
    14: "InnerProduct", 15: "LRN", 16: "MultinomialLogisticLoss", 17: "Pooling", 18: "ReLU", 19: "Sigmoid",
    20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 24: "WindowData", 25: "Eltwise",
    26: "Power", 27: "SigmoidCrossEntropyLoss", 28: "HingeLoss", 29: "MemoryData", 30: "ArgMax",
    31: "Threshold", 32: "DummyData", 33: "Slice", 34: "MVN", 35: "AbsVal", 36: "Silence",
    37: "ContrastiveLoss", 38: "Exp", 39: "Deconvolution",
}  # fmt: skip
# What a NetParameter has before its layers: name, input, force_backward, state; (field, wire type).
_BEFORE_LAYERS = {
    (1, BYTES), (3, BYTES), (4, VARINT), (4, BYTES), (5, VARINT), (6, BYTES), (8, BYTES)
}  # fmt: skip
_PROTOTXT = re.compile(
    rb"(\s|#[^\n]*\n)*(name\s*:|layers?\s*\{|input\s*:|input_(shape|dim)\s*[:{]|force_backward|net\s*:)"
)


def is_caffemodel(path: Path, head: bytes) -> bool:
    """Whether a file that begins with these bytes is a net with layers."""
    del path
    for number, kind, content in leading_fields(head):
        if number in _SCHEMAS and kind == BYTES:
            inner = next(leading_fields(content), (0, 0, b""))
            return inner[0] in (1, 2, 3, 4) and inner[1] == BYTES  # a text
        if (number, kind) not in _BEFORE_LAYERS:
            return False
    return False


def is_prototxt(path: Path, head: bytes) -> bool:
    """Whether a file is the description of a net, in text."""
    del path
    return _PROTOTXT.match(head) is not None


def refuse_prototxt(path: Path) -> WeightsFile:
    """Raises FileError: a description has no weights."""
    problem = "describes a net for Caffe and holds no weights"
    raise FileError(path, problem, "give the .caffemodel that belongs to it")


def is_mean_image(path: Path, head: bytes) -> bool:
    """Whether a file is a blob as compute_image_mean writes it."""
    del path
    kinds = [(number, kind) for number, kind, _ in leading_fields(head)]
    return kinds == [*((number, VARINT) for number in _LEGACY_SHAPE), (_DATA, BYTES)]


def refuse_mean_image(path: Path) -> WeightsFile:
    """Raises FileError: a mean image has no weights."""
    problem = "is a mean image, without weights"
    raise FileError(path, problem, "give the weights, and this file as --mean_image")


def read_caffemodel(path: Path) -> WeightsFile:
    """The headers of a .caffemodel.

    The blobs of a layer are the tensors 'LAYER/0' (weights) and 'LAYER/1' (biases), without the axes of
    length one that Caffe's older files put before those of fully connected weights and of biases. Facts:
    'layers', name -> type, with layers that have no blobs; 'net', the net's name.

    Raises:
        FileError: it is no such file, is damaged, or a blob has not as many numbers as its shape says.
    """
    file = ProtoFile(path, _ADVICE)
    layers: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    net, count = "", 0
    for field in file.fields():
        if field.number == _NET_NAME:
            net = file.text(field)
        if field.number not in _SCHEMAS:
            continue
        name, kind, blobs = _layer(file, field)
        count += 1
        if count > _MOST_LAYERS:
            raise file.error(f"has more than {_MOST_LAYERS:,} layers")
        layers.setdefault(name, kind)
        for index, blob in enumerate(blobs):
            tensor = _tensor(file, f"{name}/{index}", kind, index, blob)
            if tensor.name in tensors:
                raise file.error(f"has two layers {name!r} with weights")
            tensors[tensor.name] = tensor
    if not tensors:
        described = f" ({count:,} layers without any)" if count else ""
        raise FileError(path, f"holds no weights{described}", "give a trained .caffemodel")
    return WeightsFile(path, "caffemodel", tensors, {"layers": layers, "net": net})


def _layer(file: ProtoFile, layer: Field) -> tuple[str, str, list[Field]]:
    """Name, type and blobs of a layer."""
    schema = _SCHEMAS[layer.number]
    name, kind, blobs = "", "", []
    for field in file.fields(layer):
        if field.number == schema.name:
            name = file.text(field)
        elif field.number == schema.kind:
            if layer.number == _LAYER:
                kind = file.text(field)
            else:
                kind = _V1_TYPES.get(field.value, str(field.value))
        elif field.number == schema.blobs:
            blobs.append(field)
        elif layer.number == _V1_LAYER and field.number == _V0_LAYER:
            raise FileError(
                file.path, "has layers of Caffe's first format (V0)",
                "convert it by Caffe's upgrade_net_proto_binary",
            )  # fmt: skip
    if len(blobs) > _MOST_BLOBS:
        raise file.error(f"is damaged: layer {name!r} has {len(blobs):,} blobs")
    return name, kind, blobs


def _tensor(file: ProtoFile, name: str, kind: str, index: int, blob: Field) -> Tensor:
    shape, numbers = _blob(file, name, blob)
    if kind == "InnerProduct" and index == 0:
        shape = _without_ones(shape, 2)
    elif kind in ("InnerProduct", "Convolution", "Deconvolution") and index == 1:
        shape = _without_ones(shape, 1)
    row = math.prod(shape[1:])

    def rows(start: int, stop: int) -> np.ndarray:
        found = numbers.read(start * row, stop * row)
        return found.reshape(stop - start, *shape[1:]) if shape else found.reshape(())

    return Tensor(name, shape, numbers.dtype, rows)


def _blob(file: ProtoFile, name: str, blob: Field) -> tuple[tuple[int, ...], Numbers]:
    """The declared shape of a blob, and its numbers."""
    legacy: dict[int, int] = {}
    declared: list[int] | None = None
    single = Numbers(file, np.dtype(np.float32))
    double = Numbers(file, np.dtype(np.float64))
    for field in file.fields(blob):
        if field.number in _LEGACY_SHAPE and field.kind == VARINT:
            legacy[field.number] = signed(field.value)
        elif field.number == _SHAPE:
            declared = integers(file, [f for f in file.fields(field) if f.number == 1], most=32)
        elif field.number == _DATA:
            single.add(field)
        elif field.number == _DOUBLE_DATA:
            double.add(field)
    if declared is None:
        declared = [legacy.get(number, 0) for number in _LEGACY_SHAPE]
    numbers = double if double.count else single
    problem = ""
    if double.count and single.count:
        problem = f"holds {single.count:,} numbers in float32 and {double.count:,} in float64"
    elif min(declared, default=1) < 0 or math.prod(declared) != numbers.count:
        problem = f"has the shape {declared}, but {numbers.count:,} numbers are stored"
    elif not numbers.count:
        problem = "is empty"
    if problem:
        raise file.error(f"is damaged: the blob {name} {problem}")
    return tuple(declared), numbers


def _without_ones(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """A shape without the ones before its last `axes` axes."""
    before = shape[:-axes]
    return shape[-axes:] if before and set(before) == {1} else shape


def read_mean_image(path: Path) -> Float[np.ndarray, "3 h w"]:
    """The mean image of a .binaryproto: float32, BGR, channels first, as Caffe's compute_image_mean writes.

    Raises:
        FileError: it is no such file.
    """
    file = ProtoFile(path, "give the file that Caffe's compute_image_mean writes")
    whole = Field(0, BYTES, 0, 0, file.size)
    shape, numbers = _blob(file, "of the mean", whole)
    shape = _without_ones(shape, 3)
    if len(shape) != 3 or shape[0] != 3:
        raise file.error(
            f"is no mean image: its shape is {list(shape)}, expected [3, height, width]"
        )
    return numbers.read(0, numbers.count).astype(np.float32, copy=False).reshape(shape)
