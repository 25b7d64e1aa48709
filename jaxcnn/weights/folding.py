"""Folding of input conventions and batch normalizations into kernels and biases, and shifts of means.

A program feeds a net s_c = (x_c - m_c) / d_c, with x of 0..255, and pads s with zeros. jaxcnn feeds it
x_c - m_c. Kernels divided by d_c make these equal everywhere, borders included, since zero stays zero.
Another mean changes the padding too: there the pixels beyond the edge count as the mean.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxcnn.models.window import Window

# Above this distance in grey levels between two means, the borders of the first feature map differ visibly:
# between the usual means of ImageNet it is 0.5, and pool5 of VGG D differs by 4e-4 of its size.
LARGEST_SHIFT = 1.0


@dataclasses.dataclass(frozen=True)
class Convention:
    """What a net reads: s = (x - mean) / divisor of pixels x of 0..255.

    Attributes:
        order: of the channels in the file: 'RGB' or 'BGR'.
        mean: of R, G and B, whatever the order.
        divisor: of R, G and B.
    """

    order: str
    mean: tuple[float, float, float]
    divisor: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def text(self) -> str:
        step = 1 if self.order == "RGB" else -1
        mean, divisor = (
            ", ".join(f"{v:g}" for v in values[::step]) for values in (self.mean, self.divisor)
        )
        scaled = f", divided by ({divisor})" if set(self.divisor) != {1.0} else ""
        return f"{self.order}, 0..255 minus ({mean}){scaled}"


def fold_input(
    kernel: Float[np.ndarray, "h w 3 o"], convention: Convention
) -> Float[np.ndarray, "h w 3 o"]:
    """The first kernel for RGB of 0..255 minus the convention's mean."""
    if convention.order == "BGR":
        kernel = kernel[:, :, ::-1]
    return kernel / np.asarray(convention.divisor, np.float32)[:, None]


def unfold_input(
    kernel: Float[np.ndarray, "h w 3 o"], convention: Convention
) -> Float[np.ndarray, "h w 3 o"]:
    """The inverse of `fold_input`."""
    kernel = kernel * np.asarray(convention.divisor, np.float32)[:, None]
    return kernel[:, :, ::-1] if convention.order == "BGR" else kernel


def fold_batch_norm(
    scale: Float[np.ndarray, " o"] | None,
    offset: Float[np.ndarray, " o"] | None,
    mean: Float[np.ndarray, " o"],
    variance: Float[np.ndarray, " o"],
    epsilon: float,
) -> tuple[Float[np.ndarray, " o"], Float[np.ndarray, " o"]]:
    """(factor of the kernel and of the bias before it, what is added to that bias), in float64.

    gamma (y - mean) / sqrt(variance + epsilon) + beta = factor y + added.
    """
    factor = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
    if scale is not None:
        factor = factor * scale
    added = -mean * factor
    return factor, added if offset is None else added + offset


@dataclasses.dataclass(frozen=True)
class MeanShift:
    """A first layer for another mean.

    Attributes:
        bias: of the first layer.
        bound: the largest error of an output of the first layer; 0 where no window reads padding.
    """

    bias: np.ndarray
    bound: float

    def text(self) -> str:
        if not self.bound:
            return "exact for images of the net's size, of which the first layer reads no padding"
        where = "at the image's border, where outputs of the first layer are off by up to"
        return f"exact but {where} {self.bound:.3g}"


def shift_mean(
    kernel: Float[np.ndarray, "h w 3 o"],
    bias: Float[np.ndarray, " o"],
    old: Float[np.ndarray, " 3"],
    new: Float[np.ndarray, " 3"],
    window: Window,
    image_size: int,
) -> MeanShift:
    """The first layer of a net for images minus `new` instead of `old`.

    b' = b + sum of W (new - old). Exact only where the whole window lies in the image: a position in the
    padding, which contributed nothing, now acts as W (new - old).

    Raises:
        ValueError: the means differ by more than LARGEST_SHIFT, and the first layer reads padding.
    """
    difference = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    moved = np.einsum("hwco,c->hwo", kernel.astype(np.float64), difference)
    outside = _outside(window, image_size)
    bound = max((float(np.abs(moved[mask].sum(0)).max()) for mask in outside), default=0.0)
    if bound and np.abs(difference).max() > LARGEST_SHIFT:
        raise ValueError(
            f"the means differ by up to {np.abs(difference).max():.4g} grey levels, and the first layer "
            f"reads padding: its outputs would be off by up to {bound:.3g} at the image's border; keep the "
            "mean of the weights (leave --mean out)"
        )
    return MeanShift((bias + moved.sum((0, 1))).astype(np.float32), bound)


def _outside(window: Window, image_size: int) -> list[np.ndarray]:
    """bool[H,W] masks: the positions of a window that lie in the padding, of each kind of border position."""
    starts = (i * window.stride - window.before for i in range(window.out(image_size)))
    rows = {tuple(not 0 <= start + k < image_size for k in range(window.size)) for start in starts}
    masks = [np.logical_or.outer(np.array(r), np.array(c)) for r in rows for c in rows]
    return [mask for mask in masks if mask.any()]
