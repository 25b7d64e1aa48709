"""What a run feeds its net and computes otherwise than the weights that it starts from expect.

The mean travels with the weights: a layer that was trained on images minus another mean computes something
else. So does a layer of the same shape in another net, such as one whose pooling precedes its normalization.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.training.run_statistics import STATISTICS_FILE
from jaxcnn.training.stored_run import StoredRun
from jaxcnn.weights.folding import LARGEST_SHIFT

# Fields of a net that do not change what a copied layer gets or computes.
_FREE = ("name", "column", "num_classes", "width", "dtype", "remat")
_NOT_THE_NET = (
    "name",
    "num_classes",
    "dtype",
    "remat",
    "dropout",
    "kernel_init",
    "init_bias",
    "init_std",
)
_FIRST = ("conv1", "conv1_1")


class OtherMeanError(ValueError):
    """Imported weights would get images minus another mean; the message names the key to set."""


def differences(
    config: Mapping[str, Any], run: StoredRun, kept: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """(name, text) rows for the console.

    Args:
        config: of the fresh run.
        run: whose layers `kept` it copies.

    Raises:
        OtherMeanError: the config gives a mean that differs by more than a grey level from that of imported
            weights, whose first layer is copied.
    """
    rows = []
    if any(layer in kept for layer in _FIRST):
        rows += [("mean", text) for text in _mean(config["augment"], run)]
    if run.is_imported:
        rows += [("net", text) for text in _fields(config["model"], run.config["model"])]
    return tuple(rows)


def _mean(augment: Mapping[str, Any], run: StoredRun) -> Iterator[str]:
    given = augment["mean"]
    if not run.is_imported and given == run.config["augment"]["mean"]:
        return
    try:
        mean = np.asarray(run.mean, np.float32)
    except FileError:  # a run of an earlier version, without its statistics
        return
    channels = mean if mean.ndim == 1 else mean.mean((0, 1))
    key = f'--config.augment.mean="({", ".join(f"{value:.7g}" for value in channels)})"'
    if mean.ndim == 3 and run.path.is_dir():
        key = (
            f"--config.augment.mean=per_pixel --config.augment.statistics={run.path / STATISTICS_FILE}, or "
            f"its channels, {key}"
        )
    expect = f"the weights were trained on images minus {_text(channels)}"
    if isinstance(given, str):
        own = augment["statistics"] != str(run.path / STATISTICS_FILE)
        if own:
            yield f"{expect}, this run subtracts the mean of its own images; to keep theirs: {key}"
        return
    shift = float(np.abs(np.asarray(given) - channels).max())
    if shift > LARGEST_SHIFT and run.is_imported:
        raise OtherMeanError(f"{expect}, and augment.mean is {_text(given)}: set {key}")
    if not np.array_equal(np.asarray(given, np.float32), mean):
        yield f"{expect}, this run subtracts {_text(given)}; to keep theirs: {key}"


def _fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    differ = [
        f"{key}={theirs[key]} there, {ours[key]} here"
        for key in ours
        if key not in _FREE and key in theirs and theirs[key] != ours[key]
    ]
    if differ:
        yield f"not the same as that of the weights: {'; '.join(differ)}"


def net_options(config: Mapping[str, Any], run: StoredRun) -> list[str]:
    """A line with the options of the net that would make it the net of the weights, if it can be that."""
    ours, theirs = config["model"], run.config["model"]
    if ours["name"] != theirs["name"]:
        return []
    differ = [key for key in ours if key not in _NOT_THE_NET and theirs.get(key) != ours[key]]
    options = " ".join(f"--config.model.{key}={theirs[key]}" for key in differ if key in theirs)
    return [f"the net of the weights has {options}"] if options else []


def _text(mean: Sequence[float] | np.ndarray) -> str:
    return f"({', '.join(f'{value:.6g}' for value in mean)})"
