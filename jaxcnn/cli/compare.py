"""jaxcnn compare: trains variants of a config with several seeds; a table, and a plot with error bands."""

from __future__ import annotations

import argparse
import ast
import csv
import dataclasses
import difflib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.arguments import add_json, make_parser, messages, parse
from jaxcnn.cli.exit_codes import EXIT_DONE, EXIT_ERROR, exit_code

if TYPE_CHECKING:
    from jaxcnn.research.comparison.grid import Grid


def main(arguments: Sequence[str]) -> int:
    options, overrides = parse(parser(), arguments)

    def work() -> int:
        # Imported here, so that --help answers at once.
        from jaxcnn.research.comparison.execute import (
            compare,
            overview,
            publish,
            run_rows,
            share_compilation_cache,
        )
        from jaxcnn.research.comparison.grid import make_grid
        from jaxcnn.training.console import Console
        from jaxcnn.training.signals import StopSignal

        out = Path(options.out)
        plans = make_grid(_comparisons(options, overrides), out)
        if options.list:
            print(json.dumps(run_rows(plans)) if options.json else overview(plans))
            return EXIT_DONE
        share_compilation_cache(out / "compiled")
        published: list[Path] = []
        with messages(options.json), StopSignal() as stop_signal:
            errors = compare(
                plans,
                command=["jaxcnn", "compare", *arguments],
                console=Console(),
                stop_signal=stop_signal,
            )
        for name, error in errors.items():
            print(f"failed: {name}: {error}", file=sys.stderr)
        if options.publish and not errors:
            published = publish(plans, Path(options.publish))
        if options.json:
            print(json.dumps(_record(plans, errors, published)))
        elif published:
            print(f"published in {', '.join(map(str, published))}")
        return EXIT_ERROR if errors else EXIT_DONE  # after an error the other runs are done

    again = shlex.join(["jaxcnn", "compare", *arguments])
    return exit_code(work, kept=f"what was trained is saved. To go on: {again}")


def _record(
    grids: Sequence[Grid], errors: Mapping[str, str], published: Sequence[Path]
) -> dict[str, Any]:
    """The result for JSON: the rows of every table.csv, and where the files are."""

    def row(grid: Grid, cells: Mapping[str, str]) -> dict[str, Any]:
        texts = ("variant", *grid.comparison.grid)
        found: dict[str, Any] = {
            key: cell if key in texts else float(cell) if cell else None
            for key, cell in cells.items()
            if key != "values"
        }
        return {**found, "values": [float(value) for value in cells["values"].split()]}

    comparisons = []
    for grid in grids:
        table = csv.DictReader((grid.folder / "table.csv").read_text().splitlines())
        rows = [row(grid, cells) for cells in table]
        where = {"name": grid.comparison.name, "folder": str(grid.folder)}
        comparisons.append({**where, "rows": rows})
    return {
        "comparisons": comparisons,
        "errors": dict(errors),
        "published": [str(folder) for folder in published],
    }


def _find(options: argparse.Namespace) -> Path:
    """The file that CONFIG names. A bare name without variants is first looked up in configs/comparisons/."""
    from jaxcnn import config as configs

    name = Path(options.config)
    comparisons = configs.CONFIGS / "comparisons" / f"{name.name}.py"
    bare = len(name.parts) == 1 and not name.is_file() and not (options.variant or options.grid)
    return comparisons if bare and comparisons.is_file() else configs.find_config(options.config)


