"""Views: which rectangle of an image becomes a row of the batch. Pure functions.

VGG 3.1: the image is rescaled isotropically so that its *shorter* side is S, and one crop is cut
from it at random. Here nothing is cut: a view says which rectangle of the image is wanted and of how
many pixels, and decode.py reads just those from the file.
"""

import math
from typing import NamedTuple

from jaxcnn.data.sampler import RandomStream, random_bits
from jaxcnn.data.train_crops import Sampling


class ResizedCrop(NamedTuple):
    """A rectangle of an image of (image_height, image_width), made into `size` = (height, width) pixels.

    `region` is (left, top, right, bottom) in the image's own pixels, which need not be whole; across and
    down may have different scales. `interpolation` is one of sampling.py's filters. `box` is the batch's
    column (see `Batch`).
    """

    image_height: int
    image_width: int
    region: tuple[float, float, float, float]
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    interpolation: str = "bilinear"


class _Words(NamedTuple):
    """What each random word of a view is for. A word's place is fixed for ever: it decides the draws."""

    scale: int
    top: int
    left: int
    interpolation: int
    area: int
    aspect: int


def rescaled_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """(height, width) after the isotropic rescale that makes the shorter side exactly `scale`.

    The longer side is rounded to the nearest pixel, halves up, in integer arithmetic.
    """
    if height <= width:
        return scale, (2 * width * scale + height) // (2 * height)
    return (2 * height * scale + width) // (2 * width), scale


def rescaled_crop(
    height: int,
    width: int,
    *,
    scale: int,
    top: int,
    left: int,
    side: int,
    square: bool = False,
    interpolation: str = "bilinear",
) -> ResizedCrop:
    """The crop of `side` pixels at (top, left) after the rescale of the shorter side to `scale`.

    With `square`, top, left and the view's box are relative to the rescaled image's central square.
    """
    row, column = top, left
    if square:
        above, before = square_corner(height, width, scale)
        row, column = top + above, left + before
    view = crop_in_source(height, width, scale, (row, column, side, side))
    return view._replace(box=(top, left, side, side), interpolation=interpolation)


def square_corner(height: int, width: int, scale: int) -> tuple[int, int]:
    """(top, left) of the central square of the image whose shorter side is rescaled to `scale`."""
    tall, wide = rescaled_size(height, width, scale)
    return (tall - scale) // 2, (wide - scale) // 2


def crop_in_source(
    height: int, width: int, scale: int, box: tuple[int, int, int, int]
) -> ResizedCrop:
    """The rectangle `box` = (top, left, height, width) of the image rescaled to shorter side `scale`."""
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


def center_crop_view(
    height: int,
    width: int,
    *,
    scale: int,
    image_size: int,
    square: bool = False,
    interpolation: str = "bilinear",
) -> ResizedCrop:
    """The centre crop of side `image_size` after the rescale of the shorter side to `scale`.

    An odd margin leaves its extra pixel at the bottom and on the right. With `square` the crop is that
    of the central square, and its box is relative to it; it may then lie a pixel higher or further left.
    """
    tall, wide = (scale, scale) if square else rescaled_size(height, width, scale)
    return rescaled_crop(
        height,
        width,
        scale=scale,
        top=(tall - image_size) // 2,
        left=(wide - image_size) // 2,
        side=image_size,
        square=square,
        interpolation=interpolation,
    )


def random_resized_crop(
    height: int,
    width: int,
    *,
    sampling: Sampling,
    image_size: int,
    seed: int,
    epoch: int,
    identity: int,
) -> ResizedCrop:
    """The training view of an image, by the rule that `sampling` names: a function of (seed, epoch,
    identity).

    Of the crops, S is uniform over the integers scale[0]..scale[1], both included (VGG 3.1,
    "multi-scale training": [256, 512]), and the offsets are uniform over all positions, (H - side + 1) x
    (W - side + 1) in the rescaled image of 'scale', (S - side + 1)^2 in the square of 'square'. AlexNet
    4.1 counts 32 x 32 positions in a 256 x 256 image; 33 x 33 are possible and used.
    """
    # The bias of a remainder of 64-bit words is below 1e-15 for any image.
    words = _Words(
        *random_bits(RandomStream.VIEW, seed, epoch, identity, len(_Words._fields)).tolist()
    )
    interpolation = sampling.interpolation[words.interpolation % len(sampling.interpolation)]
    low, high = sampling.scale
    if sampling.sampling == "area":
        return _patch_view(height, width, sampling, image_size, words, interpolation)
    if sampling.sampling == "centre":
        return center_crop_view(
            height,
            width,
            scale=low,
            image_size=image_size,
            square=True,
            interpolation=interpolation,
        )
    scale, square = low + words.scale % (high - low + 1), sampling.sampling == "square"
    tall, wide = (scale, scale) if square else rescaled_size(height, width, scale)
    return rescaled_crop(
        height,
        width,
        scale=scale,
        top=words.top % (tall - image_size + 1),
        left=words.left % (wide - image_size + 1),
        side=image_size,
        square=square,
        interpolation=interpolation,
    )


def _patch_view(
    height: int,
    width: int,
    sampling: Sampling,
    image_size: int,
    words: _Words,
    interpolation: str,
) -> ResizedCrop:
    """A patch of random area and aspect (GoogLeNet 6), resized to the view.

    The area is uniform over those shares of [area[0], area[1]] that some aspect allows, the aspect has its
    law over those values with which a patch of that area fits, the place is uniform over all where it
    lies inside; all three are real numbers. Nothing is drawn twice. An image so long that even the
    smallest area does not fit gives the largest patch that does.
    """
    narrowest, widest = sampling.aspect
    # The largest patch has the allowed aspect nearest to the image's.
    nearest = min(max(width / height, narrowest), widest)
    largest = min(height * height * nearest, width * width / nearest)
    smallest, most = (min(share * height * width, largest) for share in sampling.area)
    area = smallest + _unit(words.area) * (most - smallest)
    low = min(max(narrowest, area / height**2), nearest)
    high = max(min(widest, width**2 / area), nearest)
    if sampling.aspect_law == "uniform":
        aspect = low + _unit(words.aspect) * (high - low)
    else:
        aspect = low * (high / low) ** _unit(words.aspect)
    # The bounds take off what rounding adds.
    wide, tall = (
        min(math.sqrt(area * aspect), float(width)),
        min(math.sqrt(area / aspect), float(height)),
    )
    left, top = _unit(words.left) * (width - wide), _unit(words.top) * (height - tall)
    region = (left, top, min(left + wide, float(width)), min(top + tall, float(height)))
    first_column, first_row, last_column, last_row = (round(value) for value in region)
    box = (first_row, first_column, last_row - first_row, last_column - first_column)
    return ResizedCrop(height, width, region, (image_size, image_size), box, interpolation)


def _unit(word: int) -> float:
    """A real number in [0, 1) from a word of 64 bits."""
    return (word >> 11) / 2**53
