"""The Linen layers of the nets.

Every layer is called as `layer(x, sizes)` and returns its map. `sizes` int32[B,2] are the true
(height, width) of x's images where x is padded, and the layer's output is then zero beyond the
true output size; None where the whole of x is image. `layer.window` is the layer's geometry.
A layer's output, as `capture_intermediates` shows it, is what follows its activation.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcnn.models import ops
from jaxcnn.models.context import UNSHARDED, Layout, ShardContext
from jaxcnn.models.initializers import Initializer
from jaxcnn.models.kernels.matmul import multiply, slide
from jaxcnn.models.ops import Window

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "none": lambda x: x}

Sizes = Int[Array, "b 2"] | None


class Conv(nn.Module):
    """A convolution, its bias and its activation, with kernel (k, k, inputs, features).

    With `tower` = t the layer computes only the t-th of `towers` equal parts of its outputs, from
    the maps that this tower sees; the parameters hold all the towers side by side in the last axis,
    in the shape of the paper.
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
    def __call__(self, x: Float[Array, "b h w c"], sizes: Sizes = None, tower: int | None = None):
        side = self.window.size
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (side, side, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if not self.depthwise:
            start = nn.initializers.constant(self.bias)
            bias = self.param("bias", start, (self.features,), jnp.float32)
        if tower is not None:
            share = self.features // self.towers
            own = slice(tower * share, (tower + 1) * share)
            kernel = kernel[..., own]
            bias = None if bias is None else bias[own]
        groups = x.shape[-1] if self.depthwise else 1
        y = ops.convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.window, groups)
        if bias is not None:
            y = y + bias.astype(self.dtype)[None, None, None, :]
        return ops.mask_outside(ACTIVATIONS[self.activation](y), out_sizes(self.window, sizes))


class LocallyConnected(nn.Module):
    """A convolution without shared weights: every position has its own kernel and biases.

    Kernel (out height, out width, k, k, inputs, features), bias (out height, out width, features):
    they fix the size of the map that the layer takes. Krizhevsky's cuda-convnet, layer type `local`.
    """

    features: int
    window: Window
    kernel_init: Initializer
    bias: float = 0.0
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], sizes: Sizes = None):
        side = self.window.size
        positions = (self.window.out(x.shape[1]), self.window.out(x.shape[2]))
        shape = (*positions, side, side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        start = nn.initializers.constant(self.bias)
        bias = self.param("bias", start, (*positions, self.features), jnp.float32)
        y = ops.convolve_locally(x.astype(self.dtype), kernel.astype(self.dtype), self.window)
        y = ACTIVATIONS[self.activation](y + bias.astype(self.dtype)[None])
        return ops.mask_outside(y, out_sizes(self.window, sizes))


class FullyConnected(nn.Module):
    """A fully connected layer that keeps a convolution's kernel (h, w, inputs, features).

    On maps of exactly its own side (sizes None) it is one matrix product, to [B, features]; with
    sizes it slides over larger maps, to [B, h, w, features]. Simonyan and Zisserman 2014, section
    3.2. `result` is the dtype of the output where it differs from `dtype` (float32 logits).
    """

    features: int
    window: Window
    kernel_init: Initializer
    bias: float = 0.0
    activation: str = "relu"
    dtype: str = "float32"
    output_dtype: str = ""

    @nn.compact
    def __call__(self, x: Float[Array, "b *rest"], sizes: Sizes = None):
        side, result = self.window.size, self.output_dtype or self.dtype
        shape = (side, side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        start = nn.initializers.constant(self.bias)
        bias = self.param("bias", start, (self.features,), jnp.float32).astype(result)
        x = x.astype(self.dtype)
        if sizes is None:
            rows = x.reshape(x.shape[0], -1)
            y = multiply(rows, kernel.reshape(-1, self.features), result)
            return ACTIVATIONS[self.activation](y + bias[None, :])
        y = slide(x, kernel).astype(result) + bias[None, None, None, :]
        return ops.mask_outside(ACTIVATIONS[self.activation](y), out_sizes(self.window, sizes))


class MaxPool(nn.Module):
    """Max-pool, padded with -inf where the window has padding."""

    window: Window

    def __call__(self, x: Float[Array, "b h w c"], sizes: Sizes = None):
        if self.window.before or self.window.after:  # as beyond the edge of the image alone
            x = ops.mask_outside(x, sizes, -jnp.inf)
        return ops.mask_outside(ops.max_pool(x, self.window), out_sizes(self.window, sizes))


class AveragePool(nn.Module):
    """Mean over each window, without padding."""

    window: Window

    def __call__(self, x: Float[Array, "b h w c"], sizes: Sizes = None):
        return ops.mask_outside(ops.average_pool(x, self.window), out_sizes(self.window, sizes))


class LocalResponseNorm(nn.Module):
    """Local response normalisation across the maps given, with one of ops.LRN_CONSTANTS."""

    window: ClassVar[Window] = Window(1)
    constants: str = "paper"

    def __call__(self, x: Float[Array, "b h w c"], sizes: Sizes = None):
        del sizes  # zeros stay zeros
        return ops.lrn(x, *ops.LRN_CONSTANTS[self.constants])


class Dropout(nn.Module):
    """Dropout in one of two conventions; it draws from the 'dropout' stream when train."""

    window: ClassVar[Window] = Window(1)
    rate: float
    convention: str

    def __call__(
        self,
        x: Float[Array, "b *rest"],
        train: bool,
        part: ShardContext = UNSHARDED,
        held: Layout = Layout.BATCH_SHARDED,
    ):
        kept = None
        if train and self.rate > 0.0:
            kept = part.dropout_mask(self.make_rng("dropout"), self.rate, x, held)
        return ops.dropout(x, self.rate, self.convention, kept)


def out_sizes(window: Window, sizes: Sizes) -> Sizes:
    """The true sizes behind a window, or None where there are none to follow."""
    return None if sizes is None else window.out(sizes)
