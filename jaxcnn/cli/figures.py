"""jaxcnn figures: draws first kernels, predictions, nearest training images and class score maps of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.cli.arguments import add_json, add_run, at_least, make_parser, numbers, open_runs
from jaxcnn.cli.exit_codes import exit_code

# The keys of research.figures.run_figures.FIGURES, named here so that --help needs no JAX.
NAMES = ("kernels", "guesses", "neighbours", "score_maps")
NOTES = """figures:
  kernels      the first layer's kernels in colour
  guesses      evaluation images with their five most probable classes, the true class marked
  neighbours   five of these images, each with its six nearest training images by the last hidden layer
  score_maps   four of these images, each overlaid with the score map of its most probable class

Each figure is written to NAME.png and its path is printed. Figures that do not fit a net are left out."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.research.figures.run_figures import FigureRequest, draw_figures
        from jaxcnn.training.console import Console

        console, paths = Console(sys.stderr if options.json else sys.stdout), []
        out = options.out or Path(options.workdir) / "figures"
        with open_runs([options.workdir], options, console) as (run,):
            show = FigureRequest(
                run, options.images, options.ids, options.training_images, options.scale or 0
            )
            for path in draw_figures(show, options.only or NAMES, out):
                paths.append(str(path))
                console.line(str(path))
        if options.json:
            print(json.dumps(paths))

    return exit_code(work, kept="the figures that were printed are done")


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)} (valid: {', '.join(NAMES)})"
        )
    return names


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "figures", notes=NOTES, example="jaxcnn figures --workdir=RUN --only=kernels,guesses"
    )
    add_run(result)
    add = result.add_argument
    add("--out", type=Path, default=None, help="folder to write to (RUN/figures)")
    add("--only", type=_names, default=None, help="figures by name, separated by commas")
    add("--images", type=at_least(1), default=8, help="evaluation images to draw (%(default)s)")
    add("--ids", type=numbers, default=(), help="image ids, separated by commas; not with --images")
    add(
        "--training_images",
        type=at_least(0),
        default=2000,
        help="training images to search, evenly spread; 0: all (%(default)s)",
    )
    add(
        "--scale",
        type=at_least(1),
        default=None,
        help="shorter side in pixels for score maps (twice the net's image size, or more for a map of 4 x 4)",
    )
    add_json(result, "print the paths as one JSON list")
    return result
