"""Released weights by fingerprint: a hash of the file, or the first values of the first layer.

A weights file does not say what its net reads: files with equal names and shapes differ in the order of the
channels, the mean and the scale. The values below are of files that were published unchanged for years.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

# Of float16 files, too: they keep three digits.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Known:
    """Weights that were recognised by their values or their hash.

    Attributes:
        title: of the weights.
        source: a key of SOURCES: what the net reads, but for the order of the channels.
        model: the net, as in a Form.
        bias: the first biases of the first layer, of the convention's scale.
        kernel: the value [0, 0, channel, 0] of the first kernel for R, G and B, which shows the order of the
            channels; NaN where one is not known, () where none is.
        sha256: first hex digits of the SHA-256 of published files, by file name.
        sha1: SHA-1 of published files, by file name.
    """

    title: str
    source: str
    model: dict[str, Any]
    bias: tuple[float, ...] = ()
    kernel: tuple[float, ...] = ()
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)
    sha1: dict[str, str] = dataclasses.field(default_factory=dict)


def _torchvision(name: str, model: dict[str, Any], files: dict[str, str], **known: Any) -> Known:
    return Known(f"torchvision {name}", "torchvision", model, sha256=files, **known)


def _hashes(names: str) -> dict[str, str]:
    """torchvision's file names end in the first hex digits of their SHA-256."""
    return {f"{name}.pth": name.rpartition("-")[2] for name in names.split()}


def _vgg(column: str) -> dict[str, Any]:
    return {"name": "vgg", "column": column}


KNOWN: tuple[Known, ...] = (
    Known(
        "Oxford VGG-16", "oxford", _vgg("D"),
        bias=(0.73429835, 0.09340367, 0.06775674, 0.8862966),
        kernel=(0.4800154, 0.55037946, 0.42947057),
    ),
    Known(
        "Oxford VGG-19", "oxford", _vgg("E"),
        bias=(0.7301776, 0.06493629, 0.03428847, 0.8260386),
        kernel=(math.nan, math.nan, 0.341195),
    ),
    Known(
        "BVLC GoogLeNet", "bvlc", {"name": "googlenet"},
        bias=(-2.5272307, -0.7387814, -1.4477274, 0.7237619),
        sha1={"bvlc_googlenet.caffemodel": "405fc5acd08a3bb12de8ee5e23a96bec22f08204"},
    ),
    Known(
        "BVLC AlexNet", "bvlc", {"name": "alexnet"},
        sha1={"bvlc_alexnet.caffemodel": "9116a64c0fbe4459d18f4bb6b56d647b63920377"},
    ),
    Known(
        "BVLC CaffeNet", "bvlc", {"name": "alexnet", "order": "pool_norm"},
        sha1={"bvlc_reference_caffenet.caffemodel": "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"},
    ),
    _torchvision("vgg11", _vgg("A"), _hashes("vgg11-8a719046 vgg11-bbd30ac9 vgg11_bn-6002323d")),
    _torchvision("vgg13", _vgg("B"), _hashes("vgg13-19584684 vgg13-c768596a vgg13_bn-abd245e5")),
    _torchvision(
        "vgg16", _vgg("D"), _hashes("vgg16-397923af vgg16_bn-6c64b313"),
        bias=(0.4034, 0.3778, 0.4644, -0.3228),
    ),
    _torchvision("vgg19", _vgg("E"), _hashes("vgg19-dcbb9e9d vgg19_bn-c79401a0")),
    _torchvision(
        "alexnet", {"name": "alexnet", "widths": "one_weird_trick"},
        _hashes("alexnet-owt-7be5be79 alexnet-owt-4df8aa71"),
    ),
    _torchvision("googlenet", {"name": "googlenet", "branch5x5": 3}, _hashes("googlenet-1378be20")),
)  # fmt: skip


def by_first_layer(bias: Float[np.ndarray, " o"]) -> Known | None:
    """The weights whose first layer has this bias."""
    for known in KNOWN:
        size = len(known.bias)
        if size and len(bias) >= size and np.allclose(bias[:size], known.bias, _TOLERANCE, 6e-5):
            return known
    return None


def by_hash(sha256: str, sha1: str) -> Known | None:
    """The weights whose published file has this hash, as hex digits."""
    for known in KNOWN:
        if sha1 in known.sha1.values() or any(sha256.startswith(h) for h in known.sha256.values()):
            return known
    return None


def channel_order(known: Known, values: Sequence[float] | np.ndarray) -> str:
    """'RGB' or 'BGR', from the first kernel's values [0, 0, :, 0] in the file; '' where they show neither."""
    if not known.kernel:
        return ""
    for order, expected in (("RGB", known.kernel), ("BGR", known.kernel[::-1])):
        shown = np.isfinite(expected)
        if np.allclose(np.asarray(values)[shown], np.asarray(expected)[shown], _TOLERANCE, 1e-5):
            return order
    return ""
