"""JPEGs to augmented uint8 batches of 224 pixels, beside bare decoding.

The bound is libjpeg-turbo's full decode of the same images by simplejpeg, bytes in memory, on a thread a
core. The peer is a PyTorch DataLoader of two workers over torchvision's RandomResizedCrop on Pillow, of
the same files. All by turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.benchmarks.measurement import Measurement, machine, peak_memory, seconds_of
from jaxcnn.benchmarks.torch_net import import_torch
from jaxcnn.data import Source, TrainLoader, open_data
from jaxcnn.data.jpeg import read_header
from jaxcnn.data.loader import available_cores
from jaxcnn.data.sampler import train_indices
from jaxcnn.data.train_crops import Sampling

SAMPLINGS = {
    "random_resized_crop": Sampling("random_resized_crop"),
    "random_crop": Sampling("random_crop", (256, 512)),
    "random_crop_in_square": Sampling("random_crop_in_square", (256, 256)),
}
SIDE = 224
WORKERS = 2  # of the DataLoader
IMAGES = 1000  # of a larger source, no more take part in one timing
PASSES = 4  # about as often they come in it
AHEAD = 6  # batches that are taken before the time is: more than anyone begins at once
RECORDS = (10**3, 10**4, 10**5, 10**6)


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, help="as data.source: folder:PATH, packed:DIR")
    parser.add_argument("--data_dir", default="", help="folder of prepared data sets")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--batch", type=int, default=32, help="images a batch (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=0, help="0 for one more than cores (%(default)s)"
    )
    parser.add_argument(
        "--sampling", action="append", choices=tuple(SAMPLINGS), default=[], help="(all)"
    )
    parser.add_argument(
        "--peer", action="store_true", help="time the DataLoader too; needs folder:PATH"
    )
    parser.add_argument(
        "--growth", action="store_true", help="1 to 4 threads, and indexes of 10^3 to 10^6 records"
    )


def measure(options: argparse.Namespace) -> Iterator[Measurement]:
    """Raises:
    ValueError: no images, or a peer that is not installed; what can be measured without it was yielded.
    """
    source = source_of(options)
    count = max(4, PASSES * min(len(source), IMAGES) // options.batch)
    missing: list[str] = []
    bare = _optional(lambda: _bare(source), missing)
    loader = None
    if options.peer:
        loader = _optional(lambda: _loader(options.source, options.batch, count), missing)
    for name in options.sampling or SAMPLINGS:
        for threads in (1, 2, 3, 4) if options.growth else (options.threads,):
            peer = loader if name == "random_resized_crop" else None
            yield _row(name, threads, source, bare, peer, count, options)
    if options.growth:
        yield from map(_index_row, RECORDS)
    if missing:
        raise ValueError("; ".join(missing))


def _optional(make: Callable[[], Any], missing: list[str]) -> Any:
    try:
        return make()
    except ValueError as error:
        missing.append(str(error))
        return None


def source_of(options: argparse.Namespace) -> Source:
    """The images that `add_source`'s options name."""
    return open_data(options.source, options.data_dir).train


def _row(
    name: str,
    threads: int,
    source: Source,
    bare: _Bare | None,
    loader: _Loader | None,
    count: int,
    options: argparse.Namespace,
) -> Measurement:
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "loader": []}

    def ours() -> float:
        with TrainLoader(
            source,
            seed=0,
            batch_size=options.batch,
            image_size=SIDE,
            sampling=SAMPLINGS[name],
            threads=threads,
        ) as batches:
            return _steady(batches, count)

    ours()
    for _ in range(options.repeats):
        seconds["ours"].append(ours() / options.batch)
        if bare:
            seconds["bare"].append(seconds_of(bare.run) / bare.images)
        if loader:
            seconds["loader"].append(loader.run() / options.batch)
    median = {key: statistics.median(values) for key, values in seconds.items() if values}
    threads = threads or available_cores() + 1
    facts: dict[str, Any] = {"threads": threads, "images": len(source), **machine()}
    if bare:
        turns = zip(seconds["bare"], seconds["ours"], strict=True)
        share = statistics.median(theirs / own for theirs, own in turns)
        facts |= {"megapixels": bare.megapixels, "share_of_bare_decoding": share}
    return Measurement(
        what=f"input {name}, {SIDE} px, batch {options.batch}, {threads} threads",
        images_per_second=1.0 / median["ours"],
        seconds=median["ours"] * options.batch,
        memory_bytes=peak_memory(),
        bound=1.0 / median["bare"] if bare else None,
        peer=loader.name if loader else "",
        peer_images_per_second=1.0 / median["loader"] if loader else None,
        facts=facts,
    )


def _steady(batches: Iterator[Any], count: int) -> float:
    """Seconds a batch, of `count` after those that were begun at once: as much is begun ahead at the end of
    the time as at its start."""
    for _ in range(AHEAD):
        next(batches)
    begin = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - begin) / count


class _Bare(NamedTuple):
    """Decodes `images` of them, some more than once."""

    run: Callable[[], None]
    images: int
    megapixels: float


class _Loader(NamedTuple):
    """Gives the seconds that a batch takes."""

    run: Callable[[], float]
    name: str


def _bare(source: Source) -> _Bare | None:
    data = [source.read(i)[0] for i in range(min(len(source), IMAGES))]
    if all(isinstance(part, memoryview) for part in data):
        return None  # a packed source: there is nothing to decode
    simplejpeg = import_torch("simplejpeg")
    jpegs = [d for d in map(bytes, data) if d[:2] == b"\xff\xd8" and read_header(d).components != 4]
    if not jpegs:
        raise ValueError("none of the images is a JPEG in grey or RGB: nothing to decode barely")
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
    return _Bare(run, PASSES * len(jpegs), float(np.mean(sizes)) / 1e6)


def _loader(source: str, batch: int, count: int) -> _Loader:
    kind, _, path = source.partition(":")
    if kind != "folder":
        raise ValueError("the DataLoader of --peer reads files: give --source=folder:PATH")
    torch, vision = import_torch("torch"), import_torch("torchvision")
    transforms = vision.transforms
    steps = [
        transforms.RandomResizedCrop(SIDE),
        *(transforms.RandomHorizontalFlip(), transforms.PILToTensor()),
    ]
    images = vision.datasets.ImageFolder(
        Path(path).expanduser() / "train", transforms.Compose(steps)
    )

    # Epoch after epoch, and more than are timed, so that none is short of work meanwhile.
    order = torch.utils.data.RandomSampler(images, num_samples=(count + 2 * AHEAD) * batch)
    # Its workers are forked now, before TensorFlow's threads are there.
    loader = torch.utils.data.DataLoader(
        images, batch, sampler=order, num_workers=WORKERS, persistent_workers=True
    )

    def run() -> float:
        batches = iter(loader)
        seconds = _steady(batches, count)
        for _ in batches:  # lest its workers are busy later
            pass
        return seconds

    run()
    return _Loader(run, f"DataLoader, torchvision {vision.__version__}")


def _index_row(count: int) -> Measurement:
    """The start of an epoch over `count` records that lie nowhere: its order, and the first batch's rows."""
    rows = train_indices(count, seed=0, batch_size=256)
    seconds = seconds_of(lambda: next(rows))
    later = seconds_of(lambda: list(itertools.islice(rows, 3))) / 3
    return Measurement(
        what=f"order of an epoch, {count} records",
        images_per_second=256 / later,
        seconds=seconds,
        memory_bytes=peak_memory(),
        facts={"bytes_of_the_order": 8 * count, **machine()},
    )
