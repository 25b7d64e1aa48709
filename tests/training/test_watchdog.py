"""A step that takes far too long prints the stack of every thread, and the program continues."""

import sys
import time

import pytest

from jaxcnn.training import watchdog


def hang():
    time.sleep(0.3)


@pytest.fixture
def stderr_of_hang(tmp_path, monkeypatch):
    """A function that returns the standard error of a step that hangs after `steps` of `median` seconds."""
    monkeypatch.setattr(watchdog, "MIN_SECONDS", 0.1)

    def stderr(times=20.0, median=0.005, steps=6, pause=False):
        path = tmp_path / "stderr.txt"
        with path.open("w") as file:
            monkeypatch.setattr(sys, "__stderr__", file)
            dog = watchdog.Watchdog(times)
            for _ in range(steps):
                dog.feed(median)
            if pause:
                dog.pause()
            hang()
            dog.pause()
        return path.read_text()

    return stderr


def test_a_step_far_above_the_median_prints_the_stacks_once(stderr_of_hang):
    printed = stderr_of_hang()
    assert printed.count("Timeout (0:00:00.1") == 1
    assert printed.count("in hang") == 1
    assert "most recent call first" in printed


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("the step is below twenty times the median", {"median": 1.0}),
        ("a median of few steps is unreliable", {"steps": 5}),
        ("evaluation and saving are not steps", {"pause": True}),
        ("the watchdog is off", {"times": 0.0}),
    ],
)
def test_the_watchdog_prints_nothing_when(reason, changes, stderr_of_hang):
    assert stderr_of_hang(**changes) == "", reason
