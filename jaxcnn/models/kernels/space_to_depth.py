"""A strided convolution of few channels as one of many channels without strides, for GPUs.

Tensor cores want channel counts that are multiples of 8, and the first layers of AlexNet (11 x 11, stride 4)
and of GoogLeNet (7 x 7, stride 2) have three. Each stride x stride square of pixels becomes one cell with all
their channels, and the kernel, padded with zeros to a multiple of the stride, is folded the same way: 3 x 3
of 48 channels, 4 x 4 of 12. Products and sums are the same. The gain is not measured: no GPU was available.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.models.window import Window


def convolve_space_to_depth(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"], window: Window
) -> Float[Array, "b oh ow o"]:
    """Cross-correlation with the stride and the zero padding of `window`."""
    side, stride, before, after = window.size, window.stride, window.before, window.after
    blocks = -(-side // stride)
    cells = [(length + before + after - side) // stride + blocks for length in x.shape[1:3]]
    # Padding after the last window is cropped, or grown to whole squares.
    ends = [n * stride - before - m for n, m in zip(cells, x.shape[1:3], strict=True)]
    zero = jnp.zeros((), x.dtype)
    padding = ((0, 0, 0), *((before, end, 0) for end in ends), (0, 0, 0))
    x = _squares(lax.pad(x, zero, padding), stride)
    grown = (0, blocks * stride - side, 0)
    kernel = lax.pad(kernel, zero, (grown, grown, (0, 0, 0), (0, 0, 0)))
    # The kernel's outputs take the place of a batch, so that one rule folds both.
    folded = _squares(jnp.moveaxis(kernel, 3, 0), stride)
    return lax.conv_general_dilated(
        x, folded, (1, 1), "VALID", dimension_numbers=("NHWC", "OHWI", "NHWC")
    )


def _squares(x: Array, side: int) -> Array:
    """[b, h·side, w·side, c] to [b, h, w, side·side·c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // side, w // side, -1)
