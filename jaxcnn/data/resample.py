"""The bilinear rescale with antialiasing, Pillow's BILINEAR, several times as fast as Pillow.

Each value is a mean of the pixels under a triangle as wide as two pixels of the result, at least two of the
image. Pillow rounds to whole grey levels between its two passes and this does not, so they differ by one
level at most. Compiled by numba at first use, in two seconds, and kept beside this file or in a cache.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8


def bilinear(
    pixels: UInt8[np.ndarray, "h w 3"],
    region: tuple[float, float, float, float],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "height width 3"]:
    """The part `region` = (left, top, right, bottom) of the pixels, made `size` = (height, width).

    Looks beyond the region where there are pixels, as Pillow's `box` does. Runs without Python's lock.
    """
    weigh, fill = load()
    left, top, right, bottom = map(float, region)
    height, width = pixels.shape[:2]
    out = np.empty((*size, 3), np.uint8)
    rows = weigh(top, bottom, height, size[0])
    columns = weigh(left, right, width, size[1])
    fill(np.ascontiguousarray(pixels).reshape(height, width * 3), *rows, *columns, out)
    return out


@functools.cache
def load() -> tuple[Callable[..., Any], Callable[..., None]]:
    """(_weigh, _fill), compiled; once, before threads race for it."""
    import numba

    # Where functions are wrapped to check their types, numba must see what is inside.
    weigh, fill = (numba.njit(nogil=True, cache=True)(inspect.unwrap(f)) for f in (_weigh, _fill))
    taps = weigh(0.0, 2.0, 2, 1)
    fill(np.zeros((2, 6), np.uint8), *taps, *taps, np.zeros((1, 1, 3), np.uint8))
    return weigh, fill


def _weigh(low, high, length, count):
    """(first, weights): result i is the sum of weights[i, t] times pixel first[i] + t."""
    scale = (high - low) / count
    reach = max(scale, 1.0)
    first = np.zeros(count, np.uintp)
    weights = np.zeros((count, int(np.ceil(reach)) * 2 + 1), np.float32)
    for i in range(count):
        centre = low + (i + 0.5) * scale
        begin = max(int(centre - reach + 0.5), 0)
        end = min(int(centre + reach + 0.5), length)
        total = 0.0
        for p in range(begin, end):
            total += max(1.0 - abs((p - centre + 0.5) / reach), 0.0)
        for p in range(begin, end):
            weights[i, p - begin] = max(1.0 - abs((p - centre + 0.5) / reach), 0.0) / total
        first[i] = begin
    return first, weights


def _fill(pixels, rows, of_row, columns, of_column, out):
    """Places are unsigned, so that numba need not ask whether they count from the end."""
    one, three, half = np.uintp(1), np.uintp(3), np.float32(0.5)
    # With room behind, for taps of weight zero past the last pixel.
    line = np.zeros(pixels.shape[1] + 3 * of_column.shape[1], np.float32)
    for y in range(out.shape[0]):
        line[:] = 0.0
        for t in range(of_row.shape[1]):
            weight = of_row[y, t]
            if weight != 0.0:
                source = pixels[rows[y] + np.uintp(t)]
                for i in range(source.size):
                    line[i] += weight * np.float32(source[i])
        for x in range(out.shape[1]):
            red = green = blue = half  # rounds to the nearest
            p = columns[x] * three
            for t in range(of_column.shape[1]):
                weight = of_column[x, t]
                red += weight * line[p]
                green += weight * line[p + one]
                blue += weight * line[p + one + one]
                p += three
            out[y, x, 0] = np.uint8(red)
            out[y, x, 1] = np.uint8(green)
            out[y, x, 2] = np.uint8(blue)
