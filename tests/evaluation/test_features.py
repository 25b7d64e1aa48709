"""Outputs of layers by name."""

import jax
import numpy as np
import pytest

from jaxcnn.evaluation.features import check_layer, layer_names, layer_output
from tests.evaluation.small import net_and_params
from tests.models.narrow import features, picture, quick_jit, short_googlenet


@pytest.fixture(scope="module")
def images():
    return picture(2, 32, 32)


def test_layers_are_in_the_order_of_the_pass():
    names = layer_names(net_and_params("alexnet")[0])
    assert names == [
        *("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5"),
        *("fc6", "fc7", "fc8"),
    ]  # fmt: skip


def test_towers_are_joined_and_values_are_rectified():
    net, params = net_and_params("alexnet")
    views = picture(2, 72, 72)
    run = quick_jit(lambda params, views: layer_output(net, {"params": params}, views, "conv2"))
    found = np.asarray(run(params, views))
    np.testing.assert_allclose(
        found, features(net, {"params": params}, views, ("conv2",))["conv2"], rtol=1e-5, atol=1e-5
    )
    assert found.shape == (2, 8, 8, 26)
    assert found.min() == 0 < found.max()


def test_layers_inside_a_module(images):
    with short_googlenet():
        net, params = net_and_params("googlenet")
        run = jax.jit(
            lambda views: [
                layer_output(net, {"params": params}, views, name)
                for name in ("inception_4a", "inception_4a/conv1x1")
            ],
            compiler_options={"xla_backend_optimization_level": 0},
        )
        whole, first = map(np.asarray, run(images))
        assert "inception_4b" not in layer_names(net)
    np.testing.assert_array_equal(whole[..., : first.shape[-1]], first)


def test_an_unknown_layer_names_the_nearest():
    net = net_and_params("vgg")[0]
    with pytest.raises(
        ValueError, match=r"VGG has no layer 'fc77'; did you mean fc7\? .*: conv1_1, p"
    ):
        check_layer(net, "fc77")
