"""Parameters, multiply-adds, shapes and operations of each net, by tracing it."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.models import NETS, build
from jaxcnn.models.googlenet import INCEPTION
from jaxcnn.models.kernels import dispatch
from jaxcnn.models.summary import summarise
from jaxcnn.models.vgg import COLUMNS
from tests.models.facts import FACTS
from tests.models.narrow import abstract_variables

# Of these nets only one window differs from another's.
SLOW = {"googlenet_same_padding"}
marked = [
    pytest.param(facts, id=name, marks=[pytest.mark.slow] * (name in SLOW))
    for name, facts in FACTS.items()
]
all_facts = pytest.mark.parametrize("facts", marked)


def parameter_count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


def primitives(jaxpr):
    """How often each primitive occurs, through all inner jaxprs; relu counts as one of them."""
    counts = Counter()
    for equation in jaxpr.eqns:
        if equation.params.get("name") == "relu":
            counts["relu"] += 1
            continue
        counts[equation.primitive.name] += 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                counts += primitives(inner)
    return counts


def operations(net, train):
    images = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)

    def apply(variables, x):
        return net.apply(variables, x, train=train, rngs={"dropout": jax.random.key(0)})

    variables = abstract_variables(net, train)
    return primitives(jax.make_jaxpr(apply)(variables, images).jaxpr)


def test_every_net_and_column_has_facts():
    assert {facts.net for facts in FACTS.values()} == set(NETS)
    assert {facts.fields.get("column") for facts in FACTS.values()} - {None} == set(COLUMNS)


@all_facts
def test_parameters_macs_and_shapes(facts):
    net = build(facts.net, **facts.fields)
    assert parameter_count(abstract_variables(net)) == facts.parameters
    summary = summarise(net)
    rows = {row.layer: row for row in summary.rows}
    assert summary.parameters == facts.parameters
    assert summary.macs == facts.macs
    assert {layer: rows[layer].shape for layer in facts.shapes} == facts.shapes
    of_layers = {layer: rows[layer].parameters for layer in facts.layer_parameters}
    assert of_layers == facts.layer_parameters
    if facts.net == "vgg":
        assert {row.layer for row in summary.rows if row.kind != "Dropout"} - {"norm1"} == set(
            facts.shapes
        )


@all_facts
def test_operations(facts, monkeypatch):
    """In the plain forms, of inference and of training."""
    monkeypatch.setenv(dispatch.SWITCH, "off")
    net = build(facts.net, **facts.fields)
    auxiliary = 2 if facts.net == "googlenet" else 0
    for train in (False, True):
        heads = auxiliary if train else 0
        seen = operations(net, train)
        assert seen["relu"] == facts.relus + 2 * heads
        assert seen["reduce_window_max"] == facts.max_pools
        assert seen["reduce_window_sum"] == facts.average_pools + heads
        assert seen["rsqrt"] == facts.lrns  # of nothing but LRN
        assert seen["random_bits"] == (facts.dropouts + heads if train else 0)


def test_alexnet_has_the_papers_neurons_and_not_its_slip():
    rows = {row.layer: row for row in summarise(build("alexnet")).rows}
    neurons = [rows[f"conv{i}"].neurons for i in range(1, 6)]
    neurons += [rows[f"fc{i}"].neurons for i in range(6, 9)]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(neurons) == 659_272
    (slip,) = rows["conv1"].paper
    assert (slip.text, slip.agrees) == ("253,440", False)
    assert rows["conv2"].paper[0].agrees


def test_googlenet_training_net():
    net = build("googlenet")
    assert parameter_count(abstract_variables(net, train=True)) == 13_378_280
    assert summarise(net).training_parameters == 13_378_280
    assert not [name for name in abstract_variables(net)["params"] if name.startswith("aux")]
    without = build("googlenet", auxiliary=False)
    assert parameter_count(abstract_variables(without, train=True)) == 6_998_552


def test_googlenet_table_1_operations():
    """Every printed figure holds but conv1's and 5a's, and conv1's holds for the separable stem."""
    for stem, slips in (("conv", {"conv1", "inception_5a"}), ("separable", {"inception_5a"})):
        rows = summarise(build("googlenet", stem=stem)).rows
        printed = [(row.layer, f) for row in rows for f in row.paper if f.of == "macs"]
        assert len(printed) == 12
        assert {layer for layer, figure in printed if not figure.agrees} == slips


