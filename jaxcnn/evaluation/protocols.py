"""Test protocols: which crops of an image are evaluated, and with what weights (posteriors.py averages).

A new protocol is one dataclass here and one row in `PROTOCOLS`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from jaxcnn import config as configs
from jaxcnn.data.eval_crops import (
    EvalCrop,
    center_crop,
    five_crops,
    grid_crops,
    inception_crops,
    whole_image_crop,
)


class ProtocolCrop(NamedTuple):
    """A crop, or its mirror image, whose posterior enters an image's mean posterior with `weight`.

    The weights of an image's crops sum to 1. A `dense` crop is the whole rescaled image, of which the class
    scores at all positions are averaged before the softmax; the others have the net's image_size.
    """

    crop: EvalCrop
    mirror: bool
    weight: float
    dense: bool = False


Crops = list[ProtocolCrop]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """An abstract test protocol; subclasses define `crops_at`, or `crops` for other weights.

    Attributes:
        every_epochs: how often training evaluates by it; 0 means only at the end.
    """

    every_epochs: float = 0.0
    dense: ClassVar[bool] = False  # whether whole images are among the crops
    in_square: ClassVar[bool] = False  # whether all crops lie in the square of a mean image
    flip = True  # whether mirror images are added; a field of some protocols

    def __post_init__(self) -> None:
        if self.every_epochs < 0:
            raise ValueError(f"every_epochs must be 0 or more, got {self.every_epochs}")
        scales = self.all_scales()
        if not scales or min(scales) < 1 or len(set(scales)) < len(scales):
            raise ValueError(f"scales must be different and positive, one or more, got {scales}")

    def all_scales(self) -> tuple[int, ...]:
        """The lengths, in pixels, to which the shorter side of an image is rescaled."""
        fields = vars(self)
        return fields["scales"] if "scales" in fields else (fields["scale"],)

    def label(self, image_size: int) -> str:
        """The name of this protocol in results, with all that matters: `centre(256->224)`."""
        scales = ",".join(map(str, self.all_scales()))
        return f"{_name(self)}({scales}->{image_size})"

    def crops_at(self, height: int, width: int, scale: int, image_size: int) -> list[EvalCrop]:
        """The crops of an image of (height, width) at one scale, without their mirrors."""
        raise NotImplementedError

    def crops(self, height: int, width: int, image_size: int, *, square: bool = False) -> Crops:
        """The crops at all scales and then, with `flip`, all their mirrors, with equal weights; with
        `square`, a centre crop is that of the central square (see `data.eval_crops.center_crop`)."""
        del square
        crops = [
            crop
            for scale in self.all_scales()
            for crop in self.crops_at(height, width, scale, image_size)
        ]
        mirrors = (False, True) if self.flip else (False,)
        weight = 1.0 / (len(crops) * len(mirrors))
        return [ProtocolCrop(crop, m, weight, self.dense) for m in mirrors for crop in crops]

    def for_images_of(self, image_size: int) -> Protocol:
        """The same protocol with its scales, which are for images of 224, in proportion to `image_size`.

        Images of 227, the crops of Caffe's AlexNet, come from the same squares as those of 224.
        """
        if image_size == 227 and min(self.all_scales()) >= 227:
            return self
        field = "scales" if hasattr(self, "scales") else "scale"
        scales = tuple((2 * scale * image_size + 224) // (2 * 224) for scale in self.all_scales())
        return dataclasses.replace(self, **{field: scales if field == "scales" else scales[0]})

    def check(self, image_size: int) -> None:
        """Raises a ValueError if a scale is smaller than the net's images."""
        small = [scale for scale in self.all_scales() if scale < image_size]
        if small:
            raise ValueError(
                f"{_name(self)} at scale {small[0]} is smaller than the net's images of {image_size} x "
                f"{image_size}: give scales of {image_size} or more"
            )


@dataclasses.dataclass(frozen=True)
class CenterCrop(Protocol):
    """The centre crop, which most published results use; of the papers, GoogLeNet's Table 3 (1 crop) does."""

    scale: int = 256
    every_epochs: float = dataclasses.field(default=1.0, kw_only=True)
    in_square = True
    flip = False

    def crops(self, height: int, width: int, image_size: int, *, square: bool = False) -> Crops:
        crop = center_crop(height, width, self.scale, image_size, square=square)
        return [ProtocolCrop(crop, False, 1.0)]


@dataclasses.dataclass(frozen=True)
class TenCrops(Protocol):
    """Corners and centre of the central square, and their mirrors (Krizhevsky et al. 2012, section 4.1).
    Used for the 10 crops of GoogLeNet's Table 3 too, which the paper does not define."""

    scale: int = 256
    in_square = True

    def crops_at(self, height: int, width: int, scale: int, image_size: int) -> list[EvalCrop]:
        return five_crops(height, width, scale, image_size)


