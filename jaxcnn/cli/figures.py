"""Draw kernels, predictions, nearest neighbours and score maps of a run.

figures:
  kernels      the first layer's kernels in colour
  guesses      evaluation images with their five most probable classes, the true class marked
  neighbours   five of these images, each with its six nearest training images by the last hidden layer
  score_maps   four of these images, each overlaid with the score map of its most probable class

Each figure is written to NAME.png and its path is printed. Figures that do not fit a net are left out.

example: jaxcnn figures RUN --only=kernels,guesses
"""

from __future__ import annotations

import argparse

from jaxcnn.cli.arguments import (
    Output,
    add_data_overrides,
    add_images,
    add_json,
    add_run,
    at_least,
    choose,
    names,
    open_run,
    path,
)  # fmt: skip
from jaxcnn.cli.exit_codes import UsageError

KEPT = "the figures that were printed are done"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_data_overrides(parser)
    add = parser.add_argument
    add("--out", type=path, help="folder to write to (RUN/figures)")
    add("--only", type=names, default=(), help="figures by name, separated by commas")
    add_images(parser, 8, "evaluation images to draw")
    help_text = "training images to search, evenly spread; 0: all (%(default)s)"
    add("--training_images", type=at_least(0), default=2000, help=help_text)
    help_text = (
        "shorter side in pixels for score maps (twice the image size, or more for a map of 4 x 4)"
    )
    add("--scale", type=at_least(1), default=0, help=help_text)
    add_json(parser, "print the paths as one JSON list")


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.research.figures.run_figures import FIGURES, FigureRequest, draw_figures
    from jaxcnn.training.console import Console

    wanted, paths = choose("figure", options.only or [*FIGURES], [*FIGURES]), []
    with open_run(options, console := Console()) as run:
        chosen = options.images, options.ids, options.training_images, options.scale
        if run.stored.is_file and not options.out:
            raise UsageError(f"{run.folder} is a weights file: give the folder to draw into, --out")
        out = options.out or run.folder / "figures"
        for file in draw_figures(FigureRequest(run, *chosen), wanted, out):
            paths.append(str(file))
            console.line(str(file))
    return Output(paths)
