"""Draws the augmented training images of a config: what the net sees, with the mean added back.

A row is an image with the outlines of its crops, then its crop in each of the first epochs. Under a crop
are its resize filter, its share of the image's area, its aspect ratio, and whether it is mirrored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import config as configs
from jaxcnn.caches import use_writable_caches
from jaxcnn.data import DataSplits, pixel_statistics
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.decode import decode, peek
from jaxcnn.data.train_crops import draw_train_crop
from jaxcnn.files import write_figure, writing
from jaxcnn.folders import check_writable
from jaxcnn.jax_settings import PRNG
from jaxcnn.paths import Path
from jaxcnn.preprocessing import Augment, augment_batch, example_keys, flip_mask, make_preprocess
from jaxcnn.research.figures.chosen_images import chosen_positions
from jaxcnn.training import schema
from jaxcnn.training.evaluator import open_splits

# Inches a tile, and dots an inch.
TILE, DOTS = 1.5, 110


def draw_views(
    config: dict[str, Any], path: Path, *, images: int, ids: Sequence[int], views: int
) -> int:
    """Draws the first `views` training crops of some images of a resolved config into `path`.

    Args:
        images: number of evenly spaced training images, where `ids` is empty.

    Returns:
        The number of images drawn.

    Raises:
        DataError: `ids` names an image that is not in the training split.
    """
    data = open_splits(config["data"])
    positions = chosen_positions(data.train, images, ids, "the training split")
    with writing(path):
        check_writable(path.parent)
    _draw(view_rows(config, data, positions.tolist(), views), path, _title(config))
    return len(positions)


@dataclasses.dataclass(frozen=True)
class Row:
    """An image squeezed into a square, its augmented crops, uint8[S,S,3], and the region of each."""

    image: np.ndarray
    pixels: list[np.ndarray]
    views: list[ResizedCrop]
    mirrored: list[bool]


def view_rows(
    config: dict[str, Any], data: DataSplits, positions: Sequence[int], count: int
) -> list[Row]:
    """The training images at `positions`, each with its crops in the first `count` epochs."""
    augment: Augment = configs.build_section("augment", config["augment"], schema.SECTIONS)
    side, seed = config["model"]["image_size"], config["data"]["seed"]
    squeezed, views, examples = [], [], []
    for position in positions:
        encoded, _ = data.train.read(position)
        identity = int(data.train.ids[position])
        height, width = peek(encoded)
        whole = (0.0, 0.0, float(width), float(height))
        square = ResizedCrop(height, width, whole, (2 * side, 2 * side), (0, 0, 0, 0))
        squeezed.append(decode(encoded, square))
        draw = {"sampling": augment, "image_size": side, "seed": seed, "example_id": identity}
        for epoch in range(count):
            views.append(draw_train_crop(height, width, epoch=epoch, **draw))
            examples.append((decode(encoded, views[-1]), epoch, identity, views[-1].box))
    image, *integers = map(np.array, zip(*examples, strict=True))
    batch = {"image": jnp.asarray(image)}
    batch |= zip(("epoch", "id", "box"), (jnp.asarray(i, jnp.int32) for i in integers), strict=True)
    key, preprocess = jax.random.key(seed, impl=PRNG), _without_mean(augment, data)
    seen = np.asarray(jax.jit(lambda batch: augment_batch(key, batch, preprocess))(batch))
    pixels = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    flips = flip_mask(example_keys(key, batch["epoch"], batch["id"]), augment.flip).tolist()
    return [
        Row(square, list(pixels[i : i + count]), views[i : i + count], flips[i : i + count])
        for i, square in zip(range(0, len(views), count), squeezed, strict=True)
    ]


def _without_mean(augment: Augment, data: DataSplits) -> Any:
    """The config's preprocessing with a mean of zero. Colour shifts use Krizhevsky's figures where the run
    would compute its own statistics: a picture needs no pass over the data."""
    plain = dataclasses.replace(augment, mean=(0.0, 0.0, 0.0))
    found = None
    if plain.needs_statistics and augment.statistics in ("imagenet", "auto"):
        found = pixel_statistics.IMAGENET
    elif plain.needs_statistics:
        found = pixel_statistics.load_statistics(augment.statistics)
        pixel_statistics.check_matches(found, data, augment.statistics)
    return make_preprocess(plain, found)


def _caption(view: ResizedCrop, mirrored: bool) -> str:
    left, top, right, bottom = view.region
    share = (right - left) * (bottom - top) / (view.image_height * view.image_width)
    aspect = (right - left) / (bottom - top)
    return f"{view.interpolation}, {share:.0%}, {aspect:.2f}{', mirrored' if mirrored else ''}"


def _title(config: dict[str, Any]) -> str:
    augment = config["augment"]
    by_area = augment["sampling"] == "random_resized_crop"
    name, (low, high) = ("area", augment["area"]) if by_area else ("S", augment["scale"])
    parts = [f"sampling {augment['sampling']}", f"{name} {low:g} to {high:g}"]
    parts.append(f"flip {augment['flip']:g}")
    low, high = augment["color_jitter"]
    if (low, high) != (1.0, 1.0):
        parts.append(f"color jitter {low:g} to {high:g}")
    colours = augment["statistics"].replace("auto", "imagenet")  # as in _without_mean
    parts.append(f"pca {augment['pca']}" + (f" ({colours})" if augment["pca"] != "off" else ""))
    return f"{config['model']['name']}: " + ", ".join(parts)


def _draw(rows: Sequence[Row], path: Path, title: str) -> None:
    use_writable_caches()
    from matplotlib.figure import Figure  # imported late: a second of start-up

    columns = 1 + len(rows[0].views)
    size = (TILE * columns, (TILE + 0.2) * len(rows) + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (whole, *places) in zip(rows, grid, strict=True):
        height, width = row.views[0].image_height, row.views[0].image_width
        whole.imshow(row.image, extent=(0, width, height, 0))
        whole.set_xlabel(f"image, {width} x {height}", fontsize=6)
        crops = zip(places, row.pixels, row.views, row.mirrored, strict=True)
        for number, (axes, image, view, mirrored) in enumerate(crops):
            left, top, right, bottom = view.region
            across, down = (left, right, right, left, left), (top, top, bottom, bottom, top)
            whole.plot(across, down, f"C{number}", lw=0.8)
            axes.imshow(image)
            axes.set_xlabel(_caption(view, mirrored), fontsize=6)
            axes.spines[:].set(edgecolor=f"C{number}", linewidth=1.5)
        for axes in (whole, *places):
            axes.set(xticks=[], yticks=[])
    write_figure(path, figure, dpi=DOTS)