@dataclasses.dataclass(frozen=True)
class Dense(Protocol):
    """The class score map of the whole rescaled image, averaged, then softmax; of the image and, with
    `flip`, its mirror, at each of `scales` (Q in Simonyan & Zisserman 2014, section 3.2)."""

    scales: tuple[int, ...] = (256,)
    flip: bool = True
    dense = True

    def label(self, image_size: int) -> str:
        del image_size  # the images have any size
        return f"dense({','.join(map(str, self.scales))}{'' if self.flip else ', no flip'})"

    def crops_at(self, height: int, width: int, scale: int, image_size: int) -> list[EvalCrop]:
        del image_size
        return [whole_image_crop(height, width, scale)]


@dataclasses.dataclass(frozen=True)
class MultiCrop(Protocol):
    """A regular grid of crops over the rescaled image and their mirrors, at each of `scales` (Simonyan &
    Zisserman 2014, section 3.2: 5 x 5 x 2 = 50 per scale). `grid=3` without mirrors is cuda-convnet's
    test of CIFAR-10 nets."""

    scales: tuple[int, ...] = (256,)
    grid: int = 5
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid < 1:
            raise ValueError(f"grid must be 1 or more, got {self.grid}")

    def label(self, image_size: int) -> str:
        grid = "" if self.grid == 5 else f", grid {self.grid}"
        return f"{super().label(image_size)[:-1]}{grid}{'' if self.flip else ', no flip'})"

    def crops_at(self, height: int, width: int, scale: int, image_size: int) -> list[EvalCrop]:
        return grid_crops(height, width, scale, image_size, self.grid)


@dataclasses.dataclass(frozen=True)
class MultiCropDense(Protocol):
    """The mean of the posteriors of `MultiCrop` and `Dense` (Simonyan & Zisserman 2014, section 4.3)."""

    scales: tuple[int, ...] = (256,)
    dense = True

    def crops(self, height: int, width: int, image_size: int, *, square: bool = False) -> Crops:
        del square
        crops = MultiCrop(scales=self.scales).crops(height, width, image_size)
        dense = Dense(scales=self.scales).crops(height, width, image_size)
        return [crop._replace(weight=crop.weight / 2) for crop in (*crops, *dense)]


@dataclasses.dataclass(frozen=True)
class Crops144(Protocol):
    """Three squares at each of four scales; the corners, the centre and the whole square, resized, of each;
    and their mirrors: 4 x 3 x 6 x 2 = 144 (Szegedy et al. 2014, section 7)."""

    scales: tuple[int, ...] = (256, 288, 320, 352)

    def crops_at(self, height: int, width: int, scale: int, image_size: int) -> list[EvalCrop]:
        return inception_crops(height, width, scale, image_size)


# The names that configs (`evals`) and commands use.
PROTOCOLS: dict[str, type[Protocol]] = {
    "centre": CenterCrop,
    "ten_crops": TenCrops,
    "dense": Dense,
    "multi_crop": MultiCrop,
    "multi_crop_dense": MultiCropDense,
    "crops_144": Crops144,
}


def read_protocol(text: str, image_size: int) -> Protocol:
    """The protocol that a user types as `NAME KEY=VALUE ...`, such as `dense scales=(256,288)`.

    Scales default to the paper's for images of 224, and in proportion for another `image_size`.

    Raises:
        ConfigError: an unknown name or key, a wrong value, or a scale smaller than the images.
    """
    # Split at spaces outside parentheses.
    name, *given = re.findall(r"(?:[^\s(]|\([^)]*\)?)+", text) or [""]
    if name not in PROTOCOLS:
        raise configs.ConfigError(f"unknown protocol {name!r}{_valid(name, PROTOCOLS)}")
    kinds = {f"{key}=": kind for key, (kind, _) in configs.parameters(PROTOCOLS[name]).items()}
    del kinds["every_epochs="]
    values, problems = {}, []
    for pair in given:
        key, equals, value = pair.partition("=")
        if kind := kinds.get(key + equals):
            values[key] = configs.typed(f"{name} {key}", configs.parse(value, kind), kind, problems)
        else:
            problems.append(f"{name} has no {pair!r}{_valid(key, kinds)}")
    if problems:
        raise configs.ConfigError("; ".join(problems))
    try:
        protocol = PROTOCOLS[name](**values)
        if not {"scale", "scales"} & values.keys():
            protocol = protocol.for_images_of(image_size)
        protocol.check(image_size)
    except ValueError as error:
        raise configs.ConfigError(f"{text}: {error}") from error
    return protocol


def _valid(wrong: str, valid: Iterable[str]) -> str:
    return f"{configs.did_you_mean(wrong, valid)} (valid: {', '.join(valid)})"


def _name(protocol: Protocol) -> str:
    return next(name for name, kind in PROTOCOLS.items() if kind is type(protocol))
