"""Draws what a run learnt: first kernels, guesses, nearest training images, class score maps.

python -m jaxcnn.cli.figures --workdir=RUN [--only=kernels,guesses] [--out=FOLDER] [data.KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EPILOG = """figures:
  kernels      those of the first layer, in colour
  guesses      images of the reported split with their five most probable classes, the right one marked
  neighbours   five of these images, each with the six training images nearest in the last hidden layer
  score_maps   four of these images under the score map of their most probable class

Each is a file NAME.png, whose path is printed; what makes no sense for a net is left out with a line.
data.KEY=VALUE overrides the run's data, such as data.source=folder:PATH or data.eval_split=test. Exit codes:
0 done, 1 error, 2 usage, 143 stopped by a signal."""


def main(arguments: Sequence[str]) -> int:
    options, parser = _parse(arguments)
    # Imported here, so that --help answers at once.
    from jaxcnn.cli.exit_codes import outcome
    from jaxcnn.research.evaluate_run import FinishedRun
    from jaxcnn.research.figures.run_figures import FIGURES, FigureRequest, draw_figures
    from jaxcnn.training.metrics_writer import Console
    from jaxcnn.training.signals import StopSignal

    names = options.only or [*FIGURES]
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        parser.error(f"--only: unknown {', '.join(unknown)} (valid: {', '.join(FIGURES)})")

    def work() -> None:
        console = Console()
        with StopSignal("leaving after this batch") as stop_signal:
            run = FinishedRun(
                Path(options.workdir),
                options.step,
                overrides=options.overrides,
                batch_size=options.batch_size,
                console=console,
                check_stop=stop_signal.check,
            )
            show = FigureRequest(
                run, options.images, options.ids, options.training_images, options.scale or 0
            )
            for path in draw_figures(show, names, options.out or Path(options.workdir) / "figures"):
                console.line(str(path))

    return outcome(work, "the figures that were printed are done")


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.figures",
        description="Draws what a run learnt.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="data.KEY=VALUE")
    parser.add_argument("--workdir", required=True, help="of a run that was trained")
    parser.add_argument("--out", type=Path, default=None, help="folder (RUN/figures)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], help="figures by name, with commas"
    )
    parser.add_argument("--images", type=int, default=8, help="guesses to draw (%(default)s)")
    parser.add_argument(
        "--ids", type=_numbers, default=(), help="images by id, with commas, in place of --images"
    )
    parser.add_argument(
        "--training_images",
        type=int,
        default=2000,
        help="how many, spread over the training images, are searched; 0: all (%(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        default=None,
        help="shorter side for score maps (twice the net's images, or more for a map of 4 x 4)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="crops at once (%(default)s)")
    parser.add_argument("--step", type=int, default=None, help="which checkpoint (the newest)")
    options = parser.parse_args(arguments)
    lowest = {"images": 1, "training_images": 0, "scale": 1, "batch_size": 1}
    for name, least in lowest.items():
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be {least} or more, got {value}")
    return options, parser


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 3,17; got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
