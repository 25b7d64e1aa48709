"""JPEGs to augmented uint8 batches of 224 pixels, beside bare decoding.

The bound is libjpeg-turbo's full decode of the same images by simplejpeg, bytes in memory, on a thread a
core. The peer is a PyTorch DataLoader of two workers over torchvision's RandomResizedCrop on Pillow, of
the same files. All by turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data import Source, open_data, train_batches
from jaxcnn.data.cores import available_cores
from jaxcnn.data.folder import scan_classes
from jaxcnn.data.jpeg import read_header
from jaxcnn.data.order import train_rows
from jaxcnn.data.sampling import Sampling
from jaxcnn.measuring.record import Row, machine, peak_memory, seconds_of
from jaxcnn.measuring.torch_net import load

SAMPLINGS = {
    "area": Sampling("area"),
    "scale": Sampling("scale", (256, 512)),
    "square": Sampling("square", (256, 256)),
}
SIDE = 224
WORKERS = 2  # of the DataLoader
RECORDS = (10**3, 10**4, 10**5, 10**6)


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="", help="a folder of class folders of JPEGs")
    parser.add_argument("--source", default="", help="or a source, as data.source")
    parser.add_argument("--data_dir", default="", help="of a prepared source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--batch", type=int, default=32, help="images a batch (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=0, help="0 for one more than cores (%(default)s)"
    )
    parser.add_argument(
        "--sampling", action="append", choices=tuple(SAMPLINGS), default=[], help="(all)"
    )
    parser.add_argument("--peer", action="store_true", help="time the DataLoader too; needs --data")
    parser.add_argument(
        "--growth", action="store_true", help="1 to 4 threads, and indexes of 10^3 to 10^6 records"
    )


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Raises:
    ValueError: no images, or a peer that is not installed; what can be measured without it was yielded.
    """
    source = source_of(options)
    missing: list[str] = []
    bare = _optional(lambda: _bare(source), missing)
    loader = None
    if options.peer:
        loader = _optional(lambda: _loader(options.data, options.batch), missing)
    threads = (1, 2, 3, 4) if options.growth else (options.threads,)
    for name in options.sampling or SAMPLINGS:
        for count in threads:
            yield _row(name, count, source, bare, loader if name == "area" else None, options)
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
    if options.source:
        return open_data(options.source, options.data_dir).train
    if not options.data:
        raise ValueError("give --data=FOLDER, class folders of JPEGs, or --source=SOURCE")
    folder = Path(options.data).expanduser()
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; give one that holds a folder of JPEGs a class")
    return scan_classes(folder)


def _row(
    name: str, threads: int, source: Source, bare: Any, loader: Any, options: argparse.Namespace
) -> Row:
    count = max(4, 4 * len(source) // options.batch)  # about four times through the images
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "loader": []}

    def ours() -> float:
        """Seconds an image, from nothing decoded to the last batch: what is then begun of others costs time
        and does not count."""
        begin = time.perf_counter()
        with train_batches(
            source,
            seed=0,
            batch_size=options.batch,
            image_size=SIDE,
            sampling=SAMPLINGS[name],
            threads=threads,
            prefetch=1,
        ) as batches:
            for _ in range(count):
                next(batches)
            return (time.perf_counter() - begin) / (count * options.batch)

    ours()
    for _ in range(options.repeats):
        seconds["ours"].append(ours())
        if bare:
            seconds["bare"].append(seconds_of(bare.run) / bare.images)
        if loader:
            seconds["loader"].append(seconds_of(loader.run) / loader.images)
    median = {key: statistics.median(values) for key, values in seconds.items() if values}
    threads = threads or available_cores() + 1
    facts: dict[str, Any] = {"threads": threads, "images": len(source), **machine()}
    if bare:
        share = median["bare"] / median["ours"]
        facts |= {"megapixels": bare.megapixels, "share_of_bare_decoding": share}
    return Row(
        what=f"input {name}, {SIDE} px, batch {options.batch}, {threads} threads",
        images_per_second=1.0 / median["ours"],
        seconds=median["ours"] * options.batch,
        memory_bytes=peak_memory(),
        bound=1.0 / median["bare"] if bare else None,
        peer=loader.name if loader else "",
        peer_images_per_second=1.0 / median["loader"] if loader else None,
        facts=facts,
    )


@dataclasses.dataclass(frozen=True)
class _Pass:
    """One time through the images."""

    run: Callable[[], None]
    images: int
    name: str = ""
    megapixels: float = 0.0


def _bare(source: Source) -> _Pass | None:
    data = [source.read(i)[0] for i in range(min(len(source), 1000))]
    if all(isinstance(part, memoryview) for part in data):
        return None  # a packed source: there is nothing to decode
    simplejpeg = load("simplejpeg")
    jpegs = [d for d in map(bytes, data) if d[:2] == b"\xff\xd8" and read_header(d).components != 4]
    if not jpegs:
        raise ValueError("none of the images is a JPEG in grey or RGB: nothing to decode barely")
    sizes = [read_header(d).height * read_header(d).width for d in jpegs]
    pool = ThreadPoolExecutor(available_cores())

    def run() -> None:
        for pixels in pool.map(lambda d: simplejpeg.decode_jpeg(d, "RGB"), jpegs):
            del pixels

    run()
    return _Pass(run, len(jpegs), megapixels=float(np.mean(sizes)) / 1e6)


def _loader(folder: str, batch: int) -> _Pass:
    if not folder:
        raise ValueError("the DataLoader reads a folder of class folders: give --data=FOLDER")
    torch, vision = load("torch"), load("torchvision")
    transforms = vision.transforms
    steps = [
        transforms.RandomResizedCrop(SIDE),
        *(transforms.RandomHorizontalFlip(), transforms.PILToTensor()),
    ]
    images = vision.datasets.ImageFolder(folder, transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )

    def run() -> None:
        for _ in loader:
            pass

    run()
    return _Pass(run, len(loader) * batch, f"DataLoader, torchvision {vision.__version__}")


def _index_row(count: int) -> Row:
    """The start of an epoch over `count` records that lie nowhere: its order, and the first batch's rows."""
    rows = train_rows(count, seed=0, batch_size=256)
    seconds = seconds_of(lambda: next(rows))
    later = seconds_of(lambda: list(itertools.islice(rows, 3))) / 3
    return Row(
        what=f"order of an epoch, {count} records",
        images_per_second=256 / later,
        seconds=seconds,
        memory_bytes=peak_memory(),
        facts={"bytes_of_the_order": 8 * count, **machine()},
    )
