"""Trains variants of a config with several seeds and compares them: a table and a plot with error bands.

python -m jaxcnn.cli.compare configs/alexnet.py --out=runs/lrn --variant 'base' \\
    --variant 'no LRN: model.lrn=off' [--seeds=0,1,2] [--config.KEY=VALUE ...]
python -m jaxcnn.cli.compare configs/comparisons/cifar10.py --out=DIR [--only=NAME,...]
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_STOPPED = 0, 1, 2, 130, 143
CONFIGS = Path(__file__).parents[2] / "configs"


def main(arguments: Sequence[str]) -> int:
    """Runs what the command line asks for.

    Returns:
        0 done, 1 error (of a run too: the others are done), 2 usage, 143 stopped by a signal with the
        state saved.
    """
    options, overrides = _parse(arguments)
    # Imported here, so that --help answers at once.
    from jaxcnn.config import ConfigError
    from jaxcnn.data import DataError
    from jaxcnn.research.comparison.execute import (
        compare,
        overview,
        publish,
        share_compilation_cache,
    )
    from jaxcnn.research.comparison.grid import make_grid
    from jaxcnn.training import Stopped
    from jaxcnn.training.metrics_writer import Console
    from jaxcnn.training.signals import StopSignal
    from jaxcnn.training.workdir import WorkdirError

    out = Path(options.out)
    again = shlex.join(["python", "-m", "jaxcnn.cli.compare", *arguments])
    try:
        plans = make_grid(_comparisons(options, overrides), out, CONFIGS)
        if options.list:
            print(overview(plans))
            return EXIT_DONE
        share_compilation_cache(out / "compiled")
        with StopSignal() as stop_signal:
            errors = compare(
                plans,
                command=["jaxcnn.cli.compare", *arguments],
                console=Console(),
                stop_signal=stop_signal,
            )
        for name, error in errors.items():
            print(f"failed: {name}: {error}", file=sys.stderr)
        if options.publish and not errors:
            folders = publish(plans, Path(options.publish))
            print(f"published in {', '.join(map(str, folders))}")
    except ConfigError as error:
        print(f"config error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (DataError, WorkdirError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except Stopped as error:
        print(f"stopped by {error}; what was trained is saved. To go on: {again}", flush=True)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print(f"interrupted before anything was trained. To start again: {again}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_ERROR if errors else EXIT_DONE


def _comparisons(options: argparse.Namespace, overrides: Sequence[str]) -> list[Any]:
    """The comparisons that the command line means.

    Raises:
        ConfigError: the file, or what was typed, cannot be used.
    """
    from jaxcnn import config as configs
    from jaxcnn.research.comparison.spec import comparison_from_dict, read_comparisons

    path = configs.find_config(options.config, CONFIGS)
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


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.compare",
        allow_abbrev=False,
        description="Trains variants of a config with several seeds and compares them. What is done is "
        "not done again; any number of processes may share one --out, started in any order.",
        epilog="Any key of the config, for all variants: --config.SECTION.KEY=VALUE. Exit codes: 0 done, "
        "1 error, 2 usage, 143 stopped by a signal with the state saved.",
    )
    add = parser.add_argument
    add("config", help="config, or a file with get_comparisons(); or the name of one in configs/")
    add("--out", required=True, help="where runs, tables and compiled programs are kept")
    add(
        "--variant",
        action="append",
        default=[],
        help="'NAME: KEY=VALUE ...'; the first is the base",
    )
    add(
        "--grid",
        action="append",
        default=[],
        help="KEY=VALUE,VALUE: each variant counts by its best",
    )
    add("--only", default="", help="names of comparisons, with commas")
    add("--seeds", default="", help="with commas (0,1,2)")
    add("--budget", default="", help="what all variants have alike: epochs or macs (epochs)")
    add("--measure", default="", help="top1 or epochs_to_train_error=RATE (top1)")
    add("--list", action="store_true", help="print the runs and their states; compute nothing")
    add("--publish", default="", metavar="DIR", help="copy tables and reports there, once complete")
    mine = [a for a in arguments if not a.startswith("--config.")]
    overrides = [a.removeprefix("--config.") for a in arguments if a.startswith("--config.")]
    return parser.parse_args(mine), overrides


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
