"""Outputs of a net's layers by name, such as fc7 or inception_3a/conv1x1: values after the activation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Float32

from jaxcnn.config import did_you_mean


def layer_names(net: Any) -> list[str]:
    """The layers of a net in the order of its forward pass, without dropout, which does nothing here."""
    side = net.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(partial(net.init, train=False), jax.random.key(0), images)
    names: list[str] = []

    def note(module: Any, method: str) -> bool:
        if method == "__call__" and module.path and not module.path[-1].startswith("drop"):
            names.append("/".join(module.path))
        return False

    every = partial(net.apply, capture_intermediates=note, mutable=["intermediates"])
    jax.eval_shape(every, variables, images)
    return list(dict.fromkeys(names))


def check_layer(net: Any, layer: str) -> None:
    """Raises ValueError unless the net has the layer."""
    if layer not in (names := layer_names(net)):
        hint = did_you_mean(layer, names)
        kind = type(net).__name__
        raise ValueError(f"{kind} has no layer {layer!r}{hint} (layers: {', '.join(names)})")


def layer_output(
    net: Any, variables: Mapping[str, Any], images: Float[Array, "B H W 3"], layer: str
) -> Float32[Array, "B ..."]:
    """The output of a layer of images minus the mean, [B,h,w,C] or [B,C]. AlexNet's two towers are joined.
    Raises ValueError if the net has no such layer."""
    path = tuple(layer.split("/"))
    _, seen = net.apply(
        variables,
        images,
        train=False,
        mutable=["intermediates"],
        capture_intermediates=lambda module, method: module.path == path and method == "__call__",
    )
    outputs: Any = flatten_dict(seen.get("intermediates", {}), sep="/")
    if f"{layer}/__call__" not in outputs:
        check_layer(net, layer)
    return jnp.concatenate(outputs[f"{layer}/__call__"], axis=-1).astype(jnp.float32)
