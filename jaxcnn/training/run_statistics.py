"""The statistics that a run's `augment` section asks for: shipped, of a file, or computed at its start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import config as configs
from jaxcnn import data as room
from jaxcnn.data import pixel_statistics as figures
from jaxcnn.data.pixel_statistics import Statistics
from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup
from jaxcnn.preprocessing import Augment
from jaxcnn.training.builder import Experiment
from jaxcnn.training.metrics_writer import Console, duration
from jaxcnn.training.schema import SECTIONS

# Every run that needs statistics keeps a copy of them, so that it can be resumed and loaded by itself.
NAME = "statistics.npz"


def obtain(
    experiment: Experiment,
    data: room.DataSplits,
    folder: Path,
    check_stop: Callable[[], None],
    *,
    begun: bool,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Statistics:
    """The statistics for a run in `folder` that needs them, which then holds a copy.

    Of several processes the first one computes them, and the others read that copy.

    Args:
        experiment: whose `augment` says what is needed.
        data: computed from its training images, where `augment.statistics` is 'auto'.
        begun: whether the run has checkpoints: then its own copy is taken.

    Raises:
        DataError: no such file, or one of other data.
        Stopped: a signal came while they were computed.
    """
    found: list[Statistics] = []
    process_group.run_on_primary(
        lambda: found.append(_obtain(experiment, data, folder, check_stop, begun))
    )
    return found[0] if process_group.is_primary else figures.load_statistics(folder / NAME)


def _obtain(
    experiment: Experiment,
    data: room.DataSplits,
    folder: Path,
    check_stop: Callable[[], None],
    begun: bool,
) -> Statistics:
    augment = experiment.augment
    kept, console = folder / NAME, Console()
    if augment.statistics == "imagenet":
        found = figures.IMAGENET
    elif begun and kept.exists():
        found = figures.load_statistics(kept)
    elif augment.statistics != "auto":
        path = Path(augment.statistics).expanduser()
        found = figures.load_statistics(path)
        figures.check_matches(found, data, path)
        console.line(f"statistics of {found.origin['examples']:,} images from {path}")
    else:
        found = _kept(experiment, data, kept) or _compute(experiment, data, console, check_stop)
    if not (begun and kept.exists()):
        figures.save_statistics(found, kept)
    return found


def _kept(experiment: Experiment, data: room.DataSplits, path: Path) -> Statistics | None:
    """What an earlier start computed before it was stopped; None where that is of other data or size."""
    try:
        found = figures.load_statistics(path)
        figures.check_matches(found, data, path)
    except room.DataError:
        return None
    side = figures.side_of(experiment.augment, experiment.net.image_size)
    return found if found.origin["side"] == side else None


def stand_in(config: Mapping[str, Any]) -> Statistics | None:
    """Statistics of the right shapes for what computes nothing; None where none are needed."""
    augment: Augment = configs.build_section("augment", config["augment"], SECTIONS)
    if not augment.needs_statistics:
        return None
    side = augment.scale[0]
    image = np.full((side, side, 3), 127.5, np.float32) if augment.in_square else None
    return Statistics(np.full(3, 127.5), np.eye(3), image, {})


def _compute(
    experiment: Experiment,
    data: room.DataSplits,
    console: Console,
    check_stop: Callable[[], None],
) -> Statistics:
    began = time.perf_counter()

    def progress(done: int, total: int) -> None:
        seconds = time.perf_counter() - began
        left = duration(seconds / max(done, 1) * (total - done))
        console.progress(f"statistics of the training images: {done:,}/{total:,}  ETA {left}")

    found = figures.compute_statistics(
        data.train,
        side=figures.side_of(experiment.augment, experiment.net.image_size),
        name=experiment.config["data"]["source"],
        threads=experiment.config["data"]["threads"],
        progress=progress,
        check_stop=check_stop,
    )
    console.line(
        f"statistics of {len(data.train):,} training images in "
        f"{duration(time.perf_counter() - began)}: mean {_three(found.mean)}, "
        f"deviations {_three(np.sqrt(np.diag(found.covariance)))}"
    )
    return found


def _three(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in values) + ")"
