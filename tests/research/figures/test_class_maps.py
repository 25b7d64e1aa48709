"""Places of the cells of class score maps in the image: by hand, and by gradients of the net."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.models import build
from jaxcnn.research.figures import class_maps
from tests.models.narrow import quick_jit, random_variables


def test_cell_centres_equal_hand_computed_ones():
    # VGG: five pools and a 7x7 map: fields over 224 pixels, each 32 from the next.
    net = build("vgg", column="E")
    np.testing.assert_array_equal(class_maps.cell_centres(net, 3), [112, 144, 176])
    # AlexNet's fc6 sees 355 pixels from -64 on (papers.md 1.1): conv1 11 wide from 0, stride 4; pool1 to 19,
    # stride 8; conv2 from -16, 51 wide; pool2 to 67, stride 16; conv3 to conv5 from -64, 163 wide; pool5 to
    # 195, stride 32; six of these.
    net = build("alexnet")
    assert dataclasses.astuple(class_maps.cell_field(net)) == (355, 32, -64)
    np.testing.assert_array_equal(class_maps.cell_centres(net, 2), [113.5, 145.5])
    # GoogLeNet at 64: conv1 7 wide from -3, stride 2; four pools to 67, stride 32; a 2x2 map.
    net = build("googlenet", image_size=64)
    np.testing.assert_array_equal(class_maps.cell_centres(net, 2), [46.5, 78.5])


def test_cells_depend_on_their_receptive_fields():
    """A cell's score only depends on the pixels of its receptive field, around its centre."""
    net = build("alexnet", image_size=72, width=0.05, num_classes=2, lrn="off")
    variables = random_variables(net)
    field, sizes = class_maps.cell_field(net), jnp.array([[300, 300]], jnp.int32)

    def score(image):
        return net.apply(variables, image, sizes, method="score_map")[0][0, 2, 3, 0]

    noise = jnp.asarray(np.random.default_rng(0).normal(0, 50, (1, 300, 300, 3)), jnp.float32)
    slope = np.abs(np.asarray(quick_jit(jax.grad(score))(noise))[0]).sum(-1)
    down, across = np.flatnonzero(slope.any(1)), np.flatnonzero(slope.any(0))
    first = [field.start + field.stride * cell for cell in (2, 3)]
    for seen, start in zip((down, across), first, strict=True):
        assert seen.min() >= max(0, start)
        assert seen.max() < min(300, start + field.size)
    centres = class_maps.cell_centres(net, 4)[2:]
    weights = slope / slope.sum()
    weighed = [(weights.sum(axis) * (np.arange(300) + 0.5)).sum() for axis in (1, 0)]
    np.testing.assert_allclose(weighed, centres, atol=16)


def test_the_scale_gives_four_cells_a_side():
    for name, fields, scale in [
        ("vgg", {}, 448),
        ("vgg", {"image_size": 64}, 160),  # at 128 there are 3
        ("alexnet", {}, 448),
        ("googlenet", {"image_size": 56}, 128),
        ("cuda_convnet", {"local": "shared"}, 48),
    ]:
        net = build(name, **fields)
        assert class_maps.map_scale(net) == scale
        cells = scale
        for window in net.trunk():
            cells = window.out(cells)
        assert cells - net.classifier_side() + 1 >= 4
