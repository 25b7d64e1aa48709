"""The nets: images in, (logits, auxiliary logits) out; `build` makes one from a name and fields.

Nothing here jits, places arrays on devices or reads data.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from jaxcnn.models.alexnet import AlexNet
from jaxcnn.models.cuda_convnet import CudaConvNet
from jaxcnn.models.googlenet import GoogLeNet
from jaxcnn.models.net import Net
from jaxcnn.models.vgg import VGG

__all__ = ["NETS", "VGG", "AlexNet", "CudaConvNet", "GoogLeNet", "Net", "build", "net_fields"]

NETS: dict[str, type[Net]] = {
    "alexnet": AlexNet,
    "vgg": VGG,
    "googlenet": GoogLeNet,
    "cuda_convnet": CudaConvNet,
}


def build(name: str, **fields: Any) -> Net:
    """The net called `name`, a key of NETS, with the given fields.

    Raises:
      ValueError: an unknown name or field, or values of the wrong type or outside a field's range;
        all that is wrong with the fields at once, with what is allowed.
    """
    if name not in NETS:
        raise ValueError(f"unknown net {name!r}{_hint(name, NETS)}")
    known = net_fields(name)
    problems = [
        f"unknown field {field!r}{_hint(field, known)}" for field in fields if field not in known
    ]
    values = {}
    for field, value in fields.items():
        if field not in known:
            continue
        kind = known[field].type
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            kind_name = getattr(kind, "__name__", str(kind))
            problems.append(f"{field}={value!r} is a {type(value).__name__}, expected {kind_name}")
        values[field] = value
    if problems:
        raise ValueError(f"net {name!r}: " + "; ".join(problems))
    return NETS[name](**values)


def net_fields(name: str) -> dict[str, dataclasses.Field]:
    """The fields of a net that a caller may give, by name; their `type` and `default` are set."""
    linen = ("parent", "name")
    return {
        field.name: field for field in dataclasses.fields(NETS[name]) if field.name not in linen
    }


def _hint(wrong: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(valid), n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f" ({guess}valid: {', '.join(sorted(valid))})"
