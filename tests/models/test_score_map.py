"""Dense evaluation: exact for any size, in padded batches, from the plain net's parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.models import build
from jaxcnn.models.kernels import dispatch
from jaxcnn.models.window import Window, map_side
from tests.models.narrow import (
    abstract_variables,
    picture,
    quick_jit,
    random_variables,
    short_googlenet,
)

# Narrow nets on small images; AlexNet needs 64 pixels for a map of 1x1.
NETS = {
    "alexnet": ("alexnet", {"image_size": 72, "width": 0.1}),
    "vgg": ("vgg", {"image_size": 64, "width": 0.07, "column": "A-LRN", "remat": True}),
    "googlenet": ("googlenet", {"image_size": 64, "width": 0.1, "remat": True}),
    "googlenet_head": (
        "googlenet",
        {"image_size": 64, "width": 0.1, "stem": "separable", "head": "fully_connected"},
    ),
    # tanh: below zero at the edge of a padded pool.
    "cuda_convnet": ("cuda_convnet", {"width": 0.1, "local": "shared", "activation": "tanh"}),
}
nets = pytest.mark.parametrize("name", NETS)


@pytest.fixture(autouse=True, scope="module")
def three_modules():
    with short_googlenet():
        yield


@functools.cache
def net_and_variables(name):
    kind, fields = NETS[name]
    net = build(kind, num_classes=5, dropout_convention="paper", **fields)
    return net, random_variables(net)


@functools.cache
def compiled(net, method=None):
    return quick_jit(functools.partial(net.apply, method=method))


def score_map(net, variables, images, sizes):
    apply = compiled(net, "score_map")
    scores, valid = apply(variables, jnp.asarray(images), jnp.asarray(sizes, jnp.int32))
    return np.asarray(scores), np.asarray(valid)


@nets
def test_scores_of_a_padded_batch(name):
    """Whatever the padding holds: the plain call's logits at image_size, one cell for one; at a
    size off the stride what the image alone gives; no cell for an image that is too small."""
    net, variables = net_and_variables(name)
    side = net.image_size
    sizes = [(side, side), (131, 97), (net.min_image_size() - 1, 140)]
    batch = np.full((len(sizes), 140, 140, 3), np.nan, np.float32)
    for image, (height, width) in zip(batch, sizes, strict=True):
        image[:height, :width] = picture(height, width, seed=height)
    scores, valid = score_map(net, variables, batch, sizes)
    assert scores.dtype == np.float32
    assert_array_equal(scores[~valid], 0)

    logits, aux = compiled(net)(variables, jnp.asarray(batch[:1, :side, :side]))
    assert aux == ()
    assert valid[0].sum() == valid[0, 0, 0] == 1
    assert_close(scores[0, 0, 0], logits[0])

    alone, all_valid = score_map(net, variables, picture(131, 97, seed=131)[None], sizes[1:2])
    _, h, w, _ = alone.shape
    assert h > w
    assert all_valid.all()
    assert valid[1].sum() == valid[1, :h, :w].sum() == h * w
    assert_close(scores[1, :h, :w], alone[0])
    assert np.ptp(alone[0, :, 0], axis=0).max() > 1e-2 * np.abs(alone).max()  # cells do differ

    assert not valid[2].any()


def assert_close(actual, expected):
    assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_cell_is_not_the_zero_padded_crops_output():
    """Simonyan and Zisserman 2014, section 3.2: the neighbouring pixels take the padding's place."""
    net, variables = net_and_variables("vgg")
    batch = np.zeros(
        (3, 140, 140, 3), np.float32
    )  # the shape that test_scores_of_a_padded_batch compiles
    batch[0, :128, :128] = picture(128, 128)
    scores, _ = score_map(net, variables, batch, [(128, 128)] * 3)
    crop, _ = compiled(net)(variables, jnp.asarray(batch[:1, 32:96, 32:96]))
    assert not np.allclose(scores[0, 1, 1], crop[0], rtol=1e-3)


