"""Products of fully connected layers: forms for CPUs against the plain ones, values and gradients."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcnn.models.context import Context
from jaxcnn.models.kernels import dispatch, matmul
from jaxcnn.models.layers import FullyConnected
from jaxcnn.models.window import Window
from tests.models.kernels.test_cpu_forms import check, drawn, operand_shapes

# (inputs, outputs) of the nets' layers that take a form of their own.
LARGE = [(9216, 4096), (4096, 4096), (4096, 1000), (25088, 4096)]


def test_layers_of_the_nets_that_take_a_form_of_their_own():
    found = {(*rows, kernel[1]) for rows, kernel, *_ in operand_shapes()["multiply"]}
    assert {(i, o) for i, o in found if i * o > matmul.LARGE} == set(LARGE)


def test_layer_takes_the_form_of_its_platform():
    layer = FullyConnected(4096, Window(1), nn.initializers.zeros)
    x = jax.ShapeDtypeStruct((2, 1, 1, 4096), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    slope = jax.grad(lambda x, params: layer.apply(params, x).sum())
    assert "multilinear[" in str(jax.make_jaxpr(slope)(x, params))
    sizes = jax.ShapeDtypeStruct((2, 2), jnp.int32)
    over_maps = jax.make_jaxpr(lambda params, x, sizes: layer.apply(params, x, Context(sizes)))
    assert "platform_index" in str(over_maps(params, x, sizes))


# The largest takes gigabytes in float64.
@pytest.mark.parametrize(
    ("dtype", "inputs", "outputs"),
    [
        *(("float32", 4096, 1000), ("float64", 4096, 1000)),
        *(
            pytest.param("float32", *shape, marks=pytest.mark.slow)
            for shape in LARGE
            if shape[1] > 1000
        ),
        *(pytest.param("float64", *shape, marks=pytest.mark.slow) for shape in LARGE[:2]),
    ],
)
def test_products_equal_the_plain_product(dtype, inputs, outputs):
    """The smallest of the nets' shapes, the others slow; 130 rows are two groups of 65, which
    `test_products_in_any_number_of_rows` has at small sizes."""
    with jax.enable_x64(dtype == "float64"):
        for rows in (3, 130) if inputs * outputs == 4096 * 4096 else (3,):
            arrays = drawn(dtype, (rows, inputs), (inputs, outputs))
            check(
                lambda x, kernel: dispatch.multiply(x, kernel, dtype),
                lambda x, kernel: matmul.plain(x, kernel, dtype),
                arrays,
                1e-5 if dtype == "float32" else 1e-12,
            )


@pytest.fixture
def small(monkeypatch):
    """Small layers take the forms of large ones."""
    for name, value in {"LARGE": 0, "_ROWS": 4, "_WIDE": 0, "_BLOCK": 8}.items():
        monkeypatch.setattr(matmul, name, value)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("rows", [1, 4, 5, 9, 16])
@pytest.mark.parametrize("inputs", [24, 12])  # three blocks; not whole blocks
def test_products_in_any_number_of_rows(rows, inputs):
    arrays = drawn("float32", (rows, inputs), (inputs, 10))
    lowered = jax.jit(lambda x, k: dispatch.multiply(x, k, "float32")).lower(*arrays)
    assert ("stablehlo.while" in lowered.as_text()) == (rows > 4)
    check(
        lambda x, kernel: dispatch.multiply(x, kernel, "float32"),
        lambda x, kernel: matmul.plain(x, kernel, "float32"),
        arrays,
        1e-5,
    )


@pytest.mark.usefixtures("small")
def test_products_of_bfloat16_come_out_in_float32_and_their_gradients_do_not():
    rows, kernel = drawn("bfloat16", (6, 16), (16, 10))
    y, pull = jax.vjp(lambda x, k: dispatch.multiply(x, k, "float32"), rows, kernel)
    assert y.dtype == jnp.float32
    assert [g.dtype for g in pull(y)] == [jnp.bfloat16, jnp.bfloat16]
    plain = jax.vjp(lambda x, k: matmul.plain(x, k, "float32"), rows, kernel)[1](y)
    for found, expected in zip(pull(y), plain, strict=True):
        found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
        assert_allclose(found, expected, rtol=0, atol=2**-7 * np.abs(expected).max())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("side", [1, 3])
def test_a_layer_that_slides_is_a_convolution(side):
    arrays = drawn("float32", (2, 5, 7, 4), (side, side, 4, 6))
    slides = (partial(f, dtype="float32") for f in (dispatch.slide, dispatch.plain_slide))
    check(*slides, arrays, 1e-5)
