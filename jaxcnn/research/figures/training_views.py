"""Draws the augmented training images of a config: what the net sees, with the mean added back.

A row is an image with the outlines of its crops, then its crop in each of the first epochs. Under a crop
are its resize filter, its share of the image's area, its aspect ratio, and whether it is mirrored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import config as configs
from jaxcnn.data import DataError, DataSplits, Source, pixel_statistics
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.decode import decode, peek
from jaxcnn.data.train_crops import draw_train_crop
from jaxcnn.preprocessing import Augment, augment_batch, example_keys, flip_mask, make_preprocess
from jaxcnn.training import schema
from jaxcnn.training.evaluator import open_splits

# Inches a tile, and dots an inch.
TILE, DOTS = 1.5, 110


def draw_views(
    config: dict[str, Any], path: Path, *, images: int, ids: Sequence[int], views: int
) -> int:
    """Draws the first `views` training crops of some images of a resolved config into `path`.

    Args:
        images: how many images, spread over the training split, where `ids` names none.

    Returns:
        The number of images drawn.

    Raises:
        DataError: `ids` names an image that is not in the training split.
    """
    data = open_splits(config["data"])
    rows = [view_row(config, data, p, views) for p in _positions(images, ids, data.train)]
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(rows, path, _title(config))
    return len(rows)


def _positions(images: int, ids: Sequence[int], source: Source) -> list[int]:
    """Positions of the named images, or of some spread over the split, so that classes differ."""
    if not ids:
        count = min(images, len(source))
        return [(2 * i + 1) * len(source) // (2 * count) for i in range(count)]
    position = {int(identity): place for place, identity in enumerate(source.ids)}
    missing = [i for i in ids if i not in position]
    if missing:
        raise DataError(
            f"--ids {missing} are not training images: give ids from 0 to {max(position)}, of images that "
            "are not held out"
        )
    return [position[i] for i in ids]


@dataclasses.dataclass(frozen=True)
class Row:
    """An image squeezed into a square, its augmented crops, uint8[S,S,3], and the region of each."""

    image: np.ndarray
    pixels: list[np.ndarray]
    views: list[ResizedCrop]
    mirrored: list[bool]


def view_row(config: dict[str, Any], data: DataSplits, position: int, count: int) -> Row:
    augment: Augment = configs.build_section("augment", config["augment"], schema.SECTIONS)
    side, seed = config["model"]["image_size"], config["data"]["seed"]
    encoded, _ = data.train.read(position)
    identity = int(data.train.ids[position])
    height, width = peek(encoded)
    draw = {"sampling": augment, "image_size": side, "seed": seed, "example_id": identity}
    views = [draw_train_crop(height, width, epoch=epoch, **draw) for epoch in range(count)]
    pixels = [decode(encoded, view) for view in views]
    batch = {
        "image": jnp.asarray(np.stack(pixels)),
        "epoch": jnp.arange(count, dtype=jnp.int32),
        "id": jnp.full(count, identity, jnp.int32),
        "box": jnp.asarray(np.array([view.box for view in views], np.int32)),
    }
    key = jax.random.key(seed)
    seen = np.asarray(augment_batch(key, batch, _without_mean(augment, data)))
    mirrored = np.asarray(flip_mask(example_keys(key, batch["epoch"], batch["id"]), augment.flip))
    whole = (0.0, 0.0, float(width), float(height))
    squeezed = ResizedCrop(height, width, whole, (2 * side, 2 * side), (0, 0, 0, 0))
    return Row(
        decode(encoded, squeezed),
        list(np.clip(np.rint(seen), 0, 255).astype(np.uint8)),
        views,
        [bool(flip) for flip in mirrored],
    )


def _without_mean(augment: Augment, data: DataSplits) -> Any:
    """The config's preprocessing with a mean of zero. Colour shifts use Krizhevsky's figures where the run
    would compute its own statistics: a picture needs no pass over the data."""
    plain = dataclasses.replace(augment, mean=(0.0, 0.0, 0.0))
    if not plain.needs_statistics:
        return make_preprocess(plain, None)
    if augment.statistics in ("imagenet", "auto"):
        return make_preprocess(plain, pixel_statistics.IMAGENET)
    found = pixel_statistics.load_statistics(augment.statistics)
    pixel_statistics.check_matches(found, data, augment.statistics)
    return make_preprocess(plain, found)


def _caption(view: ResizedCrop, mirrored: bool) -> str:
    left, top, right, bottom = view.region
    share = (right - left) * (bottom - top) / (view.image_height * view.image_width)
    aspect = (right - left) / (bottom - top)
    flip = ", mirrored" if mirrored else ""
    return f"{view.interpolation}, {share:.0%}, {aspect:.2f}{flip}"


def _title(config: dict[str, Any]) -> str:
    augment = config["augment"]
    parts = [f"sampling {augment['sampling']}"]
    if augment["sampling"] == "random_resized_crop":
        parts.append(f"area {augment['area'][0]:g} to {augment['area'][1]:g}")
    else:
        parts.append(f"S {augment['scale'][0]} to {augment['scale'][1]}")
    parts.append(f"flip {augment['flip']:g}")
    if tuple(augment["color_jitter"]) != (1.0, 1.0):
        parts.append(
            f"color jitter {augment['color_jitter'][0]:g} to {augment['color_jitter'][1]:g}"
        )
    colours = augment["statistics"].replace("auto", "imagenet")  # as in _without_mean
    parts.append(f"pca {augment['pca']}" + (f" ({colours})" if augment["pca"] != "off" else ""))
    return f"{config['model']['name']}: " + ", ".join(parts)


def _draw(rows: Sequence[Row], path: Path, title: str) -> None:
    from matplotlib.figure import Figure  # imported late: a second of start-up

    columns = 1 + len(rows[0].views)
    size = (TILE * columns, (TILE + 0.2) * len(rows) + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=9)
    for row, (place, *places) in zip(
        rows, figure.subplots(len(rows), columns, squeeze=False), strict=True
    ):
        height, width = row.views[0].image_height, row.views[0].image_width
        place.imshow(row.image, extent=(0, width, height, 0))
        place.set_xlabel(f"image, {width} x {height}", fontsize=6)
        for number, (axes, image, view, mirrored) in enumerate(
            zip(places, row.pixels, row.views, row.mirrored, strict=True)
        ):
            left, top, right, bottom = view.region
            place.plot(
                (left, right, right, left, left),
                (top, top, bottom, bottom, top),
                f"C{number}",
                lw=0.8,
            )
            axes.imshow(image)
            axes.set_xlabel(_caption(view, mirrored), fontsize=6)
            for spine in axes.spines.values():
                spine.set(edgecolor=f"C{number}", linewidth=1.5)
        for axes in (place, *places):
            axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=DOTS)
