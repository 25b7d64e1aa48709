"""Max-pool as maxima of slices, one axis after the other, for CPUs.

XLA:CPU computes `reduce_window` and its gradient one value at a time; slices use whole vector registers.
Measured gain, two cores of an AMD EPYC (AVX2), 16 images: the gradient of one of GoogLeNet's pools takes 8 to
40 ms instead of 60 to 250 (docs/performance.md). Results equal those of `reduce_window`: padding is -inf,
and among equal maxima the first one, row by row, takes the gradient.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxcnn.models.window import Window

_ROWS, _COLUMNS = 1, 2
# The most values of x in a group of images: they and their intermediate results fit a core's cache.
_GROUP_VALUES = 250_000


def max_pool(x: Array, window: Window) -> Array:
    """The maximum of each window."""
    if _is_tiling(window):
        return _tiled(x, window).max(axis=(2, 4))
    padded = _padded(x, window)
    return _maximum(_maximum(padded, _COLUMNS, window), _ROWS, window)


def gradient(x: Array, y: Array, cotangent: Array, window: Window) -> Array:
    """The gradient of x, for y = max_pool(x) and the cotangent of y."""
    if _is_tiling(window):
        return _gradient_of_tiles(x, y, cotangent, window)
    group = _group(x)
    if group == x.shape[0]:
        return _gradient(x, y, cotangent, window)
    parts = tuple(array.reshape(-1, group, *array.shape[1:]) for array in (x, y, cotangent))
    gradients = lax.map(lambda part: _gradient(part[0], part[1], part[2], window), parts)
    return gradients.reshape(x.shape)


def _group(x: Array) -> int:
    """How many images are computed at once, a divisor of all.

    The intermediate results of a group fit the cache. Recomputing them there takes less time than keeping
    those of the forward pass in memory.
    """
    images = x.shape[0]
    fit = max(1, _GROUP_VALUES // max(1, math.prod(x.shape[1:])))
    return max((n for n in range(1, min(images, fit) + 1) if images % n == 0), default=images)


def _gradient(x: Array, y: Array, cotangent: Array, window: Window) -> Array:
    before = window.before
    padded = _padded(x, window)
    widest = _maximum(padded, _COLUMNS, window)
    cotangent = _spread(widest, y, cotangent, _ROWS, window)
    cotangent = _spread(padded, widest, cotangent, _COLUMNS, window)
    return cotangent[:, before : before + x.shape[1], before : before + x.shape[2]]


def _is_tiling(window: Window) -> bool:
    """Whether windows are tiles of x, neither overlapping nor padded, which takes fewer operations."""
    return window.size == window.stride and not (window.before or window.after)


def _tiled(x: Array, window: Window) -> Array:
    """[b, rows, size, columns, size, c]; a remainder that fills no window is left out."""
    size = window.size
    rows, columns = x.shape[1] // size, x.shape[2] // size
    whole = x[:, : rows * size, : columns * size]
    return whole.reshape(x.shape[0], rows, size, columns, size, x.shape[3])


def _gradient_of_tiles(x: Array, y: Array, cotangent: Array, window: Window) -> Array:
    size = window.size
    tiles = _tiled(x, window)
    place = jnp.arange(size * size, dtype=jnp.int32).reshape(1, 1, size, 1, size, 1)
    first = jnp.where(tiles == y[:, :, None, :, None], place, size * size).min(axis=(2, 4))
    taken = place == first[:, :, None, :, None]
    spread = jnp.where(taken, cotangent[:, :, None, :, None], jnp.zeros((), cotangent.dtype))
    whole = spread.reshape(x.shape[0], y.shape[1] * size, y.shape[2] * size, x.shape[3])
    rest = ((0, x.shape[axis] - whole.shape[axis]) for axis in (1, 2))
    return jnp.pad(whole, ((0, 0), *rest, (0, 0)))


def _padded(x: Array, window: Window) -> Array:
    for axis in (_ROWS, _COLUMNS):
        x = _extended(x, axis, window.before, window.after, -jnp.inf)
    return x


def _extended(x: Array, axis: int, before: int, after: int, value: float) -> Array:
    """x with `value` before and after it along an axis.

    The result is written to memory; XLA:CPU would compute a `jnp.pad` again, value by value, in each slice.
    """
    if not (before or after):
        return x
    shape = list(x.shape)
    shape[axis] += before + after
    start = [0] * x.ndim
    start[axis] = before
    return lax.dynamic_update_slice(jnp.full(shape, value, x.dtype), x, start)


def _maximum(x: Array, axis: int, window: Window) -> Array:
    """The maximum of each window along an axis."""
    size, stride = window.size, window.stride
    count = (x.shape[axis] - size) // stride + 1
    first, *rest = (_every(x, axis, k, count, stride) for k in range(size))
    for part in rest:
        first = jnp.maximum(first, part)
    return first


def _spread(x: Array, y: Array, cotangent: Array, axis: int, window: Window) -> Array:
    """The gradient of x, for y = _maximum(x): each window's cotangent goes to its first maximum.

    Position stride · q + r is value r + stride · t of window q - t, for each t that the size allows.
    """
    size, stride = window.size, window.stride
    count = -(-x.shape[axis] // stride)
    reach = (size - 1) // stride
    missing = count - y.shape[axis]
    x_out = _extended(x, axis, reach * stride, count * stride - x.shape[axis], -jnp.inf)
    y_out = _extended(y, axis, reach, missing, -jnp.inf)
    cotangent_out = _extended(cotangent, axis, reach, missing, 0.0)

    def taken(t: int, k: int) -> Array:
        most = _every(y_out, axis, reach - t, count)
        *earlier, value = (
            _every(x_out, axis, (reach - t) * stride + i, count, stride) for i in range(k + 1)
        )
        first = value == most
        for other in earlier:
            first &= other != most
        own = _every(cotangent_out, axis, reach - t, count)
        return jnp.where(first, own, jnp.zeros((), own.dtype))

    phases = [
        sum((taken(t, k) for t, k in enumerate(range(r + stride, size, stride), 1)), taken(0, r))
        for r in range(stride)
    ]
    shape = (*x.shape[:axis], count * stride, *x.shape[axis + 1 :])
    whole = jnp.stack(phases, axis=axis + 1).reshape(shape) if stride > 1 else phases[0]
    return lax.slice_in_dim(whole, 0, x.shape[axis], axis=axis)


def _every(x: Array, axis: int, start: int, count: int, stride: int = 1) -> Array:
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
