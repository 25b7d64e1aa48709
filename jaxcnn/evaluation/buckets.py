"""Which shape a look is computed at: a crop as it is, a whole image padded to one of a few buckets.

Dense evaluation (Simonyan & Zisserman 2014, section 3.2) takes images of any size, and each shape costs a
compilation. So images are padded on the right and at the bottom to the next of `RATIOS`, and portraits are
turned on their side: with kernels turned likewise the net computes the same map, on its side.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from jaxcnn.data import CorruptImage

# Long side to short side. The first ones are what cameras make; all images of a scale share these shapes.
RATIOS = (1.0, 4 / 3, 1.5, 16 / 9, 2.25, 4.0, 10.0, 32.0)


class Shape(NamedTuple):
    """Height and width of the pixels given to the net, and what it makes of them.

    `kind` is 'crop', 'square' (a crop under which a mean image lies) or 'dense' (a padded whole image).
    """

    kind: str
    height: int
    width: int


def bucket(height: int, width: int) -> Shape:
    """The shape that a whole image of this size is padded to, lying on its longer side.

    Raises:
      CorruptImage: the image is longer than the last of `RATIOS`.
    """
    short, long = sorted((height, width))
    for ratio in RATIOS:
        # An image of just this ratio may be a pixel longer, once its longer side is rounded.
        limit = math.ceil(short * ratio - 1e-6) + (ratio > 1)
        if long <= limit:
            return Shape("dense", short, limit)
    raise CorruptImage(
        f"its sides are as {long / short:.0f} to 1, dense evaluation takes at most {RATIOS[-1]:.0f} to 1"
    )


def pad_to_bucket(
    pixels: UInt8[np.ndarray, "h w 3"], shape: Shape
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """A whole image turned on its longer side and padded to `shape`, and its true (height, width) there."""
    if pixels.shape[0] > pixels.shape[1]:
        pixels = pixels.transpose(1, 0, 2)
    height, width = pixels.shape[:2]
    padded = np.zeros((shape.height, shape.width, 3), np.uint8)
    padded[:height, :width] = pixels
    return padded, (height, width)


def turned(params: Any) -> Any:
    """Parameters with which a net makes of an image on its side the same score map, on its side.

    Paddings, pools and strides are the same in both directions in all nets; kernels swap height and width.
    """

    def turn(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        spatial = path[-1].key == "kernel" and leaf.ndim == 4 and leaf.shape[0] > 1
        return leaf.swapaxes(0, 1) if spatial else leaf

    return jax.tree_util.tree_map_with_path(turn, params)