# Multiply-adds of a naive module on the reduced module's input, and when naive modules are stacked.
NAIVE = {
    "3a": (303_464_448, 303_464_448),
    "3b": (854_196_224, 1_388_068_864),
    "4a": (307_077_120, 532_267_008),
    "4b": (378_929_152, 947_322_880),
    "4c": (404_619_264, 1_365_590_016),
    "4d": (431_915_008, 1_835_638_784),
    "4e": (655_699_968, 3_278_499_840),
    "5a": (258_306_048, 1_038_191_616),
    "5b": (287_006_720, 1_396_398_080),
}


def test_naive_modules():
    reduced = {row.layer: row for row in summarise(build("googlenet")).rows}
    naive = {row.layer: row for row in summarise(build("googlenet", module="naive")).rows}
    total = {"reduced": 0, "same input": 0, "stacked": 0}
    inputs = 192
    for name, (same_input, stacked) in NAIVE.items():
        row, widths = reduced[f"inception_{name}"], INCEPTION[name]
        cells = row.shape[0] * row.shape[1]
        kernels = widths.conv1x1 + 9 * widths.conv3x3 + 25 * widths.conv5x5
        assert cells * inputs * kernels == same_input
        assert naive[f"inception_{name}"].macs == stacked
        total["reduced"] += row.macs
        total["same input"] += same_input
        total["stacked"] += stacked
        inputs = row.shape[-1]
    assert total["reduced"] == 1_103_972_352
    assert round(total["same input"] / total["reduced"], 2) == 3.52
    assert round(total["stacked"] / total["reduced"], 1) == 10.9
    assert naive["inception_5b"].shape == (7, 7, 4944)


def test_vgg_localisation_heads():
    """Simonyan and Zisserman 2014, appendix A: SCR and PCR are net D with other outputs."""
    for outputs, parameters in ((4, 134_276_932), (4000, 150_648_544)):
        net = build("vgg", column="D", num_classes=outputs)
        assert parameter_count(abstract_variables(net)) == parameters


def test_dropped_layers_keep_the_net_whole():
    shapes = {"conv3": (3, 3, 256, 384), "conv4": (3, 3, 192, 256), "conv5": (6, 6, 384, 4096)}
    following = {"conv3": "conv4", "conv4": "conv5", "conv5": "fc6"}
    for dropped, shape in shapes.items():
        params = abstract_variables(build("alexnet", drop_layer=dropped))["params"]
        assert dropped not in params
        assert params[following[dropped]]["kernel"].shape == shape
    no_conv2 = abstract_variables(build("alexnet", drop_layer="conv2"))["params"]
    assert no_conv2["conv3"]["kernel"].shape == (3, 3, 96, 384)


INCEPTION_LAYERS = {
    "conv1x1",
    "conv3x3_reduce",
    "conv3x3",
    "conv5x5_reduce",
    "conv5x5",
    "pool_proj",
}


@pytest.mark.parametrize("remat", [False, True])
def test_names_are_the_file_format(remat):
    def names(net, **fields):
        return abstract_variables(build(net, remat=remat, **fields), train=True)["params"]

    fully_connected = {"fc6", "fc7", "fc8"}
    assert set(names("alexnet")) == {f"conv{i}" for i in range(1, 6)} | fully_connected
    vgg_c = {f"conv{b}_{i}" for b in (1, 2) for i in (1, 2)}
    vgg_c |= {f"conv{b}_{i}" for b in (3, 4, 5) for i in (1, 2, 3)}
    assert set(names("vgg", column="C")) == vgg_c | fully_connected
    googlenet = names("googlenet")
    modules = {f"inception_{name}" for name in INCEPTION}
    assert set(googlenet) == {"conv1", "conv2_reduce", "conv2", "fc", "aux_4a", "aux_4d"} | modules
    assert all(set(googlenet[module]) == INCEPTION_LAYERS for module in modules)
    assert set(googlenet["aux_4a"]) == {"conv", "fc1", "fc2"}
    leaves = jax.tree_util.tree_leaves_with_path(googlenet)
    assert {path[-1].key for path, _ in leaves} == {"kernel", "bias"}
    assert names("alexnet")["conv2"]["kernel"].shape == (5, 5, 48, 256)
    assert names("vgg")["fc6"]["kernel"].shape == (7, 7, 512, 4096)
    cuda_convnet = names("cuda_convnet")
    assert set(cuda_convnet) == {"conv1", "conv2", "local3", "local4", "fc"}
    shapes = {leaf: x.shape for leaf, x in cuda_convnet["local4"].items()}
    assert shapes == {"kernel": (6, 6, 3, 3, 64, 32), "bias": (6, 6, 32)}
    assert cuda_convnet["fc"]["kernel"].shape == (6, 6, 32, 10)
