"""The crops of the papers' test protocols. Pure functions.

All take the image's (height, width) and the shorter side `scale` that it is rescaled to, and return the same
crops for every image of that size. Horizontal flips are left to the caller.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxcnn.data.crops import ResizedCrop, crop_in_source, rescaled_size, square_corner


class EvalCrop(NamedTuple):
    """A crop of an image whose shorter side is rescaled to `scale`.

    `box` is (top, left, height, width) in the rescaled image. `resized` is the side of the square that the
    crop is then resized to; 0 keeps its size.
    """

    scale: int
    box: tuple[int, int, int, int]
    resized: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the crop's pixels."""
        return (self.resized, self.resized) if self.resized else self.box[2:]

    def in_square(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Returns the box relative to the central square of the rescaled image of (height, width)."""
        top, left = square_corner(height, width, self.scale)
        return (self.box[0] - top, self.box[1] - left, *self.box[2:])


def center_crop(
    height: int, width: int, scale: int, side: int, *, square: bool = False
) -> EvalCrop:
    """Returns the centre crop. An odd margin leaves its extra pixel at the bottom and on the right; with
    `square` it does so in the central square, and the crop may lie a pixel higher or further left."""
    if square:
        top, left = square_corner(height, width, scale)
        return EvalCrop(scale, (top + (scale - side) // 2, left + (scale - side) // 2, side, side))
    tall, wide = rescaled_size(height, width, scale)
    return EvalCrop(scale, ((tall - side) // 2, (wide - side) // 2, side, side))


def five_crops(height: int, width: int, scale: int, side: int) -> list[EvalCrop]:
    """Returns the corners of the central square (top left, top right, bottom left, bottom right) and its
    centre (Krizhevsky et al. 2012, section 4.1): at 256 and 224 (0, 0), (0, 32), (32, 0), (32, 32), (16, 16).
    """
    return _five(*square_corner(height, width, scale), scale, side)


def grid_crops(height: int, width: int, scale: int, side: int, grid: int) -> list[EvalCrop]:
    """Returns a regular grid of `grid` x `grid` crops over the whole rescaled image, row by row (Simonyan &
    Zisserman 2014, section 3.2).

    The paper gives neither the grid's rectangle nor the rounding. Here the outer crops touch the image's
    edges, the others are evenly spaced, and halves are rounded down and to the right.
    """
    tall, wide = rescaled_size(height, width, scale)
    rows, columns = _spread(tall - side, grid), _spread(wide - side, grid)
    return [EvalCrop(scale, (top, left, side, side)) for top in rows for left in columns]


def inception_crops(height: int, width: int, scale: int, side: int) -> list[EvalCrop]:
    """Returns the crops of three squares of the rescaled image: of each the four corners, the centre and the
    whole square resized (Szegedy et al. 2014, section 7).

    The squares are left, central and right, or top, central and bottom for portraits; all three are equal
    for a square image.
    """
    tall, wide = rescaled_size(height, width, scale)
    crops = []
    for top, left in ((0, 0), square_corner(height, width, scale), (tall - scale, wide - scale)):
        crops += _five(top, left, scale, side)
        crops.append(EvalCrop(scale, (top, left, scale, scale), side if side != scale else 0))
    return crops


def whole_image_crop(height: int, width: int, scale: int) -> EvalCrop:
    """Returns the whole rescaled image, for dense evaluation."""
    return EvalCrop(scale, (0, 0, *rescaled_size(height, width, scale)))


def bounding_crops(height: int, width: int, crops: Sequence[EvalCrop]) -> dict[int, ResizedCrop]:
    """Returns, for each scale of `crops`, the smallest crop that contains all of them."""
    bounds = {}
    for scale in dict.fromkeys(crop.scale for crop in crops):
        boxes = [crop.box for crop in crops if crop.scale == scale]
        top, left = min(b[0] for b in boxes), min(b[1] for b in boxes)
        bottom, right = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
        bounds[scale] = crop_in_source(
            height, width, scale, (top, left, bottom - top, right - left)
        )
    return bounds


def _five(top: int, left: int, scale: int, side: int) -> list[EvalCrop]:
    edge = scale - side
    offsets = ((0, 0), (0, edge), (edge, 0), (edge, edge), (edge // 2, edge // 2))
    return [EvalCrop(scale, (top + down, left + across, side, side)) for down, across in offsets]


def _spread(room: int, count: int) -> list[int]:
    """Returns `count` integers spread evenly over 0..room; the middle for one."""
    if count == 1:
        return [room // 2]
    return [(2 * i * room + count - 1) // (2 * (count - 1)) for i in range(count)]
