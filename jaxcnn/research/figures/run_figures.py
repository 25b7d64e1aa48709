"""What a trained run shows of itself: its first kernels, guesses, nearest training images, score maps.

The figures of Krizhevsky et al. 2012, section 6.1, and the class score map of Simonyan & Zisserman 2014,
section 3.2, from a run's weights and its data. A new figure is one function here and one row in `FIGURES`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxcnn.data import DataError, EvalImage, EvalLoader, Source, Subset, display_names
from jaxcnn.data.eval_loader import ChooseCrops
from jaxcnn.evaluation import check_fits, choose_crops, image_posteriors
from jaxcnn.evaluation.protocols import Dense
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.figures import drawing
from jaxcnn.research.figures.class_maps import ClassMaps, cell_centres, cell_field, map_scale
from jaxcnn.research.figures.nearest import HiddenLayer, nearest_images
from jaxcnn.research.predict import centre_protocol, top_classes

# Krizhevsky et al. 2012, Figure 4: 5 guesses an image, 6 neighbours of 5 images.
GUESSES, QUERIES, NEIGHBOURS = 5, 5, 6
MAPS = 4  # images with a score map
FIRST_LAYERS = ("conv1", "conv1_1")


class FigureSkipped(Exception):
    """Why a figure makes no sense for a run."""


@dataclasses.dataclass(eq=False)
class FigureRequest:
    """What is to be drawn.

    Attributes:
        run: the trained run.
        images: how many images of the reported split, spread evenly over it.
        ids: images by id, in place of `images`.
        training_images: how many are searched for neighbours, spread evenly over the split; 0 is all.
        scale: shorter side for score maps; 0 is twice the net's images, or more for 4 cells a side.
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
            DataError: `ids` that are not of the split.
        """
        source = self.run.data.evaluation
        if not self.ids:
            return Subset(source, evenly_spaced(len(source), self.images))
        places = {int(identity): place for place, identity in enumerate(source.ids)}
        missing = [str(i) for i in self.ids if i not in places]
        if missing:
            raise DataError(
                f"no images of {self.run.data.eval_split} have the ids {', '.join(missing)}: give ids from "
                f"{min(places)} to {max(places)}"
            )
        return Subset(source, np.array([places[i] for i in self.ids]))

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return display_names(self.run.loaded.classes)

    @functools.cached_property
    def map_protocol(self) -> Dense:
        """What score maps are made by."""
        return Dense(scales=(self.scale or map_scale(self.run.loaded.net),), flip=False)

    def name(self, label: int) -> str:
        return self.names[label] if label >= 0 else "no label"

    def title(self, what: str) -> str:
        return f"{self.run.folder.name}, step {self.run.step}: {what}"


def draw_figures(show: FigureRequest, names: Sequence[str], out: Path) -> Iterator[Path]:
    """Draws the figures `names`, keys of `FIGURES`, into the folder `out`; gives each file once it is
    written. What makes no sense for the run is left out with a line on its screen.

    Raises:
        ValueError: a scale that the net does not take; DataError where the data or `ids` are the reason.
        OSError: a file cannot be written.
    """
    # What was typed is looked at before anything is computed.
    if {*names} - {"kernels"}:
        _ = show.chosen
    if "score_maps" in names and show.run.loaded.net.supports_dense():
        check_fits(show.run.forward, show.map_protocol)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            figure = FIGURES[name](show)
        except FigureSkipped as reason:
            show.run.console.line(f"{name} left out: {reason}")
            continue
        path = out / f"{name}.png"
        figure.savefig(path)
        yield path


def kernels(show: FigureRequest) -> Any:
    """The first layer's kernels."""
    net, params = show.run.loaded.net, show.run.loaded.variables["params"]
    name = next((name for name in FIRST_LAYERS if name in params), None)
    if name is None:
        raise FigureSkipped(
            f"the first layer of this {type(net).__name__} is depthwise: its kernels see one colour each"
        )
    values = np.asarray(params[name]["kernel"])
    side, _, _, count = values.shape
    # Without groups no tower keeps to its own maps.
    towers = 1 if getattr(net, "ungrouped", False) else getattr(net, "towers", 1)
    title = show.title(f"the {count} kernels of {name}, {side} x {side}")
    return drawing.draw_kernels(values, towers=towers, title=title)


