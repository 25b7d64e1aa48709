"""jaxcnn statistics: computes the statistics of a config's training images, once for many runs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcnn.cli.arguments import add_config, add_json, make_parser, parse
from jaxcnn.cli.exit_codes import exit_code

if TYPE_CHECKING:
    import numpy as np

    from jaxcnn.data.pixel_statistics import Statistics
    from jaxcnn.preprocessing import Augment
    from jaxcnn.training.console import Console

NOTES = """The statistics are the mean of R, G and B, their covariance, and the mean image of central squares.
The side of the squares is augment.scale[0] if training crops are taken from such squares (augment.sampling
'random_crop_in_square' or 'center_crop'), else model.image_size."""


def main(arguments: Sequence[str]) -> int:
    options, overrides = parse(parser(), arguments)
    out = Path(options.out or f"statistics/{Path(options.config).stem}.npz").expanduser()
    return exit_code(
        lambda: _compute(options.config, overrides, out, options.json), kept="nothing was saved"
    )


def _compute(path: str, overrides: Sequence[str], out: Path, as_json: bool) -> None:
    from jaxcnn import config as configs
    from jaxcnn.data.pixel_statistics import compute_statistics, save_statistics, side_of
    from jaxcnn.training import schema
    from jaxcnn.training.console import Console, duration
    from jaxcnn.training.evaluator import open_splits

    _, config = schema.read_resolved(path, overrides)
    augment: Augment = configs.build_section("augment", config["augment"], schema.SECTIONS)
    console, began = Console(sys.stderr if as_json else sys.stdout), time.perf_counter()
    data = open_splits(config["data"])
    _check_writable(out)  # before hours of work
    console.line(data.description)
    statistics = compute_statistics(
        data.train,
        side=side_of(augment, config["model"]["image_size"]),
        name=config["data"]["source"],
        threads=config["data"]["threads"],
        progress=_progress(console),
    )
    console.end_progress()
    save_statistics(statistics, out)
    if as_json:
        print(json.dumps(_record(statistics, out)))
        return
    print(describe(statistics))
    print(f"saved in {out} after {duration(time.perf_counter() - began)}. To train with it:")
    given = [f"--config.{text}" for text in overrides if not text.startswith("augment.statistics=")]
    use = ["jaxcnn", "train", f"--config={path}", *given, f"--config.augment.statistics={out}"]
    print(f"  {shlex.join(use)}")
    if not augment.needs_statistics:
        print(
            "  This config uses no statistics; --config.augment.mean=rgb subtracts the mean, "
            "--config.augment.pca=unit shifts colours."
        )


def _record(statistics: Statistics, out: Path) -> dict[str, object]:
    from jaxcnn.data.pixel_statistics import eigen

    values, vectors = eigen(statistics)
    return {
        "file": str(out),
        "origin": statistics.origin,
        "mean": statistics.mean.tolist(),
        "covariance": statistics.covariance.tolist(),
        "eigenvalues": values.tolist(),
        "eigenvectors": vectors.tolist(),
    }


def describe(statistics: Statistics) -> str:
    """The figures as a table, on the 0..255 scale."""
    import numpy as np

    from jaxcnn.data.pixel_statistics import eigen

    origin, (values, vectors) = statistics.origin, eigen(statistics)
    left_out = f", {origin['unreadable']:,} of them corrupt" if origin["unreadable"] else ""
    deviations = np.sqrt(np.diag(statistics.covariance))
    lines = [
        f"{origin['examples']:,} training images of {origin['source']}{left_out}; squares of side "
        f"{origin['side']}; pixels 0..255",
        f"{'':<30}{'R':>10}{'G':>10}{'B':>10}",
        f"{'mean':<30}{_columns(statistics.mean, 3)}",
        f"{'standard deviation':<30}{_columns(deviations, 3)}",
    ]
    for i, value in enumerate(values):
        label = f"p{i + 1}, eigenvalue {value:.4f}"
        lines.append(f"{label:<30}{_columns(vectors[:, i], 6)}")
    return "\n".join(lines)


def _columns(values: np.ndarray, digits: int) -> str:
    return "".join(f"{value:10.{digits}f}" for value in values)


def _progress(console: Console) -> Callable[[int, int], None]:
    """Shows progress; the speed is timed from the first images on, since starting takes seconds."""
    from jaxcnn.training.console import duration

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


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "statistics",
        notes=NOTES,
        example="jaxcnn statistics alexnet data.source=folder:PATH --out=mine.npz",
    )
    add_config(result)
    result.add_argument(
        "--out", default="", metavar="FILE", help="file to write (statistics/NAME.npz)"
    )
    add_json(result)
    return result
