"""Outputs of layers by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.evaluation.features import (
    check_layer,
    dense_layer_output,
    layer_names,
    layer_output,
    pooled_layer_output,
)
from jaxcnn.models import plain_forms
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


@pytest.mark.parametrize(("layer", "layers"), [("pool2", 2), ("fc6", 9)])
def test_nothing_after_the_layer_is_computed(layer, layers, images):
    """A jit drops the arguments that it does not need: the kernels and biases of later layers."""
    net, params = net_and_params("vgg")
    run = jax.jit(lambda params, views: layer_output(net, {"params": params}, views, layer))
    (signature,) = re.findall(r"@main\((.*)\) ->", run.lower(params, images).as_text())
    assert signature.count("%arg") == 2 * layers + 1


def test_pooled_is_the_mean_over_positions(images):
    net, params = net_and_params("vgg")

    def outputs(views):
        of = [
            layer_output(net, {"params": params}, views, "pool3", pooled=p) for p in (False, True)
        ]
        return [*of, layer_output(net, {"params": params}, views, "fc6", pooled=True)]

    maps, means, hidden = map(np.asarray, quick_jit(outputs)(images))
    np.testing.assert_allclose(means, maps.mean((1, 2)), rtol=1e-5)
    assert means.shape == (2, maps.shape[-1])
    assert hidden.ndim == 2


def test_layers_of_whole_images_equal_those_of_the_image_alone():
    net, params = net_and_params("alexnet")
    variables, views = {"params": params}, picture(2, 112, 90)
    alone = views[:1, :80, :90]
    sizes = jnp.array([[80, 90], [112, 90]])

    def both(views, sizes):
        layers = ("norm2", "fc7")
        return [dense_layer_output(net, variables, views, sizes, layer) for layer in layers]

    for (found, valid), (wanted, all_valid) in zip(
        quick_jit(both)(views, sizes), quick_jit(both)(alone, sizes[:1]), strict=True
    ):
        assert np.asarray(all_valid).all()
        height, width = wanted.shape[1:3]
        np.testing.assert_allclose(found[:1, :height, :width], wanted, rtol=1e-4, atol=1e-4)
        assert (int(valid[0].sum()), bool(valid[1].all())) == (height * width, True)
        assert not np.asarray(found)[~np.asarray(valid)].any()


@pytest.mark.slow
def test_fully_connected_layers_of_whole_images_are_maps():
    net, params = net_and_params("alexnet", remat=True)
    views, sizes = jnp.zeros((1, 112, 90, 3)), jnp.array([[112, 90]])

    def shape_of(layer):
        def run(views, sizes):
            return dense_layer_output(net, {"params": params}, views, sizes, layer)

        values, valid = jax.eval_shape(run, views, sizes)
        assert values.shape[:3] == valid.shape
        return values.shape[1:]

    shapes = [shape_of(layer) for layer in ("norm1", "conv2", "pool5", "fc6")]
    assert shapes == [(27, 21, 10), (13, 10, 26), (2, 1, 26), (2, 1, 410)]


@pytest.mark.slow
def test_dense_layers_of_one_cell_are_those_of_the_plain_call(images):
    net, params = net_and_params("vgg")
    variables, sizes = {"params": params}, jnp.full((2, 2), 32)

    def both(views):
        found = pooled_layer_output(net, variables, views, sizes, "fc7")
        return found, layer_output(net, variables, views, "fc7")

    found, wanted = quick_jit(both)(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_sides_must_be_fixed():
    net, params = net_and_params("vgg")
    batch, height = jax.export.symbolic_shape("b, h", constraints=("h >= 32",))
    sizes = jax.ShapeDtypeStruct((batch, 2), jnp.int32)

    def shapes(side):
        views = jax.ShapeDtypeStruct((batch, side, 48, 3), jnp.float32)
        run = lambda views, sizes: net.apply(  # noqa: E731
            {"params": params}, views, sizes, method="score_map"
        )
        with plain_forms():
            return jax.eval_shape(run, views, sizes)

    assert str(shapes(40)[0].shape[0]) == "b"
    with pytest.raises(ValueError, match=r"given hx48 images: fix the height and width"):
        shapes(height)
