"""A table of the papers with the figures of your runs beside the paper's.

python -m jaxcnn.cli.table vgg3 runs/vgg_* [--out=DIR]
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.exit_codes import out_folder, outcome

if TYPE_CHECKING:
    from jaxcnn.training.metrics_writer import Console

NAMES = (
    "alexnet2", "vgg2", "vgg3", "vgg4", "vgg5", "vgg6", "vgg7", "googlenet2", "googlenet3",
)  # fmt: skip
# Not a paper's: the protocols that runs were judged by, over their seeds.
PROTOCOLS = "protocols"


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.research.evaluate_run import FinishedRun
        from jaxcnn.research.paper_tables.protocol_table import protocol_tables
        from jaxcnn.research.paper_tables.side_by_side import (
            check_same_data,
            is_missing,
            side_by_side,
            wanted_evaluations,
        )
        from jaxcnn.research.paper_tables.tables import TABLES
        from jaxcnn.training.metrics_writer import Console
        from jaxcnn.training.signals import StopSignal

        console = Console(sys.stderr)
        if options.out:
            out_folder(options.out)
        with StopSignal("leaving after this batch") as stop_signal:
            runs = [
                FinishedRun(
                    Path(folder),
                    overrides=options.data,
                    batch_size=options.batch_size,
                    console=console,
                    check_stop=stop_signal.check,
                )
                for folder in options.runs
            ]
            if options.name == PROTOCOLS:
                _show(protocol_tables(runs), options, console)
                return
            table = TABLES[options.name]
            check_same_data(runs)
            wanted = wanted_evaluations(table, runs)
            missing = [w for w in wanted if is_missing(*w)]
            if options.list:
                _list(wanted, missing, runs, table.title)
                return
            for number, (run, protocol, keep) in enumerate(missing, 1):
                console.line(f"{number} of {len(missing)}: {run.folder.name} {run.label(protocol)}")
                run.evaluate(protocol, keep=keep)
                if number == len(missing) or missing[number][0] is not run:
                    run.release()
        found = side_by_side(table, runs)
        texts = {"text": found.text(), "markdown": found.markdown(), "csv": found.csv()}
        _show(texts, options, console)

    return outcome(work, "evaluations that were done are kept; the same command goes on")


def _list(wanted: Sequence[Any], missing: Sequence[Any], runs: Sequence[Any], title: str) -> None:
    """Prints what is missing, and which runs are of no use to the table."""
    for run, protocol, _ in missing:
        print(f"{run.folder.name}: {run.label(protocol)} is missing")
    for run in runs:
        if all(run is not used for used, *_ in wanted):
            print(
                f"{run.folder.name}: fits no row, by its net or its S in proportion to its images"
            )
    print(f"{len(missing)} of {len(wanted)} evaluations are missing for {title}")


def _show(texts: Mapping[str, str], options: argparse.Namespace, console: Console) -> None:
    """Prints a table in one form and writes all of them where a folder is given."""
    for name, suffix in (("text", "txt"), ("markdown", "md"), ("csv", "csv")):
        if options.out:
            path = Path(options.out) / f"{options.name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[name].rstrip() + "\n")
            console.line(f"written: {path}")
    print(texts[options.format].rstrip())


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.table",
        description="Prints a table of the papers with your runs' figures beside it; evaluates what they "
        "lack. Rows that no run fills say so.",
        epilog=f"tables: {', '.join(NAMES)}; and protocols: all that the runs were judged by, over seeds",
    )
    parser.add_argument("name", help="of one table, such as vgg3: Table 3 of the VGG paper")
    parser.add_argument("runs", nargs="*", help="workdirs of trained runs")
    parser.add_argument("--out", default="", help="folder for NAME.txt, NAME.md and NAME.csv")
    parser.add_argument(
        "--format",
        choices=("text", "markdown", "csv"),
        default="text",
        help="printed (%(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="say what is missing, evaluate nothing")
    parser.add_argument("--batch_size", type=int, default=32, help="crops at once (%(default)s)")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override of the runs' data section",
    )
    options = parser.parse_args(arguments)
    options.data = [f"data.{text.removeprefix('data.')}" for text in options.data]
    if options.list and options.name == PROTOCOLS:
        parser.error("--list says what a paper's table lacks; protocols shows what there is")
    if options.batch_size < 1:
        parser.error(f"--batch_size must be 1 or more, got {options.batch_size}")
    valid = (*NAMES, PROTOCOLS)
    if options.name not in valid:
        near = difflib.get_close_matches(options.name, valid, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        parser.error(f"unknown table {options.name!r}{hint} (valid: {', '.join(valid)})")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
