"""jaxcnn table: a table of the papers with the figures of your runs next to the paper's."""

from __future__ import annotations

import argparse
import csv
import difflib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.arguments import add_batch_size, add_json, make_parser, open_runs
from jaxcnn.cli.exit_codes import exit_code, make_folder

if TYPE_CHECKING:
    from jaxcnn.training.console import Console

# The keys of research.paper_tables.tables.TABLES, named here so that --help needs no JAX.
NAMES = (
    "alexnet2", "vgg2", "vgg3", "vgg4", "vgg5", "vgg6", "vgg7", "googlenet2", "googlenet3",
)  # fmt: skip
# Not a table of a paper: the results in the runs' reports, over their seeds.
PROTOCOLS = "protocols"


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.research.paper_tables.protocol_table import protocol_tables
        from jaxcnn.research.paper_tables.side_by_side import (
            check_same_data,
            is_missing,
            side_by_side,
            wanted_evaluations,
        )
        from jaxcnn.research.paper_tables.tables import TABLES
        from jaxcnn.training.console import Console

        console = Console(sys.stderr)
        if options.out:
            make_folder(options.out)
        with open_runs(options.runs, options, console) as runs:
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

    return exit_code(work, kept="evaluations that were done are saved; the same command resumes")


def _list(wanted: Sequence[Any], missing: Sequence[Any], runs: Sequence[Any], title: str) -> None:
    """Prints what is missing, and which runs fit no row."""
    for run, protocol, _ in missing:
        print(f"{run.folder.name}: {run.label(protocol)} is missing")
    for run in runs:
        if all(run is not used for used, *_ in wanted):
            print(
                f"{run.folder.name}: fits no row, by its net or its S in proportion to its images"
            )
    print(f"{len(missing)} of {len(wanted)} evaluations are missing for {title}")


def _show(texts: Mapping[str, str], options: argparse.Namespace, console: Console) -> None:
    """Prints a table in one form; writes all forms if --out is given."""
    for name, suffix in (("text", "txt"), ("markdown", "md"), ("csv", "csv")):
        if options.out:
            path = Path(options.out) / f"{options.name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[name].rstrip() + "\n")
            console.line(f"written: {path}")
    if options.json:
        print(json.dumps(list(csv.DictReader(io.StringIO(texts["csv"])))))
    else:
        print(texts[options.format].rstrip())


def _name(text: str) -> str:
    valid = (*NAMES, PROTOCOLS)
    if text not in valid:
        near = difflib.get_close_matches(text, valid, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise argparse.ArgumentTypeError(
            f"unknown table {text!r}{hint} (valid: {', '.join(valid)})"
        )
    return text


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "table",
        notes=f"tables: {', '.join(NAMES)};\n"
        "protocols: all results in the runs' reports, averaged over seeds. Rows without a run are marked.",
        example="jaxcnn table vgg3 runs/vgg_*",
    )
    add = result.add_argument
    add("name", type=_name, help="name of a table, see below: vgg3 is Table 3 of the VGG paper")
    add("runs", nargs="*", help="folders of trained runs")
    add("--out", default="", help="folder to write NAME.txt, NAME.md and NAME.csv to")
    add(
        "--format",
        choices=("text", "markdown", "csv"),
        default="text",
        help="form of the printed table (%(default)s)",
    )
    add_json(result, "print the rows as one JSON list")
    add("--list", action="store_true", help="print what is missing; evaluate nothing")
    add_batch_size(result)
    add(
        "--data",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the runs' data section; may be repeated",
    )
    return result


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = (command := parser()).parse_args(arguments)
    options.overrides = [f"data.{text.removeprefix('data.')}" for text in options.data]
    if options.list and options.name == PROTOCOLS:
        command.error("--list prints what a paper's table lacks; protocols needs no evaluation")
    return options
