"""Training input: JPEGs to augmented uint8 batches, compared with bare decoding.

The bound is a full decode of the same images by libjpeg-turbo (simplejpeg), bytes in memory, one thread per
core. The peer is a PyTorch DataLoader with two workers and torchvision's RandomResizedCrop on Pillow, on the
same files. Repeats of the three alternate.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.benchmarks.measurement import Measurement, in_turns, peak_memory, time_call
from jaxcnn.benchmarks.torch_net import import_torch
from jaxcnn.data import Source, TrainLoader, open_data
from jaxcnn.data.jpeg import read_header
from jaxcnn.data.loader import available_cores
from jaxcnn.data.sampler import train_indices
from jaxcnn.data.train_crops import Sampling
from jaxcnn.paths import local_path

SIDE = 224
# By name: the scales of the papers' recipes, for crops of `SIDE` pixels.
SAMPLINGS = {
    "random_resized_crop": (256, 256),  # not used
    "random_crop": (256, 512),
    "random_crop_in_square": (256, 256),
}
WORKERS = 2  # of the DataLoader
IMAGES = 1000  # at most so many images of a source are timed
PASSES = 4  # over them in one timing
AHEAD = 6  # batches taken before timing starts: more than any loader begins at once
RECORDS = (10**3, 10**4, 10**5, 10**6)


class Other(NamedTuple):
    """Another program that reads the same images."""

    seconds: Callable[[], float]  # per image, timed
    name: str = ""
    megapixels: float = 0.0  # mean over the images


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", required=True, help="as data.source, such as folder:PATH or packed:DIR"
    )
    parser.add_argument("--data_dir", default="", help="directory of prepared data sets")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--batch", type=int, default=32, help="images per batch (%(default)s)")
    parser.add_argument(
        "--side", type=int, default=SIDE, help="side of the crops in pixels (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="0: one more than cores (%(default)s)"
    )
    parser.add_argument(
        "--sampling", action="append", choices=tuple(SAMPLINGS), default=[], help="(all)"
    )
    parser.add_argument(
        "--peer", action="store_true", help="also time the DataLoader; needs folder:PATH"
    )
    parser.add_argument(
        "--growth", action="store_true", help="1 to 4 threads, and indexes of 10^3 to 10^6 records"
    )


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    """Yields a row for each sampling.

    Raises:
        ValueError: no images; or, after all other rows, a peer is not installed.
    """
    start = time.perf_counter()
    source = source_of(options)
    opened = {"images": len(source), "seconds_to_open": time.perf_counter() - start}
    count = max(4, PASSES * min(len(source), IMAGES) // options.batch)
    others, missing = {}, []
    try:
        if isinstance(source.read(0)[0], bytes):  # a packed source has nothing to decode
            others["bare"] = bare_decoding(source)
    except ValueError as error:
        missing.append(str(error))
    try:
        if options.peer:
            others["loader"] = data_loader(options.source, options.batch, options.side, count)
    except ValueError as error:
        missing.append(str(error))
    for name in options.sampling or SAMPLINGS:
        used = dict(others)
        if name != "random_resized_crop":
            used.pop("loader", None)
        for threads in (1, 2, 3, 4) if options.growth else (options.threads,):
            yield _row(name, threads, source, used, count, options, opened)
    if options.growth:
        yield from map(_index_row, RECORDS)
    if missing:
        raise ValueError("; ".join(missing))


def source_of(options: argparse.Namespace) -> Source:
    """The training images that the options of `add_source` name."""
    return open_data(options.source, options.data_dir).train


def _row(
    name: str,
    threads: int,
    source: Source,
    others: Mapping[str, Other],
    count: int,
    options: argparse.Namespace,
    opened: Mapping[str, Any],
) -> Measurement:
    side = options.side
    low, high = (scale * side // SIDE for scale in SAMPLINGS[name])
    settings = {"seed": 0, "batch_size": options.batch, "image_size": side, "threads": threads}

    def ours() -> float:
        sampling = Sampling(name, (low, high))
        with TrainLoader(source, sampling=sampling, **settings) as batches:
            return steady_seconds(batches, count) / options.batch

    ours()
    timers = {"ours": ours, **{key: other.seconds for key, other in others.items()}}
    seconds = in_turns(options.repeats, timers)
    speed = {key: 1.0 / float(np.median(values)) for key, values in seconds.items()}
    threads = threads or available_cores() + 1
    facts: dict[str, Any] = {"threads": threads, **opened}
    if "bare" in others:
        facts["megapixels"] = others["bare"].megapixels
        facts["share_of_bare_decoding"] = float(np.median(seconds["bare"] / seconds["ours"]))
    return Measurement(
        what=f"input {name}, {side} px, batch {options.batch}, {threads} threads",
        images_per_second=speed["ours"],
        seconds=options.batch / speed["ours"],
        memory_bytes=peak_memory(),
        bound=speed.get("bare"),
        peer=others["loader"].name if "loader" in others else "",
        peer_images_per_second=speed.get("loader"),
        facts=facts,
    )


def steady_seconds(batches: Iterator[Any], count: int) -> float:
    """Seconds per batch over `count` batches, after the first `AHEAD`: the loader is then equally far ahead
    at the start and at the end of the timing."""
    for _ in range(AHEAD):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - start) / count


def bare_decoding(source: Source) -> Other:
    """Full decoding of up to `IMAGES` images, `PASSES` times, by one thread per core."""
    simplejpeg = import_torch("simplejpeg")
    data = [bytes(source.read(i)[0]) for i in range(min(len(source), IMAGES))]
    jpegs = [d for d in data if d[:2] == b"\xff\xd8" and read_header(d).components != 4]
    if not jpegs:
        raise ValueError("none of the images is a grey or RGB JPEG: there is nothing to decode")
    sizes = [read_header(d).height * read_header(d).width for d in jpegs]
    cores = available_cores()
    pool = ThreadPoolExecutor(cores)

    def run() -> None:
        left = iter(PASSES * jpegs)

        def decode() -> None:
            for d in left:
                simplejpeg.decode_jpeg(d, "RGB")

        for thread in [pool.submit(decode) for _ in range(cores)]:
            thread.result()

    run()
    return Other(
        lambda: time_call(run) / (PASSES * len(jpegs)), megapixels=float(np.mean(sizes)) / 1e6
    )


def data_loader(source: str, batch: int, side: int, count: int) -> Other:
    """PyTorch's DataLoader, over `count` batches."""
    kind, _, path = source.partition(":")
    if kind != "folder":
        raise ValueError("the DataLoader of --peer reads files: give --source=folder:PATH")
    torch, vision = import_torch("torch"), import_torch("torchvision")
    transforms = vision.transforms
    crop, flip = transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip()
    augment = transforms.Compose([crop, flip, transforms.PILToTensor()])
    images = vision.datasets.ImageFolder(local_path(path, "a folder of images") / "train", augment)
    # Several epochs, and more batches than are timed, so that no worker runs out of work.
    order = torch.utils.data.RandomSampler(images, num_samples=(count + 2 * AHEAD) * batch)
    # `run` below forks the workers now, before TensorFlow starts threads.
    loader = torch.utils.data.DataLoader(
        images, batch, sampler=order, num_workers=WORKERS, persistent_workers=True
    )

    def run() -> float:
        batches = iter(loader)
        seconds = steady_seconds(batches, count)
        for _ in batches:  # the workers must be idle while others are timed
            pass
        return seconds / batch

    run()
    return Other(run, f"DataLoader, torchvision {vision.__version__}")


def _index_row(count: int) -> Measurement:
    """Computing the order of an epoch over `count` records and the indices of its batches, without data."""
    rows = train_indices(count, seed=0, batch_size=256)
    seconds = time_call(lambda: next(rows))
    later = time_call(lambda: list(itertools.islice(rows, 3))) / 3
    return Measurement(
        what=f"order of an epoch, {count} records",
        images_per_second=256 / later,
        seconds=seconds,
        memory_bytes=peak_memory(),
        facts={"bytes_of_the_order": 8 * count},
    )
