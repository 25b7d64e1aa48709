"""Stops while a read hangs, and errors of reading and writing in a run: the state is saved first."""

import errno
import itertools
import os
import signal
import threading
from unittest import mock

import pytest

from jaxcnn.cli.main import main
from jaxcnn.data.threads import PoolClosed, ThreadPool, busy_threads
from jaxcnn.evaluation import run_protocol
from jaxcnn.files import WriteError
from jaxcnn.training import Stopped, run, run_setup, signals
from jaxcnn.training.checkpoint import CheckpointError
from jaxcnn.training.loop import save_before
from jaxcnn.training.metrics_writer import MetricsWriter
from jaxcnn.training.prefetch import Prefetcher
from jaxcnn.training.run_setup import Run
from jaxcnn.training.train_state import TrainState
from tests.training.runs import arguments, config, events, state_of
from tests.training.stalled import send, stall_loader, when_update_begins


@pytest.fixture
def release():
    """Ends the reads that hang: at the end of the test or, where a stop waits for them, after a minute."""
    released = threading.Event()
    guard = threading.Timer(60, released.set)
    guard.start()
    yield released
    guard.cancel()
    released.set()


@pytest.fixture
def default_sighup():
    """SIGHUP ends a program: tests that are started by nohup inherit that it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("default_sighup")
def test_a_stop_in_training_does_not_wait_for_a_read_that_hangs(tmp_path, monkeypatch, release):
    begun = when_update_begins(monkeypatch, 4)

    def stop():
        begun.wait()
        send("HUP")

    stall_loader(monkeypatch, run_setup, "TrainLoader", 3 * 32 + 1, stop, release)
    with pytest.raises(Stopped, match="SIGHUP"):
        run(config(epochs=1, data__threads=1), tmp_path)
    assert busy_threads()
    assert not release.is_set()
    assert int(state_of(tmp_path).step) == 3


def test_only_a_second_interrupt_exits_at_once(monkeypatch):
    """Not a first one after another signal: a batch system may send both."""
    exits, answered = [], threading.Semaphore(0)
    monkeypatch.setattr(os, "_exit", exits.append)
    answer = signals.StopSignal._answer_signal

    def counted(self, number):
        answer(self, number)
        answered.release()

    monkeypatch.setattr(signals.StopSignal, "_answer_signal", counted)
    with signals.StopSignal():
        for name, codes in (("TERM", set()), ("INT", set()), ("INT", {130})):
            send(name)
            answered.acquire()
            assert set(exits) == codes


def test_a_stop_in_an_evaluation_does_not_wait_for_a_read_that_hangs(
    tmp_path, monkeypatch, release
):
    stall_loader(monkeypatch, run_protocol, "EvalLoader", 40, lambda: send("USR1"), release)
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


def test_memory_that_ends_in_training_saves_the_state_first(tmp_path, monkeypatch):
    put, count = Prefetcher._put_next, itertools.count(1)

    def fail(self):
        if next(count) == 4:
            raise MemoryError("no room for a batch")
        return put(self)

    monkeypatch.setattr(Prefetcher, "_put_next", fail)
    with pytest.raises(MemoryError) as caught:
        run(config(epochs=1), tmp_path)
    assert caught.value.__notes__ == ["The state of step 3 is saved"]
    assert int(state_of(tmp_path).step) == 3


def test_a_disk_that_fails_in_an_evaluation_saves_the_state_first(tmp_path, monkeypatch, release):
    def fail():
        raise OSError(errno.ESTALE, "Stale file handle")

    stall_loader(monkeypatch, run_protocol, "EvalLoader", 20, fail, release)
    with pytest.raises(OSError, match="Stale file handle") as caught:
        run(config(data__threads=1), tmp_path)
    assert caught.value.__notes__ == ["The state of step 8 is saved"]
    assert int(state_of(tmp_path).step) == 8


def test_an_event_that_cannot_be_written_saves_the_state_first(tmp_path, monkeypatch, capsys):
    write = MetricsWriter._write

    def full(self, event):
        if event["step"] == 6:
            raise WriteError(errno.ENOSPC, "No space left on device", str(self.path))
        write(self, event)

    monkeypatch.setattr(MetricsWriter, "_write", full)
    assert main(["train", *arguments(mesh__data=1, epochs=1), f"--workdir={tmp_path}"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"error: {tmp_path / 'metrics.jsonl'} cannot be written (No space left on device); "
        "the disk is full: make room",
        "The state of step 7 is saved",
    ]
    assert int(state_of(tmp_path).step) == 7
    monkeypatch.undo()
    run(config(epochs=1), tmp_path)  # the event that was lost is part of the next one
    assert [e["step"] for e in events(tmp_path) if e["kind"] == "train"] == [3, 8]


def test_the_first_error_stays_if_saving_fails_too():
    this_run, state, error = mock.Mock(spec=Run), mock.Mock(spec=TrainState), OSError("a bad disk")
    this_run.save.side_effect = CheckpointError("checkpoint 5 could not be written")
    this_run.step_metrics, this_run.checkpoints, state.step = mock.Mock(), mock.Mock(), 5
    save_before(error, this_run, state, [])
    assert error.__notes__ == [
        "Nor could the state of step 5 be saved: checkpoint 5 could not be written"
    ]
    with pytest.raises(CheckpointError):  # a stop that saved nothing must not exit with 143
        save_before(Stopped("SIGTERM"), this_run, state, [])
