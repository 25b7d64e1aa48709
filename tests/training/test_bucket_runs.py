"""Runs whose workdir is in a bucket: the same as on a disk, whatever becomes of the process or the bucket."""

import json
import signal
import time

import pytest

from jaxcnn import object_store
from jaxcnn.paths import user_path
from jaxcnn.training import Stopped, loop, run
from jaxcnn.training.workdir_lease import LeaseLost
from jaxcnn.training.workdir_lock import LOCK
from tests.training import runs


def assert_same_run(folder, other):
    runs.assert_same_state(runs.state_of(folder), runs.state_of(other))
    assert runs.events_without_times(folder) == runs.events_without_times(other)
    reports = [json.loads((user_path(f) / "report.json").read_text()) for f in (folder, other)]
    assert reports[0]["results"] == reports[1]["results"]


def names(folder):
    return {path.name for path in folder.iterdir()}


EVENTS = "events.out.tfevents"


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_in_the_bucket(bucket, tmp_path, monkeypatch):
    folder, config = bucket / "run", runs.config(log__tensorboard=True)
    with monkeypatch.context() as patch:
        runs.send_sigterm(patch, "train", 11)
        with pytest.raises(Stopped):
            run(config, folder)
    assert runs.events(folder)[-1]["step"] == 9
    assert LOCK not in names(folder)
    run(config, str(folder))
    run(config, tmp_path)
    board = {name for name in names(folder) if name.startswith(EVENTS)}
    assert len(board) == 2
    assert names(folder) - board == {n for n in names(tmp_path) if not n.startswith(EVENTS)}
    assert_same_run(folder, tmp_path)


@pytest.mark.slow
def test_a_run_whose_workdir_was_taken_writes_nothing_more(bucket, monkeypatch):
    folder, taken, train = bucket / "run", b'{"process": 7, "host": "elsewhere"}', loop.train

    def take(this_run, state):
        this_run.save(state)
        object_store.write(folder / LOCK, taken)
        this_run.writer._lease._renew()
        return train(this_run, state)

    monkeypatch.setattr(loop, "train", take)
    with pytest.raises(LeaseLost, match="was taken by process 7 of elsewhere"):
        run(runs.config(), folder)
    assert object_store.read(folder / LOCK) == taken
    assert runs.events(folder) == []
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["0"]


# With child processes


def start(folder, *others, **changes):
    return runs.start_main(f"--workdir={folder}", *runs.arguments(**changes), *others)


def wait_for_step(folder, step, process):
    """Waits until the bucket has an event of `step`."""
    path, until = user_path(folder) / "metrics.jsonl", time.monotonic() + 240
    while not (path.exists() and any(event["step"] >= step for event in runs.events(folder))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_sigterm_and_a_kill(bucket, tmp_path):
    """A run that is stopped, goes on, is killed, and goes on, equals one that is not disturbed."""
    folder, length = bucket / "run", {"epochs": 12, "log__upload_seconds": 1}
    for step, number, code in ((16, signal.SIGTERM, 143), (48, signal.SIGKILL, -9)):
        with start(folder, **length) as process:
            wait_for_step(folder, step, process)
            process.send_signal(number)
            text = process.communicate()[0]
        assert process.returncode == code, text
        assert (LOCK in names(folder)) == (number == signal.SIGKILL)
    with start(folder, **length) as process:  # which does not wait for the process that is dead
        text = process.communicate()[0]
    assert process.returncode == 0, text
    assert "waiting" not in text
    assert "google" not in text.replace("google_auth_provider.cc:136] Using GOOGLE_AUTH", "")
    with start(tmp_path, **length) as process:
        assert process.communicate()
        assert process.returncode == 0
    assert_same_run(folder, tmp_path)


@pytest.mark.slow
def test_the_second_of_two_runs_is_refused(bucket):
    folder = bucket / "run"
    with start(folder, epochs=100_000, log__upload_seconds=1) as first:
        wait_for_step(folder, 8, first)
        owner = json.loads(object_store.read(folder / LOCK))
        with start(folder) as second:
            text = second.communicate()[0]
        assert second.returncode == 1
        assert f"is in use by process {owner['process']} of {owner['host']}, which renewed" in text
        first.terminate()
        assert "stopped by SIGTERM; the state is saved" in first.communicate()[0]
        assert first.returncode == 143


@pytest.mark.slow
def test_a_bucket_that_goes_away_and_comes_back(bucket, bucket_proxy, tmp_path):
    # A save waits for the bucket, so the run cannot end before it is back.
    folder, length = bucket / "run", {"epochs": 60, "checkpoint__every_epochs": 5}
    with start(folder, log__upload_seconds=1, **length) as process:
        wait_for_step(folder, 8, process)
        bucket_proxy.server.stop()
        time.sleep(20)
        bucket_proxy.server.start()
        text = process.communicate()[0]
    assert process.returncode == 0, text
    assert "trying again in" in text
    with start(tmp_path, **length) as process:
        process.communicate()
    assert_same_run(folder, tmp_path)


@pytest.mark.slow
def test_a_bucket_that_stays_away(bucket, bucket_proxy):
    folder = bucket / "run"
    with start(folder, epochs=100_000, log__upload_seconds=1) as process:
        wait_for_step(folder, 16, process)
        bucket_proxy.server.stop()
        text = process.communicate(timeout=400)[0]
        bucket_proxy.server.start()
    assert process.returncode == 1, text
    assert "error: gs://" in text
    assert "mend it, and give the same command again" in text
    assert int(runs.state_of(folder).step) >= 8


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_bucket_that_hangs(bucket, bucket_proxy):
    folder = bucket / "run"
    changes = {"checkpoint__every_epochs": 1000, "log__upload_seconds": 1}
    with start(folder, epochs=100_000, **changes) as process:
        wait_for_step(folder, 24, process)
        bucket_proxy.answers.clear()
        time.sleep(3)
        process.terminate()
        text = process.communicate(timeout=10)[0]
    bucket_proxy.behave()
    assert process.returncode == 1, text
    assert "did not answer" in text
