"""Reading, saving, printing and comparing configs."""

from __future__ import annotations

import difflib
import importlib.util
import json
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from jaxcnn.config.migration import migrate

# Keys that may differ when a run resumes in its workdir. The update rule and the data may not.
MAY_DIFFER = ("epochs", "evals", "checkpoint", "log", "mesh")

# The folder configs/: at the top of a checkout, or inside a package installed from a wheel.
_PACKAGE = Path(__file__).parents[1]
CONFIGS = next(f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir())


class ConfigError(ValueError):
    """A config cannot be used; the message lists every error, one per line."""


def find_config(path: str, folder: Path = CONFIGS) -> Path:
    """The config file at `path`, or the file of that name in `folder` (`vgg_e`, `configs/vgg_e.py`).

    Raises:
        ConfigError: there is no such file; the message names the nearest one.
    """
    name = path.removeprefix("configs/")
    for candidate in (Path(path), folder / name, folder / f"{name}.py"):
        if candidate.is_file():
            return candidate
    names = sorted(f.stem for f in folder.glob("*.py"))
    near = difflib.get_close_matches(Path(path).stem, names, n=1)
    hint = f"; did you mean --config={near[0]}?" if near else ""
    raise ConfigError(f"no config file {path!r}{hint}\n  there are: {', '.join(names)}")


def execute(path: Path) -> types.ModuleType:
    """Executes the Python file at `path` and returns the module. Use it only with trusted files.

    Raises:
        ConfigError: the file is not a Python file, or executing it fails.
    """
    parent = str(path.resolve().parent.parent)
    sys.path.insert(0, parent)  # for configs that import a sibling: from configs import vgg_a
    try:
        spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
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


def plain(config: Any) -> Any:
    """`config` with every ConfigDict as a dict and every list as a tuple, as `load_config` returns it."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return tuple(plain(v) for v in config)
    return config


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys whose values differ, each as `key: old -> new`."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{prefix}{key}.")
        elif plain(a) != plain(b):
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines


def forbidden_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences that prevent a run from resuming in its workdir."""
    old, new = plain(old), plain(new)
    lines = difference(_binding(old), _binding(new))
    # The first row evaluates the held-out images, which choose the best checkpoint and plateau drops.
    if new.get("data", {}).get("held_out") and old.get("evals") and new.get("evals"):
        first = [
            {k: v for k, v in c["evals"][0].items() if k != "every_epochs"} for c in (old, new)
        ]
        lines += difference(*first, prefix="evals[0].")
    return lines


def _binding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that must not change. `init.from_run` matters only for a fresh run, and run.json records it,
    so the folder of a chain may be moved."""
    kept = {k: v for k, v in config.items() if k not in MAY_DIFFER}
    if "init" in kept:
        kept["init"] = {k: v for k, v in kept["init"].items() if k != "from_run"}
    return kept


def save_config(config: Mapping[str, Any], path: Path) -> None:
    """Writes a resolved config as JSON."""
    path.write_text(json.dumps(config, indent=2) + "\n")


def load_config(path: Path) -> dict[str, Any]:
    """Reads a resolved config that `save_config` of this or an earlier version wrote (see `migrate`)."""
    return plain(migrate(json.loads(path.read_text())))


def format_config(
    config: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]
) -> str:
    """The resolved config as text, one key per line, with the origin of each value."""
    typed = {text.partition("=")[0] for text in overrides}
    lines = []

    def walk(node: Mapping[str, Any], source: Any, prefix: str) -> None:
        for key, value in node.items():
            inside = source.get(key) if isinstance(source, Mapping) else None
            if isinstance(value, Mapping):
                walk(value, inside, f"{prefix}{key}.")
                continue
            name = prefix + key
            origin = (
                "command line" if name in typed else "file" if inside is not None else "default"
            )
            lines.append(f"{name} = {value!r}  # {origin}")

    walk(config, plain(given), "")
    return "\n".join(lines)
