"""Test protocols: a protocol names its looks at an image. One shared rule (looking.py) averages.

A new protocol is one dataclass here and one row in `PROTOCOLS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from jaxcnn.data.eval_crops import (
    EvalCrop,
    center_crop,
    five_crops,
    grid_crops,
    inception_crops,
    whole_image_crop,
)


class ProtocolCrop(NamedTuple):
    """One posterior that goes into an image's: of a cut, or of the cut's mirror image, with a weight.

    The weights of an image's looks sum to 1. A `dense` look is of the whole rescaled image: the class
    scores at all positions are averaged before the softmax; the others are crops of the net's image_size.
    """

    crop: EvalCrop
    mirror: bool
    weight: float
    dense: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """An abstract test protocol; a concrete one names its looks.

    Attributes:
        every_epochs: how often training stops for it; 0 is only at the end.
    """

    every_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.every_epochs < 0:
            raise ValueError(f"every_epochs must be 0 or more, got {self.every_epochs}")
        scales = self.all_scales()
        if not scales or min(scales) < 1 or len(set(scales)) < len(scales):
            raise ValueError(f"scales must be different and positive, one or more, got {scales}")

    def all_scales(self) -> tuple[int, ...]:
        """The shorter sides, in pixels, that images are rescaled to."""
        raise NotImplementedError

    def in_square(self) -> bool:
        """Whether all looks lie in the central square of the rescaled image, which a mean image is of."""
        return False

    @property
    def dense(self) -> bool:
        """Whether there are looks at whole images."""
        return False

    def label(self, image_size: int) -> str:
        """What a result row carries, enough to compare by: `centre(256->224)`."""
        scales = ",".join(map(str, self.all_scales()))
        return f"{_name(self)}({scales}->{image_size})"

    def crops(
        self, height: int, width: int, image_size: int, *, square: bool = False
    ) -> list[ProtocolCrop]:
        """The looks at an image of (height, width).

        Args:
            image_size: the net's.
            square: whether a centre crop is that of the central square (see `centre_cut`).
        """
        raise NotImplementedError

    def for_images_of(self, image_size: int) -> Protocol:
        """The same of smaller or larger images: scales that are to `image_size` as these are to 224."""
        field = "scales" if hasattr(self, "scales") else "scale"
        scales = tuple((2 * scale * image_size + 224) // (2 * 224) for scale in self.all_scales())
        return dataclasses.replace(self, **{field: scales if field == "scales" else scales[0]})

    def check(self, image_size: int) -> None:
        """ValueError where a scale does not hold the net's images."""
        small = [scale for scale in self.all_scales() if scale < image_size]
        if small:
            raise ValueError(
                f"{_name(self)} at scale {small[0]} does not hold the net's images of {image_size} x "
                f"{image_size}: give scales of {image_size} or more"
            )


@dataclasses.dataclass(frozen=True)
class CenterCrop(Protocol):
    """One look: the centre crop of the image rescaled to shorter side `scale`.

    What most reports of these nets use; of the papers GoogLeNet's Table 3 alone (1 crop).
    """

    scale: int = 256
    every_epochs: float = dataclasses.field(default=1.0, kw_only=True)

    def all_scales(self) -> tuple[int, ...]:
        return (self.scale,)

    def in_square(self) -> bool:
        return True

    def crops(
        self, height: int, width: int, image_size: int, *, square: bool = False
    ) -> list[ProtocolCrop]:
        return [
            ProtocolCrop(
                center_crop(height, width, self.scale, image_size, square=square), False, 1.0
            )
        ]


@dataclasses.dataclass(frozen=True)
class TenCrops(Protocol):
    """Ten looks: corners and centre of the central square, and their mirrors (Krizhevsky et al. 2012,
    section 4.1).

    GoogLeNet's Table 3 has 10 crops without saying which: here these.
    """

    scale: int = 256

    def all_scales(self) -> tuple[int, ...]:
        return (self.scale,)

    def in_square(self) -> bool:
        return True

    def crops(
        self, height: int, width: int, image_size: int, *, square: bool = False
    ) -> list[ProtocolCrop]:
        del square  # always
        return _evenly(five_crops(height, width, self.scale, image_size))


