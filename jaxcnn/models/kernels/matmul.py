"""Matrix products of fully connected layers, for CPUs.

Measured gain, two cores of an AMD EPYC (AVX2), jaxlib 0.10.2: the gradient of a layer's input for 16 rows and
4096 outputs runs at 40 to 70 GFLOP/s by blocks of the kernel and at 10 to 16 at once; 128 rows or more run at
100 to 130 GFLOP/s in groups and at 65 to 80 at once (docs/performance.md).
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jaxtyping import Array

# Smaller kernels gain nothing. Those of AlexNet and VGG are larger, GoogLeNet's are not.
LARGE = 1 << 21
# The most rows of a group, and the narrowest kernel for which groups pay.
_ROWS = 120
_WIDE = 2048
# Rows of a kernel that are multiplied at a time for the gradient of a layer's input.
_BLOCK = 512


def plain(rows: Array, kernel: Array, dtype: str) -> Array:
    """rows @ kernel in XLA's form, summed in and returned as `dtype`."""
    return jnp.matmul(rows, kernel, preferred_element_type=jnp.dtype(dtype))


def groups_pay(rows: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether `in_groups` is faster than one product, from the shapes of both."""
    return rows[0] > _ROWS and kernel[1] >= _WIDE


def in_groups(rows: Array, kernel: Array, dtype: str) -> Array:
    """rows @ kernel, a group of rows at a time."""
    groups = -(-len(rows) // _ROWS)
    count = -(-len(rows) // groups)
    padded = jnp.pad(rows, ((0, groups * count - len(rows)), (0, 0)))
    y = lax.map(lambda group: plain(group, kernel, dtype), padded.reshape(groups, count, -1))
    return y.reshape(groups * count, -1)[: len(rows)]


def blocks_fit(kernel: Sequence[int]) -> bool:
    """Whether `rows_gradient` takes a kernel of this shape."""
    return kernel[0] % _BLOCK == 0


def rows_gradient(kernel: Array, cotangent: Array, like: ShapedArray) -> Array:
    """cotangent @ kernel.T, a block of the kernel at a time; `like` has its shape and dtype."""

    def of_block(block: Array) -> Array:
        across = (((1,), (1,)), ((), ()))
        return lax.dot_general(block, cotangent, across, preferred_element_type=cotangent.dtype)

    y = lax.map(of_block, kernel.reshape(-1, _BLOCK, kernel.shape[1]))
    return y.reshape(like.shape[::-1]).T.astype(like.dtype)


def slide(
    x: Array, kernel: Array, dtype: str, multiply: Callable[[Array, Array, str], Array]
) -> Array:
    """A convolution without padding as one product over the patches of all positions."""
    side, _, _, features = kernel.shape
    height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
    patches = jnp.stack(
        [x[:, i : i + height, j : j + width] for i in range(side) for j in range(side)], axis=3
    )
    weights = kernel.reshape(-1, features)
    y = multiply(patches.reshape(-1, weights.shape[0]), weights, dtype)
    return y.reshape(x.shape[0], height, width, features)
