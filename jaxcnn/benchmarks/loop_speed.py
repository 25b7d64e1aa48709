"""Overhead of the train loop over its compiled step, waits for data, and waits for saves.

Overhead: a training run of a small net, all real but the input, against the same compiled step in a bare loop
with one batch on the device; a few steps of each alternate.
Data wait: the real input and prefetcher around a step that sleeps, as if an accelerator computed, for 1.2
times the seconds that the input needs per batch. Each batch must be on the device when the loop gets it.
Save: how long a step waits for the save of AlexNet's full state, and how long the save takes in all.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxcnn.benchmarks.measurement import Measurement, peak_memory, time_call
from jaxcnn.data import TrainLoader, open_data
from jaxcnn.parallel import SINGLE_PROCESS
from jaxcnn.training import schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.console import Compiler, Console
from jaxcnn.training.experiment import Experiment, synthetic_batch
from jaxcnn.training.loop import train
from jaxcnn.training.prefetch import Prefetcher
from jaxcnn.training.run_setup import Run
from jaxcnn.training.signals import StopSignal

SLOWDOWN = 1.2  # seconds of the sleeping step over those of its input
TURN = 4  # steps of the loop, then as many bare ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=40, help="steps per repeat (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images per step (%(default)s)")
    parser.add_argument("--width", type=float, default=0.25, help="width of VGG A (%(default)s)")
    parser.add_argument("--image_size", type=int, default=64, help="pixels (%(default)s)")


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    # All repeats, the first turn, and the step that ends the last turn.
    steps = max(options.repeats * options.steps, TURN) + TURN + 1
    side, batch = options.image_size, options.batch
    data = open_data("synthetic:4")
    overrides = {
        "data.source": "synthetic:4",
        "model.column": "A",
        "model.width": options.width,
        "model.image_size": side,
        "augment.scale": (side, side),
        "batch_size": batch,
        "epochs": steps * batch / len(data.train),
        "log.tensorboard": False,
        "checkpoint.every_epochs": 1e9,
        "evals": (),
    }
    _, config = schema.read_resolved("quickstart", [f"{k}={v}" for k, v in overrides.items()])
    experiment = build_experiment(with_classes(config, 4))
    yield _overhead(experiment, data, options)
    yield _data_wait(experiment, data, options)
    yield _save_stall(options.repeats)


class _OneBatch(itertools.repeat):
    """The same batch for every step, in place of a `TrainLoader`."""

    corrupt = ()


class _Timed(Run):
    """A run without input."""

    def train_batches(self, start: int) -> Any:
        del start
        batch = {k: np.asarray(v) for k, v in synthetic_batch(self.experiment).items()}
        return contextlib.nullcontext(_OneBatch(batch))


class _Alternating(Compiler):
    """Compiles a step that alternates with bare steps, TURN steps each, whose arguments are on the device.

    `turns` holds (seconds per step of the loop, seconds per bare step) of each turn.
    """

    def __init__(self, console: Console, experiment: Experiment) -> None:
        super().__init__(console)
        self.experiment = experiment
        self.turns: list[tuple[float, float]] = []

    def __call__(self, what: str, lowered: Any) -> Any:
        compiled = super().__call__(what, lowered)
        bare_state = self.experiment.fresh_state()
        rest = synthetic_batch(self.experiment), self.experiment.put_controls(1e-3)
        calls, began = itertools.count(), 0.0

        def bare() -> None:
            nonlocal bare_state
            for _ in range(TURN):
                bare_state, _ = compiled(bare_state, *rest)
            jax.block_until_ready(bare_state)

        def step(state: Any, batch: Any, controls: Any) -> Any:
            nonlocal began
            call = next(calls)
            if call % TURN == 0:
                jax.block_until_ready(state)
                seconds = time.perf_counter() - began
                if call > TURN:  # the first turn warms up
                    self.turns.append((seconds / TURN, time_call(bare) / TURN))
                began = time.perf_counter()
            return compiled(state, batch, controls)

        return step


def _overhead(experiment: Experiment, data: Any, options: argparse.Namespace) -> Measurement:
    with (
        tempfile.TemporaryDirectory() as folder,
        StopSignal() as stop_signal,
        contextlib.redirect_stdout(io.StringIO()),  # only measurements go to the console
    ):
        run = _Timed(experiment, data, pathlib.Path(folder), stop_signal, SINGLE_PROCESS)
        compiler = run.compiler = _Alternating(run.console, experiment)
        train(run, experiment.fresh_state())
        run.checkpoints.close()
    turns = np.asarray(compiler.turns)
    loop, bare = map(float, np.median(turns, axis=0))
    return Measurement(
        what=f"train loop, VGG A, width {options.width:g}, {options.image_size} px, batch {options.batch}",
        images_per_second=options.batch / loop,
        seconds=loop,
        memory_bytes=peak_memory(),
        peer="its compiled step",
        peer_images_per_second=options.batch / bare,
        facts={
            "loop_over_step": float(np.median(turns[:, 0] / turns[:, 1])),
            "turns": len(turns),
            "steps": TURN,
        },
    )


def _data_wait(experiment: Experiment, data: Any, options: argparse.Namespace) -> Measurement:
    settings = {"seed": 0, "batch_size": options.batch, "image_size": options.image_size}
    with StopSignal() as stop_signal:

        def time_batches(seconds: float) -> tuple[float, float]:
            """(seconds per batch, of which waited for data) with a step of `seconds`."""
            with (
                TrainLoader(data.train, **settings, sampling=experiment.augment) as batches,
                Prefetcher(experiment, batches, stop_signal, SINGLE_PROCESS) as prefetcher,
            ):
                prefetcher.next(0.0, 0.0)
                time.sleep(4 * seconds)  # as during a compilation: the prefetcher fills up
                waited, start = 0.0, time.perf_counter()
                for _ in range(options.steps):
                    asked = time.perf_counter()
                    batch, _ = prefetcher.next(0.0, 0.0)
                    waited += time.perf_counter() - asked
                    if not all(column.is_ready() for column in batch.values()):
                        raise AssertionError("a batch from the prefetcher is not on the device")
                    del batch  # as the loop does
                    time.sleep(seconds)
                return (time.perf_counter() - start) / options.steps, waited / options.steps

        time_batches(0.0)  # generates the images
        rows = []
        for _ in range(options.repeats):
            alone, _ = time_batches(0.0)
            rows.append((alone, *time_batches(SLOWDOWN * alone)))
    alone, total, waited = map(float, np.median(rows, axis=0))
    return Measurement(
        what=f"data wait, a step {SLOWDOWN:g} times as long as its input, batch {options.batch}",
        images_per_second=options.batch / total,
        seconds=total,
        memory_bytes=peak_memory(),
        bound=options.batch / (SLOWDOWN * alone),
        facts={"data_wait": waited / total, "input_seconds": alone},
    )


def _save_stall(repeats: int) -> Measurement:
    _, config = schema.read_resolved("alexnet", ["data.source=synthetic"])
    state = build_experiment(with_classes(config, 1000)).fresh_state()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.dtype == np.float32)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder) / "checkpoints")
        try:
            for step in range(1, repeats + 2):
                state = dataclasses.replace(state, step=np.int32(step) + 0 * state.step)
                jax.block_until_ready(state)
                stall = time_call(partial(checkpoints.save, state, {}))
                seconds.append((stall, stall + time_call(checkpoints.wait)))
        finally:
            checkpoints.close()
    # The first save also creates folders and imports modules.
    stall, total = map(float, np.median(seconds[1:], axis=0))
    return Measurement(
        what="save of AlexNet's state, seconds that a step waits",
        images_per_second=0.0,
        seconds=stall,
        memory_bytes=peak_memory(),
        facts={"whole_seconds": total, "stall_over_whole": stall / total, "bytes": size},
    )
