"""A step that takes far too long prints the stack of every thread, and the program continues."""

import sys
import time

import pytest

from jaxcnn.training import step_metrics


def hangs():
    time.sleep(0.6)


@pytest.fixture
def said_after(tmp_path, monkeypatch):
    """A function that returns the standard error of a step that hangs after `steps` of `median` seconds."""
    monkeypatch.setattr(step_metrics, "_WATCHDOG_MIN_SECONDS", 0.2)

    def said(times=20.0, median=0.01, steps=6, rests=False):
        path = tmp_path / "stderr.txt"
        with path.open("w") as file:
            monkeypatch.setattr(sys, "__stderr__", file)
            dog = step_metrics.Watchdog(times)
            for _ in range(steps):
                dog.feed(median)
            if rests:
                dog.pause()
            hangs()
            dog.pause()
        return path.read_text()

    return said


def test_a_step_of_many_medians_shows_the_stacks_once(said_after):
    said = said_after()
    assert said.count("Timeout (0:00:00.2") == 1
    assert said.count("in hangs") == 1
    assert "most recent call first" in said


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("twenty times the median is still to come", {"median": 1.0}),
        ("a median of few steps says little", {"steps": 5}),
        ("evaluation and saving are no steps", {"rests": True}),
        ("it is off", {"times": 0.0}),
    ],
)
def test_it_says_nothing_where(why, changes, said_after):
    assert said_after(**changes) == "", why
