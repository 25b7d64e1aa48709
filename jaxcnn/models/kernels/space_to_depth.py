"""A strided convolution of few channels as one of many channels without strides, for GPUs.

Their matrix units take channels by the eight, and the first layers of AlexNet (11 x 11, stride 4) and of
GoogLeNet (7 x 7, stride 2) have three. Each stride x stride square of pixels becomes one cell with all their
channels ("space to depth"), and the kernel, grown by zeros to a multiple of the stride, is folded likewise:
3 x 3 of 48 channels, 4 x 4 of 12. The products and their sums are the same.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolve_space_to_depth(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c o"],
    stride: int,
    before: int,
    after: int,
) -> Float[Array, "b oh ow o"]:
    """Cross-correlation with zero padding `before` and `after` along both sides."""
    side, blocks = kernel.shape[0], -(-kernel.shape[0] // stride)
    cells = [(length + before + after - side) // stride + blocks for length in x.shape[1:3]]
    # Past the last window the padding is cut, or grown to whole squares.
    ends = [n * stride - before - m for n, m in zip(cells, x.shape[1:3], strict=True)]
    zero = jnp.zeros((), x.dtype)
    padding = ((0, 0, 0), *((before, end, 0) for end in ends), (0, 0, 0))
    x = _squares(lax.pad(x, zero, padding), stride)
    grown = (0, blocks * stride - side, 0)
    kernel = lax.pad(kernel, zero, (grown, grown, (0, 0, 0), (0, 0, 0)))
    # Its outputs stand where an image's channels do, so that both are folded by one rule.
    folded = _squares(jnp.moveaxis(kernel, 3, 0), stride)
    return lax.conv_general_dilated(
        x, folded, (1, 1), "VALID", dimension_numbers=("NHWC", "OHWI", "NHWC")
    )


def _squares(x: Array, side: int) -> Array:
    """[b, h·side, w·side, c] to [b, h, w, side·side·c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // side, w // side, -1)
