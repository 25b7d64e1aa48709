"""The train loop beside its own compiled step, and its waits for data.

`overhead`: a run of a small net whose batches are there already, every part of the loop real but the input,
against the same compiled step called again and again with a batch on the device, by turns of a few steps.
`data wait`: the real input, feed and clocks around a step that sleeps, as where an accelerator computes, for
1.2 times what the input takes for a batch. Batches must be on the device when they are handed over.
`save`: how long a step waits for the save of a full AlexNet's state, and how long the save takes until it is
whole on disk.
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

from jaxcnn import data as room
from jaxcnn.benchmarks.measurement import Measurement, machine, peak_memory
from jaxcnn.parallel import SINGLE_PROCESS
from jaxcnn.training import schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.console import Compiler, Console
from jaxcnn.training.experiment import Experiment, synthetic_batch
from jaxcnn.training.loop import Run
from jaxcnn.training.signals import StopSignal

SLOWER = 1.2  # a step than its input
TURN = 4  # steps of the loop, and then bare ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=40, help="a repeat (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images a step (%(default)s)")
    parser.add_argument("--width", type=float, default=0.25, help="of VGG A (%(default)s)")
    parser.add_argument("--image_size", type=int, default=64, help="pixels (%(default)s)")


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    config = _config(options)
    data = room.open_data(config["data"]["source"])
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
    """Of the loop: all repeats, the first turn, and the step that ends the last one."""
    return max(options.repeats * options.steps, TURN) + TURN + 1


class _Timed(Run):
    """A run whose batches exist already."""

    def batches(self, start: int) -> Any:
        del start
        batch = {k: np.asarray(v) for k, v in synthetic_batch(self.experiment).items()}
        return contextlib.nullcontext(_Endless(batch))


class _Alternating(Compiler):
    """Compiles a step that alternates with the bare one, TURN steps each.

    `turns` has the seconds of a step of the loop and of a bare one, for each turn.
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
                if call > TURN:  # in the first one all is new
                    self.turns.append((seconds, bare.run(TURN)))
                began = time.perf_counter()
            return compiled(state, batch, controls)

        return step


class _Bare:
    """A step with a state, a batch and controls that are on the device."""

    def __init__(self, step: Any, experiment: Experiment) -> None:
        self._step, self._state = step, experiment.fresh_state()
        self._rest = synthetic_batch(experiment), experiment.put_controls(1e-3)

    def run(self, count: int) -> float:
        """Seconds a step."""
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
        contextlib.redirect_stdout(io.StringIO()),  # what a run says is no row
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
    from jaxcnn.training.prefetch import Prefetcher

    settings = {"seed": 0, "batch_size": options.batch, "image_size": options.image_size}
    with StopSignal() as stop_signal:

        def fed(seconds: float) -> tuple[float, float]:
            """(seconds a batch, of them waited) with a step of `seconds`."""
            with (
                room.TrainLoader(data.train, **settings, sampling=experiment.augment) as batches,
                Prefetcher(experiment, batches, stop_signal, SINGLE_PROCESS) as feed,
            ):
                feed.next(0.0, 0.0)
                time.sleep(4 * seconds)  # as after a compilation: what is made ahead is there
                waited, began = 0.0, time.perf_counter()
                for _ in range(options.steps):
                    asked = time.perf_counter()
                    batch, _ = feed.next(0.0, 0.0)
                    waited += time.perf_counter() - asked
                    if not all(column.is_ready() for column in batch.values()):
                        raise AssertionError("a batch was handed over that is not on the device")
                    del batch  # as the loop does
                    time.sleep(seconds)
                return (time.perf_counter() - began) / options.steps, waited / options.steps

        fed(0.0)  # makes the images
        rows = []
        for _ in range(options.repeats):
            alone, _ = fed(0.0)
            rows.append((alone, *fed(SLOWER * alone)))
    alone, total, waited = (statistics.median(values) for values in zip(*rows, strict=True))
    return Measurement(
        what=f"data wait, a step {SLOWER:g} times as long as its input, batch {options.batch}",
        images_per_second=options.batch / total,
        seconds=total,
        memory_bytes=peak_memory(),
        bound=options.batch / (SLOWER * alone),
        facts={"data_wait": waited / total, "input_seconds": alone, **machine()},
    )


def _save_stall(repeats: int) -> Measurement:
    _, config = schema.read_resolved("alexnet", ["data.source=synthetic"])
    config = with_classes(config, 1000)
    state = build_experiment(config).fresh_state()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.dtype == np.float32)
    stalls, wholes = [], []
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
                wholes.append(time.perf_counter() - began)
        finally:
            checkpoints.close()
    # The first one also makes folders and imports.
    stall, whole = (statistics.median(values[1:]) for values in (stalls, wholes))
    return Measurement(
        what="save of AlexNet's state, seconds that a step waits",
        images_per_second=0.0,
        seconds=stall,
        memory_bytes=peak_memory(),
        facts={
            "whole_seconds": whole,
            "stall_over_whole": stall / whole,
            "bytes": size,
            **machine(),
        },
    )
