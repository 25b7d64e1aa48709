"""Validation of configs: every key is checked against the callable of its section."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxcnn.config.files import ConfigError
from jaxcnn.config.migration import RENAMED_KEYS, new_value
from jaxcnn.config.values import convert, did_you_mean, flatten, parse, plain, spell, typed

REQUIRED = inspect.Parameter.empty

# The keys of a config outside sections: name -> (type, default).
PLAIN: dict[str, tuple[Any, Any]] = {
    "seed": (int, REQUIRED),
    "epochs": (float, REQUIRED),
    # Examples per update over all devices. The gradient is accumulated over grad_accum_steps slices in
    # sequence, to fit a large batch in memory. Dropout masks follow the image, so the sum is the same.
    "batch_size": (int, REQUIRED),
    "grad_accum_steps": (int, 1),
}

_SEED = f"lie in 0 to {2**31 - 1}"
# Key -> (lowest value, highest value, the range as text).
RANGES: dict[str, tuple[float, float, str]] = {
    "seed": (0, 2**31 - 1, _SEED),
    "init.seed": (-1, 2**31 - 1, _SEED),  # -1: that of `seed`
    "data.seed": (-1, 2**31 - 1, _SEED),
    "epochs": (0, sys.float_info.max, "be 0 or more and finite"),
    "batch_size": (1, math.inf, "be at least 1"),
    "grad_accum_steps": (1, math.inf, "be at least 1"),
}

# Common names of keys in other projects.
SYNONYMS = {
    "lr": "schedule.rate",
    "learning_rate": "schedule.rate",
    "wd": "optim.weight_decay",
    "dataset": "data.source",
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
    given, errors = plain(config), []
    # Names first, because the valid keys of a section depend on them.
    for text in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith(".name")):
        _override(given, text, sections, errors)
    known = _known_keys(given, sections)
    errors += [_unknown(k, known) for k in given if k not in (*PLAIN, *sections, "evals")]
    resolved = _values("", PLAIN, given, errors)
    for name, target in sections.items():
        resolved[name] = _section(name, given.get(name, {}), target, known, errors)
    rows = given.get("evals", ())
    if not isinstance(rows, tuple) or not all(isinstance(row, dict) for row in rows):
        example = "dict(name='centre', scale=256)"
        errors.append(f"evals must be a tuple of rows such as {example}, got {rows!r}")
        rows = ()
    resolved["evals"] = tuple(
        _section(f"evals[{i}]", row, protocols, known, errors) for i, row in enumerate(rows)
    )
    flat = flatten(resolved)
    for key, (low, high, text) in RANGES.items():
        if isinstance(flat.get(key), int | float) and not low <= flat[key] <= high:
            errors.append(f"{key} must {text}, got {flat[key]}")
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    for name in ("init", "data"):
        if resolved[name]["seed"] == -1:
            resolved[name]["seed"] = resolved["seed"]
    return resolved


def build_section(name: str, section: Mapping[str, Any], sections: Sections) -> Any:
    """Calls the callable of section `name` with the section's keys."""
    target: Any = sections[name]
    kwargs = dict(section)
    if isinstance(target, Mapping):
        target = target[kwargs.pop("name")]
    return target(**kwargs)


