"""Keras's VGG16 and VGG19, with the names of the layers, or numbered in files that lost them."""

from __future__ import annotations

from jaxcnn.weights.names import layers
from jaxcnn.weights.naming import Form

KERAS = {"conv": "HWIO", "map": "(HWI)O", "flat": "IO"}
_DENSE = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}


def _named(column: str) -> dict[str, str]:
    names = [layer.name for layer in layers.vgg(column)]
    return {
        n: _DENSE.get(n) or f"block{n[4:].replace('_', '_conv')}"  # conv1_2 -> block1_conv2
        for n in names
    }


def _numbered(column: str) -> dict[str, str]:
    found = {}
    for kind, base in (("conv", "conv2d"), ("fc", "dense")):
        names = [layer.name for layer in layers.vgg(column) if layer.name.startswith(kind)]
        found |= {name: f"{base}_{i}" if i else base for i, name in enumerate(names)}
    return found


def forms() -> tuple[Form, ...]:
    found = []
    for column in ("D", "E"):
        for names in (_named(column), _numbered(column)):
            rows = layers.places(
                layers.vgg(column), lambda n, m=names: (f"{m[n]}/kernel", f"{m[n]}/bias"), KERAS
            )
            found.append(Form("keras", {"name": "vgg", "column": column}, rows))
    return tuple(found)