def _comparisons(options: argparse.Namespace, overrides: Sequence[str]) -> list[Any]:
    """The comparisons that the command line means.

    Raises:
        ConfigError: the file, or what was typed, cannot be used.
    """
    from jaxcnn import config as configs
    from jaxcnn.research.comparison.spec import comparison_from_dict, read_comparisons

    path = _find(options)
    typed: dict[str, Any] = {"seeds": _seeds(options.seeds)} if options.seeds else {}
    typed |= {k: v for k in ("budget", "measure") if (v := getattr(options, k))}
    common = dict(_pair(text, "--config.") for text in overrides)
    several = read_comparisons(path)
    if several is None:
        if options.only:
            raise configs.ConfigError(f"--only needs a file of comparisons; {path} is a config")
        variants = _variants(options.variant) or {"base": {}}
        grid = dict(map(_grid, options.grid))
        fields = {"base": str(path), "overrides": common, "variants": variants, "grid": grid}
        return [comparison_from_dict(path.stem, {**fields, **typed})]
    if options.variant or options.grid:
        raise configs.ConfigError(
            f"{path} lists its own variants; --variant and --grid need a config"
        )
    found = []
    for comparison in _only(several, options.only):
        fields = {f.name: getattr(comparison, f.name) for f in dataclasses.fields(comparison)}
        name, merged = fields.pop("name"), {**comparison.overrides, **common}
        found.append(comparison_from_dict(name, {**fields, "overrides": merged, **typed}))
    return found


def _only(several: Any, wanted: str) -> list[Any]:
    from jaxcnn.config import ConfigError

    errors, names = [], wanted.split(",") if wanted else list(several)
    for name in names:
        if name not in several:
            near = difflib.get_close_matches(name, several, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            errors.append(f"unknown comparison {name!r}{hint} (valid: {', '.join(several)})")
    if errors:
        raise ConfigError("\n".join(errors))
    return [several[name] for name in dict.fromkeys(names)]


def _variants(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """From `NAME: KEY=VALUE KEY=VALUE`."""
    from jaxcnn.config import ConfigError

    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, colon, rest = (part.strip() for part in text.partition(":"))
        if not name or (not colon and "=" in name):
            raise ConfigError(f"--variant {text!r} has no name; write --variant 'NAME: KEY=VALUE'")
        if name in found:
            raise ConfigError(f"two variants are called {name!r}; give one another name")
        found[name] = dict(_pair(o, f"--variant {name!r}: ") for o in shlex.split(rest))
    return found


def _pair(text: str, where: str) -> tuple[str, str]:
    from jaxcnn.config import ConfigError

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{where}{text} needs a value: {key}=VALUE")
    return key, value


def _grid(text: str) -> tuple[str, tuple[Any, ...]]:
    key, values = _pair(text, "--grid=")
    try:  # tuples hold commas too: (256,256),(256,512)
        found = ast.literal_eval(f"({values},)")
    except (ValueError, SyntaxError):
        found = values.split(",")
    return key, tuple(found)


def _seeds(text: str) -> tuple[int, ...]:
    from jaxcnn.config import ConfigError

    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds must be whole numbers such as 0,1,2; got {text!r}") from None


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "compare",
        notes="A bare NAME means configs/comparisons/NAME.py if that file exists and neither --variant nor\n"
        "--grid is given, else configs/NAME.py. Finished runs are not trained again. Several processes may\n"
        "share one --out, started in any order. --config.SECTION.KEY=VALUE overrides a key of the config in\n"
        "all variants.",
        example="jaxcnn compare alexnet --out=runs/lrn --variant=base --variant='no LRN: model.lrn=off'\n"
        "         jaxcnn compare cifar10 --out=runs/cifar10_ablations --list",
    )
    add = result.add_argument
    add("config", help="config, or file with get_comparisons(): a path, or a name, see below")
    add("--out", required=True, help="folder of runs, tables and compiled programs")
    add(
        "--variant",
        action="append",
        default=[],
        help="'NAME: KEY=VALUE ...'; may be repeated; the first is the base",
    )
    add(
        "--grid",
        action="append",
        default=[],
        help="KEY=VALUE,VALUE: train each variant with every value and keep its best; may be repeated",
    )
    add("--only", default="", help="names of comparisons, separated by commas")
    add("--seeds", default="", help="whole numbers, separated by commas (0,1,2)")
    add(
        "--budget",
        default="",
        help="what is equal for all variants: epochs, or macs: multiply-adds (epochs)",
    )
    add("--measure", default="", help="what is compared: top1 or epochs_to_train_error=RATE (top1)")
    add("--list", action="store_true", help="print the runs and their states; train nothing")
    add("--publish", default="", metavar="DIR", help="copy tables and reports to DIR at the end")
    add_json(result, "print the rows of the tables as JSON; with --list: the runs")
    return result
