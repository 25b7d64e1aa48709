"""The bilinear rescale with antialiasing, Pillow's BILINEAR, several times as fast as Pillow.

Each value is a mean of the pixels under a triangle as wide as two pixels of the result, at least two of the
image. Pillow rounds to whole grey levels between its two passes and this does not, so they differ by one
level at most. Compiled by numba at first use, in three seconds, and kept beside its source or in a cache.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8


def bilinear(
    pixels: UInt8[np.ndarray, "h w 3"],
    region: tuple[float, float, float, float],
    out: UInt8[np.ndarray, "height width 3"],
) -> None:
    """Writes the part `region` = (left, top, right, bottom) of the pixels, made as large as `out`.

    Looks beyond the region where there are pixels, as Pillow's `box` does. Runs without Python's lock.

    Raises:
      ValueError: `out` is not contiguous.
    """
    if not out.flags.c_contiguous:
        raise ValueError("the rescaled pixels are written to a contiguous array alone")
    left, top, right, bottom = map(float, region)
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    compile_resize()(flat, (top, bottom), (left, right), out.reshape(len(out), -1))


@functools.cache
def compile_resize() -> Callable[..., None]:
    """`triangle.rescale`, compiled; once, before threads race for it."""
    from numba.core import config as numba_config

    from jaxcnn.data import resize_kernels

    # Red, green, blue and one more as one vector: twice as fast across. Numba leaves it out by default.
    config: Any = numba_config
    default, config.SLP_VECTORIZE = config.SLP_VECTORIZE, 1
    try:
        pixels = np.zeros((2, 6), np.uint8)
        resize_kernels.rescale(pixels, (0.0, 2.0), (0.0, 2.0), pixels)
    finally:
        config.SLP_VECTORIZE = default
    return resize_kernels.rescale
