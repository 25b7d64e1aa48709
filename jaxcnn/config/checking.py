"""Validation of configs: every key is checked against the callable of its section."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxcnn.config.files import ConfigError, plain
from jaxcnn.config.migration import RENAMED_KEYS, new_value
from jaxcnn.config.values import parse, spell, typed

# The keys of a config outside sections: name -> (type, default or `inspect.Parameter.empty`).
PLAIN: dict[str, tuple[Any, Any]] = {
    "seed": (int, inspect.Parameter.empty),
    "epochs": (float, inspect.Parameter.empty),
    # Examples per update over all devices. The gradient is accumulated over grad_accum_steps slices in
    # sequence, to fit a large batch in memory. Dropout masks follow the image, so the sum is the same.
    "batch_size": (int, inspect.Parameter.empty),
    "grad_accum_steps": (int, 1),
}

# Common names of keys in other projects.
SYNONYMS = {
    "lr": "schedule.rate",
    "learning_rate": "schedule.rate",
    "wd": "optim.weight_decay",
    "dataset": "data.source",
    "image_size": "model.image_size",
}

# The callable of each section, or several callables by the section's `name` key.
Sections = Mapping[str, Callable[..., Any] | Mapping[str, Callable[..., Any]]]


def resolve(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    sections: Sections,
    protocols: Mapping[str, Callable[..., Any]],
) -> dict[str, Any]:
    """A checked config with every key present: `config`, then `overrides`, then defaults.

    Args:
        config: nested dicts, as returned by `read_config`.
        overrides: command-line overrides, `optim.momentum=0.8`. Changing the `name` of a section drops
            keys that only the old name accepts.
        sections: the callable of each section.
        protocols: the callables of the rows of `evals`, by the row's `name`.

    Raises:
        ConfigError: lists all errors, each with its key and the nearest valid one.
    """
    given = plain(config)
    # Names first, because the valid keys of a section depend on them.
    ordered = sorted(overrides, key=lambda text: not text.partition("=")[0].endswith(".name"))
    errors = [e for text in ordered if (e := _override(given, text, sections))]
    known = _known_keys(given, sections)
    resolved: dict[str, Any] = {}
    for key, (kind, default) in PLAIN.items():
        if key in given:
            resolved[key] = typed(key, given[key], kind, errors)
        elif default is inspect.Parameter.empty:
            errors.append(f"missing key {key}")
        else:
            resolved[key] = default
    for key in given:
        if key not in PLAIN and key not in sections and key != "evals":
            errors.append(_unknown(key, known))
    for name, target in sections.items():
        resolved[name] = _section(name, given.get(name, {}), target, known, errors)
    resolved["evals"] = tuple(
        _section(f"evals[{i}]", row, protocols, known, errors)
        for i, row in enumerate(_rows(given.get("evals", ()), errors))
    )
    errors += _range_errors(resolved)
    for name in ("init", "data"):
        section = resolved.get(name, {})
        if section.get("seed") == -1:
            section["seed"] = resolved.get("seed", 0)
    errors += _build_errors(resolved, sections, protocols)
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return resolved


def build_section(
    name: str, section: Mapping[str, Any], sections: Sections, *arguments: Any
) -> Any:
    """Calls the callable of section `name` with `arguments` and the section's keys."""
    target = sections[name]
    kwargs = dict(section)
    if isinstance(target, Mapping):
        target = target[kwargs.pop("name")]
    return target(*arguments, **kwargs)


