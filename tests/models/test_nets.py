"""What the nets do beyond their counts: geometry, options, starts and errors."""

import functools
import math
import subprocess
import sys

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
from tests.models.narrow import picture, quick_jit, random_variables

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


@pytest.mark.parametrize("case", RECEPTIVE_FIELDS.values(), ids=RECEPTIVE_FIELDS)
def test_receptive_field(case):
    """With positive weights and nothing else, a cell is above 0 just if it sees a lit column."""
    kind, fields, layer, size = case
    net = build(kind, width=0.001, num_classes=1, **fields)
    field = next(row.field for row in summarise(net).rows if row.layer == layer)
    assert field.size == size
    cell = max(0, math.ceil((1 - field.start) / field.stride))
    first = field.start + cell * field.stride
    last = first + size - 1
    assert 1 <= first < last + 1 < net.image_size
    images = np.zeros((4, net.image_size, net.image_size, 3), np.float32)
    for image, column in zip(images, (first - 1, first, last, last + 1), strict=True):
        image[:, column] = 1
    variables = jax.tree.map(
        lambda x: jnp.full_like(x, 1 / math.prod(x.shape[:-1]) if x.ndim >= 4 else 0),
        random_variables(net),
    )
    feature = features(net, variables, jnp.asarray(images))[layer][:, cell, cell].sum(-1)
    assert list(np.asarray(feature) > 0) == [False, True, True, False]


def features(net, variables, images):
    """Each layer's output by name; the towers' outputs joined."""

    def apply(variables, images):
        _, state = net.apply(variables, images, capture_intermediates=True)
        return state["intermediates"]

    captured = quick_jit(apply)(variables, images)
    return {
        name: jnp.concatenate(calls["__call__"], axis=-1)
        for name, calls in captured.items()
        if name != "__call__"
    }


def test_alexnet_on_224_is_alexnet_on_the_image_with_zeros_to_227():
    net, wide = (build("alexnet", width=0.05, num_classes=5, image_size=s) for s in (224, 227))
    variables = random_variables(net)
    images = jnp.asarray(picture(2, 224, 224))
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
    return np.flatnonzero(np.any(np.asarray(before != after), axis=(0, 1, 2)))


def test_towers_meet_at_conv3_and_not_at_conv4_and_conv5():
    net = narrow_alexnet()
    variables, images = random_variables(net), jnp.asarray(picture(1, 72, 72))
    before = features(net, variables, images)
    for layer, meet in (("conv2", "conv3"), ("conv3", "fc6")):
        half = variables["params"][layer]["bias"].shape[0] // 2
        bias = variables["params"][layer]["bias"].at[half:].add(5.0)
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
    seen = features(net, variables, images)
    kernel, bias = (variables["params"]["conv2"][leaf] for leaf in ("kernel", "bias"))
    inputs, outputs = kernel.shape[2:]
    dense = jnp.zeros((5, 5, 2 * inputs, outputs))
    dense = dense.at[:, :, :inputs, : outputs // 2].set(kernel[..., : outputs // 2])
    dense = dense.at[:, :, inputs:, outputs // 2 :].set(kernel[..., outputs // 2 :])
    for weights, groups in ((dense, 1), (kernel, 2)):
        y = jax.lax.conv_general_dilated(
            seen["pool1"],
            weights,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        y = jax.nn.relu(y + bias[None, None, None])
        assert_allclose(y, seen["conv2"], rtol=1e-4, atol=1e-4)


def test_no_grouped_convolution_is_lowered():
    net = narrow_alexnet()
    variables, images = random_variables(net), jnp.asarray(picture(1, 72, 72))
    gradient = jax.grad(lambda v: net.apply(v, images)[0].sum())
    text = jax.jit(gradient).lower(variables).as_text()
    assert text.count("stablehlo.convolution") >= 14
    assert "feature_group_count = 1" in text
    assert "feature_group_count = 2" not in text


def test_lrn_of_a_tower_differs_from_whole_lrn_at_the_border_only():
    """At the paper's widths: channels 46 to 49 of 96, as the window reaches two to each side."""
    tower, whole = (
        build("alexnet", num_classes=2, image_size=64, lrn=lrn) for lrn in ("tower", "whole")
    )
    images = jnp.asarray(picture(1, 64, 64))
    kernel = 0.05 * np.random.default_rng(0).normal(size=(11, 11, 3, 96)).astype(np.float32)
    zeros = jax.eval_shape(tower.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda x: jnp.broadcast_to(jnp.float32(0), x.shape), zeros)
    variables["params"]["conv1"] = {"kernel": jnp.asarray(kernel), "bias": jnp.ones(96)}

    def norm1(net):
        def only(module, method):
            return method == "__call__" and module.name == "norm1"

        def apply(variables):
            return net.apply(variables, images, capture_intermediates=only)[1]

        calls = jax.jit(apply)(variables)["intermediates"]["norm1"]["__call__"]
        return jnp.concatenate(calls, axis=-1)

    # Elsewhere the two may round differently: XLA vectorises 48 and 96 channels in its own ways.
    one, other = norm1(tower), norm1(whole)
    np.testing.assert_allclose(other[..., :46], one[..., :46], rtol=1e-6)
    np.testing.assert_allclose(other[..., 50:], one[..., 50:], rtol=1e-6)
    differing = np.abs(one - other).max(axis=(0, 1, 2)) > 1e-4 * np.abs(one).max()
    assert list(np.flatnonzero(differing)) == [46, 47, 48, 49]


def test_fc6_reads_rows_columns_channels():
    """The matrix product is the kernel's sum over height, width and channel, in that order."""
    layer = FullyConnected(7, Window(3), fan_scaled("glorot_uniform", True), activation="none")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 5)), jnp.float32)
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, 5, 7)
    expected = np.einsum("bhwc,hwck->bk", x, kernel)
    assert_allclose(layer.apply(variables, x), expected, rtol=1e-5, atol=1e-5)
    limit = math.sqrt(6 / (3 * 3 * 5 + 7))  # a fully connected layer's fan-out is its outputs
    assert 0.8 * limit < np.abs(kernel).max() <= limit


