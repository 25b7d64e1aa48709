"""Convolutions in NHWC, each in the form that its platform computes fastest."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.models.kernels import space_to_depth, winograd

Length = TypeVar("Length", int, Array)


@dataclass(frozen=True)
class Window:
    """A square window that slides over a map: of a convolution, a pool or a layer.

    `before` is the padding above and on the left, `after` the padding below and on the right.
    """

    size: int
    stride: int = 1
    before: int = 0
    after: int = 0

    def out(self, length: Length) -> Length:
        """The side of the map put out, for an input side; a partial window at the end is left out.

        Never below zero, so that a chain of windows on too small an image stays empty.
        """
        covered = length + (self.before + self.after - self.size)
        if isinstance(covered, int):
            return max(covered // self.stride + 1, 0)
        return jnp.maximum(covered // self.stride + 1, 0)

    def smallest_input(self, out: int) -> int:
        """The smallest input side that gives a map of side `out`."""
        return max((out - 1) * self.stride + self.size - self.before - self.after, 1)

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return ((self.before, self.after), (self.before, self.after))


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw ci co"],
    window: Window,
    groups: int = 1,
) -> Float[Array, "b oh ow co"]:
    """Cross-correlation with explicit zero padding; `groups` > 1 is for depthwise kernels only."""
    if groups > 1:
        return plain(x, kernel, window, groups)
    if window == SAME_3X3 and winograd.pays(x.shape, kernel.shape):
        return _small_on_cpu(x, kernel)
    if window.stride > 1 and x.shape[-1] <= COLOURS:
        return _colours(window)(x, kernel)
    return plain(x, kernel, window)


def plain(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw ci co"],
    window: Window,
    groups: int = 1,
) -> Float[Array, "b oh ow co"]:
    """`convolve` as XLA computes it by itself."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (window.stride, window.stride),
        window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


# Channels of an image, of which the first layers of AlexNet and GoogLeNet take squares of pixels.
COLOURS = 4
SAME_3X3 = Window(3, 1, 1, 1)

_Form = Callable[[Array, Array], Array]


def _chosen(usual: _Form, **special: _Form) -> _Form:
    """A convolution of x with a kernel in its `usual` form, or that of the platform it is compiled for.

    With a gradient of its own, so that the choice stands outside of it: the backward pass keeps x and kernel,
    once, whatever the forms would keep.
    """

    @jax.custom_vjp
    def chosen(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, default=usual, **special)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return chosen(x, kernel), (x, kernel)

    def backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
        def of(form: _Form) -> Callable[..., tuple[Array, Array]]:
            return lambda x, kernel, slope: jax.vjp(form, x, kernel)[1](slope)

        gradients = {platform: of(form) for platform, form in special.items()}
        return lax.platform_dependent(*kept, slope, default=of(usual), **gradients)

    chosen.defvjp(forward, backward)
    return chosen


@jax.custom_vjp
def _winograd(x: Array, kernel: Array) -> Array:
    return winograd.convolve_winograd(x, kernel)


def _winograd_backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    """The kernel's gradient is no faster in this form."""
    x, kernel = kept
    to_input = winograd.convolve_winograd(slope, jnp.swapaxes(kernel[::-1, ::-1], 2, 3))
    return to_input, jax.linear_transpose(lambda k: plain(x, k, SAME_3X3), kernel)(slope)[0]


_winograd.defvjp(lambda x, kernel: (_winograd(x, kernel), (x, kernel)), _winograd_backward)
_small_on_cpu = _chosen(partial(plain, window=SAME_3X3), cpu=_winograd)


@cache
def _colours(window: Window) -> _Form:
    def fold(x: Array, kernel: Array) -> Array:
        return space_to_depth.convolve_space_to_depth(
            x, kernel, window.stride, window.before, window.after
        )

    # XLA does the like for TPUs by itself, and estimates a tenth more cycles for AlexNet's step with this.
    return _chosen(partial(plain, window=window), cuda=fold, rocm=fold)
