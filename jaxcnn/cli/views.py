"""Draws the training views of a few images as a config makes them: what the net sees, mean added back.

python -m jaxcnn.cli.views configs/googlenet.py [SECTION.KEY=VALUE ...] [--out=FILE]

A row is an image with the outlines of its views, then its view in each of the first epochs. Under a view
stand its filter, its share of the image's area, its aspect ratio, and whether it is mirrored. Exit codes:
0 done, 1 error, 2 usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import config as configs
from jaxcnn import data as room
from jaxcnn.data import pixel_statistics as figures
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.decode import decode, peek
from jaxcnn.data.train_crops import draw_train_crop
from jaxcnn.preprocessing import Augment, augment_batch, example_keys, flip_mask, make_preprocess
from jaxcnn.training import schema
from jaxcnn.training.evaluator import open_splits

# The views' own look in inches, and what is enough to see colours by.
TILE, DOTS = 1.5, 110


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.views",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="file, or name of one in configs/")
    parser.add_argument("overrides", nargs="*", help="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=None, help="picture (runs/views/NAME.png)")
    parser.add_argument("--images", type=int, default=4, help="rows (%(default)s)")
    parser.add_argument(
        "--ids", type=_numbers, default=(), help="images by id, with commas, in place of --images"
    )
    parser.add_argument("--views", type=int, default=6, help="views of an image (%(default)s)")
    options = parser.parse_args(arguments)
    if min(options.images, options.views) < 1:
        parser.error("--images and --views must be 1 or more")
    out = options.out or Path("runs/views") / f"{Path(options.config).stem}.png"
    try:
        folder = Path(__file__).parents[2] / "configs"
        config = schema.read_resolved(options.config, options.overrides, folder)[1]
        data = open_splits(config["data"])
        rows = [_row(config, data, p, options.views) for p in _positions(options, data.train)]
        out.parent.mkdir(parents=True, exist_ok=True)
        _draw(rows, out, _title(config))
    except configs.ConfigError as error:
        print(f"config error: {error}", file=sys.stderr)
        return 2
    except (room.DataError, room.CorruptImage, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(rows)} x {options.views} views of {config['data']['source']} in {out}")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 5,17; got {text!r}") from None


def _positions(options: argparse.Namespace, source: room.Source) -> list[int]:
    """Which images: those named, or some spread over the split, so that they are of several classes."""
    if not options.ids:
        count = min(options.images, len(source))
        return [(2 * i + 1) * len(source) // (2 * count) for i in range(count)]
    place = {int(identity): position for position, identity in enumerate(source.ids)}
    missing = [i for i in options.ids if i not in place]
    if missing:
        raise room.DataError(
            f"--ids {missing} are no training images here: give ids from 0 to {max(place)}, of images that "
            "are not held out"
        )
    return [place[i] for i in options.ids]


@dataclasses.dataclass(frozen=True)
class Row:
    """An image squeezed into a square, its views as drawn, uint8[S,S,3], and what each view is."""

    image: np.ndarray
    pixels: list[np.ndarray]
    views: list[ResizedCrop]
    mirrored: list[bool]


def _row(config: dict[str, Any], data: room.DataSplits, position: int, count: int) -> Row:
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


def _without_mean(augment: Augment, data: room.DataSplits) -> Any:
    """The treatment with a mean of zero. Colours by Krizhevsky's figures where the run would compute its
    own: a picture needs no pass over the data."""
    plain = dataclasses.replace(augment, mean=(0.0, 0.0, 0.0))
    if not plain.needs_statistics:
        return make_preprocess(plain, None)
    if augment.statistics in ("imagenet", "auto"):
        return make_preprocess(plain, figures.IMAGENET)
    found = figures.load_statistics(augment.statistics)
    figures.check_matches(found, data, augment.statistics)
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


if __name__ == "__main__":
    sys.exit(main())