def test_paper_dropout_is_inverted_dropout_with_halved_weights_behind():
    paper = narrow_alexnet(dropout_convention="paper")
    inverted = narrow_alexnet(dropout_convention="inverted")
    variables, images = random_variables(paper), jnp.asarray(picture(3, 72, 72))
    halved = dict(variables["params"])
    for layer in ("fc7", "fc8"):
        halved[layer] = {**halved[layer], "kernel": halved[layer]["kernel"] * 0.5}
    rngs = {"dropout": jax.random.key(0)}
    results = []
    for train in (True, False):
        ours, theirs = (
            quick_jit(functools.partial(net.apply, train=train, rngs=rngs))(params, images)[0]
            for net, params in ((paper, variables), (inverted, {"params": halved}))
        )
        assert_array_equal(ours, theirs)
        results.append(ours)
    assert not np.allclose(*results)


SMALL = {
    "alexnet": {"image_size": 64, "width": 0.1},
    "vgg": {"image_size": 32, "width": 0.1, "column": "A-LRN"},
    "googlenet": {"image_size": 32, "width": 0.1},
    "cuda_convnet": {"width": 0.1},
}


@pytest.mark.parametrize("name", NETS)
def test_remat_recomputes_and_changes_nothing(name):
    """Gradients, or for GoogLeNet, whose gradient takes long to compile, the logits."""
    nets = [build(name, num_classes=3, remat=remat, **SMALL[name]) for remat in (False, True)]
    variables = random_variables(nets[0])
    side = nets[0].image_size
    images = jnp.asarray(picture(2, side, side))
    results, blocks = [], []
    for net in nets:

        def loss(variables, net=net):
            return net.apply(variables, images)[0].sum()

        blocks.append(str(jax.make_jaxpr(loss)(variables)).count("prevent_cse"))
        function = loss if name == "googlenet" else jax.value_and_grad(loss)
        results.append(quick_jit(function)(variables))
    assert blocks == [0, {"alexnet": 2, "vgg": 5, "googlenet": 10, "cuda_convnet": 2}[name]]
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-3, atol=1e-3), *results)


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_computes_narrow_and_answers_in_float32(name):
    net = build(name, num_classes=3, dtype="bfloat16", **SMALL[name])
    images = jax.ShapeDtypeStruct((2, net.image_size, net.image_size, 3), jnp.float32)
    variables = random_variables(net, train=True)
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


