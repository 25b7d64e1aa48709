"""Small whole runs for tests: their config, their files, and how to stop them."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from jaxcnn.evaluation import run_protocol
from jaxcnn.paths import user_path
from jaxcnn.training import schema
from jaxcnn.training.console import Compiler
from jaxcnn.training.prefetch import Prefetcher
from jaxcnn.training.stored_run import read_run

ROOT = Path(__file__).parent.parent.parent

# Eight steps an epoch of 32 generated images of 4 classes, by the smallest VGG.
TINY = {
    "batch_size": "32",
    "epochs": "3",
    "model.width": "0.0625",
    "model.image_size": "32",
    "data.source": "synthetic:4",
    "augment.scale": "(32,40)",
    "augment.flip": "0.5",
    "evals": "({'name':'centre','scale':32,'every_epochs':1.0},)",
    "schedule.rate": "0.002",
    "checkpoint.every_epochs": "1.0",
    "log.every_steps": "3",
    "log.tensorboard": "false",
}


def arguments(**changes):
    keys = TINY | {k.replace("__", "."): str(v) for k, v in changes.items()}
    return ["--config=quickstart", *(f"--config.{k}={v}" for k, v in keys.items())]


def config(**changes):
    """The resolved config of a tiny run of two epochs on one device, which compiles faster than on eight."""
    changes = {"mesh__data": 1, "epochs": 2} | changes
    overrides = [a.removeprefix("--config.") for a in arguments(**changes)[1:]]
    return schema.read_resolved("quickstart", overrides)[1]


def start_main(*arguments, kilobytes="unlimited", **options):
    """Starts main.py as a child process on one device, with a limit on the size of files."""
    program = 'ulimit -f "$1"; shift; exec "$@"'
    return subprocess.Popen(
        [
            "bash",
            "-c",
            program,
            "bash",
            kilobytes,
            sys.executable,
            str(ROOT / "main.py"),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        **options,
    )


def events(folder):
    text = (user_path(folder) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def events_without_times(folder):
    clock = ("images_per_second", "data_wait", "seconds")
    return [{k: v for k, v in e.items() if k not in clock} for e in events(folder)]


def state_of(folder):
    """The newest saved state of a run, as NumPy arrays."""
    return jax.device_get(read_run(user_path(folder))[2])


def assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def send_sigterm(monkeypatch, where, at):
    """Sends SIGTERM to this process when the run compiles ("compile", 0), takes the batch of update `at`
    ("train"), or asks for image `at` of its evaluations ("evaluation"; a split ends with one more call)."""

    def strike(count):
        if count == at:
            os.kill(os.getpid(), signal.SIGTERM)

    if where == "compile":
        original = Compiler.__call__

        def compile_(self, *arguments):
            strike(0)
            return original(self, *arguments)

        monkeypatch.setattr(Compiler, "__call__", compile_)
        return
    if where == "train":  # a batch is drawn by a thread, ahead of its update
        taken, following = itertools.count(1), Prefetcher.next

        def next_(self, *arguments):
            given = following(self, *arguments)
            strike(next(taken))
            return given

        monkeypatch.setattr(Prefetcher, "next", next_)
        return
    made = run_protocol.EvalLoader

    class Counting:
        drawn = 0

        def __init__(self, batches):
            self.batches = batches

        def __getattr__(self, name):
            return getattr(self.batches, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.batches.close()

        def __iter__(self):
            return self

        def __next__(self):
            Counting.drawn += 1
            strike(Counting.drawn)
            return next(self.batches)

    monkeypatch.setattr(run_protocol, "EvalLoader", lambda *a, **k: Counting(made(*a, **k)))
