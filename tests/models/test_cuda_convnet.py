"""The CIFAR-10 net: the order of its layers, its unshared weights, its initial weights and its errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.models import build, ops
from jaxcnn.models.kernels import dispatch
from jaxcnn.models.ops import LRN_CONSTANTS, Window
from tests.models.narrow import abstract_variables, features, picture, quick_jit, random_variables

POOL = Window(3, 2, 0, 1)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_order_of_the_layers(activation):
    """Pool before LRN after conv1, LRN before pool after conv2; each layer from the one before."""
    net = build("cuda_convnet", width=0.1, activation=activation)
    variables, images = random_variables(net), jnp.asarray(picture(2, 24, 24))
    seen = features(net, variables, images)
    function = {"relu": jax.nn.relu, "tanh": jnp.tanh}[activation]

    def weighted(layer, x, op, window):
        params = variables["params"][layer]
        y = op(x, params["kernel"], window)
        bias = params["bias"]
        return function(y + bias.reshape((1,) * (4 - bias.ndim) + bias.shape))

    def lrn(x):
        return ops.lrn(x, *LRN_CONSTANTS["cifar10"])

    @quick_jit
    def each_layer(seen):
        return {
            "conv1": weighted("conv1", images, dispatch.convolve, Window(5, 1, 2, 2)),
            "pool1": dispatch.max_pool(seen["conv1"], POOL),
            "norm1": lrn(seen["pool1"]),
            "conv2": weighted("conv2", seen["norm1"], dispatch.convolve, Window(5, 1, 2, 2)),
            "norm2": lrn(seen["conv2"]),
            "pool2": dispatch.max_pool(seen["norm2"], POOL),
            "local3": weighted("local3", seen["pool2"], ops.convolve_locally, Window(3, 1, 1, 1)),
            "local4": weighted("local4", seen["local3"], ops.convolve_locally, Window(3, 1, 1, 1)),
            "fc": jnp.einsum("bhwc,hwck->bk", seen["local4"], variables["params"]["fc"]["kernel"])
            + variables["params"]["fc"]["bias"][None],
        }

    expected = each_layer(seen)
    assert set(seen) == set(expected)
    for layer, value in expected.items():
        assert_allclose(seen[layer], value, rtol=1e-3, atol=1e-4, err_msg=layer)
    assert (np.asarray(seen["local3"]).min() < 0) == (activation == "tanh")


def test_a_kernel_belongs_to_one_position():
    net = build("cuda_convnet", width=0.1)
    variables, images = random_variables(net), jnp.asarray(picture(1, 24, 24))
    before = np.asarray(features(net, variables, images)["local3"])
    for leaf in ("kernel", "bias"):
        local3 = dict(variables["params"]["local3"])
        local3[leaf] = np.array(local3[leaf])
        local3[leaf][1, 4] += 1
        params = {**variables["params"], "local3": local3}
        after = np.asarray(features(net, {"params": params}, images)["local3"])
        changed = np.argwhere(np.any(before != after, axis=-1))
        assert_array_equal(changed, [[0, 1, 4]], err_msg=leaf)


def test_tanh_has_no_relu():
    net = build("cuda_convnet", width=0.1, activation="tanh")
    images = jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32)
    text = str(jax.make_jaxpr(net.apply)(abstract_variables(net), images))
    assert text.count(" tanh ") == 4
    assert "relu" not in text


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_initial_weights(width):
    """The published deviations; where the inputs of a kernel are fewer, larger by the root."""
    net = build("cuda_convnet", width=width)
    init = quick_jit(lambda key: net.init(key, jnp.zeros((1, 24, 24, 3)))["params"])
    params = init(jax.random.key(0, impl="unsafe_rbg"))  # compiles fastest
    for layer, std in {
        "conv1": 1e-4,
        "conv2": 0.01 / math.sqrt(width),
        "local3": 0.04 / math.sqrt(width),
        "local4": 0.04 / math.sqrt(width),
        "fc": 0.01 / math.sqrt(width),
    }.items():
        kernel = np.asarray(params[layer]["kernel"])
        tolerance = 4 / math.sqrt(2 * kernel.size)
        assert_allclose(kernel.std(), std, rtol=tolerance, err_msg=layer)
        assert abs(kernel.mean()) < 5 * std / math.sqrt(kernel.size)
        assert_array_equal(params[layer]["bias"], 0)


def test_score_map_of_unshared_weights():
    """At image_size the plain call's logits, in one cell; a smaller image has no cell."""
    net = build("cuda_convnet", width=0.1, num_classes=5)
    variables, images = random_variables(net), jnp.asarray(picture(2, 24, 24))

    @quick_jit
    def both(images, sizes):
        return net.apply(variables, images, sizes, method="score_map"), net.apply(variables, images)

    (scores, valid), (logits, aux) = both(images, jnp.array([[24, 24], [23, 24]], jnp.int32))
    assert aux == ()
    assert_array_equal(valid[:, 0, 0], [True, False])
    assert_allclose(scores[0, 0, 0], logits[0], rtol=1e-4, atol=1e-4)
    assert_array_equal(scores[1], 0)


@pytest.mark.parametrize("size", [(32, 32), (24, 25), (16, 16)])
def test_score_map_of_unshared_weights_of_other_sizes_is_an_error(size):
    net = build("cuda_convnet", width=0.1)
    images = jnp.zeros((1, *size, 3))
    seen = f"{size[0]}x{size[1]} images.*kernel for each of the 6x6 positions.*local='shared'"
    with pytest.raises(ValueError, match=seen):
        net.apply({}, images, jnp.array([size], jnp.int32), method="score_map")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dropout": 0.5}, "dropout=0.5, but this net has none: leave it at 0.0"),
        ({"dropout": 1.5}, "dropout=1.5 is not a probability"),
        ({"local": "tied"}, "local='tied' is not one of 'unshared', 'shared'"),
        ({"activation": "none"}, "activation='none' is not one of 'relu', 'tanh'"),
        ({"image_size": 3}, "image_size=3 is too small: give 4 or more"),
    ],
)
def test_wrong_fields_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        build("cuda_convnet", **fields)
