"""Geometry of rescaled images and of crops. Pure functions.

VGG 3.1: the image is rescaled isotropically so that its *shorter* side is S, and crops are taken from it. A
`ResizedCrop` gives the region of the original image and the size that it is resized to; decode.py reads only
that region.
"""

from typing import NamedTuple


class ResizedCrop(NamedTuple):
    """A region of an image of (image_height, image_width), resized to `size` = (height, width) pixels.

    `region` is (left, top, right, bottom) in the image's own pixels, not necessarily whole numbers.
    `interpolation` is a filter of train_crops.py. `box` is the batch's column (see `Batch`).
    """

    image_height: int
    image_width: int
    region: tuple[float, float, float, float]
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    interpolation: str = "bilinear"


def rescaled_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """Returns (height, width) after the isotropic rescale that makes the shorter side exactly `scale`.

    The longer side is rounded to the nearest pixel, halves up, in integer arithmetic.
    """
    if height <= width:
        return scale, (2 * width * scale + height) // (2 * height)
    return (2 * height * scale + width) // (2 * width), scale


def square_corner(height: int, width: int, scale: int) -> tuple[int, int]:
    """Returns (top, left) of the central square of the image whose shorter side is rescaled to `scale`."""
    tall, wide = rescaled_size(height, width, scale)
    return (tall - scale) // 2, (wide - scale) // 2


def crop_in_source(
    height: int, width: int, scale: int, box: tuple[int, int, int, int]
) -> ResizedCrop:
    """Returns the crop `box` = (top, left, height, width) of the image rescaled to shorter side `scale`."""
    tall, wide = rescaled_size(height, width, scale)
    top, left, rows, columns = box
    down, across = height / tall, width / wide
    region = (
        left * across,
        top * down,
        min((left + columns) * across, float(width)),
        min((top + rows) * down, float(height)),
    )
    return ResizedCrop(height, width, region, (rows, columns), box)


def rescaled_crop(
    height: int, width: int, *, scale: int, top: int, left: int, side: int, square: bool = False
) -> ResizedCrop:
    """Returns the crop of `side` pixels at (top, left) after the rescale of the shorter side to `scale`.

    With `square`, top, left and the crop's box are relative to the rescaled image's central square.
    """
    above, before = square_corner(height, width, scale) if square else (0, 0)
    crop = crop_in_source(height, width, scale, (top + above, left + before, side, side))
    return crop._replace(box=(top, left, side, side))
