"""Initial weights from another run by layer name (papers.md section 6, I2), and layers that do not fit."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn.training import run
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.train_state import draw_params
from jaxcnn.training.warm_start import WarmStartError, classifiers, grouped
from tests.training.runs import assert_same_state, config, state_of

# Net A's first four convolutions and its fully connected layers (section 3.1, by name).
VGG_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


@pytest.fixture(scope="module")
def net_a(tmp_path_factory):
    """Net A after two updates, its weights averaged."""
    folder = tmp_path_factory.mktemp("net_a") / "run"
    run(config(seed=5, epochs=0.25, evals="()", average__kind="uniform"), folder)
    return folder


def begin(folder, source, layers=(), **changes):
    """The state saved by a run without updates."""
    settings = {"init__from_run": source, "init__layers": layers, "epochs": 0, "evals": "()"}
    run(config(**settings | changes), folder)
    return state_of(folder)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_i2_net_d_takes_layers_of_net_a_by_name(net_a, tmp_path, capsys):
    state = begin(tmp_path / "run", net_a, VGG_LAYERS, model__column="D")
    taken, old = state.params, state_of(net_a)
    alone = jax.device_get(
        build_experiment(with_classes(config(model__column="D"), 4)).fresh_state().params
    )
    assert len(taken) == 16
    for name, leaves in taken.items():
        assert same(leaves, old.average["params"][name] if name in VGG_LAYERS else alone[name])
        assert (name in VGG_LAYERS) != same(leaves, alone[name])
    assert not same(old.params["fc8"], old.average["params"]["fc8"])
    assert all(not x.any() for x in jax.tree.leaves(state.opt_state))
    shown = capsys.readouterr().out
    assert f"start    {net_a}, step 2, averaged weights: conv1_1 conv2_1 conv3_1" in shown
    assert "at random: conv1_2 conv2_2 conv3_3 conv4_1" in shown
    (start,) = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert start["started_from"]["path"] == str(net_a)
    assert start["started_from"]["step"] == 2
    assert start["started_from"]["kept"] == list(VGG_LAYERS)
    assert len(start["started_from"]["new"]) == 9


def test_the_average_starts_from_the_copied_layers(net_a, tmp_path, capsys):
    state = begin(tmp_path / "run", net_a, average__kind="exponential")
    assert_same_state(state.params, state_of(net_a).average["params"])
    assert_same_state(state.average["params"], state.params)
    assert "step 2, averaged weights: every layer" in capsys.readouterr().out


def test_a_resumed_run_does_not_need_its_source(net_a, tmp_path):
    source = shutil.copytree(net_a, tmp_path / "source")
    changes = {"init__from_run": source, "evals": "()"}
    run(config(epochs=0.25, **changes), tmp_path / "run")
    shutil.rmtree(source)
    run(config(epochs=0.375, **changes), tmp_path / "run")
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert [("started_from" in s, s["step"]) for s in starts] == [(True, 0), (False, 2)]


def test_a_classifier_of_other_classes_is_random(net_a, tmp_path, capsys):
    state = begin(tmp_path / "run", net_a, data__source="synthetic:6")
    old = state_of(net_a).average["params"]
    assert {n for n, leaves in state.params.items() if n == "fc8" or not same(leaves, old[n])} == {
        "fc8"
    }
    assert state.params["fc8"]["kernel"].shape[-1] == 6
    assert "another number of classes: fc8 cannot be kept" in capsys.readouterr().out


def test_layers_that_do_not_fit_are_listed_with_those_that_do(net_a, tmp_path):
    with pytest.raises(WarmStartError) as caught:
        begin(tmp_path / "run", net_a, ("conv1_1", "conv1_2", "fc6", "fc9"), model__column="B-5x5")
    text = str(caught.value)
    assert "fc9: named in init.layers, but this net has no such layer; did you mean 'fc8'?" in text
    assert (
        "conv1_1/kernel: the run has float32[3, 3, 3, 4], this net needs float32[5, 5, 3, 4]"
        in text
    )
    assert "conv1_2: named in init.layers" in text
    assert "keep the layers that fit: --config.init.layers=\"('fc6',)\"" in text


def test_every_layer_must_exist_unless_some_are_named(net_a, tmp_path):
    with pytest.raises(WarmStartError) as caught:
        begin(tmp_path / "run", net_a, model__column="B")
    text = str(caught.value)
    assert "conv1_2: the run's net has no such layer" in text
    assert "'conv1_1', 'conv2_1', 'conv3_1', 'conv3_2'" in text


def test_no_layer_of_another_width_fits(net_a, tmp_path):
    with pytest.raises(WarmStartError, match=r"(?s)and \d+ more.*no layer fits"):
        begin(tmp_path / "run", net_a, model__width=0.125)


def test_a_missing_run_and_a_run_without_checkpoints_are_errors(net_a, tmp_path):
    with pytest.raises(
        WarmStartError, match=r"nowhere holds no run(?s:.*)fc9: named in init.layers"
    ):
        begin(tmp_path / "run", tmp_path / "nowhere", ("fc9",))
    (tmp_path / "empty").mkdir()
    shutil.copy(net_a / "config.json", tmp_path / "empty")
    with pytest.raises(WarmStartError, match="empty has no checkpoint yet"):
        begin(tmp_path / "run", tmp_path / "empty")


@pytest.mark.parametrize("column", ["B", "C", "D", "E"])
def test_the_layers_of_net_a_fit_by_name_and_not_by_position(column):
    def shapes(column):
        net = jaxcnn.build("vgg", column=column, width=0.0625, image_size=32)
        params = jax.eval_shape(lambda key: draw_params(net, key), jax.random.key(0))
        return {name: leaves["kernel"].shape for name, leaves in params.items()}

    old, new = shapes("A"), shapes(column)
    assert [old[name] for name in VGG_LAYERS] == [new[name] for name in VGG_LAYERS]
    assert old[list(old)[1]] != new[list(new)[1]]


def test_init_layers_without_from_run_is_an_error():
    with pytest.raises(ValueError, match="need from_run"):
        config(init__layers="('fc6',)")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "vgg", "column": "A", "width": 0.0625, "image_size": 32}, {"fc8"}),
        ({"name": "alexnet", "width": 0.125, "image_size": 67}, {"fc8"}),
        (
            {"name": "googlenet", "width": 0.0625, "image_size": 96},
            {"fc", "aux_4a/fc2", "aux_4d/fc2"},
        ),
    ],
    ids=lambda value: value.get("name", "") if isinstance(value, dict) else "",
)
def test_classifiers_are_the_layers_that_depend_on_the_number_of_classes(model, expected):
    fields = {k: v for k, v in model.items() if k != "name"}
    assert classifiers(jaxcnn.build(model["name"], num_classes=8, **fields)) == expected


def test_a_complete_module_is_listed_by_its_name():
    everything = ("conv1", "inception_3a/conv1x1", "inception_3a/conv3x3", "fc")
    assert grouped(everything[:3], everything) == ("conv1", "inception_3a")
    assert grouped(everything[:2], everything) == ("conv1", "inception_3a/conv1x1")


def test_an_older_config_is_read_and_a_broken_one_is_an_error(net_a, tmp_path):
    source = shutil.copytree(net_a, tmp_path / "source")
    old = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(old | {"checkpoint": {}}))
    assert same(begin(tmp_path / "a", source).params, state_of(net_a).average["params"])
    (source / "config.json").write_text(json.dumps(old | {"optim": {"name": "sgd"}}))
    with pytest.raises(WarmStartError, match=r"config.json is not the config of a run"):
        begin(tmp_path / "b", source)
    assert not (tmp_path / "b").exists()  # so that a corrected start finds no leftovers