def test_without_padding_a_cell_is_the_crops_output():
    """A toy net whose windows have no padding: the cell at (i, j) is the crop at stride x (i, j)."""
    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)
    second = jnp.asarray(rng.normal(size=(3, 3, 4, 4)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32)

    @quick_jit
    def toy(x):
        x = jax.nn.relu(dispatch.convolve(x, first, Window(3)))
        x = dispatch.max_pool(x, Window(2, 2))
        x = jax.nn.relu(dispatch.convolve(x, second, Window(3, 2)))
        return dispatch.convolve(x, head, Window(3))

    # Sides: 18 -> 16 -> 8 -> 3 -> 1, with a stride of 4.
    image = jnp.asarray(picture(18 + 2 * 4, 18 + 3 * 4)[None])
    whole = toy(image)
    assert whole.shape == (1, 3, 4, 5)
    for i in range(3):
        for j in range(4):
            crop = toy(image[:, 4 * i : 4 * i + 18, 4 * j : 4 * j + 18])
            assert crop.shape == (1, 1, 1, 5)
            assert_close(np.asarray(whole[0, i, j]), np.asarray(crop[0, 0, 0]))


def test_map_sides_at_the_papers_scales():
    """By the algebra of windows, which the traced net confirms at two scales."""
    net = build("vgg", width=0.01, num_classes=2)
    scales = (224, 256, 288, 352, 384, 416, 512, 640, 768)
    sides = [map_side((*net.trunk(), Window(net.classifier_side())), scale) for scale in scales]
    assert sides == [1, 2, 3, 5, 6, 7, 10, 14, 18]
    variables = abstract_variables(net)
    for scale in (352, 768):
        images = jax.ShapeDtypeStruct((1, scale, scale, 3), jnp.float32)
        sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        apply = functools.partial(net.apply, method="score_map")
        scores, valid = jax.eval_shape(apply, variables, images, sizes)
        assert scores.shape[:3] == valid.shape
        assert scores.shape[1] == sides[scales.index(scale)]


def test_mean_of_the_fc7_map_then_fc8_is_the_mean_of_the_scores():
    """fc8 is affine; the softmax is not, so its place matters."""
    net, variables = net_and_variables("vgg")
    apply = functools.partial(
        net.apply, method="score_map", capture_intermediates=lambda module, _: module.name == "fc7"
    )
    size = jnp.array([[128, 128]], jnp.int32)
    (scores, _), state = quick_jit(apply)(variables, jnp.asarray(picture(128, 128)[None]), size)
    (fc7,) = state["intermediates"]["fc7"]["__call__"]
    fc8 = variables["params"]["fc8"]
    pooled = fc7.mean((1, 2)) @ fc8["kernel"][0, 0] * 0.5 + fc8["bias"][None]
    assert_allclose(pooled, scores.mean((1, 2)), rtol=1e-4, atol=1e-5)
    first = jax.nn.softmax(30 * scores).mean((1, 2))
    assert not np.allclose(first, jax.nn.softmax(30 * scores.mean((1, 2))), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "smallest", "full"), [("alexnet", 64, 224), ("vgg", 32, 224), ("googlenet", 32, 224)]
)
def test_too_small_images(name, smallest, full):
    with pytest.raises(ValueError, match=rf"image_size={smallest - 1} is too small.*{smallest}"):
        build(name, image_size=smallest - 1)
    assert build(name, image_size=smallest).classifier_side() == 1
    net = build(name, width=0.01, num_classes=2)
    assert net.min_image_size() == full
    small = jnp.zeros((1, 300, full - 1, 3))
    with pytest.raises(ValueError, match=rf"300x{full - 1}.*smallest side is {full}"):
        net.apply({}, small, jnp.array([[300, full - 1]], jnp.int32), method="score_map")
    with pytest.raises(ValueError, match=r"300x223 images but its image_size is 224"):
        net.apply({}, small)
