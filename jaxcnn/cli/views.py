"""jaxcnn views: draws the augmented training images of a config."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.cli.arguments import add_config, add_json, at_least, make_parser, numbers, parse
from jaxcnn.cli.exit_codes import exit_code

NOTES = """Each row shows an image with the outlines of its crops, then its crop in each of the first epochs
as the net gets it, with the mean added back. The text under a crop gives its resize filter, its share of the
image's area, its aspect ratio, and whether it is mirrored."""


def main(arguments: Sequence[str]) -> int:
    options, overrides = parse(parser(), arguments)
    out = options.out or Path("runs/views") / f"{Path(options.config).stem}.png"

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.research.figures.training_views import draw_views
        from jaxcnn.training import schema

        config = schema.read_resolved(options.config, overrides)[1]
        images, ids, views = options.images, options.ids, options.views
        count = draw_views(config, out, images=images, ids=ids, views=views)
        source = config["data"]["source"]
        if options.json:
            result = {"file": str(out), "source": source, "images": count, "views": views}
            print(json.dumps(result))
        else:
            print(f"{count} x {views} views of {source} in {out}")

    return exit_code(work, kept="nothing was drawn")


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "views",
        notes=NOTES,
        example="jaxcnn views googlenet data.source=folder:PATH --out=views.png",
    )
    add_config(result)
    add = result.add_argument
    add("--out", type=Path, default=None, help="image file to write (runs/views/NAME.png)")
    add("--images", type=at_least(1), default=4, help="images, one per row (%(default)s)")
    add("--ids", type=numbers, default=(), help="image ids, separated by commas; not with --images")
    add("--views", type=at_least(1), default=6, help="crops per image (%(default)s)")
    add_json(result)
    return result
