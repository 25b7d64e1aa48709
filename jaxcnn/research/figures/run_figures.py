"""Figures of a trained run: first kernels, predictions, nearest training images, score maps.

The figures of Krizhevsky et al. 2012, section 6.1, and the class score map of Simonyan & Zisserman 2014,
section 3.2, from a run's weights and data. A new figure is one function here and one row in `FIGURES`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data import EvalImage, Subset, display_names
from jaxcnn.evaluation import Protocol, check_fits, image_posteriors
from jaxcnn.evaluation.protocols import Dense
from jaxcnn.files import write_figure, writing
from jaxcnn.folders import check_writable
from jaxcnn.paths import Path
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.figures import drawing
from jaxcnn.research.figures.chosen_images import chosen_positions, evenly_spaced, readable_images
from jaxcnn.research.figures.class_maps import ClassMaps, cell_centres, cell_field, map_scale
from jaxcnn.research.figures.nearest import HiddenLayer, nearest_images
from jaxcnn.research.predict import centre_protocol, top_classes

# Krizhevsky et al. 2012, Figure 4: 5 predictions per image, 6 neighbours of 5 images.
GUESSES, QUERIES, NEIGHBOURS = 5, 5, 6
MAPS = 4  # images with a score map
FIRST_LAYERS = ("conv1", "conv1_1")


class FigureSkipped(Exception):
    """A figure is not possible for a run; the message says why."""


@dataclasses.dataclass(eq=False)
class FigureRequest:
    """What to draw.

    Attributes:
        run: the trained run.
        images: number of images of the reported split, evenly spaced.
        ids: ids of images, instead of `images`.
        training_images: number of evenly spaced training images searched for neighbours; 0 for all.
        scale: shorter side for score maps; 0 for the default of `map_scale`.
    """

    run: FinishedRun
    images: int = 8
    ids: Sequence[int] = ()
    training_images: int = 2000
    scale: int = 0

    @functools.cached_property
    def chosen(self) -> Subset:
        """The images of the reported split.

        Raises:
            DataError: some of `ids` are not in the split.
        """
        data = self.run.data
        positions = chosen_positions(data.evaluation, self.images, self.ids, data.eval_split)
        return Subset(data.evaluation, positions)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return display_names(self.run.loaded.classes)

    @functools.cached_property
    def map_protocol(self) -> Dense:
        """The protocol of score maps."""
        return Dense(scales=(self.scale or map_scale(self.run.loaded.net),), flip=False)

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.names[label] if label >= 0 else "no label"

    def title(self, what: str) -> str:
        """The title of a figure of `what`."""
        return f"{self.run.folder.name}, step {self.run.step}: {what}"

    def cropped(self, protocol: Protocol, count: int = 0) -> list[EvalImage]:
        """`chosen`, or `count` evenly spaced ones of them, with the crops of `protocol`.

        Raises:
            FigureSkipped: all are corrupt.
        """
        some = Subset(self.chosen, evenly_spaced(len(self.chosen), count))
        found = list(readable_images(self.run, some, protocol))
        if not found:
            raise FigureSkipped("all images are corrupt")
        return found


def draw_figures(request: FigureRequest, names: Sequence[str], out: Path) -> Iterator[Path]:
    """Draws the figures `names`, keys of `FIGURES`, into the folder `out`; yields each file when it is
    written. Figures that are not possible for the run are skipped with a message.

    Raises:
        ValueError: a scale that does not fit the net. DataError: the data or `ids` cannot be used.
        OSError: a file cannot be written.
    """
    # Report wrong arguments before anything is computed.
    if {*names} - {"kernels"}:
        _ = request.chosen
    if "score_maps" in names and request.run.loaded.net.supports_dense():
        check_fits(request.run.forward, request.map_protocol)
    with writing(out):
        check_writable(out)
    for name in names:
        try:
            figure = FIGURES[name](request)
        except FigureSkipped as reason:
            request.run.console.line(f"{name} skipped: {reason}")
            continue
        path = out / f"{name}.png"
        write_figure(path, figure)
        yield path


def kernels(request: FigureRequest) -> Any:
    """The first layer's kernels."""
    net, params = request.run.loaded.net, request.run.loaded.variables["params"]
    name = next((name for name in FIRST_LAYERS if name in params), None)
    if name is None:
        raise FigureSkipped(
            f"the first layer of this {type(net).__name__} is depthwise: each kernel has a single colour"
        )
    values = np.asarray(params[name]["kernel"])
    side, _, _, count = values.shape
    # Without grouped convolutions the towers share all channels.
    towers = 1 if getattr(net, "ungrouped", False) else getattr(net, "towers", 1)
    title = request.title(f"the {count} kernels of {name}, {side} x {side}")
    return drawing.draw_kernels(values, towers=towers, title=title)


