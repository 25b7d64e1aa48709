"""Input shapes of the compiled forward passes; whole images are padded to one of a few aspect ratios.

Dense evaluation (Simonyan & Zisserman 2014, section 3.2) takes images of any size, and each shape costs a
compilation. So images are padded on the right and at the bottom to the next of `RATIOS`. Portraits are
transposed: with transposed kernels the net computes the same score map, transposed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from jaxcnn.data import CorruptImage

# Long side to short side; the first ones are what cameras make. All images of a scale share these shapes.
RATIOS = (1.0, 4 / 3, 1.5, 16 / 9, 2.25, 4.0, 10.0, 32.0)


class InputShape(NamedTuple):
    """Height and width of the pixels that enter the net, and how they are computed.

    `kind` is 'crop', 'square' (a crop of the central square, from which a mean image is subtracted) or
    'dense' (a padded whole image).
    """

    kind: str
    height: int
    width: int


def bucket(height: int, width: int) -> InputShape:
    """The shape that a whole image of this size is padded to, in landscape orientation.

    Raises:
        CorruptImage: the aspect ratio exceeds the last of `RATIOS`.
    """
    short, long = sorted((height, width))
    for ratio in RATIOS:
        # An image of just this ratio may be a pixel longer, once its longer side is rounded.
        limit = math.ceil(short * ratio - 1e-6) + (ratio > 1)
        if long <= limit:
            return InputShape("dense", short, limit)
    raise CorruptImage(
        f"its aspect ratio is {long / short:.0f} to 1; dense evaluation takes at most {RATIOS[-1]:.0f} to 1"
    )


def pad_to_bucket(
    pixels: UInt8[np.ndarray, "h w 3"], shape: InputShape
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """An image in landscape orientation, padded to `shape`, and its true (height, width) there."""
    if pixels.shape[0] > pixels.shape[1]:
        pixels = pixels.transpose(1, 0, 2)
    height, width = pixels.shape[:2]
    padded = np.zeros((shape.height, shape.width, 3), np.uint8)
    padded[:height, :width] = pixels
    return padded, (height, width)


def transpose_kernels(params: Any) -> Any:
    """Parameters with which the net computes the transposed score map of a transposed image.

    Kernels swap height and width. Padding, pooling and strides are symmetric in all nets.
    """

    def transpose(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        spatial = path[-1].key == "kernel" and leaf.ndim == 4 and leaf.shape[0] > 1
        return leaf.swapaxes(0, 1) if spatial else leaf

    return jax.tree_util.tree_map_with_path(transpose, params)
