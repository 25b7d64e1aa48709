"""Where released weights come from: what each source feeds its nets, its licence, and its class order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from jaxcnn.weights.folding import Convention

# Of Simonyan and Zisserman's released weights, as in their readme.
OXFORD_MEAN = (123.68, 116.779, 103.939)
# The channel means of Caffe's mean image of ILSVRC-2012, which BVLC's notebook subtracts.
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
BVLC_GOOGLENET_MEAN = (123.0, 117.0, 104.0)
_TORCH = Convention("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # 255 times its own
_HALF = Convention("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))  # pixels of -1..1


@dataclasses.dataclass(frozen=True)
class Source:
    """A publisher of weights.

    Attributes:
        title: who.
        conventions: net name -> what that net reads.
        licence: of the weights, as the publisher states it; '' where it states none.
        place: the name of the place that has the files.
    """

    title: str
    conventions: Mapping[str, Convention]
    licence: str
    place: str


def _rows() -> dict[str, Source]:
    oxford = Convention("BGR", OXFORD_MEAN)
    oxford_rgb = Convention("RGB", OXFORD_MEAN)
    caffe = Convention("BGR", CAFFE_MEAN)
    cc_by = "CC BY 4.0"
    return {
        "oxford": Source(
            "Simonyan and Zisserman, Oxford", {"vgg": oxford}, cc_by,
            "the VGG group's page on very deep networks; Caffe's model zoo",
        ),
        "bvlc": Source(
            "BVLC's reference models of Caffe",
            {
                "alexnet": caffe,
                "googlenet": Convention("BGR", BVLC_GOOGLENET_MEAN),
            },
            "unrestricted use", "Caffe's model zoo; the ONNX model zoo",
        ),
        "torchvision": Source(
            "torchvision", {"vgg": _TORCH, "alexnet": _TORCH, "googlenet": _HALF}, "BSD-3-Clause",
            "PyTorch's download site for models",
        ),
        "timm": Source(
            "timm, torchvision's weights", {"vgg": _TORCH}, "BSD-3-Clause", "the Hugging Face hub"
        ),
        "keras": Source(
            "Keras applications, Oxford's weights", {"vgg": oxford}, cc_by, "Keras's download site",
        ),
        "frossard": Source(
            "D. Frossard's conversion of Oxford's weights", {"vgg": oxford_rgb}, cc_by,
            "its author's page at Toronto",
        ),
        "toronto": Source(
            "caffe-tensorflow's conversions of Caffe's weights", {"vgg": oxford, "alexnet": caffe}, "",
            "the authors' pages",
        ),
        "matconvnet": Source(
            "MatConvNet's conversions; the file has its own mean",
            {"vgg": oxford_rgb, "alexnet": Convention("RGB", CAFFE_MEAN), "googlenet": oxford_rgb},
            "", "MatConvNet's page of pretrained models",
        ),
        "slim": Source(
            "TF-slim",
            {"vgg": Convention("RGB", (123.68, 116.78, 103.94)), "googlenet": _HALF},
            "Apache-2.0", "TensorFlow's model garden, research/slim",
        ),
        "mxnet": Source(
            "the ONNX model zoo's VGG, from MXNet", {"vgg": _TORCH}, "Apache-2.0", "the ONNX model zoo"
        ),
    }  # fmt: skip


SOURCES: Mapping[str, Source] = MappingProxyType(_rows())


def sources_of(net: str) -> list[str]:
    """The sources that have weights of a net, a key of NETS."""
    return [name for name, source in SOURCES.items() if net in source.conventions]
