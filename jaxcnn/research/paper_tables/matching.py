"""Which runs fill a row of a paper's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.evaluation import Protocol
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.tables import Contribution, TableRow

# Fields of `model` with the values that the paper's nets have; width and image size may differ.
PAPER_VALUES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "alexnet": {
        "towers": (2,),
        "ungrouped": (False,),
        "lrn": ("tower", "whole"),
        "pooling": ("overlapping",),
        "activation": ("relu",),
        "drop_layer": ("",),
        "order": ("norm_pool",),
        "widths": ("2012",),
    },
    "vgg": {},
    "googlenet": {
        "module": ("reduced",),
        "head": ("average",),
        "lrn": (True,),
        "branch5x5": (5,),
        "pool4": ("3/2",),
        "conv1_padding": ("caffe",),
    },
}
Key = tuple[str, str, tuple[int, int] | None]
# The members of an ensemble that fills a row: runs and their protocols.
EnsembleMatch = tuple[tuple[FinishedRun, Protocol], ...]


def trains_for(part: Contribution, config: Mapping[str, Any]) -> bool:
    """Whether a run of `config` trains the net of `part`, at any width and image size."""
    model, image_size = config["model"], config["model"]["image_size"]
    if model["name"] != part.net or (part.column and model.get("column") != part.column):
        return False
    values = PAPER_VALUES[part.net]
    if any(model.get(field, allowed[0]) not in allowed for field, allowed in values.items()):
        return False
    if part.scale is None:
        return True
    if config["augment"]["sampling"] not in ("random_crop", "random_crop_in_square"):
        return False  # without the paper's S, or with one that nobody knows: imported weights
    return tuple(config["augment"]["scale"]) == in_proportion(part.scale, image_size)


def in_proportion(scale: tuple[int, int], image_size: int) -> tuple[int, int]:
    """The scales S for images of 224, in proportion to `image_size`."""
    low, high = ((2 * s * image_size + 224) // (2 * 224) for s in scale)
    return low, high


def ensemble_matches(row: TableRow, runs: Sequence[FinishedRun]) -> tuple[list[EnsembleMatch], str]:
    """As many ensembles as `runs` can fill for a row, and what is missing if there are none.

    The k-th ensemble takes the k-th runs of each net, in the order given.
    """
    needed: dict[Key, int] = {}
    found: dict[Key, list[FinishedRun]] = {}
    keys = [(part.net, part.column, part.scale) for part in row.parts]
    for part, key in zip(row.parts, keys, strict=True):
        needed[key] = max(needed.get(key, 0), part.nets)
        found[key] = [run for run in runs if trains_for(part, run.trained_config)]
    missing = [
        f"{count} runs of {_net(key)} needed, {len(found[key])} given"
        if count > 1
        else f"no run of {_net(key)}"
        for key, count in needed.items()
        if len(found[key]) < count
    ]
    if missing or not needed:
        return [], "; ".join(missing) or row.note
    times = min(len(found[key]) // count for key, count in needed.items())
    return [
        tuple(
            (run, part.protocol.for_images_of(run.image_size))
            for part, key in zip(row.parts, keys, strict=True)
            for run in found[key][k * needed[key] : k * needed[key] + part.nets]
        )
        for k in range(times)
    ], ""


def _net(key: Key) -> str:
    """`vgg D, S [256;512]`."""
    name, column, scale = key
    low, high = scale or (0, 0)
    s = f"S {low}" if low == high else f"S [{low};{high}]"
    return f"{name} {column}".strip() + (f", {s}" if scale else "")
