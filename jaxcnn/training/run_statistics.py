"""The pixel statistics of a run: shipped, read from a file, or computed at its first start."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

import numpy as np

from jaxcnn.data import DataError, DataSplits, pixel_statistics
from jaxcnn.data.pixel_statistics import Statistics
from jaxcnn.files import FileError, exists, set_aside
from jaxcnn.parallel import ProcessGroup
from jaxcnn.paths import Path, user_path
from jaxcnn.training.console import Console, duration
from jaxcnn.training.experiment import Experiment

_LOGGER = logging.getLogger("jaxcnn")

# Every run that needs statistics keeps a copy in its workdir, and is resumed and loaded with that copy.
STATISTICS_FILE = "statistics.npz"


def obtain_statistics(
    experiment: Experiment,
    data: DataSplits,
    folder: Path,
    process_group: ProcessGroup,
    check_stop: Callable[[], None],
    *,
    begun: bool,
) -> Statistics:
    """The statistics that the experiment's `augment` needs; `folder` then holds a copy.

    Process 0 obtains them, and all processes read the copy.

    Args:
        data: its training images are measured if `augment.statistics` is 'auto'.
        folder: the workdir.
        check_stop: called now and then, also while a read hangs; raises to stop.
        begun: whether the run has checkpoints; then the copy in `folder` is used.

    Raises:
        DataError: statistics of other data.
        FileError: no such file, or a damaged one.
        Stopped: a signal came during the computation.
    """
    path = folder / STATISTICS_FILE

    def obtain() -> None:
        if begun and exists(path):
            try:
                pixel_statistics.load_statistics(path)
                return
            except FileError as error:
                text = "%s %s; it is now %s, the statistics are obtained again"
                _LOGGER.warning(text, path, error.problem, set_aside(path))
        pixel_statistics.save_statistics(_new(experiment, data, path, check_stop), path)

    process_group.run_on_primary(obtain)
    return pixel_statistics.load_statistics(path)


def _new(
    experiment: Experiment, data: DataSplits, path: Path, check_stop: Callable[[], None]
) -> Statistics:
    wanted = experiment.augment.statistics
    if wanted == "imagenet":
        return pixel_statistics.IMAGENET
    if wanted == "auto":
        side = pixel_statistics.side_of(experiment.augment, experiment.net.image_size)
        with contextlib.suppress(
            DataError, FileError
        ):  # what an earlier start computed before it was stopped
            found = pixel_statistics.load_statistics(path)
            pixel_statistics.check_matches(found, data, path, check_stop)
            if found.origin.get("side") == side:
                return found
        return _compute(experiment, data, side, check_stop)
    file = user_path(wanted)
    found = pixel_statistics.load_statistics(file)
    if found.origin.get("imported"):  # they travel with the weights that the run starts from
        Console().line(f"pixel statistics {found.origin['source']}, from {file}")
        return found
    pixel_statistics.check_matches(found, data, file, check_stop)
    Console().line(f"pixel statistics of {found.origin['examples']:,} images from {file}")
    return found


def _compute(
    experiment: Experiment, data: DataSplits, side: int, check_stop: Callable[[], None]
) -> Statistics:
    console, began = Console(), time.perf_counter()

    def progress(done: int, total: int) -> None:
        seconds = time.perf_counter() - began
        left = duration(seconds / max(done, 1) * (total - done))
        console.progress(f"pixel statistics of the training images: {done:,}/{total:,}  ETA {left}")

    found = pixel_statistics.compute_statistics(
        data.train,
        side=side,
        name=experiment.config["data"]["source"],
        threads=experiment.config["data"]["threads"],
        progress=progress,
        check_stop=check_stop,
    )
    mean, deviation = (
        ", ".join(f"{value:.2f}" for value in values)
        for values in (found.mean, np.sqrt(np.diag(found.covariance)))
    )
    console.line(
        f"pixel statistics of {len(data.train):,} training images in "
        f"{duration(time.perf_counter() - began)}: mean ({mean}), standard deviation ({deviation})"
    )
    return found
