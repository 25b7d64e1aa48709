"""A comparison as data: variants of one config, seeds, a budget and a measure; and its validation."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcnn import config as configs
from jaxcnn.config.values import typed
from jaxcnn.research.comparison.measures import parse_measure

BUDGETS = ("epochs", "macs")
KEYS: dict[str, Any] = {
    "base": str,
    "variants": dict,
    "overrides": dict,
    "seeds": tuple[int, ...],
    "budget": str,
    "measure": str,
    "grid": dict,
    "about": str,
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Variants of a config, each trained once per seed.

    Attributes:
        name: also of the folder of the results.
        base: a config: its file, or its name in configs/.
        variants: overrides by name of variant; the first one is the baseline.
        overrides: config keys and values for all variants.
        seeds: values of the config's `seed`.
        budget: 'epochs': all variants train the config's epochs; 'macs': all spend the multiply-adds of
            the baseline, counted over the forward pass in training.
        measure: what is compared (see measures.py).
        grid: config keys, each with the values at which every variant is trained; variants are compared
            at their best point.
        about: a sentence for readers of the table, such as the paper's result.
    """

    name: str
    base: str
    variants: Mapping[str, Any]
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: str = "epochs"
    measure: str = "top1"
    grid: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    about: str = ""

    @property
    def baseline(self) -> str:
        """The variant with which the others are compared."""
        return next(iter(self.variants))


def read_comparisons(path: Path) -> dict[str, Comparison] | None:
    """The comparisons of the file at `path`; None if it has no get_comparisons().

    Raises:
        ConfigError: the file cannot be executed; or lists all errors of all its comparisons.
    """
    module = configs.execute(path)
    if not hasattr(module, "get_comparisons"):
        return None
    content = module.get_comparisons()
    if not isinstance(content, Mapping) or not content:
        raise configs.ConfigError(
            f"{path}: get_comparisons() must return a dict of comparisons by name, got {content!r}"
        )
    found, errors = {}, []
    for name, fields in content.items():
        try:
            found[name] = comparison_from_dict(name, fields)
        except configs.ConfigError as error:
            errors.append(str(error))
    if errors:
        raise configs.ConfigError("\n".join(errors))
    return found


def comparison_from_dict(name: str, fields: Any) -> Comparison:
    """Builds and validates the comparison `name` from plain data.

    Raises:
        ConfigError: lists all errors, one per line.
    """
    if not isinstance(fields, Mapping):
        raise configs.ConfigError(f"{name} must be a dict of {', '.join(KEYS)}; got {fields!r}")
    problems = [f"missing key {key}" for key in ("base", "variants") if key not in fields]
    values: dict[str, Any] = {}
    for key, value in fields.items():
        if key in KEYS:
            values[key] = typed(key, configs.plain(value), KEYS[key], problems)
            continue
        near = difflib.get_close_matches(str(key), KEYS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        problems.append(f"unknown key {key}{hint} (valid: {', '.join(KEYS)})")
    comparison = None if problems else Comparison(name, **values)
    problems += _problems(comparison) if comparison else []
    if comparison is None or problems:
        raise configs.ConfigError("\n".join(f"{name}: {problem}" for problem in problems))
    return comparison


def slug(text: str) -> str:
    """A folder name for `text`."""
    return re.sub(r"[^a-z0-9.-]+", "_", text.lower()).strip("_.-")


def _problems(comparison: Comparison) -> list[str]:
    """Errors of a comparison whose fields have the right types."""
    found, seeds = [], comparison.seeds
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", comparison.name):
        found.append("its name must be letters, digits, '_', '-' and '.', since it names a folder")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        found.append(f"seeds must be different whole numbers, 0 or more, got {seeds}")
    if comparison.budget not in BUDGETS:
        found.append(f"budget must be one of {', '.join(BUDGETS)}, got {comparison.budget!r}")
    try:
        parse_measure(comparison.measure)
    except ValueError as error:
        found.append(str(error))
    found += [
        f"grid.{key} must be a tuple of different values, got {values!r}"
        for key, values in comparison.grid.items()
        if not isinstance(values, tuple) or not values or len({*map(str, values)}) < len(values)
    ]
    if "seed" in comparison.overrides:
        found.append("overrides may not set seed: the comparison's seeds do")
    return found + _problems_of_variants(comparison)


def _problems_of_variants(comparison: Comparison) -> list[str]:
    if not comparison.variants:
        return ["variants is empty; give at least {'base': {}}"]
    found, grid = [], comparison.grid
    places: dict[str, str] = {}
    for variant, changes in {**comparison.variants, "the grid": grid}.items():
        if not isinstance(changes, Mapping):
            found.append(f"variant {variant!r} must be a dict of overrides, got {changes!r}")
            continue
        if "seed" in changes:
            found.append(f"{variant!r} may not set seed: the comparison's seeds do")
        if "epochs" in changes:
            found.append(
                f"{variant!r} may not set epochs: all have the same budget of {comparison.budget}"
            )
        if changes is grid:
            continue
        found += [f"{variant!r} sets {key}, and so does the grid" for key in changes if key in grid]
        place = slug(variant)
        if not place or place in places:
            other = f"would share the folder {place!r} with {places[place]!r}" if place else ""
            found.append(f"variant {variant!r} {other or 'has no letters'}; give it another name")
        places[place] = variant
    return found
