"""Starts the processes of one run for tests, and reads their exit codes, output and records."""

import itertools
import json
import re
import socket
import time
from pathlib import Path

from tests import forked
from tests.parallel.witness import watched_main
from tests.training.runs import events

# Gloo's messages on standard output when processes connect. Its threads write concurrently: each of these
# pieces is intact, but a line may hold any of them in any order.
GLOO = re.compile(
    r"\[Gloo\] Rank|is connected to|peer ranks|Expected number of connected|\bis\b|[\d.: ]"
)


class LaunchedGroup:
    """`count` processes of jaxcnn train, each with `devices` fake CPU devices and a witness.

    The end of the `with` kills those that still run. Their output goes to files in `folder`.

    Args:
        folder: a new folder, for this start only.
        each: further arguments of each process, after `arguments`.
        cwds: working directory of each process; None for the current one.
        main: the program of each process.
        environment: variables to set in each process.
    """

    def __init__(
        self,
        folder,
        count,
        devices,
        *arguments,
        each=None,
        cwds=None,
        main=watched_main,
        **environment,
    ):
        self.folder, self.count, self.ended = Path(folder), count, {}
        self.folder.mkdir(parents=True)
        port, self.processes = free_port(), []
        for i in range(count):
            own = each[i] if each else []
            joined = [f"--distributed=localhost:{port},{count},{i}"] if count > 1 else []
            process = forked.start(
                main,
                [*arguments, *own, *joined],
                out=self._path("out", i),
                err=self._path("err", i),
                devices=devices,
                cwd=cwds[i] if cwds else None,
                environment={"WITNESS": str(self.folder), **environment},
            )
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.join()

    def wait(self, seconds=120.0):
        """Returns the exit codes; fails unless all processes end within `seconds`."""
        until = time.time() + seconds
        while time.time() < until and not self.poll():
            time.sleep(0.02)
        codes = [process.exitcode for process in self.processes]
        assert None not in codes, f"after {seconds} s: {codes}\n{self.output()}"
        return codes

    def poll(self):
        """Whether all processes have ended; records the times."""
        for i, process in enumerate(self.processes):
            if i not in self.ended and process.exitcode is not None:
                self.ended[i] = time.time()
        return len(self.ended) == self.count

    def out(self, i):
        return self._path("out", i).read_text()

    def err(self, i):
        return self._path("err", i).read_text()

    def lines(self, i):
        """The standard output of process `i` without Gloo's lines."""
        return [line for line in self.out(i).splitlines() if GLOO.sub("", line)]

    def output(self):
        """The output of all processes, for the messages of failing tests."""
        return "\n".join(
            f"== {name} of process {i}\n{self._path(name, i).read_text()[-3000:]}"
            for i in range(self.count)
            for name in ("out", "err")
        )

    def accounts(self):
        """The records of each process's witness."""
        paths = [self.folder / f"process_{i}.jsonl" for i in range(self.count)]
        return [
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            for path in paths
        ]

    def ids(self):
        """The ids of each update, by process: {update: [[id, ...], ...]}."""
        found = {}
        for i, account in enumerate(self.accounts()):
            for row in account:
                if "step" in row:
                    found.setdefault(row["step"], [[] for _ in range(self.count)])[i] = row["ids"]
        return found

    def restored(self):
        """(update, digest of the state) that each process restored."""
        return [
            (row["restored"], row["state"])
            for account in self.accounts()
            for row in account
            if "restored" in row
        ]

    def struck(self):
        """The time at which a process was struck."""
        (when,) = [
            row["struck"] for account in self.accounts() for row in account if "struck" in row
        ]
        return when

    def seconds_to_end(self, i):
        """Seconds from the strike to the end of process `i`."""
        return self.ended[i] - self.struck()

    def _path(self, name, i):
        return self.folder / f"{name}_{i}.txt"


def ids_by_update(groups):
    """The ids of each update in batch order, from the last of `groups` that did it."""
    done = {}
    for group in groups:
        done |= {step: list(itertools.chain(*rows)) for step, rows in group.ids().items()}
    return done


def assert_whole_epochs(done, examples, epochs):
    """Asserts that each epoch has each example exactly once."""
    stream = [identity for step in sorted(done) for identity in done[step]]
    assert len(stream) == examples * epochs
    for epoch in range(epochs):
        assert sorted(stream[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


def losses(workdir):
    """The loss of each update."""
    return [e["loss"] for e in events(workdir) if e["kind"] == "train"]


def starts(workdir):
    return json.loads((Path(workdir) / "run.json").read_text())["starts"]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
