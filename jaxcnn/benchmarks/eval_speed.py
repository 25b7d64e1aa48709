"""Whole evaluations of photographs, compared with the net's forward pass alone.

Both in multiply-adds per second. An evaluation reads, decodes and rescales each image, and only the
multiply-adds of its crops without padding count; the forward pass takes batches of crops that are already on
the device. Repeats of the two alternate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxcnn.benchmarks.input_speed import add_source, source_of
from jaxcnn.benchmarks.measurement import Measurement, machine, peak_memory, time_call
from jaxcnn.benchmarks.step_worker import config_of
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
    parser.add_argument("--net", action="append", default=[], help="a config; repeatable (alexnet)")
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
    parser.add_argument("--image_size", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the net (%(default)s)")
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
    for name in options.net or ["alexnet"]:
        config = config_of({**vars(options), "net": name})
        experiment = build_experiment(config)
        here = experiment.placement.local_mesh().replicated
        params = jax.jit(partial(draw_params, experiment.net), out_shardings=here)(
            jax.random.key(0)
        )
        for protocol in options.protocol or DEFAULT:
            protocol = PROTOCOLS[protocol]().for_images_of(options.image_size)
            yield _row(name, experiment.forward(), params, protocol, source, options)


def _row(
    name: str,
    forward: Forward,
    params: Any,
    protocol: Protocol,
    source: Source,
    options: argparse.Namespace,
) -> Measurement:
    macs, crops = crops_macs(forward, protocol, source)
    crop = InputShape("crop", options.image_size, options.image_size)
    batch = {**forward.empty(crop), "image": _noise(forward.empty(crop)["image"].shape)}
    batch = forward.placement.put_batch(batch)

    def bare() -> None:
        jax.block_until_ready(forward(params, crop, batch))

    def whole() -> None:
        evaluate(forward, params, source, protocol, split="bench")

    bare()
    times = max(1, round(FORWARD_SECONDS / time_call(bare)))
    whole()  # compiles
    seconds: dict[str, list[float]] = {"bare": [], "whole": []}
    for _ in range(options.repeats):
        seconds["bare"].append(time_call(lambda: [bare() for _ in range(times)]) / times)
        seconds["whole"].append(time_call(whole))
    median = {key: statistics.median(values) for key, values in seconds.items()}
    rate = forward.rows(crop) * summarise(forward.net).macs / median["bare"]
    label = protocol.label(options.image_size)
    width = f", width {options.width:g}" if options.width != 1 else ""
    return Measurement(
        what=f"evaluation {name}, {label}, {options.dtype}, batch {options.batch}{width}",
        images_per_second=len(source) / median["whole"],
        seconds=median["whole"] / len(source),
        memory_bytes=peak_memory(),
        bound=len(source) * rate / macs,
        facts={
            "images": len(source),
            "views_an_image": crops / len(source),
            "gflops": 2e-9 * macs / median["whole"],
            "forward_gflops": 2e-9 * rate,
            "shapes": len(forward.compiled),
            **machine(),
        },
    )


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def crops_macs(forward: Forward, protocol: Protocol, source: Source) -> tuple[int, int]:
    """(multiply-adds of all crops of all images, without padding; the number of crops)."""
    macs, count = 0, 0
    known: dict[tuple[int, int], int] = {}
    of_crop = summarise(forward.net).macs
    with EvalLoader(source, choose_crops(forward, protocol)) as images:
        for image in images:
            if image.problem:
                continue
            for crop in crops_of(forward, protocol, *image.size):
                count += 1
                size = crop.crop.shape
                if crop.dense and size not in known:
                    known[size] = score_map_macs(forward.net, *size)
                macs += known[size] if crop.dense else of_crop
    if not count:
        raise ValueError("all images are corrupt")
    return macs, count
