"""A disk that stalls: reads of a data source that never return, in runs that are asked to stop."""

import dataclasses
import itertools
import os
import signal
import threading
import time

from jaxcnn.data.sources.source import Source


class StalledSource(Source):
    """Another source whose reads hang, from read number `at` on, until `release` is set. The first one that
    hangs calls `stalled`."""

    def __init__(self, base, at, stalled, release):
        self.base, self.at, self.class_names = base, at, base.class_names
        self.stalled, self.release = stalled, release
        self.reads, self.lock = 0, threading.Lock()

    @property
    def ids(self):
        return self.base.ids

    def __len__(self):
        return len(self.base)

    def name(self, index):
        return self.base.name(index)

    def read(self, index):
        with self.lock:
            self.reads += 1
            number = self.reads
        if number == self.at:
            self.stalled()
        if number >= self.at:
            self.release.wait()
        return self.base.read(index)


def stall(monkeypatch, module, split, at, stalled, release):
    """Lets reads `at` and later of a split hang, of data that `module` opens."""
    opened = module.open_splits

    def open_splits(*arguments):
        data = opened(*arguments)
        source = StalledSource(getattr(data, split), at, stalled, release)
        return dataclasses.replace(data, **{split: source})

    monkeypatch.setattr(module, "open_splits", open_splits)


def stall_loader(monkeypatch, module, name, at, stalled, release, number=1):
    """Lets reads `at` and later of the loader `number` hang that `module` makes of its class `name`."""
    made, count = getattr(module, name), itertools.count(1)

    def make(source, *arguments, **settings):
        if next(count) == number:
            source = StalledSource(source, at, stalled, release)
        return made(source, *arguments, **settings)

    monkeypatch.setattr(module, name, make)


def send(name="TERM"):
    os.kill(os.getpid(), signal.Signals[f"SIG{name}"])


def when_update_begins(monkeypatch, number):
    """An event that is set when the loop asks for the batch of update `number` of this start."""
    from jaxcnn.training.prefetch import Prefetcher

    begun, taken, given = threading.Event(), [0], Prefetcher.next

    def next_(self, *arguments):
        taken[0] += 1
        if taken[0] == number:
            begun.set()
        return given(self, *arguments)

    monkeypatch.setattr(Prefetcher, "next", next_)
    return begun


def call_first(monkeypatch, owner, name, action, when=lambda *_: True):
    """Calls `action` before each call of a method whose arguments are those that `when` accepts."""
    method = getattr(owner, name)

    def called(*arguments, **keys):
        if when(*arguments):
            action()
        return method(*arguments, **keys)

    monkeypatch.setattr(owner, name, called)


def stalled_main(arguments):
    """The program, in which a read hangs in the phase STALL of the environment ("none" for no phase), and
    which then sends itself the signal SIGNAL (none if it is empty). It prints the time at which it hangs."""
    import pytest

    from jaxcnn.cli.exit_codes import end_process
    from jaxcnn.cli.main import main
    from jaxcnn.streams import protect_standard_streams

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may be started by nohup
    protect_standard_streams()
    with pytest.MonkeyPatch.context() as patch:
        _stall_in(patch, os.environ["STALL"], os.environ["SIGNAL"])
        end_process(main(arguments))


def stalled_in_process_1(arguments):
    """A process of two, the second of which is `stalled_main`."""
    from jaxcnn.cli.exit_codes import end_process
    from jaxcnn.cli.main import main

    if arguments[-1].endswith(",1"):
        stalled_main(arguments)
    end_process(main(arguments))


def _stall_in(patch, phase, name):
    from jaxcnn.data import pixel_statistics
    from jaxcnn.data.preparation import packing
    from jaxcnn.evaluation import run_protocol
    from jaxcnn.research import evaluate_run, predict
    from jaxcnn.training import evaluator, run_setup
    from jaxcnn.training.checkpoint import Checkpoints
    from jaxcnn.training.console import Compiler

    release = threading.Event()  # never set

    def struck():
        print(f"stalled at {time.time()}", flush=True)
        if name:
            send(name)

    def hang():
        struck()
        release.wait()

    def batches(at, stalled):
        stall_loader(patch, run_setup, "TrainLoader", at, stalled, release)

    def evaluation(number):
        stall_loader(patch, run_protocol, "EvalLoader", 10, struck, release, number)

    if phase == "open":
        patch.setattr(evaluator, "open_data", lambda **_: hang())
    elif phase == "fingerprint":
        stall(patch, run_setup, "train", 40, struck, release)
    elif phase == "statistics":
        stall_loader(patch, pixel_statistics, "EvalLoader", 40, struck, release)
    elif phase == "compile":  # answered after it
        batches(1, lambda: None)
        call_first(patch, Compiler, "__call__", struck)
    elif phase == "save":
        batches(3 * 32 + 1, lambda: None)
        call_first(patch, Checkpoints, "save", struck, lambda _, state, *__: int(state.step) == 3)
    elif phase in ("first batch", "training"):
        number = 1 if phase == "first batch" else 4
        begun = when_update_begins(patch, number)

        def strike():
            begun.wait()
            struck()

        batches(32 * (number - 1) + 1, strike)
    elif phase in ("first evaluation", "second evaluation"):
        evaluation(1 if phase == "first evaluation" else 2)
    elif phase == "packing":
        stall_loader(patch, packing, "EvalLoader", 10, struck, release)
    elif phase == "predict":
        stall_loader(patch, predict, "EvalLoader", 1, struck, release)
    elif phase == "finished run":
        stall(patch, evaluate_run, "evaluation", 3, struck, release)
    elif phase != "none":
        raise ValueError(phase)
