"""A comparison as data: variants of one config, seeds, a budget and a measure; and its validation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jaxcnn import config as configs
from jaxcnn.paths import Path
from jaxcnn.research.comparison.measures import parse_measure


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
    variants: dict
    overrides: dict = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: str = "epochs"
    measure: str = "top1"
    grid: dict = dataclasses.field(default_factory=dict)
    about: str = ""

    @property
    def baseline(self) -> str:
        """The variant with which the others are compared."""
        return next(iter(self.variants))


def read_comparisons(path: Path) -> dict[str, Comparison] | None:
    """The comparisons of the file at `path`; None if it has no get_comparisons().

    Raises:
        ConfigError: the file cannot be executed; or lists the errors of all its comparisons.
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
    keys = configs.parameters(Comparison)
    valid = ", ".join(keys)
    if not isinstance(fields, Mapping):
        raise configs.ConfigError(f"{name} must be a dict of {valid}; got {fields!r}")
    problems = [f"missing key {key}" for key in ("base", "variants") if key not in fields]
    values: dict[str, Any] = {}
    for key, value in fields.items():
        if key in keys:
            values[key] = configs.typed(key, configs.plain(value), keys[key][0], problems)
            continue
        hint = configs.did_you_mean(key, keys)
        problems.append(f"unknown key {key}{hint} (valid: {valid})")
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
    if comparison.budget not in ("epochs", "macs"):
        found.append(f"budget must be one of epochs, macs, got {comparison.budget!r}")
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
    if not comparison.variants:
        found.append("variants is empty; give at least {'base': {}}")
    folders: dict[str, str] = {}
    for variant, changes in comparison.variants.items():
        if isinstance(changes, Mapping):
            found += _forbidden_keys(comparison, repr(variant), changes)
            both = (key for key in changes if key in comparison.grid)
            found += [f"{variant!r} sets {key}, and so does the grid" for key in both]
        else:
            found.append(f"variant {variant!r} must be a dict of overrides, got {changes!r}")
        folder = slug(variant)
        if not folder:
            found.append(f"variant {variant!r} has no letters; give it another name")
        elif folder in folders:
            found.append(
                f"variant {variant!r} would share the folder {folder!r} with {folders[folder]!r}; give it "
                "another name"
            )
        folders[folder] = variant
    return found + _forbidden_keys(comparison, "the grid", comparison.grid)


def _forbidden_keys(comparison: Comparison, where: str, changes: Mapping[str, Any]) -> list[str]:
    """Errors for keys that neither a variant nor the grid may set."""
    reasons = {
        "seed": "the comparison's seeds do",
        "epochs": f"all have the same budget of {comparison.budget}",
    }
    return [f"{where} may not set {k}: {why}" for k, why in reasons.items() if k in changes]
