"""Operations of the nets as pure functions over arrays in NHWC; `jaxcnn.models.layers` adds parameters.

Convolutions, max-pools and the products of fully connected layers are in `jaxcnn.models.kernels.dispatch`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcnn.models.kernels.dispatch import pool_arguments
from jaxcnn.models.window import Sizes, Window


class LrnConstants(NamedTuple):
    """Constants of local response normalisation: b = a / (k + alpha · sum a²)^beta."""

    k: float
    n: int
    alpha: float
    beta: float
    alpha_over_n: bool


# One name for each convention in the literature.
LRN_CONSTANTS = {
    # Krizhevsky et al. 2012, section 3.3, as printed.
    "paper": LrnConstants(2.0, 5, 1e-4, 0.75, False),
    # cuda-convnet2, Krizhevsky's released code: the scale is divided by the size.
    "cuda_convnet2": LrnConstants(2.0, 5, 1e-4, 0.75, True),
    # Caffe's layer with the constants of BVLC AlexNet and BVLC GoogLeNet.
    "caffe": LrnConstants(1.0, 5, 1e-4, 0.75, True),
    # cuda-convnet2's layers-cifar10-11pct, with the k that its code takes where the file has none.
    "cifar10": LrnConstants(1.0, 9, 1e-3, 0.75, True),
}


def lrn(
    x: Float[Array, "*batch c"],
    k: float,
    n: int,
    alpha: float,
    beta: float,
    alpha_over_n: bool = False,
) -> Float[Array, "*batch c"]:
    """Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).

    Divides each value by (k + alpha · s)^beta, where s sums the squares of the n neighbouring channels at
    the same pixel, fewer at the first and last channels. `alpha_over_n` divides alpha by n, as Caffe,
    PyTorch and cuda-convnet do. Sums and powers are float32; the output has x's dtype.
    """
    if n < 1 or n % 2 == 0:
        raise ValueError(f"lrn: n is {n}, but the window needs a centre: use an odd n such as 5")
    with jax.named_scope("lrn"):
        wide = x.astype(jnp.float32)
        sums = _neighbour_sums(wide * wide, n // 2)
        base = k + (alpha / n if alpha_over_n else alpha) * sums
        if beta == 0.75:  # two square roots take a fifth of the time of a power on a CPU
            root = lax.rsqrt(base)
            scale = root * jnp.sqrt(root)
        else:
            scale = base**-beta
        return (wide * scale).astype(x.dtype)


def _neighbour_sums(x: Float[Array, "*batch c"], reach: int) -> Float[Array, "*batch c"]:
    """Sums over channels i-reach..i+reach: a product with a banded matrix of ones.

    On a CPU this takes a fifth of reduce_window's time, and the gradient is the same product.
    """
    channel = jnp.arange(x.shape[-1])
    band = jnp.abs(channel[:, None] - channel[None, :]) <= reach
    return jnp.matmul(x, band.astype(x.dtype), precision=lax.Precision.HIGHEST)


def convolve_locally(
    x: Float[Array, "b h w c"], kernel: Float[Array, "oh ow kh kw c co"], window: Window
) -> Float[Array, "b oh ow co"]:
    """Cross-correlation with a separate kernel at every position (oh, ow) of the output.

    As matrix products over explicit patches, because on a CPU the gradient of
    `lax.conv_general_dilated_local` takes 29 times as long.
    """
    padded = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    height, width, rows, columns = kernel.shape[:4]
    stride = window.stride
    down, across = (height - 1) * stride + 1, (width - 1) * stride + 1
    shifted = [
        padded[:, i : i + down : stride, j : j + across : stride]
        for i in range(rows)
        for j in range(columns)
    ]
    patches = jnp.concatenate(shifted, axis=-1)
    weights = kernel.reshape(height, width, -1, kernel.shape[-1])
    return jnp.einsum("bhwp,hwpo->bhwo", patches, weights)


def average_pool(x: Float[Array, "b h w c"], window: Window) -> Float[Array, "b oh ow c"]:
    """Mean over each window, summed in float32 and returned in x's dtype; a ValueError for padding, which
    none of the papers has."""
    if window.before or window.after:
        raise ValueError(f"average_pool: {window} has padding: use a window without any")
    sums = lax.reduce_window(x.astype(jnp.float32), 0.0, lax.add, *pool_arguments(window))
    return (sums * (1.0 / window.size**2)).astype(x.dtype)


def dropout(
    x: Float[Array, "*shape"], rate: float, convention: str, mask: Bool[Array, "*shape"] | None
) -> Float[Array, "*shape"]:
    """Zeroes the values outside `mask`, which keeps each with probability 1 - rate; None means test time.

    'paper' (Krizhevsky et al. 2012, section 4.2): not rescaled in training, times (1 - rate) at
    test. 'inverted': divided by (1 - rate) in training, untouched at test.
    """
    if rate == 0.0:
        return x
    scale_here = (convention == "inverted") == (mask is not None)
    if mask is not None:
        x = jnp.where(mask, x, jnp.zeros_like(x))
    if not scale_here:
        return x
    return x / (1.0 - rate) if convention == "inverted" else x * (1.0 - rate)


def inside(sizes: Int[Array, "b 2"], height: int, width: int) -> Bool[Array, "b {height} {width}"]:
    """Which cells of padded feature maps belong to each image, whose true (height, width) is in sizes."""
    rows = jnp.arange(height)[None, :, None] < sizes[:, 0][:, None, None]
    columns = jnp.arange(width)[None, None, :] < sizes[:, 1][:, None, None]
    return rows & columns


def mask_outside(
    x: Float[Array, "b h w c"], sizes: Sizes, fill: float = 0.0
) -> Float[Array, "b h w c"]:
    """`fill` beyond each image's true size; zero equals the padding that the image alone would have."""
    if sizes is None:
        return x
    keep = inside(sizes, x.shape[1], x.shape[2])[..., None]
    return jnp.where(keep, x, jnp.full_like(x, fill))
