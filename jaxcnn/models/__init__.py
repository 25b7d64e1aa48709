"""The nets: images in, (logits, auxiliary logits) out; `build` makes one from a name and fields.

Nothing here jits, places arrays on devices or reads data.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from jaxcnn.config import did_you_mean
from jaxcnn.models.alexnet import AlexNet
from jaxcnn.models.cuda_convnet import CudaConvNet
from jaxcnn.models.googlenet import GoogLeNet
from jaxcnn.models.kernels.dispatch import plain_forms
from jaxcnn.models.net import Net
from jaxcnn.models.vgg import VGG

__all__ = [
    "NETS", "VGG", "AlexNet", "CudaConvNet", "GoogLeNet", "Net", "build", "net_fields", "plain_forms"
]  # fmt: skip

NETS: dict[str, type[Net]] = {
    "alexnet": AlexNet,
    "vgg": VGG,
    "googlenet": GoogLeNet,
    "cuda_convnet": CudaConvNet,
}


def build(name: str, **fields: Any) -> Net:
    """The net called `name`, a key of NETS, with the given fields.

    Raises:
      ValueError: an unknown name; or all problems of the fields (unknown, wrong type, out of range) at once.
    """
    if name not in NETS:
        raise ValueError(f"unknown net {name!r}{_valid(name, NETS)}")
    known = net_fields(name)
    problems = []
    for field, value in fields.items():
        kind: Any = known[field].type if field in known else None
        if kind is None:
            problems.append(f"unknown field {field!r}{_valid(field, known)}")
        elif type(value) is not kind and not (kind is float and type(value) is int):
            given = f"{field}={value!r} is a {type(value).__name__}"
            problems.append(f"{given}, expected {kind.__name__}")
    if problems:
        raise ValueError(f"net {name!r}: " + "; ".join(problems))
    values: dict[str, Any] = {
        field: float(value) if known[field].type is float else value
        for field, value in fields.items()
    }
    return NETS[name](**values)


def net_fields(name: str) -> dict[str, dataclasses.Field]:
    """The fields of a net that a caller may give, by name; their `type` and `default` are set."""
    fields = dataclasses.fields(NETS[name])
    return {field.name: field for field in fields if field.name not in ("parent", "name")}


def _valid(wrong: str, valid: Iterable[str]) -> str:
    return f"{did_you_mean(wrong, valid, '{!r}')} (valid: {', '.join(sorted(valid))})"