def guesses(request: FigureRequest) -> Any:
    """Images of the reported split with their most probable classes."""
    run, protocol = request.run, centre_protocol(request.run)
    images = request.cropped(protocol)
    shown: dict[int, drawing.Guess] = {}
    by_position = {image.position: image for image in images}
    for image, log_posterior in image_posteriors(
        run.forward, run.params, images, protocol, run.check_stop
    ):
        classes = top_classes(log_posterior, request.names, GUESSES)
        labels = [one.label for one in classes]
        shown[image.position] = drawing.Guess(
            _view(by_position[image.position]),
            request.name(image.label),
            tuple(one.name for one in classes),
            tuple(min(one.probability, 1.0) for one in classes),
            labels.index(image.label) if image.label in labels else -1,
        )
    what = f"{run.data.eval_split} images and their most probable classes by {run.label(protocol)}"
    in_order = [shown[position] for position in sorted(shown)]
    return drawing.draw_guesses(in_order, title=request.title(what))


def neighbours(request: FigureRequest) -> Any:
    """Images of the reported split, with the training images nearest to each in the last hidden layer."""
    if not len(request.run.data.train):
        raise FigureSkipped("the data have no training images")
    run, train, hidden = request.run, request.run.data.train, HiddenLayer(request.run)
    protocol, doing = centre_protocol(run), f"searching the training images by {hidden.layer}"
    queries = request.cropped(protocol, QUERIES)
    values = np.concatenate([values for _, values in hidden.values(queries)])
    searched = Subset(train, evenly_spaced(len(train), request.training_images))
    training = readable_images(run, searched, protocol, doing)
    rows, count = nearest_images(values, hidden.values(training), NEIGHBOURS)
    if not count:
        raise FigureSkipped("all training images are corrupt")
    shown = [
        drawing.Neighbours(
            _view(query),
            request.name(query.label),
            tuple(_view(image) for _, image in row),
            tuple(request.name(image.label) for _, image in row),
            tuple(distance for distance, _ in row),
        )
        for query, row in zip(queries, rows, strict=True)
    ]
    among = f"{count:,} of {len(train):,}" if count < len(train) else f"all {count:,}"
    what = (
        f"{run.data.eval_split} images and the nearest among {among} training images by the "
        f"{values.shape[1]:,} values of {hidden.layer}"
    )
    return drawing.draw_neighbours(shown, title=request.title(what))


def score_maps(request: FigureRequest) -> Any:
    """Images of the reported split with the score map of their most probable class."""
    run, net, protocol = request.run, request.run.loaded.net, request.map_protocol
    if not net.supports_dense():
        side = net.image_size
        raise FigureSkipped(f"this {type(net).__name__} only takes images of {side} x {side}")
    images = request.cropped(protocol, MAPS)
    maps, side = ClassMaps(run.loaded), cell_field(net).stride
    shown = []
    for image in images:
        run.check_stop()
        run.console.progress(f"score map {len(shown) + 1} of {len(images)}")
        label, probability, scores = maps(_view(image))
        centres = cell_centres(net, scores.shape[0]), cell_centres(net, scores.shape[1])
        names = request.name(image.label), request.name(label)
        shown.append(
            drawing.ScoreMap(_view(image), *names, probability, scores, centres, float(side))
        )
    what = f"{run.data.eval_split} images and the map of the most probable class by {run.label(protocol)}"
    return drawing.draw_score_maps(shown, title=request.title(what))


# The figures that `--only` may name, in drawing order.
FIGURES: dict[str, Callable[[FigureRequest], Any]] = {
    function.__name__: function for function in (kernels, guesses, neighbours, score_maps)
}


def _view(image: EvalImage) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image's only crop."""
    (pixels,) = image.pixels.values()
    return pixels
