"""Reading, saving, printing and comparing configs."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shlex
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from jaxcnn.config.migration import VERSION, migrate
from jaxcnn.config.values import did_you_mean, flatten, plain
from jaxcnn.files import FileError, read_json, write_text
from jaxcnn.paths import Path, local_path

# Sections and keys that may differ when a run resumes in its workdir. The update rule and the data may not.
MAY_DIFFER = (
    "epochs", "evals", "checkpoint", "log", "mesh", "grad_accum_steps",
    "model.remat", "data.threads", "data.prefetch", "data.readers",
    "data.cache_dir", "data.cache_gb",
)  # fmt: skip
# Sources whose place in `data.source` may differ if the images are the same.
_PLACED = ("folder", "packed")

# The folder configs/: at the top of a checkout, or inside a package installed from a wheel.
_PACKAGE = pathlib.Path(__file__).parents[1]
CONFIGS = next(f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir())


class ConfigError(ValueError):
    """A config cannot be used; the message lists every error, one per line."""


def find_config(path: str, folder: Path = CONFIGS) -> Path:
    """The config file at `path`, or the file of that name in `folder` (`vgg_e`, `configs/vgg_e.py`).

    Raises:
        ConfigError: there is no such file; the message names the nearest one.
    """
    name = os.path.normpath(path).removeprefix("configs/")
    try:
        typed = local_path(path, "a config file, which is a program,")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for candidate in (typed, folder / name, folder / f"{name}.py"):
        if candidate.is_file():
            return candidate
    names = sorted(f.stem for f in folder.glob("*.py"))
    hint = did_you_mean(pathlib.Path(path).stem, names, "--config={}")
    raise ConfigError(f"no config file {path!r}{hint}\n  there are: {', '.join(names)}")


def execute(path: Path) -> types.ModuleType:
    """Executes the Python file at `path` and returns the module. Use it only with trusted files.

    Raises:
        ConfigError: the file is not a Python file, or executing it fails.
    """
    # For configs that import a sibling, also one of ours: from configs import vgg_a.
    parents = [str(path.resolve().parent.parent), str(CONFIGS.parent)]
    sys.path[:0] = parents
    try:
        spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        for parent in parents:
            sys.path.remove(parent)
    return module


def read_config(path: Path) -> dict[str, Any]:
    """The config that the file at `path` returns, as plain nested dicts (see `execute`)."""
    module = execute(path)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no function get_config() that returns a ConfigDict")
    config = module.get_config()
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(
            f"{path}: get_config() must return a ConfigDict, got {type(config).__name__}"
        )
    return plain(config)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, each as `section.key: old -> new`."""
    a, b, absent = flatten(old), flatten(new), "(absent)"
    return [
        f"{key}: {a.get(key, absent)!r} -> {b.get(key, absent)!r}"
        for key in sorted({*a, *b})
        if a.get(key, absent) != b.get(key, absent)
    ]


def forbidden_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], *, any_place: bool = False
) -> list[str]:
    """The differences that prevent a run from resuming in its workdir.

    Args:
        any_place: the data may lie in another place, because their fingerprints are compared.
    """
    # The first row evaluates the held-out images, which choose the best checkpoint and plateau drops.
    first_row = new.get("data", {}).get("held_out") and old.get("evals") and new.get("evals")

    def binding(config: Mapping[str, Any]) -> dict[str, Any]:
        kept = flatten({k: v for k, v in config.items() if k not in MAY_DIFFER})
        kept = {k: v for k, v in kept.items() if k not in MAY_DIFFER}
        if first_row:
            kept |= flatten({"evals[0]": {**config["evals"][0], "every_epochs": None}})
        kind = kept.get("data.source", "").partition(":")[0]
        if any_place:
            kept["data.data_dir"] = ""
            kept["data.source"] = f"{kind}:" if kind in _PLACED else kept["data.source"]
        # Only a fresh run reads init.from_run, and run.json records it: the folder of a chain may move.
        return {**kept, "init.from_run": None}

    return difference(binding(old), binding(new))


def save_config(config: Mapping[str, Any], path: Path) -> None:
    """Writes a resolved config as JSON, with the version of the format."""
    write_text(path, json.dumps(with_version(config), indent=2) + "\n")


def with_version(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config as config.json holds it."""
    return {"version": VERSION, **config}


def load_config(path: Path) -> dict[str, Any]:
    """Reads a resolved config that `save_config` of this or an earlier version wrote (see `migrate`).

    Raises:
        FileError: it is missing or damaged.
    """
    found = read_json(path, dict, advice=config_advice(path))
    version = found.get("version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise FileError(
            path,
            f"has version {version!r} of the format, and this jaxcnn reads 1 to {VERSION}",
            "use the jaxcnn that wrote it: run.json names its version",
        )
    return migrate(found)


def config_advice(path: Path) -> str:
    """What to do about the damaged config.json of a run."""
    return (
        "write it again with the run's own command (run.json keeps it), to which you add: "
        f"--print_config --json > {shlex.quote(str(path))}"
    )


def format_config(
    config: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]
) -> str:
    """The resolved config as text, one key per line, with the origin of each value."""
    typed, in_file = {text.partition("=")[0] for text in overrides}, flatten(given)

    def origin(key: str) -> str:
        return "command line" if key in typed else "file" if key in in_file else "default"

    return "\n".join(f"{k} = {v!r}  # {origin(k)}" for k, v in flatten(config).items())
