"""Max-pool as maxima of slices, one axis after the other, for CPUs.

XLA:CPU computes `reduce_window` and above all its gradient one value at a time; slices are computed whole
registers at once. A window here is (size, stride, padding before, padding after), the same on both axes of x
[b, h, w, c], and the results are those of `reduce_window`: padding is -inf, and among equal maxima the first
one, row by row, takes the gradient.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

_Window = tuple[int, int, int, int]
_ROWS, _COLUMNS = 1, 2
# Values of x that a group of images may have: with what is computed of them they fit a core's cache.
_GROUP_VALUES = 250_000


def max_pool_by_slices(x: Array, window: _Window) -> Array:
    """The maximum of each window."""
    if _apart(window):
        return _tiled(x, window).max(axis=(2, 4))
    padded = _padded(x, window)
    return _maximum(_maximum(padded, _COLUMNS, window), _ROWS, window)


def gradient(x: Array, y: Array, slope: Array, window: _Window) -> Array:
    """Of x, for y = max_pool(x) and the gradient `slope` of y."""
    if _apart(window):
        return _gradient_apart(x, y, slope, window)
    group = _group(x)
    if group == x.shape[0]:
        return _gradient(x, y, slope, window)
    parts = tuple(array.reshape(-1, group, *array.shape[1:]) for array in (x, y, slope))
    of_part = lambda part: _gradient(part[0], part[1], part[2], window)  # noqa: E731
    return lax.map(of_part, parts).reshape(x.shape)


def _group(x: Array) -> int:
    """How many images are taken at once, a divisor of all. In a loop what the forward pass computed too is
    computed anew, which XLA:CPU would keep for it otherwise; and it stays in the cache."""
    images = x.shape[0]
    fit = max(1, _GROUP_VALUES // max(1, math.prod(x.shape[1:])))
    return max((n for n in range(1, min(images, fit) + 1) if images % n == 0), default=images)


def _gradient(x: Array, y: Array, slope: Array, window: _Window) -> Array:
    before = window[2]
    padded = _padded(x, window)
    widest = _maximum(padded, _COLUMNS, window)
    slope = _spread(widest, y, slope, _ROWS, window)
    slope = _spread(padded, widest, slope, _COLUMNS, window)
    return slope[:, before : before + x.shape[1], before : before + x.shape[2]]


def _apart(window: _Window) -> bool:
    """Whether windows neither overlap nor are padded: then they are tiles of x, and few operations do."""
    size, stride, before, after = window
    return size == stride and not (before or after)


def _tiled(x: Array, window: _Window) -> Array:
    """[b, rows, size, columns, size, c]; what fills no window is left out."""
    size = window[0]
    rows, columns = x.shape[1] // size, x.shape[2] // size
    whole = x[:, : rows * size, : columns * size]
    return whole.reshape(x.shape[0], rows, size, columns, size, x.shape[3])


def _gradient_apart(x: Array, y: Array, slope: Array, window: _Window) -> Array:
    size = window[0]
    tiles = _tiled(x, window)
    place = jnp.arange(size * size, dtype=jnp.int32).reshape(1, 1, size, 1, size, 1)
    first = jnp.where(tiles == y[:, :, None, :, None], place, size * size).min(axis=(2, 4))
    taken = place == first[:, :, None, :, None]
    spread = jnp.where(taken, slope[:, :, None, :, None], jnp.zeros((), slope.dtype))
    whole = spread.reshape(x.shape[0], y.shape[1] * size, y.shape[2] * size, x.shape[3])
    rest = ((0, x.shape[axis] - whole.shape[axis]) for axis in (1, 2))
    return jnp.pad(whole, ((0, 0), *rest, (0, 0)))


def _padded(x: Array, window: _Window) -> Array:
    for axis in (_ROWS, _COLUMNS):
        x = _extended(x, axis, *window[2:], -jnp.inf)
    return x


def _extended(x: Array, axis: int, before: int, after: int, value: float) -> Array:
    """x with `value` before and after it along an axis, laid down in memory: as `jnp.pad` it would be
    computed anew, value by value, in each slice."""
    if not (before or after):
        return x
    shape = list(x.shape)
    shape[axis] += before + after
    start = [0] * x.ndim
    start[axis] = before
    return lax.dynamic_update_slice(jnp.full(shape, value, x.dtype), x, start)


def _maximum(x: Array, axis: int, window: _Window) -> Array:
    """The maximum of each window along an axis."""
    size, stride = window[:2]
    count = (x.shape[axis] - size) // stride + 1
    first, *rest = (_every(x, axis, k, count, stride) for k in range(size))
    for part in rest:
        first = jnp.maximum(first, part)
    return first


def _spread(x: Array, y: Array, slope: Array, axis: int, window: _Window) -> Array:
    """The gradient of x, for y = _maximum(x): each window's slope goes to its first maximum.

    Position stride · q + r is value r + stride · t of window q - t, for each t that the size allows.
    """
    size, stride = window[:2]
    count = -(-x.shape[axis] // stride)
    reach = (size - 1) // stride
    missing = count - y.shape[axis]
    x_out = _extended(x, axis, reach * stride, count * stride - x.shape[axis], -jnp.inf)
    y_out = _extended(y, axis, reach, missing, -jnp.inf)
    slope_out = _extended(slope, axis, reach, missing, 0.0)

    def taken(t: int, k: int) -> Array:
        most = _every(y_out, axis, reach - t, count)
        *earlier, value = (
            _every(x_out, axis, (reach - t) * stride + i, count, stride) for i in range(k + 1)
        )
        first = value == most
        for other in earlier:
            first &= other != most
        own = _every(slope_out, axis, reach - t, count)
        return jnp.where(first, own, jnp.zeros((), own.dtype))

    phases = [
        sum((taken(t, k) for t, k in enumerate(range(r + stride, size, stride), 1)), taken(0, r))
        for r in range(stride)
    ]
    shape = list(x.shape)
    shape[axis] = count * stride

    whole = jnp.stack(phases, axis=axis + 1).reshape(shape) if stride > 1 else phases[0]
    return lax.slice_in_dim(whole, 0, x.shape[axis], axis=axis)


def _every(x: Array, axis: int, start: int, count: int, stride: int = 1) -> Array:
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
