"""The train step: it learns, splits batches, agrees across devices and drops updates that are not finite.

GoogLeNet's step takes longest to compile: the fast tests compile it once, for eight devices."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.training import schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.experiment import Experiment, synthetic_batch
from jaxcnn.training.train_step import _all_finite, _finite_columns, _finite_norm

# Each paper's net with every layer present, at the smallest width and side that keep them all.
NETS = {
    "vgg": {"name": "vgg", "column": "A", "width": 0.0625, "image_size": 32},
    "alexnet": {"name": "alexnet", "width": 0.125, "image_size": 67},
    "googlenet": {"name": "googlenet", "width": 0.0625, "image_size": 96},
}


def experiment(net, devices=1, batch_size=16, classes=4, **more):
    config = {
        "seed": 0,
        "epochs": 1.0,
        "batch_size": batch_size,
        "model": NETS[net] | more.pop("model", {}),
        "data": {"source": "synthetic:4"},
        "augment": {"scale": (256, 256), "mean": (127.5, 127.5, 127.5)},
        "optim": {"name": "momentum"} | more.pop("optim", {}),
        "schedule": {"name": "constant", "rate": 0.01},
        "mesh": {"data": devices},
        **more,
    }
    return build_experiment(with_classes(schema.resolve_config(config), classes))


@functools.cache
def compiled(net, devices=1, drop=True, **more):
    """(experiment, compiled step), cached: these tests spend nearly all their time compiling."""
    off = {} if drop else {"dropout": 0.0} | ({"aux_dropout": 0.0} if net == "googlenet" else {})
    exp = experiment(
        net,
        devices,
        model=off,
        **{k: dict(v) if isinstance(v, tuple) else v for k, v in more.items()},
    )
    return exp, exp.lower_train().compile()


@functools.cache
def _start(net):
    if net != "googlenet":
        return jax.device_get(experiment(net).fresh_state())
    # On the host: JAX takes as long to compile the draws as to compile the step.
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), experiment(net).abstract_state())
    draw = lambda x: rng.normal(0, x[..., 0].size ** -0.5, x.shape).astype(x.dtype)  # noqa: E731
    params = jax.tree.map(lambda x: draw(x) if x.ndim > 1 else x, state.params)
    return dataclasses.replace(state, params=params)


def start(exp, net):
    """A net's fresh state, which depends on neither the devices nor dropout."""
    state = _start(net)
    average = jax.device_get(exp.average.start(state.params))
    return exp.placement.put_replicated(dataclasses.replace(state, average=average))


def per_net(*nets):
    return pytest.mark.parametrize("net", nets)


NO_FLIP = (("flip", 0.0), ("mean", (127.5, 127.5, 127.5)))
SLOW = pytest.mark.slow
AVERAGED = {"vgg": {"average": (("kind", "exponential"),)}, "alexnet": {}, "googlenet": {}}
# Learning rates, steps and widths that bring each net from ln 4 to below 0.05 without dropout (X1).
OVERFIT = {
    "vgg": (0.001, 80, 0.0625),
    "alexnet": (0.003, 300, 0.125),
    "googlenet": (0.001, 280, 0.125),
}


@per_net("vgg", pytest.param("alexnet", marks=SLOW), pytest.param("googlenet", marks=SLOW))
def test_x1_overfits_sixteen_fixed_images(net):
    """The loss typically ends below 0.05; the bound is twice that, as rounding decides the path."""
    learning_rate, steps, width = OVERFIT[net]
    model = {"dropout": 0.0, "width": width} | ({"aux_dropout": 0.0} if net == "googlenet" else {})
    exp = experiment(net, model=model, augment=dict(NO_FLIP))
    step = exp.lower_train().compile()
    state, batch, losses = exp.fresh_state(), synthetic_batch(exp), []
    for _ in range(steps):
        state, sums = step(state, batch, exp.put_controls(learning_rate))
        losses.append(float(sums["loss"]) / 16)
    assert losses[0] > 1.0
    assert max(losses[-5:]) < 0.1, losses[::10]
    assert float(sums["top1"]) == 16
    assert int(state.step) == steps


