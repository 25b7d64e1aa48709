"""jaxcnn figures: draws first kernels, predictions, nearest training images and class score maps of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.cli.arguments import add_run, at_least, make_parser, numbers, open_runs
from jaxcnn.cli.exit_codes import exit_code

# The keys of research.figures.run_figures.FIGURES, named here so that --help needs no JAX.
NAMES = ("kernels", "guesses", "neighbours", "score_maps")
NOTES = """figures:
  kernels      the first layer's kernels in colour
  guesses      evaluation images with their five most probable classes, the right one marked
  neighbours   five of these images, each with the six training images nearest in the last hidden layer
  score_maps   four of these images under the score map of their most probable class

Each is a file NAME.png, whose path is printed; a figure that does not apply to a net is left out."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.research.figures.run_figures import FigureRequest, draw_figures
        from jaxcnn.training.console import Console

        console = Console()
        out = options.out or Path(options.workdir) / "figures"
        with open_runs([options.workdir], options, console) as (run,):
            show = FigureRequest(
                run, options.images, options.ids, options.training_images, options.scale or 0
            )
            for path in draw_figures(show, options.only or NAMES, out):
                console.line(str(path))

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
    add("--out", type=Path, default=None, help="folder (RUN/figures)")
    add("--only", type=_names, default=None, help="figures by name, separated by commas")
    add("--images", type=at_least(1), default=8, help="predictions to draw (%(default)s)")
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
        help="shorter side for score maps (twice the net's images, or more for a map of 4 x 4)",
    )
    return result
