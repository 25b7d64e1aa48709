"""Arguments that several commands share, and what a command returns."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.exit_codes import EXIT_DONE, UsageError
from jaxcnn.paths import Path
from jaxcnn.paths import path_argument as path

if TYPE_CHECKING:
    from jaxcnn.research.evaluate_run import FinishedRun
    from jaxcnn.training.console import Console
    from jaxcnn.weights import Choices


@dataclasses.dataclass(frozen=True)
class Output:
    """A result: `record` is printed as JSON if the command was given --json, else `text` is printed."""

    record: Any = None
    text: str = ""
    code: int = EXIT_DONE


def add_json(parser: argparse.ArgumentParser, what: str = "print the result as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=f"{what}; messages go to stderr")


def add_config(parser: argparse.ArgumentParser) -> None:
    """CONFIG [SECTION.KEY=VALUE ...]."""
    parser.add_argument("config", help="file, or name of a file in configs/")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="override keys")


RUN = "workdir of a trained run, folder of imported weights, or weights file"


def add_run(
    parser: argparse.ArgumentParser, batch_size: int = 32, *, positional: bool = True
) -> None:
    """Arguments of a command that opens one trained run, RUN or --workdir=RUN; `open_run` reads them."""
    add = parser.add_argument
    if positional:
        add("run", type=path, nargs="?", metavar="RUN", help=RUN)
    help_text = "RUN by its name" if positional else RUN
    add("--workdir", type=path, metavar="RUN", required=not positional, help=help_text)
    add("--step", type=int, default=None, help="step of the checkpoint (the newest)")
    add_batch_size(parser, batch_size)
    add_weights_choices(parser)


def add_data_overrides(parser: argparse.ArgumentParser) -> None:
    """--data=SOURCE, and data.KEY=VALUE; `open_run` reads them."""
    help_text = "override the run's data section: data.eval_split=test"
    parser.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE", help=help_text)
    add_data(parser, "the data to use: folder:PATH, tfds:NAME, ..., or KEY=VALUE; may be repeated")


def add_data(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--data", action="append", default=[], metavar="SOURCE", help=help_text)


def data_overrides(texts: Sequence[str]) -> list[str]:
    """The overrides that the values of --data mean: a source, or KEY=VALUE of the data section."""
    found = []
    for text in texts:
        text = text.removeprefix("data.")
        key, equals, _ = text.partition("=")
        found.append(f"data.{text}" if equals and key.isidentifier() else f"data.source={text}")
    return found


def add_batch_size(parser: argparse.ArgumentParser, default: int = 32) -> None:
    help_text = "crops per batch (%(default)s)"
    parser.add_argument("--batch_size", type=at_least(1), default=default, help=help_text)


def add_weights_choices(parser: argparse.ArgumentParser) -> None:
    """What a user says about a weights file of another program; `weights_choices` reads it."""
    add = parser.add_argument
    help_text = "where weights come from that are not recognised: oxford, torchvision, keras, ..."
    add("--source", default="", help=help_text)
    add("--net", default="", help="'NAME KEY=VALUE ...': which net, if a file fits several")
    help_text = "file of class names, one per line, for weights that are not for ImageNet's 1000"
    add("--classes", type=path, default=None, help=help_text)
    help_text = "leave out the first output, a background class"
    add("--drop_background", action="store_true", help=help_text)


def weights_choices(options: argparse.Namespace) -> Choices:
    """The options of `add_weights_choices`, and --mean and --mean_image where a command has them.

    Raises:
        UsageError: an unknown source. FileError: the file of class names cannot be read.
    """
    from jaxcnn.files import read_lines
    from jaxcnn.weights import Choices
    from jaxcnn.weights.sources import SOURCES

    if options.source:
        choose("source", [options.source], list(SOURCES))
    mean, mean_image = getattr(options, "mean", None), getattr(options, "mean_image", "")
    if mean is not None and mean_image:
        raise UsageError("--mean and --mean_image are two means: give one of them")
    names: tuple[str, ...] = ()
    if options.classes:
        names = read_lines(options.classes, advice="write one class name per line, in UTF-8")
    return Choices(options.source, options.net, names, mean, mean_image, options.drop_background)


def add_images(parser: argparse.ArgumentParser, default: int, what: str) -> None:
    help_text = f"{what} (%(default)s)"
    parser.add_argument("--images", type=at_least(1), default=default, help=help_text)
    help_text = "image ids, separated by commas; not with --images"
    parser.add_argument("--ids", type=numbers, default=(), help=help_text)


def chosen_run(options: argparse.Namespace) -> Path:
    """The run that RUN or --workdir=RUN names.

    Raises:
        UsageError: neither names one, or both do.
    """
    given = [run for run in (getattr(options, "run", None), options.workdir) if run is not None]
    if len(given) != 1:
        names = " and ".join(map(str, given)) or "nothing"
        raise UsageError(f"give one RUN, a {RUN}; got {names}")
    return given[0]


@contextlib.contextmanager
def open_run(options: argparse.Namespace, console: Console) -> Iterator[FinishedRun]:
    """Opens the run of `add_run`; see `open_runs`."""
    with open_runs([chosen_run(options)], options, console) as (run,):
        yield run


@contextlib.contextmanager
def open_runs(
    folders: Sequence[Path], options: argparse.Namespace, console: Console
) -> Iterator[list[FinishedRun]]:
    """Opens trained runs; a signal raises Stopped at the end of a batch of their evaluations."""
    from jaxcnn.research.evaluate_run import FinishedRun
    from jaxcnn.training.signals import StopSignal

    overrides = [*getattr(options, "overrides", ()), *data_overrides(getattr(options, "data", ()))]
    with StopSignal("leaving after this batch") as stop_signal:
        yield [
            FinishedRun(
                folder,
                getattr(options, "step", None),
                overrides=overrides,
                batch_size=options.batch_size,
                console=console,
                check_stop=stop_signal.check,
                **({"choices": weights_choices(options)} if hasattr(options, "source") else {}),
            )
            for folder in folders
        ]


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


def names(text: str) -> list[str]:
    """A type of argument: names, separated by commas; none in an empty text."""
    return [name.strip() for name in text.split(",")] if text.strip() else []


def choose(what: str, wanted: Sequence[str], valid: Sequence[str]) -> list[str]:
    """`wanted` without repetitions.

    Raises:
        UsageError: names each one that is not valid.
    """
    from jaxcnn.config import did_you_mean

    errors = []
    for name in wanted:
        if name not in valid:
            hint = did_you_mean(name, valid)
            errors.append(f"unknown {what} {name!r}{hint} (valid: {', '.join(valid)})")
    if errors:
        raise UsageError("\n".join(errors))
    return list(dict.fromkeys(wanted))


def show_progress(console: Console) -> Callable[[str, int, int], None]:
    """A function of (split, images done, images in all) that shows progress. It times the speed from the
    first images of a split on, since starting takes seconds."""
    from jaxcnn.training.console import duration

    first: dict[str, tuple[float, int]] = {}

    def show(split: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, before = first.setdefault(split, (now, done))
        rate = (done - before) / max(now - began, 1e-9)
        speed = f"  {rate:.0f} images/s  ETA {duration((total - done) / rate)}" if rate else ""
        if rate or done == total:
            console.progress(f"{split}: {done:,}/{total:,} images{speed}", last=done == total)
        if done == total:
            console.end_progress()

    return show


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in line).rstrip() for line in lines)
