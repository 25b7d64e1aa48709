"""The plateau rule (papers.md section 6, O5) by hand, and in runs stopped around its evaluations."""

import contextlib
import io
import json
import shutil

import jax
import numpy as np
import pytest

from jaxcnn.config import ConfigError
from jaxcnn.training import Stopped, run
from jaxcnn.training.schedules import Plateau
from tests.training.runs import (
    assert_same_state,
    config,
    events,
    events_without_times,
    send_sigterm,
    state_of,
)


def walk(rule, tops):
    """(best, waited, drops) after each evaluation, and the learning rates."""
    state, seen, rates = jax.device_get(rule.initial_state()), [], []
    for step, top1 in enumerate(tops, 1):
        state = rule.update(state, top1, step)
        assert int(state["judged"]) == step
        seen.append((round(float(state["best"]), 4), int(state["waited"]), int(state["drops"])))
        rates.append(rule(0.0, int(state["drops"])))
    return seen, rates


def test_the_rule_matches_values_computed_by_hand():
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


# Six steps an epoch; an evaluation of the held-out images every three. At this learning rate the weights
# hardly change, so that top-1 stays the same and each evaluation after the first drops the rate, on any
# processor.
CHANGES = {
    "schedule__name": "plateau",
    "schedule__drops": 3,
    "schedule__rate": 1e-6,
    "schedule__patience": 1,
    "schedule__every_epochs": 0.5,
    "data__held_out": 64,
    "evals": "({'name':'centre','scale':32,'every_epochs':0.0},)",
    "epochs": 2,
    "log__every_steps": 1,
}
DROP = 6  # the step whose evaluation drops the learning rate first
# Images that evaluations have asked for before that one: 64, and the call that ends the split.
BEFORE = 65


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        run(config(**CHANGES), folder)
    folder.with_name("stdout.txt").write_text(stdout.getvalue())
    return folder


def held_out_top1(folder):
    """Top-1 on the held-out images by step."""
    rows = [e for e in events(folder) if e["kind"] == "eval" and e["split"] == "held_out"]
    assert len({e["step"] for e in rows}) == len(rows)
    return {e["step"]: e["top1"] for e in rows}


def test_a_run_follows_the_rule(uninterrupted):
    """The logged evaluations give its learning rates, each from the step after its evaluation on."""
    tops = held_out_top1(uninterrupted)
    assert list(tops) == [3, 6, 9, 12]
    rule = Plateau(rate=1e-6, patience=1, every_epochs=0.5)
    _, rates = walk(rule, list(tops.values()))
    expected = [1e-6] * 3 + [rate for rate in rates[:-1] for _ in range(3)]
    logged = [e["learning_rate"] for e in events(uninterrupted) if e["kind"] == "train"]
    assert logged == expected
    assert logged == pytest.approx([1e-6] * 6 + [1e-7] * 3 + [1e-8] * 3)
    state = state_of(uninterrupted).plateau
    assert {k: v.dtype.name for k, v in state.items()} == {
        "best": "float32", "waited": "int32", "drops": "int32", "judged": "int32",
    }  # fmt: skip
    assert float(state["best"]) == max(tops.values())
    assert int(state["judged"]) == 12


def test_a_drop_is_printed(uninterrupted):
    printed = uninterrupted.with_name("stdout.txt").read_text()
    assert "plateau: top-1 on held-out images has not risen above" in printed
    assert "for 1 evaluation; learning rate 1e-06 -> 1e-07 (drop 1 of 3)" in printed


@pytest.fixture(scope="module")
def stopped_within(tmp_path_factory):
    """A run that was stopped within the evaluation that drops the learning rate."""
    folder = tmp_path_factory.mktemp("within") / "run"
    stop_and_check(folder, "evaluation", BEFORE + 40)
    return folder


def stop_and_check(folder, where, at, evaluated=False):
    with pytest.MonkeyPatch.context() as patch:
        send_sigterm(patch, where, at)
        with pytest.raises(Stopped):
            run(config(**CHANGES), folder)
    stopped = state_of(folder)
    assert int(stopped.step) == DROP
    assert (int(stopped.plateau["judged"]) == DROP) == evaluated


def resume_and_compare(folder, uninterrupted):
    """The interval of checkpoints changes at the resume."""
    run(config(checkpoint__every_epochs=2.0, **CHANGES), folder)
    assert_same_state(state_of(folder), state_of(uninterrupted))
    assert events_without_times(folder) == events_without_times(uninterrupted)


def test_a_run_stopped_within_an_evaluation_counts_it_once(uninterrupted, stopped_within, tmp_path):
    folder = shutil.copytree(stopped_within, tmp_path / "run")
    resume_and_compare(folder, uninterrupted)


def test_an_evaluation_that_was_logged_but_not_saved_counts_once(
    uninterrupted, stopped_within, tmp_path
):
    """A power cut between logging an evaluation and saving the state that counts it."""
    folder = shutil.copytree(stopped_within, tmp_path / "run")
    (lost,) = [
        e for e in events(uninterrupted) if e.get("split") == "held_out" and e["step"] == DROP
    ]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(lost) + "\n")
    resume_and_compare(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "at", "evaluated"),
    [
        ("evaluation", BEFORE + 1, False),
        ("evaluation", BEFORE + 65, True),
        ("train", DROP, False),
    ],
)
def test_a_run_stopped_before_or_after_an_evaluation_counts_it_once(
    uninterrupted, tmp_path, where, at, evaluated
):
    stop_and_check(tmp_path / "run", where, at, evaluated)
    resume_and_compare(tmp_path / "run", uninterrupted)


def test_an_extended_run_does_not_count_the_evaluation_at_its_old_end(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run(config(**CHANGES | {"epochs": 1.2}), folder)
    assert 8 in held_out_top1(folder)
    assert int(state_of(folder).plateau["judged"]) == 6
    run(config(**CHANGES), folder)
    assert_same_state(state_of(folder), state_of(uninterrupted))


@pytest.mark.parametrize("missing", [{"data__held_out": 0}, {"evals": "()"}])
def test_a_plateau_needs_held_out_images_and_a_protocol(missing):
    with pytest.raises(ConfigError, match=r"schedule.name=plateau(?s:.*)set data.held_out"):
        config(**CHANGES | missing)
