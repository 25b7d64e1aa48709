"""Averaged weights (papers.md section 6, O6): closed forms, and where a run uses them."""

import contextlib
import io

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from jaxcnn.training import Stopped, evaluator, run
from jaxcnn.training.ema import WeightAverage
from jaxcnn.training.stored_run import read_run
from tests.research.untrained import untrained
from tests.training.runs import (
    assert_same_state,
    config,
    events,
    events_without_times,
    send_sigterm,
    state_of,
)


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
def test_errors_name_values_out_of_range(wrong):
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
    """A run of 12 updates that averages from its second epoch on."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        run(config(**ON), folder)
    folder.with_name("stdout.txt").write_text(stdout.getvalue())
    return folder


def test_a_run_prints_that_it_averages(averaged):
    line = "average  of the weights, exponential, decay 0.9, from epoch 1; used for evaluation"
    assert line in averaged.with_name("stdout.txt").read_text()


def test_only_updates_after_from_epoch_count(averaged):
    assert int(state_of(averaged).average["count"]) == 6


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


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_bits(averaged, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        send_sigterm(patch, "train", 10)
        with pytest.raises(Stopped):
            run(config(**ON), tmp_path / "run")
    stopped = state_of(tmp_path / "run")
    assert (int(stopped.step), int(stopped.average["count"])) == (10, 4)
    run(config(**ON), tmp_path / "run")
    assert_same_state(state_of(tmp_path / "run"), state_of(averaged))
    assert events_without_times(tmp_path / "run") == events_without_times(averaged)


def test_load_returns_no_auxiliary_heads(tmp_path):
    folder = untrained(tmp_path / "run", "googlenet", image_size=96)
    _, _, state = read_run(folder)
    loaded = jaxcnn.load(folder).variables["params"]
    assert state.params.keys() - loaded.keys() == {"aux_4a", "aux_4d"}
