"""Chooses the form in which a platform computes an operation; no other module does.

Every operation has a plain form, XLA's, and forms that are faster on one platform (the other files of this
folder). The choice is part of the compiled program (`lax.platform_dependent`). Each operation has one custom
gradient for all forms, so that the backward pass keeps only the operation's inputs.
The environment variable JAXCNN_KERNELS=off, read when a function is traced, selects the plain forms.
"""

import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.models.kernels import matmul, max_pool_slices, space_to_depth, winograd
from jaxcnn.models.window import Window, same

SWITCH = "JAXCNN_KERNELS"
# The first layers of AlexNet and GoogLeNet read an image's three channels.
IMAGE_CHANNELS = 4
SAME_3X3 = same(3)

_Form = Callable[..., Any]


def enabled() -> bool:
    """Whether platform-specific forms are used; a ValueError unless the variable is 'on' or 'off'."""
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise ValueError(f"{SWITCH}={value!r}: set it to 'on' (the default) or 'off'")
    return value == "on"


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


def _with_gradient(form: _Form, gradient: _Form) -> _Form:
    """`form` with the custom gradient `gradient(*inputs, output, cotangent)`, a tuple."""
    function = jax.custom_vjp(form)

    def forward(*inputs: Array) -> tuple[Array, tuple[Array, ...]]:
        output = function(*inputs)
        return output, (*inputs, output)

    function.defvjp(forward, lambda kept, cotangent: gradient(*kept, cotangent))
    return function


def _by_platform(usual: _Form, **special: _Form) -> _Form:
    """A convolution in the form of the platform it is compiled for, with one gradient for all forms."""

    def gradient_of(form: _Form) -> _Form:
        return lambda x, kernel, cotangent: jax.vjp(form, x, kernel)[1](cotangent)

    def gradient(x: Array, kernel: Array, y: Array, cotangent: Array) -> tuple[Array, Array]:
        del y
        gradients = {platform: gradient_of(form) for platform, form in special.items()}
        return lax.platform_dependent(x, kernel, cotangent, default=gradient_of(usual), **gradients)

    def form(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, default=usual, **special)

    return _with_gradient(form, gradient)


def _winograd_gradient(x: Array, kernel: Array, y: Array, cotangent: Array) -> tuple[Array, Array]:
    """Winograd for the input's gradient; the kernel's gradient is no faster in this form."""
    del y
    to_input = winograd.convolve_winograd(cotangent, jnp.swapaxes(kernel[::-1, ::-1], 2, 3))
    of_kernel = jax.linear_transpose(lambda k: plain_convolve(x, k, SAME_3X3), kernel)
    return to_input, of_kernel(cotangent)[0]


_winograd = _with_gradient(winograd.convolve_winograd, _winograd_gradient)
_winograd_on_cpu = _by_platform(partial(plain_convolve, window=SAME_3X3), cpu=_winograd)


@cache
def _space_to_depth_on_gpu(window: Window) -> _Form:
    fold = partial(space_to_depth.convolve_space_to_depth, window=window)
    # XLA does the same for TPUs, and estimates a tenth more cycles for AlexNet's step with this form.
    return _by_platform(partial(plain_convolve, window=window), cuda=fold, rocm=fold)


def max_pool(x: Float[Array, "b h w c"], window: Window) -> Float[Array, "b oh ow c"]:
    """Max-pool whose padding is -inf, so that it is never the maximum.

    Among equal maxima of a window the first, row by row, takes the gradient.
    """
    return _max_pool(window)(x) if enabled() else plain_max_pool(x, window)


def plain_max_pool(x: Array, window: Window) -> Array:
    """`max_pool` in XLA's form."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *pool_arguments(window))


@cache
def _max_pool(window: Window) -> _Form:
    usual, on_cpu = (partial(f, window=window) for f in (plain_max_pool, max_pool_slices.max_pool))

    def plain_gradient(x: Array, y: Array, cotangent: Array) -> Array:
        del y
        return jax.vjp(usual, x)[1](cotangent)[0]

    def gradient(x: Array, y: Array, cotangent: Array) -> tuple[Array]:
        slices = partial(max_pool_slices.gradient, window=window)
        return (lax.platform_dependent(x, y, cotangent, cpu=slices, default=plain_gradient),)

    def form(x: Array) -> Array:
        return lax.platform_dependent(x, cpu=on_cpu, default=usual)

    return _with_gradient(form, gradient)


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
def _multiply(dtype: str) -> _Form:
    plain, in_groups = (partial(f, dtype=dtype) for f in (matmul.plain, matmul.in_groups))

    def form(rows: Array, kernel: Array) -> Array:
        if not matmul.groups_pay(rows.shape, kernel.shape):
            return plain(rows, kernel)
        return lax.platform_dependent(rows, kernel, cpu=in_groups, default=plain)

    def to_rows(rows: Array, kernel: Array, cotangent: Array) -> Array:
        return jax.vjp(lambda r: plain(r, kernel), rows)[1](cotangent)[0]

    def gradient(rows: Array, kernel: Array, y: Array, cotangent: Array) -> tuple[Array, Array]:
        del y
        on_cpu = matmul.rows_gradient if matmul.blocks_fit(kernel.shape) else to_rows
        of_rows = lax.platform_dependent(rows, kernel, cotangent, cpu=on_cpu, default=to_rows)
        return of_rows, jax.vjp(lambda k: plain(rows, k), kernel)[1](cotangent)[0]

    return _with_gradient(form, gradient)


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
