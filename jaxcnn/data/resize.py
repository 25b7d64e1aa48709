"""Bilinear resize with antialiasing, equal to Pillow's BILINEAR to one grey level, and several times faster.

Each output value is a weighted mean of the pixels under a triangle that is two output pixels wide, and at
least two image pixels. Pillow rounds to whole grey levels between its two passes; this code does not.

Only decode.py imports this module, on first use. numba compiles the kernels on first use, which takes three
seconds, and caches them next to this file or in the user's cache, if one of them can be written. They index
with unsigned integers, which spares numba the check for negative indices. No sum is reordered and no product
is fused with a sum, so the values are the same on every machine.
"""

import functools
import inspect
import logging
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxcnn.caches import use_writable_caches

_ONE, _THREE = np.uintp(1), np.uintp(3)
# Bytes in and out; some 15 us.
_SMALL = 1 << 15


def bilinear(
    pixels: UInt8[np.ndarray, "h w 3"],
    region: tuple[float, float, float, float],
    out: UInt8[np.ndarray, "height width 3"],
) -> None:
    """Resizes the part `region` = (left, top, right, bottom) of `pixels` to the size of `out`, in place.

    The filter reads pixels beyond the region where there are any, like Pillow's `box`. The kernels release
    the GIL, unless the images are so small that another thread would take it for longer than the resize.

    Raises:
      ValueError: `out` is not contiguous.
    """
    if not out.flags.c_contiguous:
        raise ValueError("the output array must be contiguous")
    compile_kernels()
    left, top, right, bottom = map(float, region)
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    rescale = _rescale if flat.size + out.size > _SMALL else _rescale_small
    rescale(flat, (top, bottom), (left, right), out.reshape(len(out), -1))


@functools.cache
def compile_kernels() -> None:
    """Compiles the kernels. Call it before threads use them, so that they do not race."""
    use_writable_caches()
    try:
        _compile(cache=True)
    except Exception as error:  # nowhere to write, a full disk, or damaged files in the cache
        text = "the image resize is compiled anew at each start, because numba's cache cannot be used: %s"
        logging.getLogger(__name__).warning(text, str(error).partition("\n")[0])
        _compile(cache=False)


def _compile(cache: bool) -> None:
    """Replaces the kernels of this module, which are Python functions, by compiled ones."""
    import numba.core.config

    for name, function in _KERNELS.items():
        options = {"nogil": name != "_rescale_small", "cache": cache, "error_model": "numpy"}
        # Tests wrap functions to check types; numba must compile the function inside.
        globals()[name] = numba.njit(**options)(inspect.unwrap(function))
    # SLP vectorization computes red, green, blue and one padding value as one vector: the horizontal pass is
    # twice as fast. Numba's default is off.
    config: Any = numba.core.config
    default, config.SLP_VECTORIZE = config.SLP_VECTORIZE, 1
    try:
        pixels = np.zeros((2, 6), np.uint8)
        for rescale in (_rescale, _rescale_small):
            rescale(pixels, (0.0, 2.0), (0.0, 2.0), pixels)
    finally:
        config.SLP_VECTORIZE = default


def _rescale(pixels, down, across, out):
    """Fills `out`, uint8[height,width*3], from (top, bottom) = `down` and (left, right) = `across` of
    `pixels`, uint8[h,w*3]."""
    rows, row_weights = _weigh(down, pixels.shape[0], out.shape[0])
    columns, column_weights = _weigh(across, pixels.shape[1] // 3, out.shape[1] // 3)
    taps = column_weights.shape[1]
    # Padded for taps of weight zero past the last pixel, and for the fourth value of a vector.
    line = np.zeros(pixels.shape[1] + 3 * taps + 1, np.float32)
    result = np.zeros(out.shape[1] + 1, np.float32)
    for y in range(out.shape[0]):
        _blend(pixels, rows[y], row_weights[y], line)
        # The compiler unrolls the loop over a constant number of taps.
        if taps == 2:
            _gather(line, columns, column_weights, 2, result)
        elif taps == 3:
            _gather(line, columns, column_weights, 3, result)
        elif taps == 4:
            _gather(line, columns, column_weights, 4, result)
        elif taps == 5:
            _gather(line, columns, column_weights, 5, result)
        else:
            _gather(line, columns, column_weights, taps, result)
        for i in range(out.shape[1]):
            out[y, i] = np.uint8(result[i])


def _rescale_small(pixels, down, across, out):
    """The same, compiled to keep the GIL."""
    _rescale(pixels, down, across, out)


def _weigh(region, length, count):
    """Returns (first, weights): output i is the sum of weights[i, t] times pixel first[i] + t."""
    low, high = region
    scale = (high - low) / count
    reach = max(scale, 1.0)
    first = np.zeros(count, np.uintp)
    weights = np.zeros((count, int(np.ceil(2 * reach))), np.float32)
    for i in range(count):
        centre = low + (i + 0.5) * scale
        begin = max(int(centre - reach + 0.5), 0)
        end = min(int(centre + reach + 0.5), length, begin + weights.shape[1])
        total = 0.0
        for p in range(begin, end):
            total += max(1.0 - abs((p - centre + 0.5) / reach), 0.0)
        for p in range(begin, end):
            weights[i, p - begin] = max(1.0 - abs((p - centre + 0.5) / reach), 0.0) / total
        first[i] = begin
    return first, weights


def _blend(pixels, row, weights, line):
    """Vertical pass: writes the weighted sum of the rows from `row` on to `line`."""
    last = np.uintp(pixels.shape[0] - 1)
    one, other = pixels[row], pixels[min(row + _ONE, last)]
    for i in range(pixels.shape[1]):
        line[i] = weights[0] * np.float32(one[i]) + weights[1] * np.float32(other[i])
    for t in range(2, weights.size):
        if weights[t] != 0.0:
            one = pixels[row + np.uintp(t)]
            for i in range(pixels.shape[1]):
                line[i] += weights[t] * np.float32(one[i])


def _gather(line, columns, weights, taps, result):
    """Horizontal pass: resizes `line`, and adds a half for rounding."""
    half = np.float32(0.5)
    for x in range(columns.size):
        red = green = blue = padding = half
        p = columns[x] * _THREE
        for t in range(taps):
            weight = weights[x, t]
            red += weight * line[p]
            green += weight * line[p + _ONE]
            blue += weight * line[p + _ONE + _ONE]
            padding += weight * line[p + _THREE]
            p += _THREE
        q = np.uintp(x) * _THREE
        result[q] = red
        result[q + _ONE] = green
        result[q + _ONE + _ONE] = blue
        result[q + _THREE] = padding  # overwritten by the next pixel's red


_KERNELS = {
    kernel.__name__: kernel for kernel in (_weigh, _blend, _gather, _rescale, _rescale_small)
}
