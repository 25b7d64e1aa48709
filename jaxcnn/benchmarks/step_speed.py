"""Training and inference steps of the nets, compared with this machine's matrix products and a peer.

Each framework runs in its own process; their steps alternate. jaxcnn: the train step from a uint8 batch
(augmentation, loss, gradients, update), or the forward pass from float images. PyTorch: from float images,
channels last, the same layers, momentum SGD; a convolution of two groups replaces two towers. The bound is
the time of the net's multiply-adds at the speed of a large matrix product, measured between the steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxcnn.benchmarks.layer_list import layer_list
from jaxcnn.benchmarks.measurement import Measurement, in_turns, seconds_per_flop
from jaxcnn.benchmarks.step_worker import Job, serve
from jaxcnn.malloc_tuning import large_pages
from jaxcnn.models import build
from jaxcnn.models.net import Net
from jaxcnn.models.summary import summarise
from jaxcnn.planning import hardware, roofline

MODES = ("train", "inference")
BATCHES, SIDES = (1, 2, 4, 8, 16, 32, 64), (64, 112, 224, 336, 448)


def add_net_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", action="append", default=[], help="a config; repeatable (alexnet)")
    parser.add_argument("--image_size", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the net (%(default)s)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net_arguments(parser)
    parser.add_argument("--batch", type=int, default=16, help="images per step (%(default)s)")
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


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    """Yields a row for each net, dtype, mode and shape.

    Raises:
        ValueError: an invalid config; or, after all rows, the peer cannot be used.
    """
    problems: list[str] = []
    shapes = [(options.batch, options.image_size)]
    if options.growth:
        shapes = [(batch, options.image_size) for batch in BATCHES]
        shapes += [(options.batch, side) for side in SIDES]
    for net in options.net or ["alexnet"]:
        for dtype in options.dtype or ["float32"]:
            for mode in options.mode or MODES:
                for batch, side in shapes:
                    job = Job(net, batch, side, options.width, dtype, mode)
                    yield _measured(job, options.peer, options.repeats, problems)
    if problems:
        raise ValueError(problems[0])


def _measured(job: Job, peer: str | None, repeats: int, problems: list[str]) -> Measurement:
    """The row of a job; appends to `problems` why the peer is missing from it."""
    net = build(**job.config()["model"])
    ours, theirs = _Worker(job), None
    try:
        timers = {"ours": ours.step}
        if peer:
            try:
                theirs = _Worker(job, layer_list(net))
                timers["theirs"] = theirs.step
            except ValueError as error:
                problems.append(str(error))
        if ours.facts["platform"] == "cpu":
            timers["flop"] = seconds_per_flop
        seconds = {k: float(np.median(v)) for k, v in in_turns(repeats, timers).items()}
    finally:
        for worker in filter(None, (ours, theirs)):
            worker.close()
    flops = flops_of(net, job.mode)
    peak = 1.0 / seconds["flop"] if "flop" in seconds else _peak_of(ours.facts, job.dtype)
    speed = job.batch / seconds["ours"]
    return Measurement(
        what=job.what,
        images_per_second=speed,
        seconds=seconds["ours"],
        memory_bytes=ours.memory,
        bound=peak / flops if peak else None,
        peer=theirs.facts["version"] if theirs else "",
        peer_images_per_second=job.batch / seconds["theirs"] if theirs else None,
        facts={
            "gflops": speed * flops / 1e9,
            "matmul_gflops": peak / 1e9 if peak else None,
            "share_of_matmul": speed * flops / peak if peak else None,
            "compile_seconds": ours.facts["compile_seconds"],
            "peer_memory_bytes": theirs.memory if theirs else None,
            "device": ours.facts["device"],
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
        ValueError: it could not build the step, or ended.
    """

    def __init__(self, job: Job, layers: list[list[Any]] | None = None) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        large_pages(os.environ)  # for both frameworks: read when a process starts
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job, layers), daemon=True)
        self._process.start()
        theirs.close()
        self.facts, self.memory = self._answer(), 0

    def step(self) -> float:
        """Runs a step; returns its seconds."""
        self._pipe.send(True)
        seconds, self.memory = self._answer()
        return seconds

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            answer = ValueError("the worker process ended; its output above says why")
        if isinstance(answer, ValueError):
            self._process.join()
            raise answer
        return answer
