"""The plateau rule (papers.md section 6, O5) by hand, and in runs stopped around its evaluations."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest

from jaxcnn.config import ConfigError
from jaxcnn.training import Stopped, run
from jaxcnn.training.schedules import Plateau
from tests.training.runs import assert_same_state, config, events, signalling, state_of, timeless


def walk(rule, tops):
    """(best, waited, drops) after each evaluation, and the learning rates."""
    state, seen, rates = jax.device_get(rule.initial_state()), [], []
    for step, top1 in enumerate(tops, 1):
        state = rule.update(state, top1, step)
        assert int(state["judged"]) == step
        seen.append((round(float(state["best"]), 4), int(state["waited"]), int(state["drops"])))
        rates.append(rule(0.0, int(state["drops"])))
    return seen, rates


def test_the_rule_by_hand():
    seen, rates = walk(Plateau(rate=1e-2, patience=2), [0.1, 0.2, 0.2, 0.15, 0.3, 0.3, 0.1, 0.0])
    assert seen == [
        (0.1, 0, 0), (0.2, 0, 0), (0.2, 1, 0), (0.2, 0, 1),
        (0.3, 0, 1), (0.3, 1, 1), (0.3, 0, 2), (0.3, 1, 2),
    ]  # fmt: skip
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])


def test_o5_at_most_three_drops():
    """Krizhevsky et al. 2012, section 5: from 0.01, divided by 10 three times."""
    seen, rates = walk(Plateau(rate=1e-2, patience=3), [0.5] * 60)
    assert [drops for _, _, drops in seen][:11] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert max(drops for _, _, drops in seen) == 3
    assert rates[-1] == pytest.approx(1e-5)


def test_a_top1_of_zero_is_an_improvement_only_at_first():
    seen, _ = walk(Plateau(rate=1.0, patience=2), [0.0, 0.0, 0.0])
    assert seen == [(0.0, 0, 0), (0.0, 1, 0), (0.0, 0, 1)]


@pytest.mark.parametrize("top1", [0.1, 0.3, 0.7, 61 / 64, 1 / 3])
def test_the_same_top1_again_is_no_improvement(top1):
    """Some of these values are above the nearest float32."""
    seen, _ = walk(Plateau(rate=1.0, patience=9), [top1, top1])
    assert seen[1][1] == 1


# Six steps an epoch; an evaluation every three. At this learning rate the weights hardly change, so that
# top-1 stays the same and each evaluation after the first drops the learning rate, on any processor.
CHANGES = {
    "schedule__name": "plateau",
    "schedule__drops": 3,
    "schedule__rate": 1e-6,
    "schedule__patience": 1,
    "schedule__every_epochs": 0.5,
    "data__held_out": 64,
    "epochs": 2.5,
    "log__every_steps": 1,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        run(config(**CHANGES), folder)
    folder.with_name("stdout.txt").write_text(shown.getvalue())
    return folder


def held(folder):
    """Top-1 on the held-out images by step."""
    rows = [e for e in events(folder) if e["kind"] == "eval" and e["split"] == "held_out"]
    assert len({e["step"] for e in rows}) == len(rows)
    return {e["step"]: e["top1"] for e in rows}


def test_a_run_follows_the_rule(undisturbed):
    """The logged evaluations give its learning rates, each from the step after its evaluation on."""
    tops = held(undisturbed)
    assert list(tops) == [3, 6, 9, 12, 15]
    rule = Plateau(rate=1e-6, patience=1, every_epochs=0.5)
    _, rates = walk(rule, list(tops.values()))
    expected = [1e-6] * 3 + [rate for rate in rates[:-1] for _ in range(3)]
    logged = [e["learning_rate"] for e in events(undisturbed) if e["kind"] == "train"]
    assert logged == expected
    assert logged == pytest.approx([1e-6] * 6 + [1e-7] * 3 + [1e-8] * 3 + [1e-9] * 3)
    state = state_of(undisturbed).plateau
    assert {k: v.dtype.name for k, v in state.items()} == {
        "best": "float32", "waited": "int32", "drops": "int32", "judged": "int32",
    }  # fmt: skip
    assert float(state["best"]) == max(tops.values())
    assert int(state["judged"]) == 15


def test_a_drop_is_printed(undisturbed):
    shown = undisturbed.with_name("stdout.txt").read_text()
    assert "plateau: top-1 on held-out images has not risen above" in shown
    assert "for 1 evaluation; learning rate 1e-06 -> 1e-07 (drop 1 of 3)" in shown


def first_drop(folder):
    """The step whose judgement dropped the rate first."""
    train = [e for e in events(folder) if e["kind"] == "train"]
    return next(e["step"] for e in train if e["learning_rate"] < 1e-6) - 1


@pytest.mark.parametrize(
    "phase",
    ["before", "within", *(pytest.param(p, marks=pytest.mark.slow) for p in ("after", "training"))],
)
def test_a_run_stopped_around_an_evaluation_resumes_exactly(
    undisturbed, tmp_path, monkeypatch, phase
):
    """The evaluation that drops the learning rate counts once, whether the run stops before, within or after
    it; the interval of checkpoints changes at the resume."""
    step = first_drop(undisturbed)
    # Images drawn for evaluation before that one: 65 each (the last draw ends the split), and 65 more where
    # the reported split is evaluated too.
    before = sum(130 if s % 6 == 0 else 65 for s in range(3, step, 3))
    before += 65 if step % 6 == 0 else 0
    where, at = {
        "before": ("evaluation", before + 1),
        "within": ("evaluation", before + 40),
        "after": ("evaluation", before + 65),
        "training": ("train", step),
    }[phase]
    with monkeypatch.context() as patch:
        signalling(patch, where, at)
        with pytest.raises(Stopped):
            run(config(**CHANGES), tmp_path / "run")
    stopped = state_of(tmp_path / "run")
    assert int(stopped.step) == step
    assert (int(stopped.plateau["judged"]) == step) == (phase == "after")
    run(config(checkpoint__every_epochs=2.0, **CHANGES), tmp_path / "run")
    assert_same_state(state_of(tmp_path / "run"), state_of(undisturbed))
    assert timeless(tmp_path / "run") == timeless(undisturbed)


def test_an_evaluation_logged_but_not_saved_is_counted(undisturbed, tmp_path, monkeypatch):
    """A power cut between logging an evaluation and saving the state that counts it."""
    folder, step = tmp_path / "run", first_drop(undisturbed)
    before = sum(130 if s % 6 == 0 else 65 for s in range(3, step, 3))
    before += 65 if step % 6 == 0 else 0
    with monkeypatch.context() as patch:
        signalling(patch, "evaluation", before + 40)
        with pytest.raises(Stopped):
            run(config(**CHANGES), folder)
    (lost,) = [e for e in events(undisturbed) if e.get("split") == "held_out" and e["step"] == step]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(lost) + "\n")
    run(config(**CHANGES), folder)
    assert_same_state(state_of(folder), state_of(undisturbed))
    assert timeless(folder) == timeless(undisturbed)


def test_an_extended_run_does_not_count_the_evaluation_at_its_old_end(undisturbed, tmp_path):
    folder = tmp_path / "run"
    run(config(**CHANGES | {"epochs": 1.2}), folder)
    assert 8 in held(folder)
    assert int(state_of(folder).plateau["judged"]) == 6
    run(config(**CHANGES), folder)
    assert_same_state(state_of(folder), state_of(undisturbed))


@pytest.mark.parametrize("missing", [{"data__held_out": 0}, {"evals": "()"}])
def test_a_plateau_needs_held_out_images_and_a_protocol(missing):
    with pytest.raises(ConfigError, match=r"schedule.name=plateau(?s:.*)set data.held_out"):
        config(**CHANGES | missing)
