"""How a training view is cut from an image: the settings, and their checks. The draws are in crops.py."""

import dataclasses
import difflib
import math
from collections.abc import Iterable

SAMPLINGS = ("scale", "square", "centre", "area")
ASPECT_LAWS = ("log_uniform", "uniform")
# Pillow's BILINEAR, BOX, NEAREST and BICUBIC.
INTERPOLATIONS = ("bilinear", "area", "nearest", "cubic")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the square training view of an image is cut and resized.

    Attributes:
        sampling: 'scale': the shorter side is rescaled to S and the crop lies anywhere in the rescaled
            image (Simonyan & Zisserman 2014, section 3.1). 'square': the shorter side to S, of that the
            central S x S square, and the crop anywhere in it (Krizhevsky et al. 2012, sections 2 and 4.1).
            'centre': the centre crop of that square at scale[0], always the same. 'area': a patch of random
            area and aspect ratio, resized to the view (Szegedy et al. 2014, section 6); `scale` is not used.
        scale: (lowest, highest) shorter side S in pixels of the rescaled image, drawn uniformly from the
            integers between, both included. Equal values fix S.
        area: (smallest, largest) share of the image's area that a patch of 'area' has.
        aspect: (narrowest, widest) width / height of a patch of 'area'.
        aspect_law: 'log_uniform' or 'uniform': how the aspect is drawn, which the paper does not say.
        interpolation: the filters of the resize: 'bilinear', 'area', 'nearest', 'cubic' (Pillow's BILINEAR,
            BOX, NEAREST, BICUBIC, all but NEAREST with antialiasing). One is drawn, with equal probability,
            for each image and epoch. Where an image is enlarged 'area' does what 'nearest' does, since its
            box is then no wider than a pixel of the image.

    Raises:
        ValueError: what is wrong with the fields, all of it.
    """

    sampling: str = "scale"
    scale: tuple[int, int] = (256, 256)
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    aspect_law: str = "log_uniform"
    interpolation: tuple[str, ...] = ("bilinear",)

    def __post_init__(self) -> None:
        found = self.problems()
        if found:
            raise ValueError("; ".join(found))

    def problems(self) -> list[str]:
        """What is wrong with the fields, a sentence each."""
        problems = [
            _unknown("sampling", self.sampling, SAMPLINGS),
            _unknown("aspect_law", self.aspect_law, ASPECT_LAWS),
            *(_unknown("interpolation", name, INTERPOLATIONS) for name in self.interpolation),
        ]
        if not self.interpolation:
            problems.append(
                f"interpolation is empty: name one or more of {_listed(INTERPOLATIONS)}"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            problems.append(
                f"scale must be (lowest, highest) with 0 < lowest <= highest, got {self.scale}"
            )
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
        if len(set(self.interpolation)) < len(self.interpolation):
            problems.append(f"interpolation names a filter twice: {self.interpolation}")
        if self.sampling == "centre" and self.scale[0] != self.scale[1]:
            problems.append(f"sampling='centre' draws nothing: give one scale, got {self.scale}")
        return [problem for problem in problems if problem]


def _unknown(field: str, value: str, valid: Iterable[str]) -> str:
    """What is wrong with a name that is none of `valid`; '' where it is one."""
    if value in valid:
        return ""
    near = difflib.get_close_matches(str(value), list(valid), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {field} {value!r}{hint} (valid: {_listed(valid)})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
