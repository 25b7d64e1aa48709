"""Weight initializers from the papers and from their best known replications, by name.

A kernel's last axis is its outputs and all others its fan-in: for a fully connected layer the kernel's height
and width are inputs (7·7·512 for VGG's fc6), for a convolution they count in the fan-out as well.
`jax.nn.initializers.variance_scaling` has no such mixed rule.

Values are drawn flat and then reshaped. The numbers are the same, and XLA compiles the draw four times faster
on a CPU, which is most of the start-up time for GoogLeNet's 59 kernels.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]

# Standard deviations of zero-mean Gaussians. VGG prints variance 1e-2, a standard deviation of 0.1, with
# which net A's initial logits are about 4e7; 0.01 is AlexNet's value and what the text most likely means.
DEVIATIONS = {"std_1e-2": 0.01, "variance_1e-2": 0.1}

# The variance, from fan-in and fan-out, and the distribution.
FAN_SCALED: dict[str, tuple[Callable[[int, int], float], str]] = {
    # Glorot and Bengio 2010, in both forms: VGG does not say which.
    "glorot_uniform": (lambda fan_in, fan_out: 2 / (fan_in + fan_out), "uniform"),
    "glorot_normal": (lambda fan_in, fan_out: 2 / (fan_in + fan_out), "normal"),
    # What Caffe calls "xavier".
    "lecun_uniform": (lambda fan_in, fan_out: 1 / fan_in, "uniform"),  # noqa: ARG005
}


def gaussian(std: float, inputs: int, full_inputs: int) -> Initializer:
    """A normal distribution of mean 0; `std` is the full-width layer's standard deviation.

    A narrow layer has std / sqrt(inputs / full_inputs): its outputs keep their size, and without it a narrow
    AlexNet does not learn. Both counts are input channels of one kernel.
    """
    narrow = std / math.sqrt(inputs / full_inputs)

    def draw(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return narrow * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return draw


def fan_scaled(name: str, fully_connected: bool) -> Initializer:
    """An initializer of FAN_SCALED, with the fan-in and fan-out of the kind of layer."""
    variance_of, distribution = FAN_SCALED[name]

    def draw(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        fan_in = math.prod(shape[:-1])
        fan_out = shape[-1] if fully_connected else math.prod(shape[:-2]) * shape[-1]
        std = math.sqrt(variance_of(fan_in, fan_out))
        size = (math.prod(shape),)
        if distribution == "normal":
            return std * jax.random.normal(key, size, dtype).reshape(shape)
        limit = math.sqrt(3) * std
        return jax.random.uniform(key, size, dtype, -limit, limit).reshape(shape)

    return draw
