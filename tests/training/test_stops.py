"""Stops while a read hangs, and errors of reading and writing in a run: the state is saved first."""

import dataclasses
import threading

import pytest

from jaxcnn.data.threads import PoolClosed, ThreadPool, busy_threads
from jaxcnn.training import Stopped, run, run_setup
from tests.training.runs import config, state_of
from tests.training.stalled import StalledSource, send, when_update_begins


@pytest.fixture
def release():
    """Ends the reads that hang: at the end of the test or, where a stop waits for them, after a minute."""
    released = threading.Event()
    guard = threading.Timer(60, released.set)
    guard.start()
    yield released
    guard.cancel()
    released.set()


def stall(monkeypatch, split, at, stalled, release):
    """Lets reads `at` and later of a split of the run hang."""
    opened = run_setup.open_splits

    def open_splits(*arguments):
        data = opened(*arguments)
        source = StalledSource(getattr(data, split), at, stalled, release)
        return dataclasses.replace(data, **{split: source})

    monkeypatch.setattr(run_setup, "open_splits", open_splits)


def test_a_stop_in_training_does_not_wait_for_a_read_that_hangs(tmp_path, monkeypatch, release):
    begun = when_update_begins(monkeypatch, 4)

    def stop():
        begun.wait()
        send("HUP")

    stall(monkeypatch, "train", 3 * 32 + 1, stop, release)
    with pytest.raises(Stopped, match="SIGHUP"):
        run(config(epochs=1, data__threads=1), tmp_path)
    assert busy_threads()
    assert not release.is_set()
    assert int(state_of(tmp_path).step) == 3


def test_a_stop_in_an_evaluation_does_not_wait_for_a_read_that_hangs(
    tmp_path, monkeypatch, release
):
    stall(monkeypatch, "evaluation", 40, lambda: send("USR1"), release)
    with pytest.raises(Stopped, match="SIGUSR1"):
        run(config(epochs=0.25), tmp_path)
    assert busy_threads()
    assert not release.is_set()
    assert int(state_of(tmp_path).step) == 2


def test_a_pool_is_left_by_its_waiters_and_drops_what_has_not_begun(release):
    pool, calls, begun = ThreadPool(1, "test"), [], threading.Event()

    def hang():
        begun.set()
        release.wait()

    hanging = pool.submit(hang)
    begun.wait()
    queued = pool.submit(calls.append, 1)

    def leave():
        raise Stopped("now")

    with pytest.raises(Stopped):
        pool.wait_for(hanging, leave)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.wait_for(hanging)
    with pytest.raises(PoolClosed):
        pool.submit(print)
    assert queued.cancelled()
    assert busy_threads() == ["test_0"]
    release.set()
    for thread in pool._threads:
        thread.join(60)
    assert not busy_threads()
    assert not calls
