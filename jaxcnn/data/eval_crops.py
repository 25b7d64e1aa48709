"""Cuts: the parts of a rescaled image that the papers' test protocols look at. Pure functions.

All take the image's (height, width) and the shorter side `scale` that it is rescaled to, and give the same
parts for every image of that size. Mirrors are not among them: who uses a cut mirrors it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxcnn.data.crops import ResizedCrop, crop_in_source, rescaled_size, square_corner


class EvalCrop(NamedTuple):
    """A part of an image whose shorter side is rescaled to `scale`.

    `box` is (top, left, height, width) in the rescaled image. `resized` is the side of the square that the
    part is then resized to, 0 where it is taken as it is.
    """

    scale: int
    box: tuple[int, int, int, int]
    resized: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of its pixels."""
        return (self.resized, self.resized) if self.resized else self.box[2:]

    def in_square(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Its box relative to the central square of the rescaled image, of an image of (height, width)."""
        top, left = square_corner(height, width, self.scale)
        return (self.box[0] - top, self.box[1] - left, *self.box[2:])


def center_crop(
    height: int, width: int, scale: int, side: int, *, square: bool = False
) -> EvalCrop:
    """The centre crop. An odd margin leaves its extra pixel at the bottom and on the right; with `square`
    it does so in the central square, and the crop may lie a pixel higher or further left."""
    if square:
        top, left = square_corner(height, width, scale)
        return EvalCrop(scale, (top + (scale - side) // 2, left + (scale - side) // 2, side, side))
    tall, wide = rescaled_size(height, width, scale)
    return EvalCrop(scale, ((tall - side) // 2, (wide - side) // 2, side, side))


def five_crops(height: int, width: int, scale: int, side: int) -> list[EvalCrop]:
    """The four corners and the centre of the central square (Krizhevsky et al. 2012, section 4.1).

    In the order top left, top right, bottom left, bottom right, centre: at 256 and 224 from (0, 0),
    (0, 32), (32, 0), (32, 32) and (16, 16) of the square.
    """
    return _five(*square_corner(height, width, scale), scale, side)


def grid_crops(height: int, width: int, scale: int, side: int, grid: int) -> list[EvalCrop]:
    """A regular grid of `grid` x `grid` crops over the whole rescaled image, row by row (Simonyan &
    Zisserman 2014, section 3.2).

    The paper does not say which rectangle the grid covers nor how it rounds: the first crops touch the
    top and left edges, the last ones the bottom and right, those between lie evenly, halves rounded down
    and right.
    """
    tall, wide = rescaled_size(height, width, scale)
    rows, columns = _spread(tall - side, grid), _spread(wide - side, grid)
    return [EvalCrop(scale, (top, left, side, side)) for top in rows for left in columns]


def inception_crops(height: int, width: int, scale: int, side: int) -> list[EvalCrop]:
    """Three squares of the rescaled image, and of each the four corners, the centre and the whole square
    resized (Szegedy et al. 2014, section 7).

    The squares are the left, central and right ones, of portraits the top, central and bottom ones; of a
    square image all three are the same.
    """
    tall, wide = rescaled_size(height, width, scale)
    found = []
    for top, left in ((0, 0), square_corner(height, width, scale), (tall - scale, wide - scale)):
        found += _five(top, left, scale, side)
        found.append(EvalCrop(scale, (top, left, scale, scale), side if side != scale else 0))
    return found


def whole_image_crop(height: int, width: int, scale: int) -> EvalCrop:
    """The whole rescaled image, as dense evaluation takes it."""
    return EvalCrop(scale, (0, 0, *rescaled_size(height, width, scale)))


def bounding_crops(height: int, width: int, cuts: Sequence[EvalCrop]) -> dict[int, ResizedCrop]:
    """For each scale of `cuts` the smallest view that holds all of them."""
    views = {}
    for scale in dict.fromkeys(cut.scale for cut in cuts):
        boxes = [cut.box for cut in cuts if cut.scale == scale]
        top, left = min(b[0] for b in boxes), min(b[1] for b in boxes)
        bottom, right = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
        views[scale] = crop_in_source(height, width, scale, (top, left, bottom - top, right - left))
    return views


def _five(top: int, left: int, scale: int, side: int) -> list[EvalCrop]:
    edge = scale - side
    offsets = ((0, 0), (0, edge), (edge, 0), (edge, edge), (edge // 2, edge // 2))
    return [EvalCrop(scale, (top + down, left + across, side, side)) for down, across in offsets]


def _spread(room: int, count: int) -> list[int]:
    """`count` whole numbers spread evenly over 0..room; the middle for a single one."""
    if count == 1:
        return [room // 2]
    return [(2 * i * room + count - 1) // (2 * (count - 1)) for i in range(count)]
