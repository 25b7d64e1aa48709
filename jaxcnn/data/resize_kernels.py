"""The loops of resample.py, for numba, which is imported with this module.

Places are unsigned, so that numba need not ask whether they count from the end. No sum is reordered and no
product fused with a sum, so the values are the same on every machine.
"""

import inspect

import numba
import numpy as np

_ONE, _THREE = np.uintp(1), np.uintp(3)


def _compiled(function):
    # Where functions are wrapped to check their types, numba must see what is inside.
    return numba.njit(nogil=True, cache=True, error_model="numpy")(inspect.unwrap(function))


@_compiled
def rescale(pixels, down, across, out):
    """Fills `out`, uint8[height, width * 3], from (top, bottom) = `down` and (left, right) = `across` of
    `pixels`, uint8[h, w * 3]."""
    rows, of_row = _weigh(down, pixels.shape[0], out.shape[0])
    columns, of_column = _weigh(across, pixels.shape[1] // 3, out.shape[1] // 3)
    taps = of_column.shape[1]
    # With room behind, for taps of weight zero past the last pixel, and for what is not a colour.
    line = np.zeros(pixels.shape[1] + 3 * taps + 1, np.float32)
    result = np.zeros(out.shape[1] + 1, np.float32)
    for y in range(out.shape[0]):
        _blend(pixels, rows[y], of_row[y], line)
        # Where the number of taps is known to the compiler, it writes the loop over them out.
        if taps == 2:
            _gather(line, columns, of_column, 2, result)
        elif taps == 3:
            _gather(line, columns, of_column, 3, result)
        elif taps == 4:
            _gather(line, columns, of_column, 4, result)
        elif taps == 5:
            _gather(line, columns, of_column, 5, result)
        else:
            _gather(line, columns, of_column, taps, result)
        for i in range(out.shape[1]):
            out[y, i] = np.uint8(result[i])


@_compiled
def _weigh(region, length, count):
    """(first, weights): result i is the sum of weights[i, t] times pixel first[i] + t."""
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


@_compiled
def _blend(pixels, row, weights, line):
    """A row of the result, not yet rescaled across: `weights` of the rows from `row` on."""
    last = np.uintp(pixels.shape[0] - 1)
    one, other = pixels[row], pixels[min(row + _ONE, last)]
    for i in range(pixels.shape[1]):
        line[i] = weights[0] * np.float32(one[i]) + weights[1] * np.float32(other[i])
    for t in range(2, weights.size):
        if weights[t] != 0.0:
            one = pixels[row + np.uintp(t)]
            for i in range(pixels.shape[1]):
                line[i] += weights[t] * np.float32(one[i])


@_compiled
def _gather(line, columns, weights, taps, result):
    """Rescales a row across, and adds a half, for rounding."""
    half = np.float32(0.5)
    for x in range(columns.size):
        red = green = blue = behind = half
        p = columns[x] * _THREE
        for t in range(taps):
            weight = weights[x, t]
            red += weight * line[p]
            green += weight * line[p + _ONE]
            blue += weight * line[p + _ONE + _ONE]
            behind += weight * line[p + _THREE]
            p += _THREE
        q = np.uintp(x) * _THREE
        result[q] = red
        result[q + _ONE] = green
        result[q + _ONE + _ONE] = blue
        result[q + _THREE] = behind  # until the next pixel's red
