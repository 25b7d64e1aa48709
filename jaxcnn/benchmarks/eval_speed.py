"""Whole evaluations of photographs, compared with the net's forward pass alone.

Both in multiply-adds per second. An evaluation reads, decodes and rescales each image, and only the
multiply-adds of its crops without padding count; the forward pass takes batches of crops that are already on
the device. Repeats of the two alternate.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxcnn.benchmarks.input_speed import add_source, source_of
from jaxcnn.benchmarks.measurement import Measurement, in_turns, peak_memory, time_call
from jaxcnn.benchmarks.step_speed import add_net_arguments
from jaxcnn.benchmarks.step_worker import Job
from jaxcnn.data import EvalLoader, Source, Subset
from jaxcnn.evaluation import PROTOCOLS, Forward, Protocol, evaluate
from jaxcnn.evaluation.buckets import InputShape
from jaxcnn.evaluation.posteriors import choose_crops, crops_of
from jaxcnn.models.summary import score_map_macs, summarise
from jaxcnn.training.builder import build_experiment
from jaxcnn.training.train_state import draw_params

FORWARD_SECONDS = 2.0  # of one timing of the forward pass
DEFAULT = ("ten_crops", "multi_crop", "crops_144", "dense")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net_arguments(parser)
    parser.add_argument(
        "--protocol",
        action="append",
        choices=tuple(PROTOCOLS),
        default=[],
        help=f"({', '.join(DEFAULT)})",
    )
    add_source(parser)
    parser.add_argument("--images", type=int, default=32, help="photographs (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="crops per batch (%(default)s)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)"
    )


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    """Yields a row for each net and protocol.

    Raises:
        ValueError: no images, or an invalid config.
    """
    if options.images < 1:
        raise ValueError(f"--images={options.images}: expected 1 or more")
    source = source_of(options)
    # Evenly spaced: neighbours have the same class and often the same size.
    source = Subset(source, np.unique(np.linspace(0, len(source) - 1, options.images).astype(int)))
    for net in options.net or ["alexnet"]:
        job = Job(net, options.batch, options.image_size, options.width, options.dtype)
        experiment = build_experiment(job.config())
        here = experiment.placement.local_mesh().replicated
        draw = jax.jit(functools.partial(draw_params, experiment.net), out_shardings=here)
        params = draw(jax.random.key(0))
        for name in options.protocol or DEFAULT:
            protocol = PROTOCOLS[name]().for_images_of(job.image_size)
            yield _row(job, experiment.forward(), params, protocol, source, options.repeats)


def _row(
    job: Job, forward: Forward, params: Any, protocol: Protocol, source: Source, repeats: int
) -> Measurement:
    macs, crops = crops_macs(forward, protocol, source)
    crop = InputShape("crop", job.image_size, job.image_size)
    batch = forward.empty(crop)
    batch["image"] = np.random.default_rng(0).integers(0, 256, batch["image"].shape, np.uint8)
    batch = forward.placement.put_batch(batch)

    def bare() -> None:
        jax.block_until_ready(forward(params, crop, batch))

    def whole() -> None:
        evaluate(forward, params, source, protocol, split="bench")

    bare()
    whole()  # compiles
    times = max(1, round(FORWARD_SECONDS / time_call(bare)))
    timers = {
        "bare": lambda: time_call(lambda: [bare() for _ in range(times)]) / times,
        "whole": lambda: time_call(whole),
    }
    seconds = {key: float(np.median(values)) for key, values in in_turns(repeats, timers).items()}
    rate = forward.rows(crop) * summarise(forward.net).macs / seconds["bare"]
    width = f", width {job.width:g}" if job.width != 1 else ""
    label = protocol.label(job.image_size)
    return Measurement(
        what=f"evaluation {job.net}, {label}, {job.dtype}, batch {job.batch}{width}",
        images_per_second=len(source) / seconds["whole"],
        seconds=seconds["whole"] / len(source),
        memory_bytes=peak_memory(),
        bound=len(source) * rate / macs,
        facts={
            "images": len(source),
            "views_an_image": crops / len(source),
            "gflops": 2e-9 * macs / seconds["whole"],
            "forward_gflops": 2e-9 * rate,
            "shapes": len(forward.compiled),
        },
    )


def crops_macs(forward: Forward, protocol: Protocol, source: Source) -> tuple[int, int]:
    """(multiply-adds of all crops of all images, without padding; the number of crops)."""
    of_crop = summarise(forward.net).macs
    of_map = functools.cache(functools.partial(score_map_macs, forward.net))
    macs = []
    with EvalLoader(source, choose_crops(forward, protocol)) as images:
        for image in images:
            for crop in () if image.problem else crops_of(forward, protocol, *image.size):
                macs.append(of_map(*crop.crop.shape) if crop.dense else of_crop)
    if not macs:
        raise ValueError("all images are corrupt")
    return sum(macs), len(macs)
