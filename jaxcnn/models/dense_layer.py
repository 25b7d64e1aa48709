"""The output of a layer within a score map, with the true sizes of its maps."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcnn.models.context import Context
from jaxcnn.models.net import Net


def dense_layer(
    net: Net,
    variables: Mapping[str, Any],
    images: Float[Array, "b H W 3"],
    sizes: Int[Array, "b 2"],
    layer: str,
) -> tuple[Float[Array, "b h w c"], Int[Array, "b 2"]]:
    """(values, true sizes of the maps) of a layer of the net in `Net.score_map`."""
    path = tuple(layer.split("/"))
    context, values, valid = Context(sizes), [], sizes

    def note(call: Any, args: Any, kwargs: Any, info: Any) -> Any:
        nonlocal context, valid
        output = call(*args, **kwargs)
        if info.method_name == "__call__" and info.module.path:
            # LRN is given no context: it keeps the size that the layer before it left.
            context = next((a for a in args if isinstance(a, Context)), context)
            context = context.after(info.module.window)
            if info.module.path == path:
                values.append(output)
                valid = context.sizes
        return output

    with nn.intercept_methods(note):  # outside of remat, whose traces do not last
        net.clone(remat=False).apply(variables, images, sizes, method="score_map")
    return jnp.concatenate(values, axis=-1), valid
