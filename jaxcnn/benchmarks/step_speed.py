"""Training and inference steps of the nets, compared with this machine's matrix products and a peer.

Each framework runs in its own process; their steps alternate. jaxcnn: the train step from a uint8 batch
(augmentation, loss, gradients, update), or the forward pass from float images. PyTorch: from float images,
channels last, the same layers, momentum SGD; a convolution of two groups replaces two towers. The bound is
the time of the net's multiply-adds at the speed of a large matrix product, measured between the steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jaxcnn.benchmarks.layer_list import layer_list
from jaxcnn.benchmarks.measurement import Measurement, machine, matmul_flops
from jaxcnn.benchmarks.step_worker import config_of
from jaxcnn.data.loader import available_cores
from jaxcnn.malloc_tuning import large_pages
from jaxcnn.models.net import Net
from jaxcnn.models.summary import summarise
from jaxcnn.planning import hardware, roofline

MODES = ("train", "inference")
BATCHES, SIDES = (1, 2, 4, 8, 16, 32, 64), (64, 112, 224, 336, 448)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", action="append", default=[], help="a config; repeatable (alexnet)")
    parser.add_argument("--batch", type=int, default=16, help="images per step (%(default)s)")
    parser.add_argument("--image_size", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the net (%(default)s)")
    parser.add_argument(
        "--dtype", action="append", choices=("float32", "bfloat16"), default=[], help="(float32)"
    )
    parser.add_argument("--mode", action="append", choices=MODES, default=[], help="(both)")
    parser.add_argument(
        "--peer", choices=("torch",), help="also time this framework, in alternation"
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help=f"batches of {BATCHES[0]} to {BATCHES[-1]}, then sides of {SIDES[0]} to {SIDES[-1]} pixels",
    )


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings of one row."""

    net: str
    batch: int
    image_size: int
    width: float
    dtype: str
    mode: str

    @property
    def what(self) -> str:
        size = f"{self.image_size} px" + (f", width {self.width:g}" if self.width != 1 else "")
        return f"{self.net} {self.mode}, {self.dtype}, batch {self.batch}, {size}"


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    """Yields a row for each net, dtype, mode and shape.

    Raises:
        ValueError: an invalid config; or, after all rows, the peer cannot be used.
    """
    missing = ""
    for job in _jobs(options):
        row, problem = _measured(job, options.peer or "", options.repeats)
        missing = missing or problem
        yield row
    if missing:
        raise ValueError(missing)


def _jobs(options: argparse.Namespace) -> Iterator[Job]:
    nets, modes = options.net or ["alexnet"], options.mode or MODES
    shapes = [(options.batch, options.image_size)]
    if options.growth:
        shapes = [(batch, options.image_size) for batch in BATCHES]
        shapes += [(options.batch, side) for side in SIDES]
    for net in nets:
        for dtype in options.dtype or ["float32"]:
            for mode in modes:
                for batch, side in shapes:
                    yield Job(net, batch, side, options.width, dtype, mode)


def _measured(job: Job, peer: str, repeats: int) -> tuple[Measurement, str]:
    """(the row, why the peer is missing from it or '')."""
    from jaxcnn import models

    net = models.build(**config_of(dataclasses.asdict(job))["model"])
    settings = {**dataclasses.asdict(job), "classes": net.num_classes, "cores": available_cores()}
    ours, theirs, problem = _Worker({**settings, "peer": ""}), None, ""
    try:
        if peer:
            try:
                theirs = _Worker({**settings, "peer": peer, "layers": layer_list(net)})
            except ValueError as error:
                problem = str(error)
        times: dict[str, list[float]] = {"ours": [], "theirs": [], "matmul": []}
        for _ in range(repeats):
            times["ours"].append(ours.step())
            if theirs:
                times["theirs"].append(theirs.step())
            if ours.facts["platform"] == "cpu":
                times["matmul"].append(matmul_flops())
        median = {key: statistics.median(values) for key, values in times.items() if values}
        return _row(job, net, ours, theirs, median), problem
    finally:
        for worker in filter(None, (ours, theirs)):
            worker.close()


def _row(job: Job, net: Net, ours: Any, theirs: Any, median: Mapping[str, float]) -> Measurement:
    flops = flops_of(net, job.mode)
    peak = median.get("matmul") or _peak_of(ours.facts, job.dtype)
    speed = job.batch / median["ours"]
    return Measurement(
        what=job.what,
        images_per_second=speed,
        seconds=median["ours"],
        memory_bytes=ours.memory,
        bound=peak / flops if peak else None,
        peer=theirs.facts["version"] if theirs else "",
        peer_images_per_second=job.batch / median["theirs"] if theirs else None,
        facts={
            "gflops": speed * flops / 1e9,
            "matmul_gflops": peak / 1e9 if peak else None,
            "share_of_matmul": speed * flops / peak if peak else None,
            "compile_seconds": ours.facts["compile_seconds"],
            "peer_memory_bytes": theirs.memory if theirs else None,
            "device": ours.facts["device"],
            **machine(),
        },
    )


def flops_of(net: Net, mode: str) -> float:
    """Floating-point operations per image; a multiply-add counts as two."""
    return roofline.step_cost(net).flops if mode == "train" else 2.0 * summarise(net).macs


def _peak_of(facts: Mapping[str, Any], dtype: str) -> float | None:
    """bfloat16 FLOP/s of a known accelerator; None otherwise."""
    known = hardware.by_device_kind(facts["device"]) if dtype == "bfloat16" else None
    return known.flops * facts["devices"] if known else None


class _Worker:
    """A `step_worker` process that is ready.

    Raises:
        ValueError: it failed; the reason that it gave.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        large_pages(environment)  # for both frameworks
        self._child = subprocess.Popen(
            [sys.executable, "-m", "jaxcnn.benchmarks.step_worker", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.facts, self.memory = self._answer(), 0

    def step(self) -> float:
        """Runs a step; its seconds."""
        assert self._child.stdin
        self._child.stdin.write("step\n")
        self._child.stdin.flush()
        answer = self._answer()
        self.memory = answer["memory_bytes"]
        return answer["seconds"]

    def close(self) -> None:
        self._child.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        answer = (
            json.loads(line)
            if line
            else {"error": "the worker process ended; its output above says why"}
        )
        if "error" in answer:
            self._child.wait()
            raise ValueError(answer["error"])
        return answer
