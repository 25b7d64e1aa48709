"""What the nets do beyond their counts: geometry, options, initial weights and errors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.models import NETS, build
from jaxcnn.models.initializers import fan_scaled
from jaxcnn.models.layers import FullyConnected
from jaxcnn.models.summary import summarise
from jaxcnn.models.window import Window
from tests.models.narrow import (
    abstract_variables,
    features,
    picture,
    quick_jit,
    random_variables,
    short_googlenet,
)

SMALL = {
    "alexnet": {"image_size": 64, "width": 0.1},
    "vgg": {"image_size": 32, "width": 0.1, "column": "A-LRN"},
    "googlenet": {"image_size": 32, "width": 0.1},
    "cuda_convnet": {"width": 0.1},
}

slow = pytest.mark.slow
# Receptive fields worked out from the papers' tables; an image large enough to hold one whole.
RECEPTIVE_FIELDS = {
    "alexnet_conv5": ("alexnet", {"image_size": 355}, "conv5", 163),
    "alexnet_pool5": ("alexnet", {"image_size": 355}, "pool5", 195),
    "vgg_a": ("vgg", {"image_size": 320, "column": "A"}, "pool5", 150),
    "vgg_b": ("vgg", {"image_size": 320, "column": "B"}, "pool5", 156),
    "vgg_c": ("vgg", {"image_size": 320, "column": "C"}, "pool5", 156),
    "vgg_d": ("vgg", {"image_size": 320, "column": "D"}, "pool5", 212),
    "vgg_e": ("vgg", {"image_size": 384, "column": "E"}, "pool5", 268),
    "googlenet_4a": ("googlenet", {"image_size": 288}, "inception_4a", 171),
    "cuda_convnet": ("cuda_convnet", {"image_size": 64}, "local4", 35),
}


def net_and_field(kind, fields, layer):
    net = build(kind, width=0.001, num_classes=1, **fields)
    return net, next(row.field for row in summarise(net).rows if row.layer == layer)


@pytest.mark.parametrize("case", RECEPTIVE_FIELDS.values(), ids=RECEPTIVE_FIELDS)
def test_receptive_field(case):
    kind, fields, layer, size = case
    assert net_and_field(kind, fields, layer)[1].size == size


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if name in ("alexnet_pool5", "vgg_a", "googlenet_4a") else slow)
        for name, case in RECEPTIVE_FIELDS.items()
    ],
    ids=RECEPTIVE_FIELDS,
)
def test_a_cell_sees_its_receptive_field_and_no_more(case):
    """With positive weights and nothing else, a cell is above 0 just if it sees a lit column."""
    kind, fields, layer, size = case
    net, field = net_and_field(kind, fields, layer)
    cell = max(0, math.ceil((1 - field.start) / field.stride))
    first = field.start + cell * field.stride
    last = first + size - 1
    assert 1 <= first < last + 1 < net.image_size
    images = np.zeros((4, net.image_size, net.image_size, 3), np.float32)
    for image, column in zip(images, (first - 1, first, last, last + 1), strict=True):
        image[:, column] = 1
    variables = jax.tree.map(
        lambda x: jnp.full(x.shape, 1 / math.prod(x.shape[:-1]) if x.ndim >= 4 else 0, x.dtype),
        abstract_variables(net),
    )
    maps = features(net, variables, jnp.asarray(images), (layer,))[layer]
    assert list(np.asarray(maps)[:, cell, cell].sum(-1) > 0) == [False, True, True, False]


def test_alexnet_on_224_is_alexnet_on_the_image_with_zeros_to_227():
    net, wide = (build("alexnet", width=0.05, num_classes=5, image_size=s) for s in (224, 227))
    variables = random_variables(net)
    images = jnp.asarray(picture(1, 224, 224))
    shapes = {row.layer: row.shape[0] for row in summarise(wide).rows}
    layers = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert [shapes[layer] for layer in layers] == [55, 27, 27, 13, 13, 13, 13, 6]
    padded = jnp.pad(images, ((0, 0), (0, 3), (0, 3), (0, 0)))
    ours, theirs = quick_jit(net.apply)(variables, images), quick_jit(wide.apply)(variables, padded)
    assert_array_equal(ours[0], theirs[0])


@functools.cache
def narrow_alexnet(**fields):
    return build("alexnet", width=0.1, num_classes=6, image_size=72, **fields)


def changed_channels(before, after):
    """Which channels differ anywhere."""
    return np.flatnonzero(np.any(np.asarray(before) != np.asarray(after), axis=(0, 1, 2)))


def test_towers_meet_at_conv3_and_not_at_conv4_and_conv5():
    net = narrow_alexnet()
    variables, images = random_variables(net), jnp.asarray(picture(1, 72, 72))
    before = features(net, variables, images)
    for layer, meet in (("conv2", "conv3"), ("conv3", "fc6")):
        half = variables["params"][layer]["bias"].shape[0] // 2
        bias = np.array(variables["params"][layer]["bias"])
        bias[half:] += 5
        params = {**variables["params"], layer: {**variables["params"][layer], "bias": bias}}
        after = features(net, {"params": params}, images)
        own = {"conv2": ["conv2"], "conv3": ["conv3", "conv4", "conv5"]}[layer]
        for name in own:
            maps = before[name].shape[-1]
            changed = changed_channels(before[name], after[name])
            assert changed.min() >= maps // 2
            assert len(changed) > maps // 4
        if meet == "conv3":
            changed = changed_channels(before["conv3"], after["conv3"])
            assert changed.min() < before["conv3"].shape[-1] // 2


def test_towers_are_a_grouped_and_a_block_diagonal_convolution():
    net = narrow_alexnet(lrn="off")
    variables, images = random_variables(net), jnp.asarray(picture(1, 72, 72))
    seen = features(net, variables, images, ("pool1", "conv2"))
    kernel, bias = (np.asarray(variables["params"]["conv2"][leaf]) for leaf in ("kernel", "bias"))
    inputs, outputs = kernel.shape[2:]
    dense = np.zeros((5, 5, 2 * inputs, outputs), np.float32)
    dense[:, :, :inputs, : outputs // 2] = kernel[..., : outputs // 2]
    dense[:, :, inputs:, outputs // 2 :] = kernel[..., outputs // 2 :]
    for weights, groups in ((dense, 1), (kernel, 2)):
        y = jax.lax.conv_general_dilated(
            seen["pool1"],
            weights,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        assert_allclose(np.maximum(np.asarray(y) + bias, 0), seen["conv2"], rtol=1e-4, atol=1e-4)


def test_no_grouped_convolution_is_lowered():
    net = narrow_alexnet()
    variables, images = random_variables(net), jnp.asarray(picture(1, 72, 72))
    gradient = jax.grad(lambda v: net.apply(v, images)[0].sum())
    text = jax.jit(gradient).lower(variables).as_text()
    assert text.count("stablehlo.convolution") >= 14
    assert "feature_group_count = 1" in text
    assert "feature_group_count = 2" not in text


def test_lrn_of_a_tower_differs_from_whole_lrn_at_the_border_only():
    """At the paper's widths: channels 46 to 49 of 96, as the window reaches two to each side. Connecting all
    channels of the convolutions does not change LRN."""
    tower, whole, connected, both = (
        build("alexnet", num_classes=2, image_size=64, lrn=lrn, ungrouped=ungrouped)
        for ungrouped in (False, True)
        for lrn in ("tower", "whole")
    )
    images = jnp.asarray(picture(1, 64, 64))
    kernel = 0.05 * np.random.default_rng(0).normal(size=(11, 11, 3, 96)).astype(np.float32)

    def norm1(net):
        zeros = lambda x: np.broadcast_to(np.float32(0), x.shape)  # noqa: E731
        variables = jax.tree.map(zeros, abstract_variables(net))
        variables["params"]["conv1"] = {"kernel": kernel, "bias": np.ones(96, np.float32)}
        return np.asarray(features(net, variables, images, ("norm1",))["norm1"])

    # Elsewhere the two may round differently: XLA vectorises 48 and 96 channels differently.
    one, other, *of_connected = map(norm1, (tower, whole, connected, both))
    for found, expected in zip(of_connected, (one, other), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(other[..., :46], one[..., :46], rtol=1e-6)
    np.testing.assert_allclose(other[..., 50:], one[..., 50:], rtol=1e-6)
    differing = np.abs(one - other).max(axis=(0, 1, 2)) > 1e-4 * np.abs(one).max()
    assert list(np.flatnonzero(differing)) == [46, 47, 48, 49]


def test_fc6_reads_rows_columns_channels():
    """The matrix product is the kernel's sum over height, width and channel, in that order."""
    layer = FullyConnected(7, Window(3), fan_scaled("glorot_uniform", True), activation="none")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 5)), jnp.float32)
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(1), x)
    kernel = np.asarray(variables["params"]["kernel"])
    assert kernel.shape == (3, 3, 5, 7)
    assert_allclose(y, np.einsum("bhwc,hwck->bk", x, kernel), rtol=1e-5, atol=1e-5)
    limit = math.sqrt(6 / (3 * 3 * 5 + 7))  # a fully connected layer's fan-out is its outputs
    assert 0.8 * limit < np.abs(kernel).max() <= limit