def first_biases(net):
    """Each layer's first bias by path, checked to be the same for all its outputs."""

    def init(key):
        images = jnp.zeros((1, net.image_size, net.image_size, 3))
        params = net.init({"params": key, "dropout": key}, images, train=True)["params"]
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {"/".join(k.key for k in p[:-1]): x for p, x in leaves if p[-1].key == "bias"}

    biases = quick_jit(init)(jax.random.key(0))  # the kernels are never drawn
    assert all(np.ptp(bias) == 0 for bias in biases.values())
    return {path: float(bias[0]) for path, bias in biases.items()}


@pytest.mark.parametrize("width", [1.0, 0.5, 0.1])
def test_alexnet_start(width):
    """Krizhevsky et al. 2012, section 5: deviation 0.01 everywhere. In a narrow net it grows as the
    root of the shrinkage of the fan-in, so not for conv1, whose inputs are colours."""
    net, full = (build("alexnet", width=w) for w in (width, 1.0))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    ours, theirs = (
        jax.eval_shape(n.init, jax.random.key(0), images)["params"] for n in (net, full)
    )
    for number, name in enumerate(ours):
        shrinkage = ours[name]["kernel"].shape[2] / theirs[name]["kernel"].shape[2]
        drawn = np.asarray(net.initializer(name)(jax.random.key(number), (1, 1, 128, 128)))
        assert_allclose(drawn.std(), 0.01 / math.sqrt(shrinkage), rtol=0.02, err_msg=name)
        assert abs(drawn.mean()) < 5 * drawn.std() / 128
        assert name != "conv1" or shrinkage == 1


def test_first_biases():
    """AlexNet's section 5; VGG's section 3.1; BVLC's for GoogLeNet."""
    alexnet = first_biases(narrow_alexnet())
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert {layer for layer, bias in alexnet.items() if bias == 1.0} == ones
    assert {layer for layer, bias in alexnet.items() if bias == 0.0} == {"conv1", "conv3", "fc8"}
    assert set(first_biases(build("vgg", **SMALL["vgg"])).values()) == {0.0}
    googlenet = first_biases(build("googlenet", **SMALL["googlenet"]))
    classifiers = {"fc", "aux_4a/fc2", "aux_4d/fc2"}
    assert {layer for layer, bias in googlenet.items() if bias == 0.0} == classifiers
    others = {bias for layer, bias in googlenet.items() if layer not in classifiers}
    assert others == {float(np.float32(0.2))}


def test_vgg_starts():
    """Deviation 0.01 leaves the loss at ln 1000; the printed variance, 0.1, explodes."""
    images = jnp.asarray(70 / 50 * picture(1, 64, 64))
    losses, deviation = {}, {}
    for start in ("std_1e-2", "variance_1e-2", "glorot_uniform"):
        net = build("vgg", column="A", kernel_init=start, width=1 / 16, image_size=64)
        init_and_apply = quick_jit(
            lambda net=net: net.init_with_output(jax.random.key(0), images)[0]
        )
        logits, _ = init_and_apply()
        losses[start] = -jax.nn.log_softmax(logits)[0, 0]
        deviation[start] = float(np.std(logits))
    assert_allclose(losses["std_1e-2"], 6.9078, atol=1e-3)
    assert deviation["std_1e-2"] < 1e-2
    assert deviation["variance_1e-2"] > 1e6
    assert 0.05 < deviation["glorot_uniform"] < 5


@pytest.mark.parametrize(
    ("name", "fully_connected", "variance"),
    [
        ("lecun_uniform", False, 1 / 360),
        ("glorot_uniform", False, 2 / (360 + 9 * 40)),
        ("glorot_normal", True, 2 / (360 + 40)),
    ],
)
def test_fan_scaled_starts(name, fully_connected, variance):
    kernel = fan_scaled(name, fully_connected)(jax.random.key(0), (3, 3, 40, 40))
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


def test_models_do_not_import_tensorflow():
    program = "import sys, jaxcnn.models; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
