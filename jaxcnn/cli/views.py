"""Draw the augmented training images of a config.

Each row shows an image with the outlines of its crops, then its crop in each of the first epochs as the net
gets it, with the mean added back. The text under a crop gives its resize filter, its share of the image's
area, its aspect ratio, and whether it is mirrored.

example: jaxcnn views googlenet data.source=folder:PATH --out=views.png
"""

from __future__ import annotations

import argparse
import pathlib

from jaxcnn.cli.arguments import Output, add_config, add_images, add_json, at_least, path
from jaxcnn.paths import user_path

KEPT = "nothing was drawn"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add = parser.add_argument
    add("--out", type=path, help="image file to write (runs/views/NAME.png)")
    add_images(parser, 4, "images, one per row")
    add("--views", type=at_least(1), default=6, help="crops per image (%(default)s)")
    add_json(parser)


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.research.figures.training_views import draw_views
    from jaxcnn.training import schema

    out = options.out or user_path(f"runs/views/{pathlib.Path(options.config).stem}.png")
    config = schema.read_resolved(options.config, options.overrides)[1]
    source, views = config["data"]["source"], options.views
    count = draw_views(config, out, images=options.images, ids=options.ids, views=views)
    record = {"file": str(out), "source": source, "images": count, "views": views}
    return Output(record, f"{count} x {views} views of {source} in {out}")