def test_paper_dropout_is_inverted_dropout_with_halved_weights_behind():
    paper, inverted = (
        build("vgg", num_classes=6, dropout_convention=c, **SMALL["vgg"])
        for c in ("paper", "inverted")
    )
    variables, images = random_variables(paper), jnp.asarray(picture(3, 32, 32))
    halved = dict(variables["params"])
    for layer in ("fc7", "fc8"):
        halved[layer] = {**halved[layer], "kernel": halved[layer]["kernel"] * 0.5}
    rngs = {"dropout": jax.random.key(0)}

    @quick_jit
    def logits(variables, halved):
        nets = ((paper, variables), (inverted, {"params": halved}))
        return [
            [net.apply(params, images, train=train, rngs=rngs)[0] for net, params in nets]
            for train in (True, False)
        ]

    results = logits(variables, halved)
    for ours, theirs in results:
        assert_array_equal(ours, theirs)
    assert not np.allclose(results[0], results[1])


@pytest.mark.parametrize(
    ("name", "blocks"), [("alexnet", 2), ("vgg", 5), ("googlenet", 10), ("cuda_convnet", 2)]
)
def test_remat_recomputes_each_block(name, blocks):
    for remat in (False, True):
        net = build(name, num_classes=4, remat=remat, **SMALL[name])
        images = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
        text = str(jax.make_jaxpr(net.apply)(abstract_variables(net), images))
        assert text.count("prevent_cse") == (blocks if remat else 0)