@dataclasses.dataclass(frozen=True)
class Dense(Protocol):
    """The class score map of the whole rescaled image, averaged, then softmax; of the image and, with
    `flip`, its mirror, at each of `scales` (Simonyan & Zisserman 2014, section 3.2: Q)."""

    scales: tuple[int, ...] = (256,)
    flip: bool = True

    def all_scales(self) -> tuple[int, ...]:
        return self.scales

    @property
    def dense(self) -> bool:
        return True

    def label(self, image_size: int) -> str:
        del image_size  # the looks are of any size
        return f"dense({','.join(map(str, self.scales))}{'' if self.flip else ', no flip'})"

    def crops(
        self, height: int, width: int, image_size: int, *, square: bool = False
    ) -> list[ProtocolCrop]:
        del image_size, square
        cuts = [whole_image_crop(height, width, scale) for scale in self.scales]
        return _evenly(cuts, flip=self.flip, dense=True)


@dataclasses.dataclass(frozen=True)
class MultiCrop(Protocol):
    """A regular grid of crops over the rescaled image and their mirrors, at each of `scales` (Simonyan &
    Zisserman 2014, section 3.2: 5 x 5 x 2 = 50 a scale). Without mirrors, `grid` 3 is cuda-convnet's test
    of CIFAR-10 nets."""

    scales: tuple[int, ...] = (256,)
    grid: int = 5
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid < 1:
            raise ValueError(f"grid must be 1 or more, got {self.grid}")

    def all_scales(self) -> tuple[int, ...]:
        return self.scales

    def label(self, image_size: int) -> str:
        grid = "" if self.grid == 5 else f", grid {self.grid}"
        return f"{super().label(image_size)[:-1]}{grid}{'' if self.flip else ', no flip'})"

    def crops(
        self, height: int, width: int, image_size: int, *, square: bool = False
    ) -> list[ProtocolCrop]:
        del square
        cuts = [
            cut
            for scale in self.scales
            for cut in grid_crops(height, width, scale, image_size, self.grid)
        ]
        return _evenly(cuts, flip=self.flip)


@dataclasses.dataclass(frozen=True)
class MultiCropDense(Protocol):
    """The mean of the posteriors of `MultiCrop` and `Dense` (Simonyan & Zisserman 2014, section 4.3)."""

    scales: tuple[int, ...] = (256,)

    @property
    def dense(self) -> bool:
        return True

    def all_scales(self) -> tuple[int, ...]:
        return self.scales

    def crops(
        self, height: int, width: int, image_size: int, *, square: bool = False
    ) -> list[ProtocolCrop]:
        del square
        crops = MultiCrop(scales=self.scales).crops(height, width, image_size)
        dense = Dense(scales=self.scales).crops(height, width, image_size)
        return [look._replace(weight=look.weight / 2) for look in (*crops, *dense)]


@dataclasses.dataclass(frozen=True)
class Crops144(Protocol):
    """Three squares at each of four scales; of each the corners, the centre and the whole square resized;
    and the mirrors: 4 x 3 x 6 x 2 = 144 (Szegedy et al. 2014, section 7)."""

    scales: tuple[int, ...] = (256, 288, 320, 352)

    def all_scales(self) -> tuple[int, ...]:
        return self.scales

    def crops(
        self, height: int, width: int, image_size: int, *, square: bool = False
    ) -> list[ProtocolCrop]:
        del square
        return _evenly(
            cut
            for scale in self.scales
            for cut in inception_crops(height, width, scale, image_size)
        )


# What a config's `evals` and the tools may name.
PROTOCOLS: dict[str, type[Protocol]] = {
    "centre": CenterCrop,
    "ten_crops": TenCrops,
    "dense": Dense,
    "multi_crop": MultiCrop,
    "multi_crop_dense": MultiCropDense,
    "crops_144": Crops144,
}


def _evenly(
    cuts: Iterable[EvalCrop], *, flip: bool = True, dense: bool = False
) -> list[ProtocolCrop]:
    """Each cut and, after all of them, each one's mirror, all with the same weight."""
    cuts = tuple(cuts)
    weight = 1.0 / (len(cuts) * (2 if flip else 1))
    return [
        ProtocolCrop(cut, mirror, weight, dense)
        for mirror in ((False, True) if flip else (False,))
        for cut in cuts
    ]


def _name(protocol: Protocol) -> str:
    return next(name for name, kind in PROTOCOLS.items() if kind is type(protocol))
