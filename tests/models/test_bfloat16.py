"""bfloat16 nets: long sums are float32; a result is rounded once, a class score not at all."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.models import build, ops
from jaxcnn.models.context import INFERENCE, Context
from jaxcnn.models.kernels import dispatch
from jaxcnn.models.layers import Conv, FullyConnected, LocallyConnected
from jaxcnn.models.window import Window, same
from tests.models.narrow import picture, quick_jit, random_variables, short_googlenet

# Name -> (layer, its input's shape, whether the input is a padded feature map).
BIASED = {"kernel_init": nn.initializers.zeros, "dtype": "bfloat16", "bias": 1.0}
LAYERS = {
    "conv": (Conv(4, same(1), **BIASED), (4, 20, 20), False),
    "locally_connected": (LocallyConnected(4, same(1), **BIASED), (1000, 1, 1), False),
    "fully_connected": (FullyConnected(4, Window(1), **BIASED), (1000, 1, 1), False),
    "sliding": (FullyConnected(4, Window(2), **BIASED), (4, 20, 20), True),
}


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
def test_a_bias_gradient_is_summed_in_float32(case):
    """Of more than a thousand equal terms; a sum in bfloat16 of terms of 1 stops at 256."""
    layer, shape, padded = case
    x = jnp.ones((*shape, 2), jnp.bfloat16)
    sizes = jnp.full((shape[0], 2), shape[1], jnp.int32)
    context = Context(sizes) if padded else INFERENCE
    variables = jax.eval_shape(layer.init, jax.random.key(0), x, context)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)

    @quick_jit
    def gradient(variables):
        return jax.grad(lambda v: layer.apply(v, x, context).astype(jnp.float32).sum())(variables)

    bias = gradient(variables)["params"]["bias"]
    outputs = jax.eval_shape(layer.apply, variables, x, context).size
    assert_array_equal(bias, jnp.full_like(bias, outputs / bias.size))


def test_an_average_pool_is_summed_in_float32():
    x = jnp.asarray(1 + np.random.default_rng(0).normal(size=(2, 7, 7, 8)), jnp.bfloat16)
    y = quick_jit(lambda x: ops.average_pool(x, Window(7)))(x)
    exact = x.astype(jnp.float32).mean((1, 2), keepdims=True)
    assert y.dtype == jnp.bfloat16
    assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8)
    gradient = quick_jit(jax.grad(lambda x: ops.average_pool(x, Window(7)).sum()))(x)
    assert gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize("setting", ["on", "off"])
@pytest.mark.parametrize("side", [1, 3])
def test_scores_at_every_position_are_not_rounded(side, setting, monkeypatch):
    """In the form for CPUs and in the plain one; and their gradients exist."""
    monkeypatch.setenv(dispatch.SWITCH, setting)
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(2, 4, 5, 64)), jnp.bfloat16)
    kernel = jnp.asarray(generator.normal(size=(side, side, 64, 6)), jnp.bfloat16)

    def slide(x, kernel):
        return dispatch.slide(x, kernel, "float32")

    y = quick_jit(slide)(x, kernel)
    exact = dispatch.plain_convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), Window(side))
    assert_allclose(y, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    gradients = quick_jit(jax.grad(lambda *a: slide(*a).sum(), argnums=(0, 1)))(x, kernel)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]


@pytest.mark.slow  # compiles ten nets
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("alexnet", {"image_size": 64, "width": 0.1}),
        ("vgg", {"image_size": 32, "width": 0.1, "column": "A"}),
        ("googlenet", {"image_size": 32, "width": 0.1}),
        ("googlenet", {"image_size": 32, "width": 0.1, "head": "fully_connected"}),
        ("cuda_convnet", {"width": 0.2, "local": "shared"}),
    ],
)
def test_a_score_map_is_as_exact_as_the_plain_call(name, fields):
    with short_googlenet():
        net = build(name, num_classes=40, dtype="bfloat16", dropout=0.0, **fields)
        variables, side = random_variables(net), net.image_size
        images, sizes = jnp.asarray(picture(1, side, side)), jnp.array([[side, side]], jnp.int32)

        @quick_jit
        def both(variables):
            plain, _ = net.apply(variables, images)
            return plain, net.apply(variables, images, sizes, method="score_map")[0]

        plain, scores = both(variables)
    assert scores.dtype == jnp.float32
    assert jnp.any(scores != scores.astype(jnp.bfloat16).astype(jnp.float32))
    assert_allclose(scores[0, 0, 0], plain[0], rtol=0, atol=0.02 * np.abs(plain).max())
