"""Read, check, print and compare configs.

A config file is a Python file with `get_config() -> ConfigDict`: the sections of `SECTION_NAMES`, each
the keyword arguments of one callable, and a few plain keys (`PLAIN`). What keys a section may hold is
read from the signature of that callable, so there is no second list of them to keep in step.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

# The keys of a config that are no section: name -> type.
PLAIN: dict[str, Any] = {"seed": int, "epochs": float, "batch_size": int}
# What may differ when a run goes on in its workdir (design: the update rule and the data may not).
MAY_DIFFER = ("epochs", "evals", "checkpoint", "log", "mesh")

# What people call some keys elsewhere.
SYNONYMS = {
    "lr": "schedule.rate",
    "learning_rate": "schedule.rate",
    "wd": "optim.weight_decay",
    "dataset": "data.source",
    "image_size": "model.image_size",
}

# A section's callable, or several of them by the section's `name` key.
Sections = Mapping[str, Callable[..., Any] | Mapping[str, Callable[..., Any]]]


class ConfigError(ValueError):
    """A config that cannot be used; the message lists every error found, one a line."""


def find(path: str, folder: Path) -> Path:
    """The file that `path` names: a path, or the bare name of a file in `folder` (`vgg_e`)."""
    for candidate in (Path(path), folder / path, folder / f"{path}.py"):
        if candidate.is_file():
            return candidate
    names = sorted(f.stem for f in folder.glob("*.py"))
    near = difflib.get_close_matches(Path(path).stem, names, n=1)
    hint = f"; did you mean --config={near[0]}?" if near else ""
    raise ConfigError(f"no config file {path!r}{hint}\n  there are: {', '.join(names)}")


def read(path: Path) -> dict[str, Any]:
    """The config that the file at `path` returns, as plain nested dicts.

    The file is Python and is executed: read only files you trust.
    """
    parent = str(path.resolve().parent.parent)
    sys.path.insert(0, parent)  # a config may build on one sibling: from configs import vgg_a
    try:
        spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(parent)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no function get_config() that returns a ConfigDict")
    config = module.get_config()
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(
            f"{path}: get_config() must return a ConfigDict, got {type(config).__name__}"
        )
    return plain(config)


def plain(config: Any) -> Any:
    """`config` with every ConfigDict as a dict and every list as a tuple: what JSON gives back too."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return tuple(plain(v) for v in config)
    return config


def resolve(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    sections: Sections,
    protocols: Mapping[str, Callable[..., Any]],
) -> dict[str, Any]:
    """A checked config with every key present: `config`, then `overrides`, then defaults.

    Args:
        config: nested dicts, as `read` gives them.
        overrides: command-line overrides, `optim.momentum=0.8`.
        sections: what each section is splatted into.
        protocols: what each row of `evals` is splatted into, by the row's `name`.

    Raises:
        ConfigError: with all errors at once, each naming its key and the nearest valid one.
    """
    given = plain(config)
    errors = [e for text in overrides if (e := _override(given, text, sections))]
    known = _known_keys(given, sections)
    resolved: dict[str, Any] = {}
    for key, kind in PLAIN.items():
        if key not in given:
            errors.append(f"missing key {key}")
        else:
            resolved[key] = _typed(key, given[key], kind, errors)
    for key in given:
        if key not in PLAIN and key not in sections and key != "evals":
            errors.append(_unknown(key, known))
    for name, target in sections.items():
        resolved[name] = _section(name, given.get(name, {}), target, known, errors)
    resolved["evals"] = tuple(
        _section(f"evals[{i}]", row, protocols, known, errors)
        for i, row in enumerate(_rows(given.get("evals", ()), errors))
    )
    for name in ("batch_size", "epochs"):
        value = resolved.get(name)
        if isinstance(value, int | float) and value < (1 if name == "batch_size" else 0):
            errors.append(
                f"{name} must be {'at least 1' if name == 'batch_size' else '0 or more'}, got {value}"
            )
    for name in ("init", "data"):
        section = resolved.get(name, {})
        if section.get("seed") == -1:
            section["seed"] = resolved.get("seed", 0)
    if not errors:
        errors += _build_errors(resolved, sections, protocols)
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return resolved


def build(name: str, section: Mapping[str, Any], sections: Sections, *arguments: Any) -> Any:
    """Calls the callable of section `name` with `arguments` and the section's keys."""
    target = sections[name]
    kwargs = dict(section)
    if isinstance(target, Mapping):
        target = target[kwargs.pop("name")]
    return target(*arguments, **kwargs)