def one_update(net, devices=1, drop=True, **more):
    """(start parameters, updated parameters, sums) of one update of a net on its synthetic batch."""
    exp, step = compiled(net, devices, drop=drop, **more)
    state, sums = step(start(exp, net), synthetic_batch(exp), exp.put_controls(0.01))
    return jax.device_get((_start(net).params, state.params, sums))


def assert_same_update(one, other):
    """Counts are equal. Sums over a batch in another order differ by their last bits: 1e-4 of each array's
    largest change is far above that and far below one example, a sixteenth, counted wrongly."""
    (before, one_after, one_sums), (_, other_after, other_sums) = one, other
    for count in ("n", "finite", "failed"):
        assert one_sums[count] == other_sums[count]
    np.testing.assert_allclose(one_sums["loss"], other_sums["loss"], rtol=1e-5)
    leaves = map(jax.tree.leaves, (before, one_after, other_after))
    for old, a, b in zip(*leaves, strict=True):
        assert np.abs(a - old).max() > 0
        # float32 parameters themselves round to 1e-7 of their size, biases of 0 excepted
        atol = 1e-4 * np.abs(a - old).max() + 3e-7 * np.abs(old).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@per_net("vgg", pytest.param("alexnet", marks=SLOW))
def test_x1_accumulating_two_slices_gives_the_same_update(net):
    """Simonyan & Zisserman 2014, section 3.3: averaging the GPUs' gradients is exactly the same. Dropout is
    on, because its mask follows the image."""
    whole, slices = one_update(net), one_update(net, grad_accum_steps=2)
    assert whole[2]["n"] == slices[2]["n"] == 16
    assert_same_update(whole, slices)


@per_net("vgg")
def test_masked_examples_do_not_count(net):
    exp, step = compiled(net, drop=False, augment=NO_FLIP)
    whole = jax.device_get(synthetic_batch(exp))
    mask = np.arange(16) < 10
    changed = np.where(mask[:, None, None, None], whole["image"], 7).astype(np.uint8)
    results = []
    for image in (whole["image"], changed):
        batch = exp.placement.put_batch({**whole, "image": image, "mask": mask})
        state, sums = step(start(exp, net), batch, exp.put_controls(0.01))
        assert float(sums["n"]) == 10
        results.append(state.params)
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


@per_net("vgg", *(pytest.param(net, marks=SLOW) for net in ("alexnet", "googlenet")))
def test_eight_devices_take_the_same_update_as_one(net):
    """One update: over many, training amplifies the rounding in which device counts differ. Dropout is on
    except for GoogLeNet, which shares its compiled step with the next test."""
    drop = net != "googlenet"
    assert_same_update(one_update(net, 1, drop), one_update(net, 8, drop, **AVERAGED[net]))


@per_net("vgg", "alexnet", "googlenet")
def test_a_step_has_one_all_reduce_and_donates_the_whole_state(net):
    """With VGG the weights are averaged too."""
    exp, step = compiled(net, 8, drop=net != "googlenet", **AVERAGED[net])
    kinds = (
        "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
    )
    found = re.findall(rf"\b({kinds})(?:-start)?\(", step.as_text())
    assert found == ["all-reduce"]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(exp.abstract_state()))
    assert step.memory_analysis().alias_size_in_bytes == size
    if AVERAGED[net]:
        state, batch = exp.fresh_state(), synthetic_batch(exp)
        for rate in (0.01, 0.01):  # a second donation fails where two arrays share a buffer
            state, _ = step(state, batch, exp.put_controls(rate))
        assert int(state.average["count"]) == 2
    if net == "googlenet":  # the fast test that takes an update of the net with auxiliary heads
        state, sums = step(start(exp, net), synthetic_batch(exp), exp.put_controls(0.01))
        assert (float(sums["finite"]), int(state.step)) == (1.0, 1)
        for name, layers in jax.device_get(state.params).items():
            pairs = zip(*map(jax.tree.leaves, (layers, _start(net).params[name])), strict=True)
            assert any((new != old).any() for new, old in pairs), name


