"""Random crops for training: the settings with their checks, and the draw."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxcnn.config import did_you_mean
from jaxcnn.data.crops import ResizedCrop, rescaled_crop, rescaled_size
from jaxcnn.data.errors import DataError
from jaxcnn.data.sampler import RandomStream, random_bits

SAMPLINGS = ("random_crop", "random_crop_in_square", "center_crop", "random_resized_crop")
ASPECT_LAWS = ("log_uniform", "uniform")
# Pillow's BILINEAR, BOX, NEAREST and BICUBIC.
INTERPOLATIONS = ("bilinear", "area", "nearest", "cubic")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the square training crop of an image is drawn and resized.

    Attributes:
        sampling: 'random_crop': the shorter side is rescaled to S and the crop lies anywhere in the
            rescaled image (Simonyan & Zisserman 2014, section 3.1). 'random_crop_in_square': the same, but
            the crop lies in the central S x S square (Krizhevsky et al. 2012, sections 2 and 4.1).
            'center_crop': the centre of that square; nothing is random.
            'random_resized_crop': a region of random area and aspect ratio, resized to the crop (Szegedy
            et al. 2014, section 6); `scale` is not used.
        scale: (lowest, highest) S in pixels, drawn uniformly from the integers between, both included.
        area: (smallest, largest) share of the image's area that a 'random_resized_crop' covers.
        aspect: (narrowest, widest) width / height of a 'random_resized_crop'.
        aspect_law: 'log_uniform' or 'uniform': how the aspect is drawn, which the paper does not say.
        interpolation: the filters of the resize: 'bilinear', 'area', 'nearest', 'cubic' (Pillow's BILINEAR,
            BOX, NEAREST, BICUBIC; all but 'nearest' with antialiasing). One is drawn, with equal
            probability, for each image and epoch.

    Raises:
        ValueError: every problem with the fields.
    """

    sampling: str = "random_crop"
    scale: tuple[int, int] = (256, 256)
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    aspect_law: str = "log_uniform"
    interpolation: tuple[str, ...] = ("bilinear",)

    def __post_init__(self) -> None:
        found = self.problems()
        if found:
            raise ValueError("; ".join(found))

    @property
    def from_square(self) -> bool:
        """Whether every crop lies in the central square of the rescaled image."""
        return self.sampling in ("random_crop_in_square", "center_crop")

    def problems(self) -> list[str]:
        """Returns what is wrong with the fields, a sentence each."""
        problems = [
            *_unknown("sampling", [self.sampling], SAMPLINGS),
            *_unknown("aspect_law", [self.aspect_law], ASPECT_LAWS),
            *_unknown("interpolation", self.interpolation, INTERPOLATIONS),
        ]
        if not self.interpolation:
            problems.append(
                f"interpolation is empty: name one or more of {_listed(INTERPOLATIONS)}"
            )
        if len(set(self.interpolation)) < len(self.interpolation):
            problems.append(f"interpolation names a filter twice: {self.interpolation}")
        if not 0 < self.scale[0] <= self.scale[1]:
            problems.append(
                f"scale must be (lowest, highest) with 0 < lowest <= highest, got {self.scale}"
            )
        if self.sampling == "center_crop" and self.scale[0] != self.scale[1]:
            problems.append(f"sampling='center_crop' needs one scale, got {self.scale}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            problems.append(
                "area must be (smallest, largest) share of the image with 0 < smallest <= largest <= 1, "
                f"got {self.area}"
            )
        if not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            problems.append(
                "aspect must be (narrowest, widest) width / height with 0 < narrowest <= widest, "
                f"got {self.aspect}"
            )
        return problems


