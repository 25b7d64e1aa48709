"""Compute pixel statistics of a config's training images, for any number of runs.

The statistics are the mean of R, G and B, their covariance, and the mean image of central squares. The side
of the squares is augment.scale[0] if training crops are taken from such squares (augment.sampling
'random_crop_in_square' or 'center_crop'), else model.image_size.

example: jaxcnn statistics alexnet data.source=folder:PATH --out=mine.npz
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time
from typing import TYPE_CHECKING

from jaxcnn.cli.arguments import Output, add_config, add_json, path, show_progress
from jaxcnn.files import disk_advice
from jaxcnn.folders import check_writable
from jaxcnn.paths import Path
from jaxcnn.printable import shell_join

if TYPE_CHECKING:
    import numpy as np

    from jaxcnn.data.pixel_statistics import Statistics
    from jaxcnn.preprocessing import Augment

KEPT = "nothing was saved"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    help_text = "file to write (statistics/NAME.npz)"
    parser.add_argument("--out", type=path, metavar="FILE", help=help_text)
    add_json(parser)


def run(options: argparse.Namespace) -> Output:
    from jaxcnn import config as configs
    from jaxcnn.data.pixel_statistics import compute_statistics, eigen, save_statistics, side_of
    from jaxcnn.training import schema
    from jaxcnn.training.console import Console, duration
    from jaxcnn.training.evaluator import open_splits

    out = options.out or pathlib.Path(f"statistics/{pathlib.Path(options.config).stem}.npz")
    _, config = schema.read_resolved(options.config, options.overrides)
    augment: Augment = configs.build_section("augment", config["augment"], schema.SECTIONS)
    console, began = Console(), time.perf_counter()
    data = open_splits(config["data"])
    _check_writable(out)  # before hours of work
    console.line(data.description)
    statistics = compute_statistics(
        data.train,
        side=side_of(augment, config["model"]["image_size"]),
        name=config["data"]["source"],
        threads=config["data"]["threads"],
        progress=functools.partial(show_progress(console), "train"),
    )
    save_statistics(statistics, out)
    values, vectors = eigen(statistics)
    record = {
        "file": str(out),
        "origin": statistics.origin,
        "mean": statistics.mean.tolist(),
        "covariance": statistics.covariance.tolist(),
        "eigenvalues": values.tolist(),
        "eigenvectors": vectors.tolist(),
    }
    given = [f"--config.{o}" for o in options.overrides if not o.startswith("augment.statistics=")]
    train = ["jaxcnn", "train", f"--config={options.config}", *given]
    lines = [
        describe(statistics, values, vectors),
        f"saved in {out} after {duration(time.perf_counter() - began)}. To train with it:",
        f"  {shell_join([*train, f'--config.augment.statistics={out}'])}",
    ]
    if not augment.needs_statistics:
        lines.append(
            "  This config uses no statistics; --config.augment.mean=rgb subtracts the mean, "
            "--config.augment.pca=unit shifts colours."
        )
    return Output(record, "\n".join(lines))


def describe(statistics: Statistics, values: np.ndarray, vectors: np.ndarray) -> str:
    """The figures as a table, on the 0..255 scale; `values` and `vectors` are those of the covariance."""
    import numpy as np

    origin = statistics.origin
    left_out = f", {origin['unreadable']:,} of them corrupt" if origin["unreadable"] else ""
    deviations = np.sqrt(np.diag(statistics.covariance))
    lines = [
        f"{origin['examples']:,} training images of {origin['source']}{left_out}; squares of side "
        f"{origin['side']}; pixels 0..255",
        f"{'':<30}{'R':>10}{'G':>10}{'B':>10}",
    ]
    rows = [("mean", statistics.mean, 3), ("standard deviation", deviations, 3)]
    for i, value in enumerate(values):
        rows.append((f"p{i + 1}, eigenvalue {value:.4f}", vectors[:, i], 6))
    for label, numbers, digits in rows:
        lines.append(f"{label:<30}" + "".join(f"{number:10.{digits}f}" for number in numbers))
    return "\n".join(lines)


def _check_writable(out: Path) -> None:
    if out.is_dir():
        raise IsADirectoryError(f"--out={out} is a folder; give the name of a file in it")
    try:
        check_writable(out.parent)
    except OSError as error:
        raise OSError(
            f"cannot write in {out.parent} ({error.strerror}): {disk_advice(error)}; or give another file: "
            "--out=FILE"
        ) from error
