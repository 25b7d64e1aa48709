"""Migration of configs that earlier versions saved: renamed and removed keys and values.

`migrate` is applied to every config.json that is read, so that old runs can be resumed, loaded and compared.
An old name in a config file or on the command line is an error that gives the new name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxcnn.config.values import flatten

# Old key -> new key.
RENAMED_KEYS: dict[str, str] = {
    "loss.accumulate": "grad_accum_steps",
    "augment.distort": "augment.color_jitter",
}

# Current key -> (old value, new value) pairs.
RENAMED_VALUES: dict[str, tuple[tuple[Any, Any], ...]] = {
    "augment.flip": ((True, 0.5), (False, 0.0)),
    "augment.sampling": (
        ("scale", "random_crop"),
        ("square", "random_crop_in_square"),
        ("centre", "center_crop"),
        ("area", "random_resized_crop"),
    ),
}

# The version of the format of config.json, which `save_config` writes into it; files without one are of 1.
# 2: `model.ungrouped` of AlexNet leaves LRN inside its towers. Before, it meant LRN across all maps as well.
VERSION = 2

ANY = object()
# Removed key -> the one value that has no effect, or ANY if the value does not affect results. A key
# with another value stays, and is reported as unknown.
REMOVED_KEYS: dict[str, Any] = {}


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config (nested dicts of plain values) with current keys and values, without its version."""
    migrated: dict[str, Any] = {}
    flat = flatten(config)
    old_format, lrn = flat.pop("version", 1) < 2, flat.get("model.lrn", "tower")
    if old_format and flat.get("model.ungrouped") and lrn == "tower":
        flat["model.lrn"] = "whole"
    for old, value in flat.items():
        if old in REMOVED_KEYS and REMOVED_KEYS[old] in (ANY, value):
            continue
        key = RENAMED_KEYS.get(old, old)
        section, _, name = key.rpartition(".")
        target = migrated.setdefault(section, {}) if section else migrated
        target[name] = new_value(key, value)
    return migrated


def new_value(key: str, value: Any) -> Any:
    """The current name of `value` of `key`; `value` itself if it was not renamed."""
    for old, new in RENAMED_VALUES.get(key, ()):
        if type(value) is type(old) and value == old:  # True == 1.0 must not match
            return new
    return value
