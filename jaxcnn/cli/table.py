"""Compare your runs with a table of a paper; evaluates what is missing.

tables: alexnet2, vgg2, vgg3, vgg4, vgg5, vgg6, vgg7, googlenet2, googlenet3;
protocols: all results in the runs' reports, averaged over seeds. Rows without a run are marked.

example: jaxcnn table vgg3 runs/vgg_*
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.arguments import Output, add_batch_size, add_data, add_json, choose, open_runs, path
from jaxcnn.cli.exit_codes import UsageError, make_folder
from jaxcnn.files import write_text

if TYPE_CHECKING:
    from jaxcnn.training.console import Console

KEPT = "evaluations that were done are saved; the same command resumes"
# Not a table of a paper: the results in the runs' reports, over their seeds.
PROTOCOLS = "protocols"
SUFFIXES = {"text": "txt", "markdown": "md", "csv": "csv"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", help="name of a table, see below: vgg3 is Table 3 of the VGG paper")
    add("runs", type=path, nargs="*", help="folders of trained runs or of imported weights")
    add("--out", type=path, help="folder to write NAME.txt, NAME.md and NAME.csv to")
    help_text = "form of the printed table (%(default)s)"
    add("--format", choices=[*SUFFIXES], default="text", help=help_text)
    add_json(parser, "print the rows as one JSON list")
    add("--list", action="store_true", help="print what is missing; evaluate nothing")
    add_batch_size(parser)
    add_data(parser, "data of all runs: folder:PATH, or KEY=VALUE; may be repeated")


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.research.paper_tables import side_by_side as tables
    from jaxcnn.research.paper_tables.protocol_table import protocol_tables
    from jaxcnn.research.paper_tables.tables import TABLES
    from jaxcnn.training.console import Console

    choose("table", [options.name], [*TABLES, PROTOCOLS])
    if options.list and options.name == PROTOCOLS:
        raise UsageError("--list prints what a paper's table lacks; protocols needs no evaluation")
    console = Console(sys.stderr)
    if options.out:
        make_folder(options.out)
    with open_runs(options.runs, options, console) as runs:
        for run in runs:
            run.stored.check_folder()
        if options.name == PROTOCOLS:
            return _output(protocol_tables(runs), options, console)
        table = TABLES[options.name]
        tables.check_same_data(runs)
        wanted = tables.wanted_evaluations(table, runs)
        missing = [w for w in wanted if tables.is_missing(*w)]
        if options.list:
            return _list(wanted, missing, runs, table.title)
        for number, (run, protocol, keep) in enumerate(missing, 1):
            console.line(f"{number} of {len(missing)}: {run.folder.name} {run.label(protocol)}")
            run.evaluate(protocol, keep=keep)
            if number == len(missing) or missing[number][0] is not run:
                run.release()
    found = tables.side_by_side(table, runs)
    texts = {"text": found.text(), "markdown": found.markdown(), "csv": found.csv()}
    return _output(texts, options, console)


def _list(wanted: Sequence[Any], missing: Sequence[Any], runs: Sequence[Any], title: str) -> Output:
    """What is missing, and which runs fit no row."""
    rows = [
        {"run": run.folder.name, "missing": run.label(protocol)} for run, protocol, _ in missing
    ]
    lines = [f"{row['run']}: {row['missing']} is missing" for row in rows]
    for run in runs:
        if all(run is not used for used, *_ in wanted):
            reason = "fits no row, by its net or its S in proportion to its images"
            lines.append(f"{run.folder.name}: {reason}")
    lines.append(f"{len(missing)} of {len(wanted)} evaluations are missing for {title}")
    return Output(rows, "\n".join(lines))


def _output(texts: Mapping[str, str], options: argparse.Namespace, console: Console) -> Output:
    """The table in the form that was asked for; all forms are written if --out is given."""
    for name, suffix in SUFFIXES.items():
        if options.out:
            path = options.out / f"{options.name}.{suffix}"
            write_text(path, texts[name].rstrip() + "\n")
            console.line(f"written: {path}")
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    return Output(rows, texts[options.format].rstrip())
