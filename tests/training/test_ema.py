"""Averaged weights (papers.md section 6, O6): closed forms, and where a run uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from jaxcnn import config as configs
from jaxcnn.training import Stopped, evaluator, run, schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.ema import WeightAverage
from tests.training.runs import assert_same_state, config, events, signalling, state_of, timeless


def walk(average, weights, counts=None):
    """The average after each weight, starting from weight 99, and the final count."""
    state, seen = average.start({"w": jnp.float32(99.0)}), []
    for weight, count in zip(weights, counts or [True] * len(weights), strict=True):
        state = average.take_in(state, {"w": jnp.float32(weight)}, jnp.bool_(count))
        seen.append(float(state["params"]["w"]))
    return seen, int(state["count"])


def test_o6_the_uniform_average_of_t_is_half_of_n_plus_1():
    seen, count = walk(WeightAverage(kind="uniform"), range(1, 101))
    np.testing.assert_allclose(seen, [(n + 1) / 2 for n in range(1, 101)], rtol=1e-6)
    assert count == 100


def test_o6_the_exponential_average_has_its_closed_form():
    """decay 0.9: the mean of 1..10 is 5.5; from then on t - 9 + 4.5 * 0.9^(t - 10), 9 behind in the end."""
    seen, _ = walk(WeightAverage(kind="exponential", decay=0.9), range(1, 101))
    t = np.arange(1.0, 101.0)
    np.testing.assert_allclose(seen[:10], (t[:10] + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(seen[10:], (t - 9 + 4.5 * 0.9 ** (t - 10))[10:], rtol=1e-5)
    assert seen[-1] == pytest.approx(91.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["uniform", "exponential"])
def test_before_its_epoch_the_average_equals_the_weights(kind):
    weights = [0.1, 0.7, 1e-8, 0.3, 0.5]
    seen, count = walk(WeightAverage(kind=kind), weights, [False, False, False, True, True])
    assert seen[:4] == [float(np.float32(w)) for w in weights[:4]]
    assert seen[4] == pytest.approx(0.4)
    assert count == 2


@pytest.mark.parametrize(
    "wrong", [{"kind": "ema"}, {"decay": 1.0}, {"from_epoch": -1.0}, {"from_epoch": float("nan")}]
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WeightAverage(**wrong)


ON = {
    "average__kind": "exponential",
    "average__decay": 0.9,
    "average__from_epoch": 1.0,
    "data__held_out": 64,
}  # 6 steps an epoch


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run of 18 updates that averages from its second epoch on."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    run(config(**ON), folder)
    return folder


def test_a_run_prints_that_it_averages(tmp_path, capsys):
    run(config(**ON, epochs=0), tmp_path / "run")
    assert (
        "average  of the weights, exponential, decay 0.9, from epoch 1; used for evaluation"
        in capsys.readouterr().out
    )


def test_the_updates_from_the_epoch_on_count(averaged):
    assert int(state_of(averaged).average["count"]) == 12


def test_load_returns_the_averaged_weights(averaged):
    state, loaded = state_of(averaged), jaxcnn.load(averaged)
    assert_same_state(loaded.variables["params"], state.average["params"])
    assert not np.array_equal(
        state.params["fc8"]["kernel"], state.average["params"]["fc8"]["kernel"]
    )


@pytest.mark.parametrize("split", ["evaluation", "held_out"])
def test_every_split_is_evaluated_with_the_averaged_weights(averaged, split, tmp_path):
    loaded, state = jaxcnn.load(averaged), state_of(averaged)
    source = getattr(evaluator.open_splits(loaded.config["data"]), split)
    views, labels = [], []
    for i in range(len(source)):
        encoded, label = source.read(i)
        (tmp_path / "x.jpg").write_bytes(encoded)
        views.append(loaded.preprocess(tmp_path / "x.jpg")[0])
        labels.append(label)

    def loss(params):
        posterior = loaded._forward({"params": params}, np.stack(views))
        return float(-jnp.log(posterior)[np.arange(len(labels)), np.asarray(labels)].mean())

    reported = [e["loss"] for e in events(averaged) if e["kind"] == "eval" and e["split"] == split]
    assert reported[-1] == pytest.approx(loss(state.average["params"]), rel=1e-4)
    assert reported[-1] != pytest.approx(loss(state.params), rel=5e-4)


def test_a_stopped_run_resumes_to_the_same_bits(averaged, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signalling(patch, "train", 10)
        with pytest.raises(Stopped):
            run(config(**ON), tmp_path / "run")
    stopped = state_of(tmp_path / "run")
    assert (int(stopped.step), int(stopped.average["count"])) == (10, 4)
    run(config(**ON), tmp_path / "run")
    assert_same_state(state_of(tmp_path / "run"), state_of(averaged))
    assert timeless(tmp_path / "run") == timeless(averaged)


def test_load_returns_no_auxiliary_heads(tmp_path):
    """The checkpoint holds zeros in the shapes of GoogLeNet's state: training it would compile for long."""
    given = {
        "seed": 0,
        "epochs": 1.0,
        "batch_size": 8,
        "model": {"name": "googlenet", "width": 0.0625, "image_size": 96},
        "data": {"source": "synthetic:4"},
        "optim": {"name": "momentum"},
        "schedule": {"name": "constant", "rate": 0.1},
        "average": {"kind": "uniform"},
    }
    resolved = with_classes(schema.resolve_config(given), 4)
    state = build_experiment(resolved).abstract_state()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    zeros = lambda s: jnp.zeros(s.shape, s.dtype, device=s.sharding)  # noqa: E731
    checkpoints.save(jax.tree.map(zeros, state), {"seconds": 0.0})
    checkpoints.close()
    configs.save_config(resolved, tmp_path / "config.json")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    given_by_load = jaxcnn.load(tmp_path).variables["params"]
    assert state.average["params"].keys() - given_by_load.keys() == {"aux_4a", "aux_4d"}
