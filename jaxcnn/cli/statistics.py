"""Computes the statistics of a config's training images, once for many runs.

python -m jaxcnn.cli.statistics configs/alexnet.py [SECTION.KEY=VALUE ...] [--out=FILE]

They are the mean of R, G and B, their covariance, and the mean image of the central squares. The squares have
the side augment.scale[0] where training views are cut from such squares (augment.sampling
'random_crop_in_square' or 'center_crop'), else model.image_size. Exit codes: 0 done, 1 error, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxcnn import config as configs
from jaxcnn.data.pixel_statistics import (
    Statistics,
    compute_statistics,
    eigen,
    save_statistics,
    side_of,
)
from jaxcnn.preprocessing import Augment
from jaxcnn.training import schema
from jaxcnn.training.evaluator import open_splits
from jaxcnn.training.metrics_writer import Console, duration


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.statistics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="file, or name of one in configs/")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", default="", metavar="FILE", help="default: statistics/NAME.npz")
    options = parser.parse_args(arguments)
    out = Path(options.out or f"statistics/{Path(options.config).stem}.npz").expanduser()
    try:
        _run(options.config, options.overrides, out)
    except configs.ConfigError as error:
        print(f"config error: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was saved", file=sys.stderr)
        return 1
    return 0


def _run(path: str, overrides: Sequence[str], out: Path) -> None:
    _, config = schema.read_resolved(path, overrides, Path(__file__).parents[2] / "configs")
    augment: Augment = configs.build_section("augment", config["augment"], schema.SECTIONS)
    data, console, began = open_splits(config["data"]), Console(), time.perf_counter()
    _check_writable(out)  # not after hours of work
    console.line(data.description)
    statistics = compute_statistics(
        data.train,
        side=side_of(augment, config["model"]["image_size"]),
        name=config["data"]["source"],
        threads=config["data"]["threads"],
        progress=_progress(console),
    )
    console.end_place()
    save_statistics(statistics, out)
    print(describe(statistics))
    print(f"saved in {out} after {duration(time.perf_counter() - began)}. To train with it:")
    given = [f"--config.{text}" for text in overrides if not text.startswith("augment.statistics=")]
    use = ["python", "main.py", f"--config={path}", *given, f"--config.augment.statistics={out}"]
    print(f"  {shlex.join(use)}")
    if not augment.needs_statistics:
        print(
            "  This config uses no statistics; --config.augment.mean=rgb subtracts the mean, "
            "--config.augment.pca=unit shifts colours."
        )


def describe(statistics: Statistics) -> str:
    """The figures as a table, on the 0..255 scale."""
    origin, (values, vectors) = statistics.origin, eigen(statistics)
    left_out = f", {origin['unreadable']:,} of them unreadable" if origin["unreadable"] else ""
    deviations = np.sqrt(np.diag(statistics.covariance))
    lines = [
        f"{origin['examples']:,} training images of {origin['source']}{left_out}; squares of side "
        f"{origin['side']}; pixels 0..255",
        f"{'':<30}{'R':>10}{'G':>10}{'B':>10}",
        f"{'mean':<30}{_columns(statistics.mean, 3)}",
        f"{'deviation':<30}{_columns(deviations, 3)}",
    ]
    for i, value in enumerate(values):
        label = f"p{i + 1}, eigenvalue {value:.4f}"
        lines.append(f"{label:<30}{_columns(vectors[:, i], 6)}")
    return "\n".join(lines)


def _columns(values: np.ndarray, digits: int) -> str:
    return "".join(f"{value:10.{digits}f}" for value in values)


def _progress(console: Console) -> Callable[[int, int], None]:
    """Shows how far `compute` is; timed from the first images on, since starting takes seconds."""
    first: list[tuple[float, int]] = []

    def show(done: int, total: int) -> None:
        now = time.perf_counter()
        if not first:
            first.append((now, done))
        began, before = first[0]
        if done > before:
            rate = (done - before) / (now - began)
            left = duration((total - done) / rate)
            console.progress(
                f"{done:,}/{total:,} images  {rate:.0f} images/s  ETA {left}", last=done == total
            )

    return show


def _check_writable(out: Path) -> None:
    if out.is_dir():
        raise IsADirectoryError(f"--out={out} is a folder; give the name of a file in it")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"cannot write in {out.parent}; give another file: --out=FILE")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
