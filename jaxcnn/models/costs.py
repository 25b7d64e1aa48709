"""What a score map costs, by tracing."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.models.layers import Conv, FullyConnected
from jaxcnn.models.net import Net


def score_map_macs(net: Net, height: int, width: int) -> int:
    """Multiply-adds of `score_map` of one image of height x width, not padded. Computes nothing."""
    total = 0

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal total
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, Conv | FullyConnected):
            kernel = context.module.variables["params"]["kernel"].shape
            total += math.prod(result.shape) * math.prod(kernel[:-1])
        return result

    side = net.image_size
    variables = jax.eval_shape(
        lambda: net.init(jax.random.key(0), jnp.zeros((1, side, side, 3), jnp.float32))
    )

    def trace(variables: Any) -> Any:
        image, size = jnp.zeros((1, height, width, 3), jnp.float32), jnp.array([[height, width]])
        return net.apply(variables, image, size, method="score_map")

    with nn.intercept_methods(record):
        jax.eval_shape(trace, variables)
    return total
