"""From the start of `jaxcnn train` to the end of its first step, and where the seconds go.

Runs of the quick config that are one step long, each a program and a folder of its own: as they are,
and with a compilation cache that a run before has filled. Phases are told by the lines that they print.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jaxcnn.benchmarks.measurement import Measurement, machine

# What a phase ends with: the start of a line.
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
    """Raises:
    ValueError: a run that does not come to its first step.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = f"--compilation_cache={folder}/cache"
        for name, extra in (("no cache", []), ("compilation cache", [cache])):
            runs = [
                _start(options.config, Path(folder) / f"{name}_{i}", extra)
                for i in range(options.repeats + 1)
            ][1:]  # the first fills caches, also the files'
            phases = {phase: statistics.median(run[phase] for run in runs) for phase in PHASES}
            seconds = statistics.median(sum(run.values()) for run in runs)
            yield Measurement(
                what=f"{options.config}, start to first step, {name}",
                images_per_second=BATCH / seconds,
                seconds=seconds,
                facts={"phases": phases, **machine()},
            )


def _start(config: str, workdir: Path, extra: list[str]) -> dict[str, float]:
    """Seconds of each phase."""
    command = [
        sys.executable,
        "-u",
        *("-m", "jaxcnn", "train"),
        f"--config={config}",
        f"--workdir={workdir}",
        *extra,
    ]
    command += [f"--config.epochs={BATCH / IMAGES}", "--config.log.tensorboard=False"]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout
    left, phases, said = list(PHASES.items()), {}, []
    for line in child.stdout:
        said.append(line)
        while left and line.startswith(left[0][1]):
            now = time.perf_counter()
            phases[left.pop(0)[0]] = now - began
            began = now
    if child.wait() or left:
        raise ValueError(
            f"{' '.join(command)} did not come to its first step:\n{''.join(said[-5:])}"
        )
    return phases