def _unknown(field: str, given: Sequence[str], valid: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with each name that is not one of `valid`."""
    for value in given:
        if value not in valid:
            hint = did_you_mean(value, valid, "{!r}")
            yield f"unknown {field} {value!r}{hint} (valid: {_listed(valid)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def check_holds_crop(scale: tuple[int, ...], image_size: int) -> None:
    """Raises DataError if the lowest scale, `scale[0]`, is too small for a crop of side `image_size`."""
    if not 1 <= image_size <= scale[0]:
        given, low = ", ".join(map(str, scale)), max(image_size, 1)
        fitting = ", ".join(str(max(low, value)) for value in scale)
        raise DataError(
            f"scale=({given}) with image_size={image_size}: the shorter side is rescaled to the scale and "
            f"must hold the crop; expected 1 <= image_size <= scale, for example scale=({fitting})"
        )


class _Bits(NamedTuple):
    """What a crop's 64-bit random integers are for. Their order must not change: it decides the draws."""

    scale: int
    top: int
    left: int
    interpolation: int
    area: int
    aspect: int


def draw_train_crop(
    height: int,
    width: int,
    *,
    sampling: Sampling,
    image_size: int,
    seed: int,
    epoch: int,
    example_id: int,
) -> ResizedCrop:
    """Draws the training crop of an image by the rule that `sampling` names: a function of (seed, epoch,
    example_id).

    S is uniform over the integers scale[0]..scale[1], both included (VGG 3.1, "multi-scale training":
    [256, 512]). Offsets are uniform over all positions: (H - side + 1) x (W - side + 1) in the rescaled
    image for 'random_crop', (S - side + 1)^2 in the square for 'random_crop_in_square'. AlexNet 4.1 counts
    32 x 32 positions in a 256 x 256 image; 33 x 33 are possible and used.
    """
    # The bias of a remainder of 64-bit integers is below 1e-15 for any image.
    count = len(_Bits._fields)
    bits = _Bits(*random_bits(RandomStream.CROP, seed, epoch, example_id, count).tolist())
    interpolation = sampling.interpolation[bits.interpolation % len(sampling.interpolation)]
    if sampling.sampling == "random_resized_crop":
        region = _random_region(height, width, sampling, bits)
        left, top, right, bottom = (round(value) for value in region)
        box = (top, left, bottom - top, right - left)
        return ResizedCrop(height, width, region, (image_size, image_size), box, interpolation)
    low, high = sampling.scale
    scale, square = low + bits.scale % (high - low + 1), sampling.from_square
    tall, wide = (scale, scale) if square else rescaled_size(height, width, scale)
    top, left = bits.top % (tall - image_size + 1), bits.left % (wide - image_size + 1)
    if sampling.sampling == "center_crop":
        top = left = (scale - image_size) // 2
    crop = rescaled_crop(
        height, width, scale=scale, top=top, left=left, side=image_size, square=square
    )
    return crop._replace(interpolation=interpolation)


def _random_region(
    height: int, width: int, sampling: Sampling, bits: _Bits
) -> tuple[float, float, float, float]:
    """Draws (left, top, right, bottom) of a region of random area and aspect (GoogLeNet 6).

    The area is uniform over those shares of [area[0], area[1]] that some aspect allows. The aspect has its
    law over those values with which a region of that area fits. The position is uniform over all positions
    inside the image. All three are real numbers, and there is no rejection sampling. An image so elongated
    that even the smallest area does not fit gives the largest region that does.
    """
    narrowest, widest = sampling.aspect
    # The largest region has the allowed aspect nearest to the image's.
    nearest = min(max(width / height, narrowest), widest)
    largest = min(height * height * nearest, width * width / nearest)
    smallest, most = (min(share * height * width, largest) for share in sampling.area)
    area = smallest + _unit(bits.area) * (most - smallest)
    low = min(max(narrowest, area / height**2), nearest)
    high = max(min(widest, width**2 / area), nearest)
    if sampling.aspect_law == "uniform":
        aspect = low + _unit(bits.aspect) * (high - low)
    else:
        aspect = low * (high / low) ** _unit(bits.aspect)
    # min() removes rounding errors.
    wide = min(math.sqrt(area * aspect), float(width))
    tall = min(math.sqrt(area / aspect), float(height))
    left, top = _unit(bits.left) * (width - wide), _unit(bits.top) * (height - tall)
    return left, top, min(left + wide, float(width)), min(top + tall, float(height))


def _unit(bits: int) -> float:
    """Returns a real number in [0, 1) from a 64-bit integer."""
    return (bits >> 11) / 2**53
