"""Chooses the form in which a platform computes an operation; no other module does.

Every operation has a plain form, XLA's, and forms that are faster on one platform (the other files of this
folder). The choice is part of the compiled program (`lax.platform_dependent`). Each operation has one custom
gradient for all forms, so that the backward pass keeps only the operation's inputs.
The environment variable JAXCNN_KERNELS=off, read when a function is traced, selects the plain forms.
"""

import os
from collections.abc import Callable
from functools import cache, partial

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

_Form = Callable[[Array, Array], Array]


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


def plain_convolve(x: Array, kernel: Array, window: Window, groups: int = 1) -> Array:
    """`convolve` in XLA's form."""
    strides, layout = (window.stride, window.stride), ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, strides, window.padding, dimension_numbers=layout, feature_group_count=groups
    )


def _by_platform(usual: _Form, **special: _Form) -> _Form:
    """A convolution in the form of the platform it is compiled for, with one gradient for all forms."""

    @jax.custom_vjp
    def chosen(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, default=usual, **special)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return chosen(x, kernel), (x, kernel)

    def backward(inputs: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        def gradient_of(form: _Form) -> Callable[..., tuple[Array, Array]]:
            return lambda x, kernel, cotangent: jax.vjp(form, x, kernel)[1](cotangent)

        gradients = {platform: gradient_of(form) for platform, form in special.items()}
        return lax.platform_dependent(*inputs, cotangent, default=gradient_of(usual), **gradients)

    chosen.defvjp(forward, backward)
    return chosen


@jax.custom_vjp
def _winograd(x: Array, kernel: Array) -> Array:
    return winograd.convolve_winograd(x, kernel)


def _winograd_backward(inputs: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    """Winograd for the input's gradient; the kernel's gradient is no faster in this form."""
    x, kernel = inputs
    to_input = winograd.convolve_winograd(cotangent, jnp.swapaxes(kernel[::-1, ::-1], 2, 3))
    of_kernel = jax.linear_transpose(lambda k: plain_convolve(x, k, SAME_3X3), kernel)
    return to_input, of_kernel(cotangent)[0]


_winograd.defvjp(lambda x, kernel: (_winograd(x, kernel), (x, kernel)), _winograd_backward)
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
    return _max_pool(x, window) if enabled() else plain_max_pool(x, window)


def plain_max_pool(x: Array, window: Window) -> Array:
    """`max_pool` in XLA's form."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *pool_arguments(window))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, window: Window) -> Array:
    on_cpu = partial(max_pool_slices.max_pool, window=window)
    return lax.platform_dependent(x, cpu=on_cpu, default=partial(plain_max_pool, window=window))


def _max_pool_forward(x: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    y: Array = _max_pool(x, window)
    return y, (x, y)


def _max_pool_backward(window: Window, x_y: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    def plain(x: Array, y: Array, cotangent: Array) -> Array:
        del y
        return jax.vjp(partial(plain_max_pool, window=window), x)[1](cotangent)[0]

    on_cpu = partial(max_pool_slices.gradient, window=window)
    return (lax.platform_dependent(*x_y, cotangent, cpu=on_cpu, default=plain),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


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
    return _multiply(rows, kernel, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply(rows: Array, kernel: Array, dtype: str) -> Array:
    plain = partial(matmul.plain, dtype=dtype)
    if not matmul.groups_pay(rows.shape, kernel.shape):
        return plain(rows, kernel)
    in_groups = partial(matmul.in_groups, dtype=dtype)
    return lax.platform_dependent(rows, kernel, cpu=in_groups, default=plain)


def _multiply_forward(rows: Array, kernel: Array, dtype: str) -> tuple[Array, tuple[Array, Array]]:
    return _multiply(rows, kernel, dtype), (rows, kernel)


def _multiply_backward(
    dtype: str, inputs: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    rows, kernel = inputs

    def plain(rows: Array, kernel: Array, cotangent: Array) -> Array:
        return jax.vjp(lambda r: matmul.plain(r, kernel, dtype), rows)[1](cotangent)[0]

    on_cpu = matmul.rows_gradient if matmul.blocks_fit(kernel.shape) else plain
    to_rows = lax.platform_dependent(rows, kernel, cotangent, cpu=on_cpu, default=plain)
    return to_rows, jax.vjp(lambda k: matmul.plain(rows, k, dtype), kernel)[1](cotangent)[0]


_multiply.defvjp(_multiply_forward, _multiply_backward)


def slide(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"]) -> Float[Array, "b oh ow o"]:
    """A fully connected layer at every position of a larger feature map, without padding."""
    if not enabled():
        return plain_slide(x, kernel)
    on_cpu = partial(matmul.slide, multiply=multiply)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain_slide)


def plain_slide(x: Array, kernel: Array) -> Array:
    """`slide` as a convolution."""
    return plain_convolve(x, kernel, Window(len(kernel)))