def parameters(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The config keys of a callable: name -> (type, default or `inspect.Parameter.empty`).

    A dataclass (a net, a setting) gives its fields; a function gives its keyword-only parameters, since
    what the run itself hands over is positional.
    """
    if dataclasses.is_dataclass(target):
        hints = typing.get_type_hints(target)
        return {
            f.name: (hints.get(f.name, Any), _default(f))
            for f in dataclasses.fields(target)
            if f.init and f.name not in ("parent", "name")
        }
    hints = typing.get_type_hints(target)
    return {
        p.name: (hints.get(p.name, Any), p.default)
        for p in inspect.signature(target).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }


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
    """What differs and may not when a run goes on in its workdir."""
    drop = lambda c: {k: v for k, v in c.items() if k not in MAY_DIFFER}  # noqa: E731
    return difference(drop(plain(old)), drop(plain(new)))


def save(config: Mapping[str, Any], path: Path) -> None:
    """Writes a resolved config as JSON."""
    path.write_text(json.dumps(config, indent=2) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Reads a resolved config that `save` wrote."""
    return plain(json.loads(path.read_text()))


def show(config: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """The resolved config, a key a line, with where each value comes from."""
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


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty


def _target(section: Mapping[str, Any], target: Any) -> Any:
    """The callable of a section; None where its `name` is not one of the table's."""
    return target.get(section.get("name")) if isinstance(target, Mapping) else target


def _known_keys(given: Mapping[str, Any], sections: Sections) -> list[str]:
    known = [*PLAIN, "evals"]
    for name, target in sections.items():
        section = given.get(name, {})
        chosen = _target(section if isinstance(section, Mapping) else {}, target)
        known += [f"{name}.name"] if isinstance(target, Mapping) else []
        known += [f"{name}.{key}" for key in (parameters(chosen) if chosen else {})]
    return known


def _unknown(key: str, known: Sequence[str]) -> str:
    tails = {k.rpartition(".")[2]: k for k in reversed(known)}
    section = [k for k in known if k.startswith(key.rpartition(".")[0] + ".")]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    near = near or [k for k in (SYNONYMS.get(key.rpartition(".")[2], ""),) if k]
    near = near or [tails[t] for t in difflib.get_close_matches(key.rpartition(".")[2], tails, n=1)]
    hint = f"; did you mean {near[0]}?" if near else ""
    valid = dict.fromkeys(section if "." in key else known)
    return f"unknown key {key}{hint} (valid: {', '.join(valid)})"


def _section(
    name: str, given: Any, target: Any, known: Sequence[str], errors: list[str]
) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        errors.append(f"{name} must be a section of keys, got {given!r}")
        return {}
    resolved: dict[str, Any] = {}
    if isinstance(target, Mapping):
        if given.get("name") not in target:
            what = (
                f"unknown {name}.name {given['name']!r}"
                if "name" in given
                else f"missing key {name}.name"
            )
            near = difflib.get_close_matches(str(given.get("name")), target, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            errors.append(f"{what}{hint} (valid: {', '.join(target)})")
            return {}
        resolved["name"] = given["name"]
        target = target[given["name"]]
    accepted = parameters(target)
    for key in given:
        if key not in accepted and key not in resolved:
            errors.append(_unknown(f"{name}.{key}", [*known, *(f"{name}.{k}" for k in accepted)]))
    for key, (kind, default) in accepted.items():
        if key in given:
            resolved[key] = _typed(f"{name}.{key}", given[key], kind, errors)
        elif default is inspect.Parameter.empty:
            errors.append(f"missing key {name}.{key} ({_spell(kind)})")
        else:
            resolved[key] = plain(default)
    return resolved


def _rows(evals: Any, errors: list[str]) -> tuple[Any, ...]:
    if isinstance(evals, tuple) and all(isinstance(row, Mapping) for row in evals):
        return evals
    errors.append(
        f"evals must be a tuple of rows such as dict(name='centre', scale=256), got {evals!r}"
    )
    return ()


def _build_errors(
    config: Mapping[str, Any], sections: Sections, protocols: Mapping[str, Any]
) -> list[str]:
    """Ranges are checked where they are known: by the dataclasses, which hold no arrays and cost nothing."""
    rows = [(f"evals[{i}]", row, protocols) for i, row in enumerate(config["evals"])]
    errors = []
    for name, section, target in [*((n, config[n], t) for n, t in sections.items()), *rows]:
        chosen: Any = _target(section, target)
        if chosen is None or not _only_settings(chosen):
            continue
        try:
            chosen(**{k: v for k, v in section.items() if k != "name"})
        except ValueError as error:
            errors.append(f"{name}: {error}")
    return errors


def _only_settings(target: Any) -> bool:
    """Whether a callable takes nothing but config keys."""
    if dataclasses.is_dataclass(target):
        return True
    return all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(target).parameters.values())


def _override(config: dict[str, Any], text: str, sections: Sections) -> str:
    """Applies `section.key=value` to `config` in place; the error's text, or '' where there is none."""
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals:
        return f"--config.{text} needs a value: --config.{key}=VALUE"
    if len(parts) > 2 or (len(parts) == 2 and parts[0] not in sections):
        return _unknown(key, _known_keys(config, sections))
    if len(parts) == 1:
        if key in sections:
            return f"{key} is a section; set its keys one by one: --config.{key}.KEY=VALUE"
        config[key] = _parse(value, PLAIN.get(key, Any))
        return ""
    section = config.setdefault(parts[0], {})
    chosen = _target(section, sections[parts[0]])
    kind = parameters(chosen).get(parts[1], (Any, None))[0] if chosen else Any
    section[parts[1]] = _parse(value, str if parts[1] == "name" else kind)
    return ""


def _parse(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def _typed(key: str, value: Any, kind: Any, errors: list[str]) -> Any:
    ok, value = _convert(value, kind)
    if not ok:
        errors.append(f"{key} must be {_spell(kind)}, got {value!r}")
    return value


def _convert(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether `value` is of type `kind`, and the value as that type (1e2 is a good int)."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True, value
    if origin is typing.Literal:
        return value in arguments, value
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            ok, converted = _convert(value, option)
            if ok:
                return True, converted
        return False, value
    if kind is type(None):
        return value is None, value
    if origin is tuple or kind is tuple:
        if not isinstance(value, tuple):
            return False, value
        if not arguments:
            return True, value
        if arguments[-1] is Ellipsis:
            pairs = [_convert(v, arguments[0]) for v in value]
        else:
            if len(value) != len(arguments):
                return False, value
            pairs = [_convert(v, a) for v, a in zip(value, arguments, strict=True)]
        return all(ok for ok, _ in pairs), tuple(v for _, v in pairs)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool, value
    if kind is float and isinstance(value, int | float):
        return True, float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return True, int(value)
    return isinstance(value, kind) if isinstance(kind, type) else True, value


def _spell(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(kind))
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
