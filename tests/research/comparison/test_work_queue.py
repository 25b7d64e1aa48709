"""States of runs, locks, and runs that fail."""

import json
import os
import subprocess
import sys

import pytest

from jaxcnn.research.comparison import work_queue
from jaxcnn.research.comparison.work_queue import (
    RunState,
    acquire,
    conflicting_workdirs,
    run_queue,
    run_state,
)
from jaxcnn.training import Diverged, Stopped, workdir_lease
from jaxcnn.training.console import Console
from jaxcnn.training.signals import StopSignal
from tests.research.made import diverge, finish, plan

# What `acquire` does, in a process that imports nothing.
HOLD = """
import fcntl, os, sys, time
os.makedirs(sys.argv[1], exist_ok=True)
with open(sys.argv[1] + "/holder.json", "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print('{"pid": %d}' % os.getpid(), file=file, flush=True)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holding():
    """Another process that locks the run in a folder."""
    started = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def trained(monkeypatch):
    """Replaces training: records the folders, and writes the files of a finished run."""
    trained_folders = []

    def train(plan_of, outcome=None):
        runs = {run.folder: run for run in plan_of.runs()}

        def run(config, folder, *, command):
            trained_folders.append(folder.relative_to(plan_of.folder).as_posix())
            assert config == runs[folder].config
            assert command == ["compare"]
            if outcome and outcome(folder):
                raise outcome(folder)
            (folder / "holder.json").rename(folder.parent / "kept")
            folder.rmdir()
            finish(runs[folder])

        monkeypatch.setattr(work_queue, "train", run)
        # Nothing is compiled here, and the programs of other tests stay cached.
        monkeypatch.setattr(work_queue.jax, "clear_caches", lambda: None)
        monkeypatch.setattr(work_queue.gc, "collect", lambda: None)
        return trained_folders

    return train


def do(made, stop_signal=None):
    with stop_signal or StopSignal() as entered:
        return run_queue(
            made.runs(),
            command=["compare"],
            console=Console(),
            stop_signal=entered,
            poll_seconds=0.1,
        )


def test_run_states_follow_the_files_in_the_workdir(tmp_path, holding):
    made = plan(tmp_path, seeds=(0, 1, 2))
    done, broken, held, begun, *rest = made.runs()
    finish(done)
    diverge(broken)
    holding(held.folder)
    begun.folder.mkdir(parents=True)
    (begun.folder / "run.json").write_text('{"starts": []}')
    states = [run_state(run) for run in made.runs()]
    assert states == ["done", "diverged", "running", "waiting", "to do", "to do"]
    assert len(rest) == 2


def test_run_is_done_at_its_last_step_with_every_protocol(tmp_path):
    made = plan(tmp_path)
    first, second, *_ = made.runs()
    finish(first)
    report = json.loads((first.folder / "report.json").read_text())
    (first.folder / "report.json").write_text(json.dumps({**report, "step": 16}))
    assert run_state(first) is not RunState.DONE
    finish(second)
    report["results"][0]["protocol"] = "centre(40->32)"
    (second.folder / "report.json").write_text(json.dumps(report))
    assert run_state(second) is not RunState.DONE


def test_in_a_bucket_the_lock_is_a_lease(bucket, monkeypatch):
    monkeypatch.setattr(workdir_lease, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(workdir_lease, "EXPIRES_SECONDS", 5.0)
    run = plan(bucket / "out").runs()[0]
    assert run_state(run) == "to do"
    with acquire(run.folder) as mine:
        assert mine
        assert run_state(run) == "running"
        assert work_queue.lock_owner(run.folder)["pid"] == os.getpid()
        with acquire(run.folder) as again:
            assert not again
    assert run_state(run) == "to do"
    assert work_queue.lock_owner(run.folder)["machine"]


def test_lock_has_one_owner_and_is_freed_by_a_kill(tmp_path, holding):
    folder = tmp_path / "run"
    other = holding(folder)
    with acquire(folder) as mine:
        assert not mine
    assert work_queue.lock_owner(folder)["pid"] == other.pid
    other.kill()
    other.wait()
    with acquire(folder) as mine:
        assert mine
        assert work_queue.lock_owner(folder)["pid"] == os.getpid()
        with acquire(folder) as again:
            assert not again
    with acquire(folder) as mine:
        assert mine


def test_only_missing_runs_are_trained(tmp_path, trained):
    made = plan(tmp_path)
    trained_folders = trained(made)
    finish(made.runs()[1])
    diverge(made.runs()[2])
    assert do(made) == {}
    assert trained_folders == ["base/seed_0", "column_b/seed_1"]
    assert do(made) == {}
    assert len(trained_folders) == 2


def test_runs_of_a_killed_process_are_taken_over(tmp_path, holding, trained):
    made = plan(tmp_path)
    trained_folders = trained(made)
    other = holding(made.runs()[0].folder)
    stop_signal = StopSignal()

    def kill_once_waiting():
        if len(trained_folders) == 3:
            other.kill()

    stop_signal.check = kill_once_waiting
    assert do(made, stop_signal) == {}
    assert trained_folders == ["column_b/seed_0", "base/seed_1", "column_b/seed_1", "base/seed_0"]


def test_failed_runs_do_not_stop_the_others(tmp_path, trained, capsys):
    def outcome(folder):
        if "base/seed_0" in str(folder):
            return Diverged("step 3: the loss (nan) is not finite")
        return MemoryError("too much") if "column_b/seed_0" in str(folder) else None

    made = plan(tmp_path)
    trained_folders = trained(made, outcome)
    assert do(made) == {"tiny: column B, seed 0": "MemoryError: too much"}
    assert len(trained_folders) == 4  # the one that failed is not tried again and again
    assert [run_state(run) for run in made.runs()] == ["diverged", "to do", "done", "done"]
    shown = capsys.readouterr().out
    assert "tiny: base, seed 0 diverged: step 3: the loss (nan) is not finite" in shown


def test_stop_is_raised_and_frees_the_lock(tmp_path, trained):
    made = plan(tmp_path)
    trained_folders = trained(made, lambda _: Stopped("SIGTERM"))
    with pytest.raises(Stopped):
        do(made)
    assert trained_folders == ["base/seed_0"]
    with acquire(made.runs()[0].folder) as mine:
        assert mine


def test_workdirs_of_another_config_are_named(tmp_path):
    made = plan(tmp_path)
    for run in made.runs()[:2]:
        finish(run)
    assert conflicting_workdirs(made.runs()) == []
    # A longer run resumes a shorter one, but not the other way round.
    assert conflicting_workdirs(plan(tmp_path, overrides={"epochs": 4.0}).runs()) == []
    found = conflicting_workdirs(plan(tmp_path, overrides={"epochs": 2.0}).runs())
    assert [text.partition("holds another run")[2] for text in found] == [
        ":\n  its run has 24 steps, this one ends at 16"
    ] * 2
    (text, _) = conflicting_workdirs(plan(tmp_path, overrides={"optim.momentum": 0.5}).runs())
    assert text == (f"{made.runs()[0].folder} holds another run:\n  optim.momentum: 0.9 -> 0.5")
    path = made.runs()[0].folder / "config.json"
    saved = json.loads(path.read_text())
    saved["model"]["num_classes"] = 0
    for key in ("image_key", "label_key"):  # earlier versions did not have them
        del saved["data"][key]
    path.write_text(json.dumps(saved))
    assert conflicting_workdirs(made.runs()) == []
    path.write_text("{")
    assert "config.json is cut short" in conflicting_workdirs(made.runs())[0]
