"""Windows of convolutions and pools: kernel side, stride, padding, and the sizes that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Int

Length = TypeVar("Length", int, Array)
# True (height, width) of each image in a padded batch; None where no image is padded.
Sizes = Int[Array, "b 2"] | None


@dataclass(frozen=True)
class Window:
    """A square window that slides over a feature map: of a convolution, a pool or a layer.

    `before` is the padding above and on the left, `after` the padding below and on the right.
    """

    size: int
    stride: int = 1
    before: int = 0
    after: int = 0

    def out(self, length: Length) -> Length:
        """The output side for an input side; a partial window at the end is left out.

        Never below zero, so that a chain of windows on too small an image stays empty.
        """
        covered = length + (self.before + self.after - self.size)
        if isinstance(covered, int):
            return max(covered // self.stride + 1, 0)
        return jnp.maximum(covered // self.stride + 1, 0)

    def min_input(self, out: int) -> int:
        """The smallest input side with an output of side `out`."""
        return max((out - 1) * self.stride + self.size - self.before - self.after, 1)

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return ((self.before, self.after), (self.before, self.after))


def same(size: int) -> Window:
    """The window of stride 1 and odd side that keeps the size of a feature map."""
    return Window(size, 1, size // 2, size // 2)


def map_side(windows: Sequence[Window], side: int) -> int:
    """The side of the feature map after a chain of windows."""
    for window in windows:
        side = window.out(side)
    return side


def min_input_size(windows: Sequence[Window], out: int) -> int:
    """The smallest input side of a chain of windows whose output has side `out`."""
    for window in reversed(windows):
        out = window.min_input(out)
    return out
