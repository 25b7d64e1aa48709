"""A disk that stalls: reads of a data source that never return, in runs that are asked to stop."""

import os
import signal
import threading

from jaxcnn.data.sources.source import Source
from jaxcnn.training.prefetch import Prefetcher


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


def send(name="TERM"):
    os.kill(os.getpid(), signal.Signals[f"SIG{name}"])


def when_update_begins(monkeypatch, number):
    """An event that is set when the loop asks for the batch of update `number` of this start."""
    begun, taken, given = threading.Event(), [0], Prefetcher.next

    def next_(self, *arguments):
        taken[0] += 1
        if taken[0] == number:
            begun.set()
        return given(self, *arguments)

    monkeypatch.setattr(Prefetcher, "next", next_)
    return begun
