"""Seconds from the start of `jaxcnn train` to the end of its first step, by phase.

Runs the quick config for one step, in a new process and workdir each time: without a compilation cache, and
with one that an earlier run filled. The lines that a run prints mark the ends of its phases.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from jaxcnn.benchmarks.measurement import Measurement
from jaxcnn.paths import Path

# The beginning of the line that ends each phase.
PHASES = {
    "imports, config and data": "VGG(",
    "net, state and input": "compiling the train step",
    "compilation": "compiled the train step",
    "first step": "step 1/1",
}
BATCH, IMAGES = 32, 1442  # of configs/quickstart.py and its data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="quickstart", help="%(default)s, or one with a VGG")


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    """Yields a row without and one with a compilation cache.

    Raises:
        ValueError: a run did not reach its first step.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = f"--compilation_cache={folder}/cache"
        for name, extra in (("no cache", []), ("compilation cache", [cache])):
            runs = [
                _time_phases(options.config, pathlib.Path(folder) / f"{name}_{i}", extra)
                for i in range(options.repeats + 1)
            ][1:]  # the first fills the caches, the file system's too
            phases = {phase: statistics.median(run[phase] for run in runs) for phase in PHASES}
            seconds = statistics.median(sum(run.values()) for run in runs)
            yield Measurement(
                what=f"{options.config}, start to first step, {name}",
                images_per_second=BATCH / seconds,
                seconds=seconds,
                facts={"phases": phases},
            )


def _time_phases(config: str, workdir: Path, extra: list[str]) -> dict[str, float]:
    """Seconds of each phase."""
    command = [sys.executable, "-u", "-m", "jaxcnn", "train", f"--config={config}"]
    command += [f"--workdir={workdir}", f"--config.epochs={BATCH / IMAGES}"]
    command += ["--config.log.tensorboard=False", *extra]
    start = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    assert child.stdout
    left, phases, output = list(PHASES.items()), {}, []
    for line in child.stdout:
        output.append(line)
        while left and line.startswith(left[0][1]):
            now = time.perf_counter()
            phases[left.pop(0)[0]] = now - start
            start = now
    if child.wait() or left:
        raise ValueError(
            f"{' '.join(command)} did not reach its first step:\n{''.join(output[-5:])}"
        )
    return phases
