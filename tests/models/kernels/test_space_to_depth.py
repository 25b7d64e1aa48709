"""The space-to-depth form of first layers, which GPUs use, against the plain convolution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcnn.models import build
from jaxcnn.models.kernels import dispatch, space_to_depth
from jaxcnn.models.window import Window
from tests.models.kernels.test_cpu_forms import check, drawn, operand_shapes
from tests.models.narrow import abstract_variables, quick_jit


def fold(x, kernel, window):
    return space_to_depth.convolve_space_to_depth(x, kernel, window)


def first_layers():
    """(image, kernel, window) of the nets' strided layers on three channels."""
    found = operand_shapes()["convolve"]
    return {s[:3] for s in found if s[1][2] <= dispatch.IMAGE_CHANNELS and s[2].stride > 1}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_nets_first_layers(dtype):
    layers = first_layers()
    assert {(kernel[0], window.stride) for _, kernel, window in layers} == {(11, 4), (7, 2)}
    with jax.enable_x64(dtype == "float64"):
        for image, kernel, window in layers:
            side = image[0] if dtype == "float32" else 64
            arrays = drawn(dtype, (1, side, side, 3), (*kernel[:3], 8))
            check(
                lambda x, k, w=window: fold(x, k, w),
                lambda x, k, w=window: dispatch.plain_convolve(x, k, w),
                arrays,
                1e-5 if dtype == "float32" else 1e-12,
            )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_other_windows_and_sides(size, stride):
    paddings, kernel = ((0, 0), (1, 0), (0, 2), (3, 3)), (size, size, 3, 2)
    *images, kernel = drawn("float32", (1, 9, 12, 3), (1, 10, 7, 3), kernel)

    @quick_jit
    def both(images, kernel):
        windows = [Window(size, stride, *padding) for padding in paddings]
        return [
            [form(x, kernel, window) for window in windows for x in images]
            for form in (fold, dispatch.plain_convolve)
        ]

    for one, other in zip(*both(images, kernel), strict=True):
        assert_allclose(one, other, rtol=0, atol=1e-4)


def test_which_platforms_take_it():
    for image, kernel, window in first_layers():
        folded = {11: 48, 7: 12}[kernel[0]]
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *image), kernel))
        traced = jax.jit(partial(dispatch.convolve, window=window)).trace(*shapes)
        for platform, channels in (("cuda", folded), ("rocm", folded), ("tpu", 3), ("cpu", 3)):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            (line,) = (line for line in text.splitlines() if "stablehlo.convolution" in line)
            assert f"x{channels}xf32>, tensor<" in line


@pytest.mark.parametrize(("name", "channels"), [("alexnet", 48), ("googlenet", 12)])
def test_a_net_lowered_for_gpus_takes_it(name, channels):
    net = build(name, num_classes=4, width=0.1, image_size=72)
    images = jax.ShapeDtypeStruct((1, 72, 72, 3), jnp.float32)
    traced = jax.jit(net.apply).trace(abstract_variables(net), images)
    for platform, expected in (("cuda", channels), ("cpu", 3)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        first = next(line for line in text.splitlines() if "stablehlo.convolution" in line)
        assert f"x{expected}xf32>, tensor<" in first


def test_the_map_beyond_the_image_is_zero():
    x, kernel = np.ones((1, 4, 4, 3), np.float32), np.ones((3, 3, 3, 1), np.float32)
    y = fold(jnp.asarray(x), jnp.asarray(kernel), Window(3, 2, 1, 1))
    assert y[0, :, :, 0].tolist() == [[12, 18], [18, 27]]
