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
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.benchmarks.measurement import Measurement, machine, peak_memory
from jaxcnn.data import TrainLoader, open_data
from jaxcnn.parallel import SINGLE_PROCESS
from jaxcnn.training import schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.console import Compiler, Console
from jaxcnn.training.experiment import Experiment, synthetic_batch
from jaxcnn.training.loop import Run
from jaxcnn.training.prefetch import Prefetcher
from jaxcnn.training.signals import StopSignal

SLOWDOWN = 1.2  # seconds of the sleeping step over those of its input
TURN = 4  # steps of the loop, then as many bare ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=40, help="steps per repeat (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images per step (%(default)s)")
    parser.add_argument("--width", type=float, default=0.25, help="width of VGG A (%(default)s)")
    parser.add_argument("--image_size", type=int, default=64, help="pixels (%(default)s)")


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    config = _config(options)
    data = open_data(config["data"]["source"])
    experiment = build_experiment(config)
    yield _overhead(experiment, data, options)
    yield _data_wait(experiment, data, options)
    yield _save_stall(options.repeats)


def _config(options: argparse.Namespace) -> Any:
    overrides = [
        *("data.source=synthetic:4", "model.column=A", f"model.width={options.width}"),
        *(
            f"model.image_size={options.image_size}",
            f"augment.scale=({options.image_size},{options.image_size})",
        ),
        *(f"batch_size={options.batch}", f"epochs={_steps(options) * options.batch / 256}"),
        *("log.tensorboard=False", "checkpoint.every_epochs=1e9", "evals=()"),
    ]
    _, config = schema.read_resolved("quickstart", overrides)
    return with_classes(config, 4)


def _steps(options: argparse.Namespace) -> int:
    """Steps of the loop: all repeats, the first turn, and the step that ends the last turn."""
    return max(options.repeats * options.steps, TURN) + TURN + 1


class _Timed(Run):
    """A run with one synthetic batch in place of the input."""

    def batches(self, start: int) -> Any:
        del start
        batch = {k: np.asarray(v) for k, v in synthetic_batch(self.experiment).items()}
        return contextlib.nullcontext(_Endless(batch))


class _Alternating(Compiler):
    """Compiles a step that alternates with the bare step, TURN steps each.

    `turns` holds (seconds per step of the loop, seconds per bare step) of each turn.
    """

    def __init__(self, console: Console, experiment: Experiment) -> None:
        super().__init__(console)
        self.experiment = experiment
        self.turns: list[tuple[float, float]] = []

    def __call__(self, what: str, lowered: Any) -> Any:
        compiled = super().__call__(what, lowered)
        bare = _Bare(compiled, self.experiment)
        calls = itertools.count()
        began = 0.0

        def step(state: Any, batch: Any, controls: Any) -> Any:
            nonlocal began
            call = next(calls)
            if call % TURN == 0:
                jax.block_until_ready(state)
                seconds = (time.perf_counter() - began) / TURN
                if call > TURN:  # the first turn warms up
                    self.turns.append((seconds, bare.run(TURN)))
                began = time.perf_counter()
            return compiled(state, batch, controls)

        return step


class _Bare:
    """The bare step: state, batch and controls are on the device."""

    def __init__(self, step: Any, experiment: Experiment) -> None:
        self._step, self._state = step, experiment.fresh_state()
        self._rest = synthetic_batch(experiment), experiment.put_controls(1e-3)

    def run(self, count: int) -> float:
        """Seconds per step."""
        began = time.perf_counter()
        for _ in range(count):
            self._state, _ = self._step(self._state, *self._rest)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - began) / count


class _Endless:
    corrupt = ()

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __next__(self) -> Any:
        return self._batch


def _overhead(experiment: Experiment, data: Any, options: argparse.Namespace) -> Measurement:
    with (
        tempfile.TemporaryDirectory() as folder,
        StopSignal() as stop_signal,
        contextlib.redirect_stdout(io.StringIO()),  # only measurements go to the console
    ):
        run = _Timed(experiment, data, Path(folder), stop_signal, SINGLE_PROCESS)
        compiler = run.compiler = _Alternating(run.console, experiment)
        run.train(experiment.fresh_state())
        run.checkpoints.close()
    loop, bare = (statistics.median(values) for values in zip(*compiler.turns, strict=True))
    ratio = statistics.median(own / step for own, step in compiler.turns)
    return Measurement(
        what=f"train loop, VGG A, width {options.width:g}, {options.image_size} px, batch {options.batch}",
        images_per_second=options.batch / loop,
        seconds=loop,
        memory_bytes=peak_memory(),
        peer="its compiled step",
        peer_images_per_second=options.batch / bare,
        facts={"loop_over_step": ratio, "turns": len(compiler.turns), "steps": TURN, **machine()},
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
                        raise AssertionError(
                            "the prefetcher returned a batch that is not on the device"
                        )
                    del batch  # as the loop does
                    time.sleep(seconds)
                return (time.perf_counter() - start) / options.steps, waited / options.steps

        time_batches(0.0)  # generates the images
        rows = []
        for _ in range(options.repeats):
            alone, _ = time_batches(0.0)
            rows.append((alone, *time_batches(SLOWDOWN * alone)))
    alone, total, waited = (statistics.median(values) for values in zip(*rows, strict=True))
    return Measurement(
        what=f"data wait, a step {SLOWDOWN:g} times as long as its input, batch {options.batch}",
        images_per_second=options.batch / total,
        seconds=total,
        memory_bytes=peak_memory(),
        bound=options.batch / (SLOWDOWN * alone),
        facts={"data_wait": waited / total, "input_seconds": alone, **machine()},
    )


def _save_stall(repeats: int) -> Measurement:
    _, config = schema.read_resolved("alexnet", ["data.source=synthetic"])
    config = with_classes(config, 1000)
    state = build_experiment(config).fresh_state()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.dtype == np.float32)
    stalls, totals = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        try:
            for step in range(1, repeats + 2):
                state = dataclasses.replace(state, step=np.int32(step) + 0 * state.step)
                jax.block_until_ready(state)
                began = time.perf_counter()
                checkpoints.save(state, {})
                stalls.append(time.perf_counter() - began)
                checkpoints.wait()
                totals.append(time.perf_counter() - began)
        finally:
            checkpoints.close()
    # The first save also creates folders and imports modules.
    stall, total = (statistics.median(values[1:]) for values in (stalls, totals))
    return Measurement(
        what="save of AlexNet's state, seconds that a step waits",
        images_per_second=0.0,
        seconds=stall,
        memory_bytes=peak_memory(),
        facts={
            "whole_seconds": total,
            "stall_over_whole": stall / total,
            "bytes": size,
            **machine(),
        },
    )
