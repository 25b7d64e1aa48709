"""Each plan on eight devices gives the results of one device, with the predicted collectives.

tests/training/test_train_step.py tests plain data parallelism.
"""

import functools
import re
from collections import Counter

import jax
import numpy as np
import pytest

from jaxcnn.models import build
from jaxcnn.parallel import plan_lines
from jaxcnn.parallel.comm_cost import comm_cost
from jaxcnn.planning.hlo import read_transfers
from jaxcnn.training.experiment import synthetic_batch
from tests.training.test_train_step import NO_FLIP, experiment

ROWS = 16  # images per update, two per device
RATE = 5e-4
# (net, keys of the config's `mesh`, collectives per update by kind). The image ids are one all-gather. If
# devices see different gradients, the check for non-finite updates is one all-reduce.
PLANS = {
    "alexnet towers": (
        "alexnet",
        {"plan": "towers"},
        # the images, the exchanges before conv3, fc6, fc7 and fc8, the ids
        {"all-gather": 6, "reduce-scatter": 4, "all-to-all": 2, "all-reduce": 3},
    ),
    "alexnet towers, update sharded": (
        "alexnet",
        {"plan": "towers", "shard_update": True},
        {"all-gather": 7, "reduce-scatter": 5, "all-to-all": 2, "all-reduce": 3},
    ),
    "alexnet fully connected": (
        "alexnet",
        {"plan": "fully_connected"},
        {"all-gather": 4, "reduce-scatter": 3, "all-to-all": 2, "all-reduce": 2},
    ),
    "vgg fully connected, update sharded": (
        "vgg",
        {"plan": "fully_connected", "model": 4, "shard_update": True},
        {"all-gather": 6, "reduce-scatter": 5, "all-to-all": 2, "all-reduce": 2},
    ),
    "vgg update sharded": (
        "vgg",
        {"plan": "data", "shard_update": True},
        {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2},
    ),
    # XLA:CPU merges the buckets into one up to jaxlib 0.11; since 0.12 there are seven.
    "vgg in buckets": (
        "vgg",
        {"plan": "data", "bucket_mb": 0.02},
        {"all-reduce": 1 if jax.__version_info__ < (0, 12) else 7},
    ),
}


# VGG's fast test covers split fully connected layers: AlexNet's are the same.
SLOW = ("alexnet fully connected",)
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PLANS]


def sent_by(step):
    """The collectives of a compiled step."""
    return read_transfers(step.as_text())


@functools.cache
def made(net, **mesh):
    exp = experiment(net, augment=dict(NO_FLIP), mesh=mesh, classes=8)
    # LLVM's optimisations do not change collectives.
    return exp, exp.lower_train().compile({"xla_backend_optimization_level": 0})


