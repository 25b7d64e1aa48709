"""Train variants of a config with several seeds and compare them.

A bare NAME means configs/comparisons/NAME.py if that file exists and neither --variant nor --grid is given,
else configs/NAME.py. Finished runs are not trained again. Several processes may share one --out, started in
any order. --config.SECTION.KEY=VALUE overrides a key of the config in all variants.

example: jaxcnn compare alexnet --out=runs/lrn --variant=base --variant='no LRN: model.lrn=off'
         jaxcnn compare cifar10 --out=runs/cifar10_ablations --list
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.arguments import Output, add_json, choose, names, numbers, path
from jaxcnn.cli.exit_codes import EXIT_DONE, EXIT_ERROR, UsageError
from jaxcnn.files import read_lines
from jaxcnn.paths import Path
from jaxcnn.printable import say

if TYPE_CHECKING:
    from jaxcnn.research.comparison.grid import Grid

KEPT = "what was trained is saved. To go on: {command}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(overrides=())
    add("config", help="config, or file with get_comparisons(): a path, or a name, see below")
    add("--out", type=path, required=True, help="folder of runs, tables and compiled programs")
    help_text = "'NAME: KEY=VALUE ...'; may be repeated; the first is the base"
    add("--variant", action="append", default=[], help=help_text)
    help_text = (
        "KEY=VALUE,VALUE: train each variant with every value and keep its best; may be repeated"
    )
    add("--grid", action="append", default=[], help=help_text)
    add("--only", type=names, default=(), help="names of comparisons, separated by commas")
    add("--seeds", type=numbers, default=(), help="whole numbers, separated by commas (0,1,2)")
    help_text = "what is equal for all variants: epochs, or macs: multiply-adds (epochs)"
    add("--budget", default="", help=help_text)
    add("--measure", default="", help="what is compared: top1 or epochs_to_train_error=RATE (top1)")
    add("--list", action="store_true", help="print the runs and their states; train nothing")
    add("--publish", type=path, metavar="DIR", help="copy tables and reports to DIR at the end")
    add_json(parser, "print the rows of the tables as JSON; with --list: the runs")


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.research.comparison import execute
    from jaxcnn.research.comparison.grid import make_grid
    from jaxcnn.training.console import Console
    from jaxcnn.training.signals import StopSignal

    out = options.out
    grids = make_grid(_comparisons(options), out)
    if options.list:
        return Output(execute.run_rows(grids), execute.overview(grids))
    execute.share_compilation_cache(out / "compiled")
    with StopSignal() as stop_signal:
        errors = execute.compare(
            grids, command=options.command_line, console=Console(), stop_signal=stop_signal
        )
    for name, error in errors.items():
        say(f"failed: {name}: {error}", sys.stderr)
    published = []
    if options.publish and not errors:
        published = [str(path) for path in execute.publish(grids, options.publish)]
    record = {"comparisons": [*map(_record, grids)], "errors": errors, "published": published}
    text = f"published in {', '.join(published)}" if published else ""
    return Output(record, text, EXIT_ERROR if errors else EXIT_DONE)


def _record(grid: Grid) -> dict[str, Any]:
    """The rows of table.csv with numbers in place of their text."""
    words = ("variant", *grid.comparison.grid)

    def value(key: str, cell: str) -> Any:
        if key == "values":
            return [float(number) for number in cell.split()]
        return cell if key in words else float(cell) if cell else None

    advice = "run the same command again"
    table = csv.DictReader(read_lines(grid.folder / "table.csv", advice=advice))
    rows = [{key: value(key, cell) for key, cell in cells.items()} for cells in table]
    return {"name": grid.comparison.name, "folder": str(grid.folder), "rows": rows}


def _find(options: argparse.Namespace) -> Path:
    """The file that CONFIG names. A bare name without variants is first looked up in configs/comparisons/."""
    from jaxcnn import config as configs

    name = pathlib.Path(options.config)
    comparisons = configs.CONFIGS / "comparisons" / f"{name.name}.py"
    bare = len(name.parts) == 1 and not name.is_file() and not (options.variant or options.grid)
    return comparisons if bare and comparisons.is_file() else configs.find_config(options.config)


def _comparisons(options: argparse.Namespace) -> list[Any]:
    """The comparisons that the command line describes.

    Raises:
        ConfigError, UsageError: the file, or what was typed, cannot be used.
    """
    from jaxcnn.research.comparison.spec import comparison_from_dict, read_comparisons

    path = _find(options)
    typed = {k: v for k in ("seeds", "budget", "measure") if (v := getattr(options, k))}
    common = dict(_pair(text, "--config.") for text in options.overrides)
    several = read_comparisons(path)
    if several is None:
        if options.only:
            raise UsageError(f"--only needs a file of comparisons; {path} is a config")
        variants = _variants(options.variant) or {"base": {}}
        grid = dict(map(_grid, options.grid))
        fields = {"base": str(path), "overrides": common, "variants": variants, "grid": grid}
        return [comparison_from_dict(path.stem, {**fields, **typed})]
    if options.variant or options.grid:
        raise UsageError(f"{path} lists its own variants; --variant and --grid need a config")
    found = []
    for name in choose("comparison", options.only or [*several], [*several]):
        fields = {f.name: getattr(several[name], f.name) for f in dataclasses.fields(several[name])}
        fields["overrides"] = {**fields["overrides"], **common}
        del fields["name"]
        found.append(comparison_from_dict(name, {**fields, **typed}))
    return found


def _variants(texts: Sequence[str]) -> Mapping[str, dict[str, str]]:
    """From `NAME: KEY=VALUE KEY=VALUE`."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, colon, rest = (part.strip() for part in text.partition(":"))
        if not name or (not colon and "=" in name):
            raise UsageError(f"--variant {text!r} has no name; write --variant 'NAME: KEY=VALUE'")
        if name in found:
            raise UsageError(f"two variants are called {name!r}; give one another name")
        found[name] = dict(_pair(o, f"--variant {name!r}: ") for o in shlex.split(rest))
    return found


def _pair(text: str, where: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{where}{text} needs a value: {key}=VALUE")
    return key, value


def _grid(text: str) -> tuple[str, tuple[Any, ...]]:
    from jaxcnn.config import parse

    key, values = _pair(text, "--grid=")
    found = parse(f"({values},)", tuple)  # tuples hold commas too: (256,256),(256,512)
    return key, found if isinstance(found, tuple) else tuple(values.split(","))