@per_net("vgg")
@pytest.mark.parametrize("poison", ["loss", "gradients"])
def test_a_nonfinite_step_changes_nothing(net, poison):
    exp, step = compiled(net, drop=False, augment=NO_FLIP)
    fresh = start(exp, net)
    if poison == "loss":
        params = dict(fresh.params, fc8=dict(fresh.params["fc8"], bias=jnp.full(4, jnp.inf)))
    else:  # a kernel so large that the loss is finite and gradients of earlier layers are not
        params = dict(fresh.params, fc8=jax.tree.map(lambda x: x * 1e37, fresh.params["fc8"]))
    before = dataclasses.replace(fresh, params=params)
    state = exp.placement.put_replicated(jax.device_get(before))
    after, sums = step(state, synthetic_batch(exp), exp.put_controls(0.01))
    assert np.isfinite(float(sums["loss"])) == (poison == "gradients")
    assert float(sums["finite"]) == 0.0
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)


@per_net("vgg")
def test_the_compiler_options_for_cpus_save_memory(net):
    exp, optimised = compiled(net)
    usual = {
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_DEFAULT",
        "xla_cpu_copy_insertion_use_region_analysis": False,
    }
    ours, others = (
        step.memory_analysis().temp_size_in_bytes
        for step in (optimised, exp.lower_train().compile(compiler_options=usual))
    )
    assert ours < 0.9 * others


@pytest.mark.parametrize("form", [_all_finite, _finite_columns, _finite_norm])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_nonfinite_value_is_found_anywhere(poison, form):
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "fc": {"kernel": (5, 3)}}
    ones = jax.tree.map(np.ones, shapes, is_leaf=lambda s: isinstance(s, tuple))
    all_finite = jax.jit(form)
    assert all_finite(ones)
    for leaf in jax.tree.leaves(ones):
        for place in np.ndindex(leaf.shape):
            leaf[place] = poison
            assert not all_finite(ones)
            leaf[place] = 1.0


@per_net("vgg")
def test_runs_that_differ_by_seed_share_one_program(net):
    """JAX's persistent compilation cache finds a program by its text."""
    texts = {
        Experiment.lower_train.__wrapped__(  # not what another test has lowered
            experiment(
                net, augment={"flip": 0.5}, seed=seed, data={"source": "synthetic:4", "seed": data}
            )
        ).as_text()
        for seed, data in ((0, 0), (1, 0), (0, 1))
    }
    assert len(texts) == 1


@per_net("vgg")
def test_the_seeds_reach_dropout_and_augmentation(net):
    exp, step = compiled(net)
    losses = []
    for seed, data_seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        controls = dataclasses.replace(
            jax.device_get(exp.put_controls(0.01)),
            seed=np.int32(seed),
            data_seed=np.int32(data_seed),
        )
        sums = step(start(exp, net), synthetic_batch(exp), exp.placement.put_replicated(controls))[
            1
        ]
        losses.append(float(sums["loss"]))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_the_error_for_a_batch_that_does_not_split_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"batch_size 20 does not split over 8 devices.*batch_size=16"
    ):
        experiment("vgg", 8, batch_size=20)


def test_plateau_and_average_are_empty_when_off():
    state = experiment("vgg").abstract_state()
    assert (state.plateau, state.average) == ({}, {})


def test_another_number_of_classes_than_the_source_has_is_an_error():
    with pytest.raises(ValueError, match=r"model.num_classes is 7, but synthetic:4 has 4 classes"):
        experiment("vgg", model={"num_classes": 7})
