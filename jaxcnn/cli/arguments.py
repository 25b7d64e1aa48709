"""The commands, and the arguments that several of them share."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcnn.research.evaluate_run import FinishedRun
    from jaxcnn.training.console import Console

# In the order of use; each is a module of this package.
COMMANDS = {
    "prepare": "Prepare a data set for training; each is prepared once.",
    "statistics": "Compute pixel statistics of a config's training images, for any number of runs.",
    "check": "Show every key, shape and size of a config; computes nothing.",
    "plan": "Estimate memory and speed of a config on accelerators that this machine lacks.",
    "summary": "Print a net's layers, parameters and multiply-adds, compared with the paper's figures.",
    "views": "Draw the augmented training images of a config.",
    "train": "Train and evaluate a config; the same command resumes a stopped run.",
    "chain": "Train a config in stages, each starting from an earlier one (VGG's schedule).",
    "compare": "Train variants of a config with several seeds and compare them.",
    "evaluate": "Evaluate a trained run by test protocols.",
    "fuse": "Average saved posteriors and print the error rates of the mean.",
    "table": "Compare your runs with a table of a paper; evaluates what is missing.",
    "predict": "Print the most probable classes of image files.",
    "figures": "Draw kernels, predictions, nearest neighbours and score maps of a run.",
    "bench": "Measure speed, compared with its bounds and with other programs.",
    "completion": "Print a shell completion script.",
}


def make_parser(command: str, *, example: str, notes: str = "") -> argparse.ArgumentParser:
    """A parser in the common form: usage, one sentence, arguments, notes, an example."""
    name = command.partition(" ")[0]
    return argparse.ArgumentParser(
        prog=f"jaxcnn {command}",
        description=COMMANDS[name],
        epilog=f"{notes.strip()}\n\nexample: {example}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_json(parser: argparse.ArgumentParser, what: str = "print the result as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=f"{what}; messages go to stderr")


def messages(as_json: bool) -> contextlib.AbstractContextManager[object]:
    """Sends what is printed within to stderr if the result, printed after it, is JSON."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def add_config(parser: argparse.ArgumentParser) -> None:
    """CONFIG [SECTION.KEY=VALUE ...]; `parse` reads them."""
    parser.add_argument("config", help="file, or name of a file in configs/")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="override keys")


def add_run(parser: argparse.ArgumentParser, batch_size: int = 32, overrides: bool = True) -> None:
    """Arguments of a command that opens one trained run; `open_runs` reads them."""
    if overrides:
        help_text = "override the run's data section: data.source=folder:PATH, data.eval_split=test"
        parser.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE", help=help_text)
    parser.add_argument("--workdir", required=True, help="folder of a trained run")
    parser.add_argument(
        "--step", type=int, default=None, help="step of the checkpoint (the newest)"
    )
    add_batch_size(parser, batch_size)


def add_batch_size(parser: argparse.ArgumentParser, default: int = 32) -> None:
    parser.add_argument(
        "--batch_size", type=at_least(1), default=default, help="crops per batch (%(default)s)"
    )


@contextlib.contextmanager
def open_runs(
    folders: Iterable[str], options: argparse.Namespace, console: Console
) -> Iterator[list[FinishedRun]]:
    """Opens trained runs; a signal raises Stopped at the end of a batch of their evaluations."""
    from jaxcnn.research.evaluate_run import FinishedRun
    from jaxcnn.training.signals import StopSignal

    with StopSignal("leaving after this batch") as stop_signal:
        yield [
            FinishedRun(
                Path(folder),
                getattr(options, "step", None),
                overrides=getattr(options, "overrides", ()),
                batch_size=options.batch_size,
                console=console,
                check_stop=stop_signal.check,
            )
            for folder in folders
        ]


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """(options, overrides): overrides are typed as --config.KEY=VALUE or as `add_config` has it."""
    prefix = "--config."
    options = parser.parse_args([a for a in arguments if not a.startswith(prefix)])
    overrides = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    for text in overrides:
        if "=" not in text:
            parser.error(f"--config.{text} needs a value: --config.{text}=VALUE")
    return options, [*getattr(options, "overrides", ()), *overrides]


def at_least(least: int) -> Callable[[str], int]:
    """A type of argument: a whole number that is not below `least`."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, got {value}")
        return value

    return number


def numbers(text: str) -> tuple[int, ...]:
    """A type of argument: whole numbers, separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 3,17; got {text!r}") from None


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in line).rstrip() for line in lines)
