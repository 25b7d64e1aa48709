"""Predictions for image files by any test protocol."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from jaxcnn.data import DataError, EvalImage, EvalLoader, ImageFiles, display_names
from jaxcnn.data.sources.image_files import FORMATS, LeftOut, find_images
from jaxcnn.evaluation import Protocol, check_fits, choose_crops, image_posteriors, read_protocol
from jaxcnn.evaluation.protocols import CenterCrop
from jaxcnn.paths import local_path
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.training.schema import run_protocols


@dataclasses.dataclass(frozen=True)
class ClassProbability:
    """A class and its probability in 0..1."""

    label: int
    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image file in descending order; none if it has a `problem`."""

    image: str
    classes: tuple[ClassProbability, ...] = ()
    problem: str = ""


def predict(
    run: FinishedRun, images: Sequence[str], protocol: Protocol, top: int = 5
) -> Iterator[Prediction]:
    """Yields a prediction for each of `images`, in their order, as soon as possible.

    Args:
        run: gives the weights.
        images: paths. The prediction of a missing or corrupt file has a `problem`.
        protocol: whose crops are averaged.
        top: number of classes, at most.

    Raises:
        ValueError: the protocol does not fit the net.
    """
    check_fits(run.forward, protocol)
    choose, threads = choose_crops(run.forward, protocol), run.config["data"]["threads"]
    names = display_names(run.loaded.classes)
    done: dict[int, Prediction] = {}

    def readable(loader: EvalLoader) -> Iterator[EvalImage]:
        for image in loader:
            if image.problem:
                path = images[image.position]
                done[image.position] = Prediction(path, problem=_problem(path, image))
            else:
                yield image

    first = 0
    source = ImageFiles(images)
    with EvalLoader(source, choose, threads=threads, check_stop=run.check_stop) as loader:
        for image, log_posterior in image_posteriors(
            run.forward, run.params, readable(loader), protocol, run.check_stop
        ):
            classes = top_classes(log_posterior, names, top)
            done[image.position] = Prediction(images[image.position], classes)
            while first in done:
                yield done.pop(first)
                first += 1
    yield from (done[position] for position in sorted(done))


def top_classes(
    log_posterior: Float[np.ndarray, " K"], names: Sequence[str], top: int
) -> tuple[ClassProbability, ...]:
    """The `top` most probable classes in descending order, equal ones by label."""
    order = np.argsort(-log_posterior, kind="stable")[:top]
    return tuple(
        ClassProbability(k, names[k], float(np.exp(log_posterior[k]))) for k in map(int, order)
    )


def own_protocol(run: FinishedRun) -> Protocol:
    """The first protocol of the run's config, by default the centre crop."""
    protocols = run_protocols(run.config)
    return protocols[0] if protocols else read_protocol("centre", run.image_size)


def centre_protocol(run: FinishedRun) -> CenterCrop:
    """The centre crop at the scale of the run's mean image, or else the first scale of `own_protocol`."""
    if run.forward.mean_image:
        return CenterCrop(scale=run.forward.mean.shape[0])
    return CenterCrop(scale=own_protocol(run).all_scales()[0])


def with_small_batches(run: FinishedRun, protocol: Protocol, images: Sequence[str]) -> FinishedRun:
    """`run` with batches no larger than the number of crops of all `images`. Call it before the weights are
    loaded; nothing is read again."""
    side, scale = run.image_size, protocol.all_scales()[0]
    files = sum(local_path(image, "an image file").is_file() for image in images)
    crops = len(protocol.crops(scale, scale, side)) * files
    small = copy.copy(run)
    small.batch_size = max(1, min(run.batch_size, crops))
    return small


def image_files(paths: Sequence[str]) -> list[str]:
    """The paths, with each folder replaced by the image files directly in it, by name. A folder without
    images stays, and its prediction has a problem."""
    found: list[str] = []
    for path in paths:
        place, names = local_path(path, "an image file"), []
        if place.is_dir():
            with contextlib.suppress(DataError):  # it cannot be listed
                names = find_images(str(place), LeftOut(), recursive=False)
        found += [os.path.join(path, name) for name in names] or [path]
    return found


def _problem(path: str, image: EvalImage) -> str:
    if local_path(path, "an image file").is_dir():
        return f"a folder without images ({FORMATS})"
    return image.problem
