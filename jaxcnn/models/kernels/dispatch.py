"""Chooses the form in which a platform computes an operation; no other module does.

Every operation has a plain form, XLA's, and forms that are faster on one platform (the other files of this
folder). The choice is part of the compiled program (`lax.platform_dependent`). Derivatives choose their forms
in the same way (multilinear.py), and keep an operation's inputs, and of max-pools the output.
The environment variable JAXCNN_KERNELS=off, read when a function is traced, selects the plain forms, as
`plain_forms` does.
"""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jaxtyping import Array, Float

from jaxcnn.models.kernels import matmul, max_pool_slices, space_to_depth, winograd
from jaxcnn.models.kernels.multilinear import Form, Multilinear, bilinear, bilinear_terms
from jaxcnn.models.window import Window, same

SWITCH = "JAXCNN_KERNELS"
# The first layers of AlexNet and GoogLeNet read an image's three channels.
IMAGE_CHANNELS = 4
SAME_3X3 = same(3)
_PLAIN = ContextVar("plain_forms", default=False)


def enabled() -> bool:
    """Whether platform-specific forms are used; a ValueError unless the variable is 'on' or 'off'."""
    if _PLAIN.get():
        return False
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise ValueError(f"{SWITCH}={value!r}: set it to 'on' (the default) or 'off'")
    return value == "on"


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """What is traced inside takes the plain forms: they allow a batch of any size, and suit every platform.

    A jitted function keeps what was traced first: give a function of its own to a jit inside.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw ci co"],
    window: Window,
    groups: int = 1,
) -> Float[Array, "b oh ow co"]:
    """Cross-correlation with explicit zero padding; `groups` > 1 is for depthwise kernels only."""
    if groups == 1 and enabled():
        if window == SAME_3X3 and winograd.pays(x.shape, kernel.shape):
            return _winograd_on_cpu(x, kernel)
        if window.stride > 1 and x.shape[-1] <= IMAGE_CHANNELS:
            return _space_to_depth_on_gpu(window)(x, kernel)
    return plain_convolve(x, kernel, window, groups)


def plain_convolve(
    x: Array, kernel: Array, window: Window, groups: int = 1, dtype: str = ""
) -> Array:
    """`convolve` in XLA's form; summed in and returned as `dtype`, by default that of x."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (window.stride, window.stride),
        window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=jnp.dtype(dtype) if dtype else None,
    )


def _winograd_to_x(kernel: Array, y: Array, like: ShapedArray) -> Array:
    del like
    return winograd.convolve_winograd(y, jnp.swapaxes(kernel[::-1, ::-1], 2, 3))


# The kernel's gradient is no faster in this form.
_winograd_on_cpu = bilinear(
    partial(plain_convolve, window=SAME_3X3),
    {
        "cpu": {
            0: _winograd_to_x,
            2: lambda x, kernel, like: winograd.convolve_winograd(x, kernel),  # noqa: ARG005
        }
    },
)


@cache
def _space_to_depth_on_gpu(window: Window) -> Form:
    fold = partial(space_to_depth.convolve_space_to_depth, window=window)
    folded = dict(enumerate(bilinear_terms(fold)))
    # XLA does the same for TPUs, and estimates a tenth more cycles for AlexNet's step with this form.
    return bilinear(partial(plain_convolve, window=window), {"cuda": folded, "rocm": folded})


def max_pool(x: Float[Array, "b h w c"], window: Window) -> Float[Array, "b oh ow c"]:
    """Max-pool whose padding is -inf, so that it is never the maximum.

    Among equal maxima of a window the first, row by row, takes the gradient.
    """
    return _max_pool(window)(x) if enabled() else plain_max_pool(x, window)


def plain_max_pool(x: Array, window: Window) -> Array:
    """`max_pool` in XLA's form."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *pool_arguments(window))


@cache
def _max_pool(window: Window) -> Form:
    usual, on_cpu = (partial(f, window=window) for f in (plain_max_pool, max_pool_slices.max_pool))
    slices = partial(max_pool_slices.gradient, window=window)

    @jax.custom_jvp
    def pool(x: Array) -> Array:
        return lax.platform_dependent(x, cpu=on_cpu, default=usual)

    def gradient(x: Array, y: Array, cotangent: Array, like: ShapedArray) -> Array:
        del y, like
        return jax.vjp(usual, x)[1](cotangent)[0]

    def on_slices(x: Array, y: Array, cotangent: Array, like: ShapedArray) -> Array:
        del like
        return slices(x, y, cotangent)

    def tangent(x: Array, y: Array, tangent: Array, like: ShapedArray) -> Array:
        # On every platform: that of `reduce_window` rounds a tangent in float64 to float32.
        return jax.linear_transpose(lambda cotangent: slices(x, y, cotangent), like)(tangent)[0]

    # Which value of a window is its maximum is constant: the tangents of x and y are the terms.
    linear = Multilinear((gradient, tangent), constants=2, special={"cpu": {0: on_slices}})

    @pool.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (x,), (tangent,) = primals, tangents
        y = pool(x)
        return y, linear(1, y, x, y, tangent)

    return pool


def pool_arguments(window: Window):
    """Dimensions, strides and padding of `lax.reduce_window` over the two axes of a feature map."""
    dimensions = (1, window.size, window.size, 1)
    strides = (1, window.stride, window.stride, 1)
    return dimensions, strides, ((0, 0), *window.padding, (0, 0))


def multiply(
    rows: Float[Array, "m i"], kernel: Float[Array, "i o"], dtype: str
) -> Float[Array, "m o"]:
    """rows @ kernel, summed in and returned as `dtype`: a fully connected layer."""
    if kernel.size <= matmul.LARGE or not enabled():
        return matmul.plain(rows, kernel, dtype)
    return _multiply(dtype)(rows, kernel)


@cache
def _multiply(dtype: str) -> Form:
    plain = partial(matmul.plain, dtype=dtype)
    plain_to_rows, _, _ = bilinear_terms(plain)

    def forward(rows: Array, kernel: Array, like: ShapedArray) -> Array:
        del like
        if matmul.groups_pay(rows.shape, kernel.shape):
            return matmul.in_groups(rows, kernel, dtype)
        return plain(rows, kernel)

    def to_rows(kernel: Array, y: Array, like: ShapedArray) -> Array:
        fits = matmul.blocks_fit(kernel.shape)
        return (matmul.rows_gradient if fits else plain_to_rows)(kernel, y, like)

    return bilinear(plain, {"cpu": {0: to_rows, 2: forward}})


def slide(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"], dtype: str
) -> Float[Array, "b oh ow o"]:
    """A fully connected layer at every position of a larger feature map, without padding, summed in and
    returned as `dtype`."""
    if not enabled():
        return plain_slide(x, kernel, dtype)
    on_cpu = partial(matmul.slide, dtype=dtype, multiply=multiply)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=partial(plain_slide, dtype=dtype))


def plain_slide(x: Array, kernel: Array, dtype: str) -> Array:
    """`slide` as a convolution."""
    return plain_convolve(x, kernel, Window(len(kernel)), dtype=dtype)