def guesses(show: FigureRequest) -> Any:
    """The most probable classes of images of the reported split."""
    run, protocol = show.run, centre_protocol(show.run)
    pictures = _some(readable_images(run, show.chosen, choose_crops(run.forward, protocol)))
    shown: dict[int, drawing.Guess] = {}
    by_position = {picture.position: picture for picture in pictures}
    judged = image_posteriors(run.forward, run.params, pictures, protocol, run.check_stop)
    for picture, log_posterior in judged:
        classes = top_classes(log_posterior, show.names, GUESSES)
        labels = [one.label for one in classes]
        shown[picture.position] = drawing.Guess(
            _view(by_position[picture.position]),
            show.name(picture.label),
            tuple(one.name for one in classes),
            tuple(min(one.probability, 1.0) for one in classes),
            labels.index(picture.label) if picture.label in labels else -1,
        )
    what = f"{run.data.eval_split} images and their most probable classes by {run.label(protocol)}"
    return drawing.draw_guesses(
        [shown[position] for position in sorted(shown)], title=show.title(what)
    )


def neighbours(show: FigureRequest) -> Any:
    """Images of the reported split, and the training images nearest to each in the last hidden layer."""
    run, train, hidden = show.run, show.run.data.train, HiddenLayer(show.run)
    choose = choose_crops(run.forward, centre_protocol(run))
    some = Subset(show.chosen, evenly_spaced(len(show.chosen), QUERIES))
    batches = list(hidden.values(_some(readable_images(run, some, choose))))
    queries = [picture for pictures, _ in batches for picture in pictures]
    values = np.concatenate([values for _, values in batches])
    searched = Subset(train, evenly_spaced(len(train), show.training_images))
    training = readable_images(
        run, searched, choose, f"searching the training images by {hidden.layer}"
    )
    rows, count = nearest_images(values, hidden.values(training), NEIGHBOURS)
    if not count:
        raise FigureSkipped("none of the training images can be read")
    shown = [
        drawing.Neighbours(
            _view(query),
            show.name(query.label),
            tuple(_view(picture) for _, picture in row),
            tuple(show.name(picture.label) for _, picture in row),
            tuple(distance for distance, _ in row),
        )
        for query, row in zip(queries, rows, strict=True)
    ]
    among = f"{count:,} of {len(train):,}" if count < len(train) else f"all {count:,}"
    what = (
        f"{run.data.eval_split} images and the nearest among {among} training images by the "
        f"{values.shape[1]:,} values of {hidden.layer}"
    )
    return drawing.draw_neighbours(shown, title=show.title(what))


def score_maps(show: FigureRequest) -> Any:
    """The map of the most probable class over images of the reported split."""
    run, net, protocol = show.run, show.run.loaded.net, show.map_protocol
    if not net.supports_dense():
        side = net.image_size
        raise FigureSkipped(f"this {type(net).__name__} takes images of {side} x {side} alone")
    some = Subset(show.chosen, evenly_spaced(len(show.chosen), MAPS))
    pictures = _some(readable_images(run, some, choose_crops(run.forward, protocol)))
    maps, side = ClassMaps(run.loaded), cell_field(net).stride
    shown = []
    for picture in pictures:
        run.check_stop()
        run.console.progress(f"score map {len(shown) + 1} of {len(pictures)}")
        label, probability, scores = maps(_view(picture))
        centres = cell_centres(net, scores.shape[0]), cell_centres(net, scores.shape[1])
        names = show.name(picture.label), show.name(label)
        shown.append(
            drawing.ScoreMap(_view(picture), *names, probability, scores, centres, float(side))
        )
    what = f"{run.data.eval_split} images and the map of the most probable class by {run.label(protocol)}"
    return drawing.draw_score_maps(shown, title=show.title(what))


# What `--only` may name, in the order that they are drawn in.
FIGURES: dict[str, Callable[[FigureRequest], Any]] = {
    function.__name__: function for function in (kernels, guesses, neighbours, score_maps)
}


def evenly_spaced(there: int, wanted: int) -> Int[np.ndarray, " n"]:
    """`wanted` positions spread evenly over 0..there-1; all of them for 0 or where there are fewer."""
    count = min(wanted or there, there)
    return (2 * np.arange(count) + 1) * there // (2 * max(count, 1))


def readable_images(
    run: FinishedRun, source: Source, choose: ChooseCrops, doing: str = ""
) -> Iterator[EvalImage]:
    """The pictures of `source` in order, without those that cannot be read: each has a line on the screen.

    Args:
        doing: what to say on the way.
    """
    with EvalLoader(source, choose, threads=run.config["data"]["threads"]) as pictures:
        for picture in pictures:
            run.check_stop()
            if doing:
                run.console.progress(f"{doing}: {picture.position + 1:,}/{len(source):,}")
            if picture.problem:
                name = source.name(picture.position)
                run.console.line(f"left out, as it cannot be read: {name}: {picture.problem}")
            else:
                yield picture


def _some(pictures: Iterator[EvalImage]) -> list[EvalImage]:
    found = list(pictures)
    if not found:
        raise FigureSkipped("none of the images can be read")
    return found


def _view(picture: EvalImage) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a picture's only cut."""
    (pixels,) = picture.pixels.values()
    return pixels