def parameters(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The config keys of a callable: name -> (type, default or `inspect.Parameter.empty`).

    For a dataclass these are its fields; for a function its keyword-only parameters, because the run passes
    its own arguments by position.
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


def _range_errors(resolved: Mapping[str, Any]) -> list[str]:
    """Range errors of plain keys and seeds that have the right type."""
    seeds = {"seed": resolved.get("seed"), "init.seed": resolved.get("init", {}).get("seed")}
    seeds["data.seed"] = resolved.get("data", {}).get("seed")
    found = [
        f"{name} must lie in 0 to {2**31 - 1}, got {value}"
        for name, value in seeds.items()
        if isinstance(value, int) and not (-1 if "." in name else 0) <= value < 2**31
    ]
    for name in ("batch_size", "grad_accum_steps"):
        value = resolved.get(name)
        if isinstance(value, int) and value < 1:
            found.append(f"{name} must be at least 1, got {value}")
    epochs = resolved.get("epochs")
    if isinstance(epochs, float) and not 0 <= epochs < math.inf:
        found.append(f"epochs must be 0 or more and finite, got {epochs:g}")
    return found


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty


def _target(section: Mapping[str, Any], target: Any) -> Any:
    """The callable of a section; None if its `name` is not in the table."""
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
    if key in RENAMED_KEYS:
        return f"{key} is now {RENAMED_KEYS[key]}"
    tails = {k.rpartition(".")[2]: k for k in reversed(known)}
    section = [k for k in known if k.startswith(key.rpartition(".")[0] + ".")]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    near = near or [k for k in (SYNONYMS.get(key.rpartition(".")[2], ""),) if k]
    near = near or [tails[t] for t in difflib.get_close_matches(key.rpartition(".")[2], tails, n=1)]
    hint = f"; did you mean {near[0]}?" if near else ""
    valid = dict.fromkeys((section if "." in key else known) or known)
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
        today = new_value(f"{name}.{key}", given.get(key))
        if key in given and today != given[key]:
            errors.append(f"{name}.{key}={given[key]!r} is now {today!r}")
        elif key in given:
            resolved[key] = typed(f"{name}.{key}", given[key], kind, errors)
        elif default is inspect.Parameter.empty:
            errors.append(f"missing key {name}.{key} ({spell(kind)})")
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
    """Errors from building each section: dataclasses check their own ranges and are cheap to build."""
    rows = [(f"evals[{i}]", row, protocols) for i, row in enumerate(config["evals"])]
    errors = []
    for name, section, target in [*((n, config[n], t) for n, t in sections.items()), *rows]:
        chosen: Any = _target(section, target)
        if chosen is None or not _only_settings(chosen):
            continue
        keys = {k: v for k, v in section.items() if k != "name"}
        if not _well_typed(keys, chosen):
            continue  # already reported
        try:
            chosen(**keys)
        except ValueError as error:
            errors.append(f"{name}: {error}")
    return errors


def _well_typed(keys: Mapping[str, Any], target: Any) -> bool:
    """Whether every key of a callable is present and has the right type."""
    problems: list[str] = []
    accepted = parameters(target)
    for key in accepted.keys() & keys.keys():
        typed(key, keys[key], accepted[key][0], problems)
    return accepted.keys() == keys.keys() and not problems


def _only_settings(target: Any) -> bool:
    """Whether a callable takes only config keys."""
    if dataclasses.is_dataclass(target):
        return True
    return all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(target).parameters.values())


def _override(config: dict[str, Any], text: str, sections: Sections) -> str:
    """Applies `section.key=value` to `config` in place; returns the error text, or ''."""
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals:
        return f"--config.{text} needs a value: --config.{key}=VALUE"
    if len(parts) > 2 or (len(parts) == 2 and parts[0] not in sections):
        return _unknown(key, _known_keys(config, sections))
    if len(parts) == 1:
        if key in sections:
            return f"{key} is a section; set its keys one by one: --config.{key}.KEY=VALUE"
        config[key] = parse(value, PLAIN.get(key, (Any, None))[0])
        return ""
    section = config.setdefault(parts[0], {})
    if parts[1] == "name":
        config[parts[0]] = _renamed(section, value, sections[parts[0]])
        return ""
    chosen = _target(section, sections[parts[0]])
    kind = parameters(chosen).get(parts[1], (Any, None))[0] if chosen else Any
    section[parts[1]] = parse(value, kind)
    return ""


def _renamed(section: Mapping[str, Any], name: str, target: Any) -> dict[str, Any]:
    """A section with another name, without the keys that only the old name accepts: for example, a plateau
    schedule has no listed drops."""
    chosen = _target({"name": name}, target)
    if section.get("name") in (None, name) or chosen is None:
        return {**section, "name": name}
    accepted = parameters(chosen)

    def fits(key: str) -> bool:
        problems: list[str] = []
        if key in accepted:
            typed(key, section[key], accepted[key][0], problems)
        return key in accepted and not problems

    return {"name": name, **{key: value for key, value in section.items() if fits(key)}}
