"""The matrix products of fully connected layers, in the form that their platform computes fastest."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.models.kernels import dispatch

# Smaller kernels gain nothing. AlexNet's and VGG's are larger, GoogLeNet's are not.
_LARGE = 1 << 21
# XLA:CPU multiplies 128 rows or more by a wide kernel at 75 GFLOP/s, and fewer at up to 130.
_ROWS = 120
_WIDE = 2048
# Rows of a kernel that are multiplied at a time for the gradient of a layer's input.
_BLOCK = 512


def multiply(
    rows: Float[Array, "m i"], kernel: Float[Array, "i o"], result: str
) -> Float[Array, "m o"]:
    """rows @ kernel, summed in and returned as dtype `result`."""
    if kernel.size <= _LARGE:
        return _plain(rows, kernel, result)
    return _large(rows, kernel, result)


def slide(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"]) -> Float[Array, "b oh ow o"]:
    """A fully connected layer at every position of larger maps: a convolution without padding."""
    return lax.platform_dependent(x, kernel, cpu=_slide_in_rows, default=_slide_plain)


def _slide_plain(x: Array, kernel: Array) -> Array:
    return dispatch.plain(x, kernel, dispatch.Window(len(kernel)))


def _slide_in_rows(x: Array, kernel: Array) -> Array:
    side, _, _, features = kernel.shape
    height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
    patches = jnp.stack(
        [x[:, i : i + height, j : j + width] for i in range(side) for j in range(side)], axis=3
    )
    weights = kernel.reshape(-1, features)
    y = multiply(patches.reshape(-1, weights.shape[0]), weights, x.dtype.name)
    return y.reshape(x.shape[0], height, width, features)


def _plain(rows: Array, kernel: Array, result: str) -> Array:
    return jnp.matmul(rows, kernel, preferred_element_type=jnp.dtype(result))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _large(rows: Array, kernel: Array, result: str) -> Array:
    plain = partial(_plain, result=result)
    if len(rows) <= _ROWS or kernel.shape[1] < _WIDE:
        return plain(rows, kernel)
    in_groups = partial(_in_groups, result=result)
    return lax.platform_dependent(rows, kernel, cpu=in_groups, default=plain)


def _in_groups(rows: Array, kernel: Array, result: str) -> Array:
    groups = -(-len(rows) // _ROWS)
    count = -(-len(rows) // groups)
    padded = jnp.pad(rows, ((0, groups * count - len(rows)), (0, 0)))
    y = lax.map(lambda group: _plain(group, kernel, result), padded.reshape(groups, count, -1))
    return y.reshape(groups * count, -1)[: len(rows)]


def _forward(rows: Array, kernel: Array, result: str) -> tuple[Array, tuple[Array, Array]]:
    return _large(rows, kernel, result), (rows, kernel)


def _backward(result: str, kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    rows, kernel = kept

    def plain(rows: Array, kernel: Array, slope: Array) -> Array:
        return jax.vjp(lambda r: _plain(r, kernel, result), rows)[1](slope)[0]

    on_cpu = plain if len(kernel) % _BLOCK else _to_rows
    to_rows = lax.platform_dependent(rows, kernel, slope, cpu=on_cpu, default=plain)
    return to_rows, jax.vjp(lambda k: _plain(rows, k, result), kernel)[1](slope)[0]


def _to_rows(rows: Array, kernel: Array, slope: Array) -> Array:
    """slope @ kernel.T, a block of the kernel at a time: of 16 rows four times as fast as all at once."""

    def of_block(block: Array) -> Array:
        across = (((1,), (1,)), ((), ()))
        return lax.dot_general(block, slope, across, preferred_element_type=slope.dtype)

    y = lax.map(of_block, kernel.reshape(-1, _BLOCK, kernel.shape[1]))
    return y.reshape(rows.shape[1], len(rows)).T.astype(rows.dtype)


_large.defvjp(_forward, _backward)
