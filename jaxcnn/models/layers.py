"""The Linen layers of the nets.

`layer(x, context)` returns the output after the activation, zero beyond the true size of each image where the
context has sizes; the next layer takes `context.after(layer.window)`.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.models import ops
from jaxcnn.models.context import INFERENCE, Context
from jaxcnn.models.initializers import Initializer
from jaxcnn.models.kernels import dispatch
from jaxcnn.models.window import Window

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "none": lambda x: x}


class Conv(nn.Module):
    """A convolution, its bias and its activation, with kernel (k, k, inputs, features).

    With `tower` = t the layer computes only the t-th of `towers` equal parts of its outputs, from the
    channels that this tower sees; the parameters keep the paper's shape, all towers along the last axis.
    """

    features: int
    window: Window
    kernel_init: Initializer
    bias: float = 0.0
    towers: int = 1
    depthwise: bool = False  # kernel (k, k, 1, features), no bias
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: Context = INFERENCE, tower: int | None = None
    ):
        side = self.window.size
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (side, side, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None if self.depthwise else _bias(self, (self.features,))
        if tower is not None:
            count = self.features // self.towers
            of_tower = slice(tower * count, (tower + 1) * count)
            kernel = kernel[..., of_tower]
            bias = None if bias is None else bias[of_tower]
        groups = x.shape[-1] if self.depthwise else 1
        y = dispatch.convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.window, groups)
        y = y if bias is None else _add_bias(y, bias[None, None, None, :])
        return _masked(ACTIVATIONS[self.activation](y), self.window, context)


class LocallyConnected(nn.Module):
    """A convolution without shared weights, as cuda-convnet's layer type `local`.

    Kernel (out height, out width, k, k, inputs, features), bias (out height, out width, features): they fix
    the size of the input.
    """

    features: int
    window: Window
    kernel_init: Initializer
    bias: float = 0.0
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], context: Context = INFERENCE):
        side = self.window.size
        positions = (self.window.out(x.shape[1]), self.window.out(x.shape[2]))
        shape = (*positions, side, side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = _bias(self, (*positions, self.features))
        y = ops.convolve_locally(x.astype(self.dtype), kernel.astype(self.dtype), self.window)
        y = ACTIVATIONS[self.activation](_add_bias(y, bias[None]))
        return _masked(y, self.window, context)


class FullyConnected(nn.Module):
    """A fully connected layer that keeps a convolution's kernel (h, w, inputs, features).

    On feature maps of exactly its own side it is one matrix product, to [B, features]; in a context with
    sizes it slides over larger ones, to [B, h, w, features] (Simonyan and Zisserman 2014, section 3.2).
    `output_dtype` is the dtype of the output where it differs from `dtype` (float32 logits).
    """

    features: int
    window: Window
    kernel_init: Initializer
    bias: float = 0.0
    activation: str = "relu"
    dtype: str = "float32"
    output_dtype: str = ""

    @nn.compact
    def __call__(self, x: Float[Array, "b *rest"], context: Context = INFERENCE):
        side, output_dtype = self.window.size, self.output_dtype or self.dtype
        shape = (side, side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        bias = _bias(self, (self.features,))
        x = x.astype(self.dtype)
        if context.sizes is None:
            rows = x.reshape(x.shape[0], -1)
            y = dispatch.multiply(rows, kernel.reshape(-1, self.features), output_dtype)
            return ACTIVATIONS[self.activation](_add_bias(y, bias[None, :]))
        y = _add_bias(dispatch.slide(x, kernel, output_dtype), bias[None, None, None, :])
        return _masked(ACTIVATIONS[self.activation](y), self.window, context)


class MaxPool(nn.Module):
    """Max-pool, padded with -inf where the window has padding."""

    window: Window

    def __call__(self, x: Float[Array, "b h w c"], context: Context = INFERENCE):
        if self.window.before or self.window.after:  # as beyond the edge of the image alone
            x = ops.mask_outside(x, context.sizes, -jnp.inf)
        return _masked(dispatch.max_pool(x, self.window), self.window, context)


class AveragePool(nn.Module):
    """Mean over each window, without padding."""

    window: Window

    def __call__(self, x: Float[Array, "b h w c"], context: Context = INFERENCE):
        return _masked(ops.average_pool(x, self.window), self.window, context)


class LocalResponseNorm(nn.Module):
    """Local response normalisation across channels, with one of ops.LRN_CONSTANTS. Zeros stay zeros."""

    window: ClassVar[Window] = Window(1)
    constants: str = "paper"

    def __call__(self, x: Float[Array, "b h w c"]):
        return ops.lrn(x, *ops.LRN_CONSTANTS[self.constants])


class Dropout(nn.Module):
    """Dropout in one of two conventions; it draws from the 'dropout' stream in training."""

    window: ClassVar[Window] = Window(1)
    rate: float
    convention: str

    def __call__(self, x: Float[Array, "b *rest"], context: Context = INFERENCE):
        mask = None
        if context.train and self.rate > 0.0:
            key = self.make_rng("dropout")
            mask = context.shard.dropout_mask(key, self.rate, x, context.layout)
        return ops.dropout(x, self.rate, self.convention, mask)


def _bias(layer: Conv | LocallyConnected | FullyConnected, shape: tuple[int, ...]) -> Array:
    return layer.param("bias", nn.initializers.constant(layer.bias), shape, jnp.float32)


def _add_bias(y: Float[Array, "b *rest"], bias: Float[Array, "..."]) -> Float[Array, "b *rest"]:
    """y + bias in float32, rounded to y's dtype. The bias's gradient, a sum over the batch and all positions,
    is then in float32 too: a sum in bfloat16 of terms of 1 stops at 256."""
    return (y.astype(jnp.float32) + bias).astype(y.dtype)


def _masked(y: Float[Array, "b h w c"], window: Window, context: Context) -> Array:
    """A layer's output, zero beyond the true size of each image."""
    return ops.mask_outside(y, context.after(window).sizes)
