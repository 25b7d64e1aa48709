"""Outputs of a net's layers by name, such as fc7 or inception_3a/conv1x1: values after the activation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxcnn.config import did_you_mean
from jaxcnn.evaluation.forward import mean_scores
from jaxcnn.models import ops
from jaxcnn.models.dense_layer import dense_layer


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
    net: Any,
    variables: Mapping[str, Any],
    images: Float[Array, "B H W 3"],
    layer: str,
    pooled: bool = False,
) -> Float32[Array, "B ..."]:
    """The output of a layer of images minus the mean, [B,h,w,C] or [B,C]. AlexNet's two towers are joined.

    `pooled` gives the mean over positions, [B,C]. In a jit, nothing after the layer is computed.
    Raises ValueError if the net has no such layer.
    """
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
    values = jnp.concatenate(outputs[f"{layer}/__call__"], axis=-1).astype(jnp.float32)
    return values.mean((1, 2)) if pooled and values.ndim == 4 else values


def dense_layer_output(
    net: Any,
    variables: Mapping[str, Any],
    images: Float[Array, "B H W 3"],
    sizes: Int[Array, "B 2"],
    layer: str,
) -> tuple[Float32[Array, "B h w C"], Bool[Array, "B h w"]]:
    """The output of a layer of whole images of any size, as `Net.score_map` computes it: fully connected
    layers at every position of the map.

    Args:
      images: minus the mean, padded on the right and at the bottom with anything.
      sizes: the true (height, width) of each image.

    Returns:
      (values, zero where not valid; valid, the positions that each image has).

    Raises:
      ValueError: the net has no such layer, or the images are too small for a score.
    """
    check_layer(net, layer)
    values, valid_sizes = dense_layer(net, variables, images, sizes, layer)
    valid = ops.inside(valid_sizes, values.shape[1], values.shape[2])
    return values.astype(jnp.float32), valid


def pooled_layer_output(
    net: Any,
    variables: Mapping[str, Any],
    images: Float[Array, "B H W 3"],
    sizes: Int[Array, "B 2"],
    layer: str,
) -> Float32[Array, "B C"]:
    """The mean of `dense_layer_output` over the positions that each image has."""
    return mean_scores(*dense_layer_output(net, variables, images, sizes, layer))