@functools.cache
def parameters(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The config keys of a callable: name -> (type, default or `inspect.Parameter.empty`)."""
    hints = typing.get_type_hints(target)
    return {
        p.name: (hints[p.name], p.default)
        for p in inspect.signature(target).parameters.values()
        if p.name not in ("parent", "name")  # of Linen modules
    }


def _override(config: dict[str, Any], text: str, sections: Sections, errors: list[str]) -> None:
    """Applies `section.key=value` to `config` in place."""
    path, equals, value = text.partition("=")
    name, _, key = path.rpartition(".")
    known = _known_keys(config, sections)
    if not equals:
        errors.append(f"--config.{text} needs a value: --config.{path}=VALUE")
    elif name and name not in sections:
        errors.append(_unknown(path, known))
    elif path in sections:
        errors.append(f"{path} is a section; set its keys one by one: --config.{path}.KEY=VALUE")
    elif key == "name" and path in known and isinstance(config.get(name, {}), dict):
        config[name] = _renamed(config.get(name, {}), value, sections[name])
    else:
        section = config.setdefault(name, {}) if name else config
        if isinstance(section, dict):  # else `_section` reports it
            section[key] = parse(value, known.get(path, Any))


def _renamed(section: Mapping[str, Any], name: str, target: Any) -> dict[str, Any]:
    """A section with another name, without the keys that only the old name accepts: for example, a plateau
    schedule has no listed drops."""
    if section.get("name") in (None, name) or name not in target:
        return {**section, "name": name}
    kept: dict[str, Any] = {"name": name}
    for key, (kind, _) in parameters(target[name]).items():
        with contextlib.suppress(KeyError, TypeError):
            kept[key] = convert(section[key], kind)
    return kept


def _known_keys(given: Mapping[str, Any], sections: Sections) -> dict[str, Any]:
    """The type of every valid key. A section whose `name` is missing or unknown has no other keys."""
    known = {key: kind for key, (kind, _) in PLAIN.items()} | {"evals": tuple}
    for name, target in sections.items():
        if isinstance(target, Mapping):
            known[f"{name}.name"] = str
            section = given.get(name)
            target = target.get(str(section.get("name"))) if isinstance(section, Mapping) else None
        accepted = parameters(target) if target else {}
        known |= {f"{name}.{key}": kind for key, (kind, _) in accepted.items()}
    return known


def _unknown(key: str, known: Iterable[str]) -> str:
    if key in RENAMED_KEYS:
        return f"{key} is now {RENAMED_KEYS[key]}"
    (section, _, tail), known = key.rpartition("."), list(known)
    hint = did_you_mean(key, known, cutoff=0.75)
    if not hint and tail in SYNONYMS:
        hint = f"; did you mean {SYNONYMS[tail]}?"
    if not hint:  # the right key in a wrong section
        tails = {k.rpartition(".")[2]: k for k in reversed(known)}
        near = difflib.get_close_matches(tail, tails, n=1)
        hint = f"; did you mean {tails[near[0]]}?" if near else ""
    valid = [k for k in known if section and k.startswith(f"{section}.")] or known
    return f"unknown key {key}{hint} (valid: {', '.join(dict.fromkeys(valid))})"


def _section(
    name: str, given: Any, target: Any, known: Iterable[str], errors: list[str]
) -> dict[str, Any]:
    """The section with every key present and in its type. Appends errors, those of its callable too."""
    if not isinstance(given, Mapping):
        errors.append(f"{name} must be a section of keys, got {given!r}")
        return {}
    chosen = {}
    if isinstance(target, Mapping):
        wanted = given.get("name")
        if not isinstance(wanted, str) or wanted not in target:
            what = f"unknown {name}.name {wanted!r}"
            what = what if "name" in given else f"missing key {name}.name"
            hint = did_you_mean(wanted, target, "{!r}")
            errors.append(f"{what}{hint} (valid: {', '.join(target)})")
            return {}
        chosen, target = {"name": wanted}, target[wanted]
    accepted = parameters(target)
    known = [*known, *(f"{name}.{key}" for key in accepted)]
    errors += [_unknown(f"{name}.{k}", known) for k in given if k not in accepted | chosen]
    before = len(errors)
    values = _values(f"{name}.", accepted, given, errors)
    if len(errors) == before:
        try:
            target(**values)  # checks the ranges
        except ValueError as error:
            errors.append(f"{name}: {error}")
    return chosen | values


def _values(
    prefix: str,
    accepted: Mapping[str, tuple[Any, Any]],
    given: Mapping[str, Any],
    errors: list[str],
) -> dict[str, Any]:
    """The value of each accepted key: the given one, or else the default."""
    values: dict[str, Any] = {}
    for key, (kind, default) in accepted.items():
        name, value = prefix + key, given.get(key)
        today = new_value(name, value)
        if key not in given and default is REQUIRED:
            errors.append(f"missing key {name} ({spell(kind)})")
        elif key not in given:
            values[key] = plain(default)
        elif today is not value:
            errors.append(f"{name}={value!r} is now {today!r}")
        else:
            values[key] = typed(name, value, kind, errors)
    return values