@functools.cache
def trained(net, **mesh):
    """(losses of 5 updates, momentum after the first one: its scaled gradients and weight decay)."""
    exp, step = made(net, **mesh)
    state, batch, losses, momentum = exp.fresh_state(), synthetic_batch(exp), [], None
    for _ in range(5):
        state, sums = step(state, batch, exp.put_controls(RATE))
        losses.append(float(sums["loss"]) / ROWS)
        momentum = momentum or jax.device_get(state.opt_state)
    return losses, momentum


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_gives_the_results_of_one_device(name):
    """Losses and gradients, with dropout on."""
    net, mesh, _ = PLANS[name]
    losses, momentum = trained(net, **mesh)
    wanted_losses, wanted = trained(net, data=1)
    assert len(set(losses)) == 5
    # Sums in another order differ by an ulp, which grows over five updates.
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-4)
    for mine, theirs in zip(*map(jax.tree.leaves, (momentum, wanted)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_sends_what_is_predicted_and_donates_its_state(name):
    net, mesh, kinds = PLANS[name]
    exp, step = made(net, **mesh)
    sent = sent_by(step)
    assert Counter(c.kind for c in sent) == kinds
    predicted = Counter()
    params = exp.abstract_state().params
    for c in comm_cost(exp.plan, exp.grad_reduce, exp.net, params, ROWS):
        predicted[c.kind] += c.bytes
    found = Counter()
    for c in sent:
        found[c.kind] += c.bytes
    assert found.keys() == predicted.keys() | {"all-reduce"}
    for kind, size in found.items():  # plus the sums of the metrics, a few scalars
        assert 0 <= size - predicted[kind] <= 64, kind
    assert step.memory_analysis().alias_size_in_bytes == sum(map(_local_bytes, _leaves(exp)))


def test_towers_communicate_at_exchanges_only():
    """Krizhevsky et al. 2012, section 3.5: conv2, conv4 and conv5 use only the maps of their own GPU."""
    _, step = made("alexnet", plan="towers")
    names = [c.name for c in sent_by(step) if c.kind != "all-reduce"]
    assert names
    assert all("conv" not in name.rpartition("AlexNet.forward/")[2] for name in names)
    sizes = sorted(c.bytes for c in sent_by(step) if c.kind == "reduce-scatter")
    rows = ROWS // 4
    # The inputs of conv3 (3 x 3 of 32), fc6 (1 x 1 of 32), fc7 and fc8 (512).
    assert sizes == [4 * rows * n for n in (32, 9 * 32, 512, 512)]


def test_buckets_send_gradients_of_the_last_layers_first():
    exp = experiment("vgg", mesh={"plan": "data", "bucket_mb": 0.02}, classes=8)
    names = [
        jax.tree_util.keystr(path[:-1], simple=True)
        for path, _ in jax.tree_util.tree_flatten_with_path(exp.abstract_state().params)[0]
    ]
    buckets = [[names[i] for i in bucket] for bucket in exp.grad_reduce.buckets]
    assert [sorted(set(bucket)) for bucket in buckets] == [
        ["fc7"], ["fc6"], ["conv5_2"], ["conv5_1"], ["conv4_2"],
        ["conv4_1", "conv4_2", "conv5_1", "conv5_2", "fc6", "fc7", "fc8"],  # fc8, biases, conv4_1
        ["conv1_1", "conv2_1", "conv3_1", "conv3_2"],
    ]  # fmt: skip
    assert sorted(i for bucket in exp.grad_reduce.buckets for i in bucket) == [*range(len(names))]
    text = exp.lower_train().as_text()
    assert text.count("optimization_barrier") == len(buckets) - 1
    one = experiment("vgg", mesh={"plan": "data", "bucket_mb": 0.0}, classes=8)
    assert len(one.grad_reduce.buckets) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_sent_in_the_configured_dtype(dtype):
    """Even if the net computes in bfloat16. CPU collectives widen bfloat16, so this reads the program before
    XLA: every all-reduce of an array; scalars are counts."""
    exp = experiment(
        "vgg", model={"dtype": "bfloat16"}, mesh={"plan": "data", "reduce_dtype": dtype}
    )
    reduces = re.findall(
        r'"stablehlo.all_reduce".*?}\) : \(([^)]*)\)', exp.lower_train().as_text(), re.DOTALL
    )
    arrays = [text for text in reduces if "x" in text]
    assert len(arrays) >= len(jax.tree.leaves(exp.abstract_state().params))
    short = {"float32": "xf32>", "bfloat16": "xbf16>"}[dtype]
    assert all(text.endswith(short) for text in arrays)


def test_momentum_of_a_sharded_update_is_sharded():
    exp = experiment("vgg", mesh={"plan": "data", "shard_update": True}, classes=8)
    state = exp.fresh_state()
    for leaf in jax.tree.leaves(state.params):
        assert leaf.addressable_shards[0].data.shape == leaf.shape
    kept = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.size % 8 == 0]
    assert len(kept) >= 20
    whole = sum(leaf.size for leaf in kept)
    mine = sum(leaf.addressable_shards[0].data.size for leaf in kept)
    assert mine < whole / 7


BREAK_EVEN = {"vgg": 451, "alexnet": 398}  # images per device, of eight


@pytest.mark.parametrize("name", BREAK_EVEN)
def test_auto_chooses_the_plan_that_sends_fewest_bytes(name):
    """Krizhevsky 2014 (arXiv 1404.5997) splits fully connected layers because their gradients are larger
    than their inputs, up to some number of images per device."""
    wide = {"width": 1.0, "image_size": 224, "dtype": "bfloat16"} | (
        {"column": "D"} if name == "vgg" else {}
    )
    chosen = {}
    for images in (BREAK_EVEN[name] * 9 // 10, BREAK_EVEN[name] * 11 // 10):
        exp = experiment(
            name,
            batch_size=images * 8,
            classes=1000,
            model=wide,
            mesh={"reduce_dtype": "bfloat16", "model": 8, "plan": "auto"},
        )
        chosen[images] = exp.plan.name
        if images < BREAK_EVEN[name] and name == "vgg":
            net = build("vgg", column="D", num_classes=1000)
            fully_connected = 3 * 4096 + 25088 * 4096 + 4096**2 + 4096 * 1000 - 4096 + 1000 - 4096
            assert net.fully_connected(8) == {"fc6", "fc7", "fc8"}
            assert exp.comm_mb["data"] == pytest.approx(2 * 7 / 8 * 138_357_544 * 2 / 1e6)
            rest = exp.comm_mb["data"] * (1 - fully_connected / 138_357_544)
            assert exp.comm_mb["fully_connected"] - rest == pytest.approx(0.96 * images, rel=0.03)
    assert list(chosen.values()) == ["fully_connected", "data"]


def test_data_parallel_is_the_default_and_the_other_plans_bytes_are_printed():
    """Even where the others send fewer: what they send, all devices wait for."""
    by_default = experiment("vgg", mesh={})
    assert by_default.config["mesh"]["plan"] == "data"
    plan = by_default.plan
    assert (plan.name, plan.data, plan.model) == ("data", 8, 1)
    sent = by_default.comm_mb
    assert sent["fully_connected"] < sent["data"]
    shown = [text for _, text in plan_lines(plan, by_default.grad_reduce, sent)]
    other = f"(with mesh.plan=fully_connected {sent['fully_connected']:,.1f} MB)"
    assert shown[:2] == [
        "data 8 x model 1, data parallel",
        f"{sent['data']:,.1f} MB sent per update and device {other}",
    ]
    assert experiment("vgg", mesh={"plan": "auto"}).plan.name == "fully_connected"


BAD = {
    "mesh.model=3 does not divide the 8 devices; it can be 1, 2, 4, 8": {"model": 3},
    r"mesh.data=3 x mesh.model=4 needs 12 devices, but there are 8": {"data": 3, "model": 4},
    r"mesh.plan=towers: two towers need mesh.model=2, got 4": {"plan": "towers", "model": 4},
    r"plan must be auto or one of data, towers, fully_connected, got 'pipeline'": {
        "plan": "pipeline"
    },
    r"reduce_dtype must be float32 or bfloat16, got 'float16'": {"reduce_dtype": "float16"},
}


@pytest.mark.parametrize("message", BAD)
def test_impossible_meshes_are_errors(message):
    with pytest.raises(ValueError, match=message):
        experiment("alexnet", mesh=BAD[message])


@pytest.mark.parametrize(
    ("net", "model", "message"),
    [
        ("vgg", {}, "VGG has no towers; or take another mesh.plan"),
        ("alexnet", {"lrn": "whole"}, "model.lrn=tower or off; they are 2, False and whole"),
        ("googlenet", {}, "GoogLeNet has no towers"),
    ],
)
def test_the_towers_plan_needs_a_net_with_two_towers(net, model, message):
    with pytest.raises(ValueError, match=message):
        experiment(net, model=model, mesh={"plan": "towers"})


def test_the_fully_connected_plan_needs_such_layers():
    with pytest.raises(ValueError, match=r"no fully connected layer of this GoogLeNet splits over"):
        experiment("googlenet", mesh={"plan": "fully_connected"})


def _leaves(exp):
    return jax.tree.leaves(exp.abstract_state())


def _local_bytes(leaf):
    shape = leaf.sharding.shard_shape(leaf.shape)
    return int(np.prod(shape)) * leaf.dtype.itemsize
