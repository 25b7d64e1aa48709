"""The most probable classes of image files, by any test protocol; each file's by itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from jaxcnn.data import EvalImage, EvalLoader, ImageFiles, display_names
from jaxcnn.data.sources.folder import SUFFIXES
from jaxcnn.evaluation import Protocol, check_fits, choose_crops, image_posteriors, read_protocol
from jaxcnn.evaluation.protocols import CenterCrop
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.training.evaluator import run_protocols


@dataclasses.dataclass(frozen=True)
class ClassProbability:
    """A class with its probability, in 0..1."""

    label: int
    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image file, the best first; none where it has a `problem`."""

    image: str
    classes: tuple[ClassProbability, ...] = ()
    problem: str = ""


def predict(
    run: FinishedRun, images: Sequence[str], protocol: Protocol, top: int = 5
) -> Iterator[Prediction]:
    """A prediction for each of `images`, in their order, as soon as it and those before are done.

    Args:
        run: by its weights.
        images: paths. A file that is missing or no image has a `problem`, and the others have none of it.
        protocol: whose looks are averaged.
        top: how many classes, all where there are fewer.

    Raises:
        ValueError: the protocol does not fit the net.
    """
    check_fits(run.forward, protocol)
    names = display_names(run.loaded.classes)
    done: dict[int, Prediction] = {}

    def readable(pictures: EvalLoader) -> Iterator[EvalImage]:
        for picture in pictures:
            if picture.problem:
                image = images[picture.position]
                done[picture.position] = Prediction(image, problem=_problem(image, picture))
            else:
                yield picture

    first, threads = 0, run.config["data"]["threads"]
    with EvalLoader(
        ImageFiles(images), choose_crops(run.forward, protocol), threads=threads
    ) as pictures:
        judged = image_posteriors(
            run.forward, run.params, readable(pictures), protocol, run.check_stop
        )
        for picture, log_posterior in judged:
            classes = top_classes(log_posterior, names, top)
            done[picture.position] = Prediction(images[picture.position], classes)
            while first in done:
                yield done.pop(first)
                first += 1
    yield from (done[position] for position in sorted(done))


def top_classes(
    log_posterior: Float[np.ndarray, " K"], names: Sequence[str], top: int
) -> tuple[ClassProbability, ...]:
    """The `top` most probable classes, the best first; of equal ones the lower label."""
    order = np.argsort(-log_posterior, kind="stable")[:top]
    return tuple(
        ClassProbability(k, names[k], float(np.exp(log_posterior[k]))) for k in map(int, order)
    )


def own_protocol(run: FinishedRun) -> Protocol:
    """The first protocol of the run's config, or the centre crop where it has none."""
    own = run_protocols(run.config)
    return own[0] if own else read_protocol("centre", run.image_size)


def centre_protocol(run: FinishedRun) -> CenterCrop:
    """The centre crop at the first scale of `own_protocol`, or that of the run's mean image."""
    if run.forward.mean_image:
        return CenterCrop(scale=run.forward.mean.shape[0])
    return CenterCrop(scale=own_protocol(run).all_scales()[0])


def with_small_batches(run: FinishedRun, protocol: Protocol, images: Sequence[str]) -> FinishedRun:
    """`run`, to be asked before its weights are loaded, with batches no larger than the looks at all
    `images`: one image is not computed as 32."""
    side, scale = run.image_size, protocol.all_scales()[0]
    looks = len(protocol.crops(scale, scale, side)) * sum(map(os.path.isfile, images))
    return dataclasses.replace(run, batch_size=max(1, min(run.batch_size, looks)))


def image_files(paths: Sequence[str]) -> list[str]:
    """The paths, in place of a folder the image files directly in it, by name. A folder without any stays:
    it has a problem like that of a file that is no image."""
    found = []
    for path in paths:
        inside = [os.path.join(path, name) for name in _listed(path)]
        found += [file for file in inside if not os.path.isdir(file)] or [path]
    return found


def _listed(path: str) -> list[str]:
    """Names of the images in a folder; none where it is no folder or cannot be read."""
    try:
        return sorted(n for n in os.listdir(path) if n.lower().endswith(SUFFIXES))
    except OSError:
        return []


def _problem(image: str, picture: EvalImage) -> str:
    if os.path.isdir(image):
        return f"a folder in which no images are seen, which end in {' '.join(SUFFIXES)}"
    return picture.problem