@pytest.mark.parametrize("name", NETS)
def test_remat_changes_nothing(name):
    """Gradients, or for GoogLeNet, whose gradient takes long to compile, the logits."""
    nets = [build(name, num_classes=3, remat=remat, **SMALL[name]) for remat in (False, True)]
    with short_googlenet():
        variables, side = random_variables(nets[0]), nets[0].image_size
        images = jnp.asarray(picture(1, side, side))

        @quick_jit
        def results(variables):
            losses = [lambda v, net=net: net.apply(v, images)[0].sum() for net in nets]
            if name != "googlenet":
                losses = [jax.value_and_grad(loss) for loss in losses]
            return [loss(variables) for loss in losses]

        jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-3, atol=1e-3), *results(variables))


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_computes_narrow_and_answers_in_float32(name):
    net = build(name, num_classes=3, dtype="bfloat16", **SMALL[name])
    images = jax.ShapeDtypeStruct((2, net.image_size, net.image_size, 3), jnp.float32)
    variables = abstract_variables(net, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}

    def apply(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return net.apply(variables, images, train=True, rngs=rngs, capture_intermediates=True)

    (logits, aux), state = jax.eval_shape(apply, variables, images)
    assert {x.dtype for x in (logits, *aux)} == {np.dtype("float32")}
    assert len(aux) == (2 if name == "googlenet" else 0)
    scores = {"fc8", "fc", "aux_4a", "aux_4d", "__call__"}
    hidden = {k: v for k, v in state["intermediates"].items() if k not in scores}
    assert {leaf.dtype for leaf in jax.tree.leaves(hidden)} == {jnp.dtype("bfloat16")}


def test_bfloat16_is_close_to_float32():
    wide, narrow = (
        build("vgg", num_classes=3, dtype=dtype, **SMALL["vgg"])
        for dtype in ("float32", "bfloat16")
    )
    variables, images = random_variables(wide), jnp.asarray(picture(4, 32, 32))
    # As jaxcnn compiles: YNNPACK of jaxlib 0.12 gives NaN here on processors with AVX512-BF16.
    options = {"xla_backend_optimization_level": 0, "xla_cpu_experimental_ynn_fusion_type": ""}
    a, b = (
        np.asarray(jax.jit(net.apply, compiler_options=options)(variables, images)[0])
        for net in (wide, narrow)
    )
    assert_allclose(b, a, atol=0.05 * np.abs(a).max())
    assert np.any(a != b)


def initial_biases(net):
    """Each layer's initial bias by path, checked to be the same for all its outputs."""

    def init(key):
        images = jnp.zeros((1, net.image_size, net.image_size, 3))
        params = net.init({"params": key, "dropout": key}, images, train=True)["params"]
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {"/".join(k.key for k in p[:-1]): x for p, x in leaves if p[-1].key == "bias"}

    biases = quick_jit(init)(jax.random.key(0))  # the kernels are never drawn
    assert all(np.ptp(bias) == 0 for bias in biases.values())
    return {path: float(bias[0]) for path, bias in biases.items()}


@pytest.mark.parametrize("width", [1.0, 0.5, 0.1])
def test_alexnet_initial_weights(width):
    """Krizhevsky et al. 2012, section 5: standard deviation 0.01 everywhere. In a narrow net it grows as
    the root of the shrinkage of the fan-in, so not for conv1, whose inputs are colours."""
    net, full = (build("alexnet", width=w) for w in (width, 1.0))
    ours, theirs = (abstract_variables(n)["params"] for n in (net, full))
    draws = jax.jit(lambda key: {n: net.initializer(n)(key, (1, 1, 128, 128)) for n in ours})(
        jax.random.key(0)
    )
    assert list(draws) == [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"]
    for name, drawn in draws.items():
        shrinkage = ours[name]["kernel"].shape[2] / theirs[name]["kernel"].shape[2]
        drawn = np.asarray(drawn)
        assert_allclose(drawn.std(), 0.01 / math.sqrt(shrinkage), rtol=0.02, err_msg=name)
        assert abs(drawn.mean()) < 5 * drawn.std() / 128
        assert name != "conv1" or shrinkage == 1


def test_initial_biases():
    """AlexNet's section 5; VGG's section 3.1; BVLC's for GoogLeNet."""
    alexnet = initial_biases(narrow_alexnet())
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert {layer for layer, bias in alexnet.items() if bias == 1.0} == ones
    assert {layer for layer, bias in alexnet.items() if bias == 0.0} == {"conv1", "conv3", "fc8"}
    assert set(initial_biases(build("vgg", **SMALL["vgg"])).values()) == {0.0}
    googlenet = initial_biases(build("googlenet", **SMALL["googlenet"]))
    classifiers = {"fc", "aux_4a/fc2", "aux_4d/fc2"}
    assert {layer for layer, bias in googlenet.items() if bias == 0.0} == classifiers
    others = {bias for layer, bias in googlenet.items() if layer not in classifiers}
    assert others == {float(np.float32(0.2))}


def test_vgg_first_loss():
    """ln 1000 with standard deviation 0.01; the printed variance, 0.1, makes the loss explode."""
    images = jnp.asarray(70 / 50 * picture(1, 32, 32))
    net = build("vgg", column="A", kernel_init="std_1e-2", width=1 / 32, image_size=32)

    def logits(key):
        params = net.init(key, images)
        # The same draws: `test_vgg_standard_deviations` checks the ratio.
        wide = jax.tree.map(lambda leaf: 10 * leaf, params)
        return [net.apply(p, images)[0][0] for p in (params, wide)]

    narrow, wide = quick_jit(logits)(jax.random.key(0, impl="unsafe_rbg"))  # compiles fastest
    losses = jax.nn.logsumexp(narrow) - narrow
    assert_allclose(losses, math.log(1000), atol=1e-3)
    assert np.std(wide) > 1e6


@slow
def test_vgg_initial_weights():
    """Standard deviation 0.01 leaves the loss at ln 1000; the printed variance, 0.1, explodes."""
    images = jnp.asarray(70 / 50 * picture(1, 64, 64))
    losses, deviation = {}, {}
    for start in ("std_1e-2", "variance_1e-2", "glorot_uniform"):
        net = build("vgg", column="A", kernel_init=start, width=1 / 16, image_size=64)
        init = quick_jit(lambda key, net=net: net.init_with_output(key, images)[0][0])
        logits = np.asarray(init(jax.random.key(0, impl="unsafe_rbg")))  # compiles fastest
        losses[start] = np.logaddexp.reduce(logits[0]) - logits[0, 0]
        deviation[start] = float(np.std(logits))
    assert_allclose(losses["std_1e-2"], 6.9078, atol=1e-3)
    assert deviation["std_1e-2"] < 1e-2
    assert deviation["variance_1e-2"] > 1e6
    assert 0.05 < deviation["glorot_uniform"] < 5


def test_vgg_standard_deviations():
    """As named at full width, and larger by the root of the shrinkage of the inputs in a narrow net."""
    for name, std in (("std_1e-2", 0.01), ("variance_1e-2", 0.1)):
        draw = build("vgg", kernel_init=name).initializer(16, 64, fully_connected=False)
        kernel = np.asarray(jax.jit(lambda key, d=draw: d(key, (3, 3, 40, 40)))(jax.random.key(0)))
        assert_allclose(kernel.std(), 2 * std, rtol=0.03)


@pytest.mark.parametrize(
    ("name", "fully_connected", "variance"),
    [
        ("lecun_uniform", False, 1 / 360),
        ("glorot_uniform", False, 2 / (360 + 9 * 40)),
        ("glorot_normal", True, 2 / (360 + 40)),
    ],
)
def test_fan_scaled_initial_weights(name, fully_connected, variance):
    draw = jax.jit(lambda key: fan_scaled(name, fully_connected)(key, (3, 3, 40, 40)))
    kernel = np.asarray(draw(jax.random.key(0)))
    assert_allclose(np.var(kernel), variance, rtol=0.05)
    limit = math.sqrt(3 * variance)
    assert (np.abs(kernel).max() <= limit) == ("uniform" in name)


@pytest.mark.parametrize(
    ("name", "fields", "messages"),
    [
        ("alexnett", {}, ["unknown net 'alexnett'", "did you mean 'alexnet'", "googlenet, vgg"]),
        ("vgg", {"colum": "D"}, ["unknown field 'colum'", "did you mean 'column'", "image_size"]),
        ("vgg", {"column": "F"}, ["column='F'", "'A-LRN'", "'E'"]),
        ("vgg", {"width": "1"}, ["width='1' is a str, expected float"]),
        ("vgg", {"image_size": 31, "width": 0.0}, ["image_size=31", "give 32", "width=0.0"]),
        ("alexnet", {"towers": 3}, ["towers=3 is not one of 1, 2"]),
        ("alexnet", {"towers": 1, "ungrouped": True}, ["ungrouped=True needs towers=2"]),
        ("alexnet", {"widths": "one_weird_trick"}, ["one tower: give towers=1"]),
        ("googlenet", {"branch5x5": 4, "pool4": "3/3"}, ["branch5x5=4", "5, 3", "pool4='3/3'"]),
        ("alexnet", {"init_std": 0.0}, ["init_std", "above 0"]),
        ("googlenet", {"aux_dropout": 1.0}, ["aux_dropout=1.0", "0 <= aux_dropout < 1"]),
        ("googlenet", {"dtype": "float16", "stem": "x"}, ["dtype='float16'", "stem='x'"]),
    ],
)
def test_build_errors(name, fields, messages):
    with pytest.raises(ValueError) as caught:
        build(name, **fields)
    for message in messages:
        assert message in str(caught.value)


def test_build_takes_whole_numbers_for_fractions():
    assert build("vgg", width=1) == build("vgg")
