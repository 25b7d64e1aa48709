"""Views: which rectangle of the rescaled image becomes a row of the batch. Pure functions.

VGG 3.1: the image is rescaled isotropically so that its *shorter* side is S, and one crop is cut
from it at random. Here nothing is cut: a view says which rectangle is wanted, and decode.py reads
just those pixels from the file.
"""

from typing import NamedTuple

from .order import Stream, random_words


class View(NamedTuple):
    """A rectangle of an image of (image_height, image_width) rescaled to (height, width).

    `top`, `left` and `side` are in pixels of the rescaled image; a view is square.
    """

    image_height: int
    image_width: int
    height: int
    width: int
    top: int
    left: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) in the rescaled image: the batch's `box` column."""
        return self.top, self.left, self.side, self.side


def rescaled_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """(height, width) after the isotropic rescale that makes the shorter side exactly `scale`.

    The longer side is rounded to the nearest pixel, halves up, in integer arithmetic.
    """
    if height <= width:
        return scale, (2 * width * scale + height) // (2 * height)
    return (2 * height * scale + width) // (2 * width), scale


def centre_view(height: int, width: int, *, scale: int, image_size: int) -> View:
    """The centre crop of side `image_size` after the rescale of the shorter side to `scale`.

    An odd margin leaves its extra pixel at the bottom and on the right.
    """
    tall, wide = rescaled_size(height, width, scale)
    top, left = (tall - image_size) // 2, (wide - image_size) // 2
    return View(height, width, tall, wide, top, left, image_size)


def random_view(
    height: int,
    width: int,
    *,
    scale: tuple[int, int],
    image_size: int,
    seed: int,
    epoch: int,
    identity: int,
) -> View:
    """A random crop of a randomly rescaled image: a function of (seed, epoch, identity).

    The training scale S is uniform over the integers scale[0]..scale[1], both included (VGG 3.1,
    "multi-scale training": [256, 512]), and the crop's offsets over all (H - side + 1) x
    (W - side + 1) positions. AlexNet 4.1 counts 32 x 32 positions in a 256 x 256 image; 33 x 33
    are possible and used.
    """
    # The bias of a remainder of 64-bit words is below 1e-15 for any image.
    words = [int(word) for word in random_words(Stream.VIEW, seed, epoch, identity, 3)]
    low, high = scale
    tall, wide = rescaled_size(height, width, low + words[0] % (high - low + 1))
    top = words[1] % (tall - image_size + 1)
    left = words[2] % (wide - image_size + 1)
    return View(height, width, tall, wide, top, left, image_size)
