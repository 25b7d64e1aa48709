"""What is taken for a finished run: a run of jaxcnn, a folder of imported weights, or a weights file."""

from __future__ import annotations

import abc
import contextlib
import functools
import os
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn import config as configs
from jaxcnn.data import pixel_statistics
from jaxcnn.files import FileError, exists
from jaxcnn.paths import Path, bucket_and_key, is_remote, local_path, user_path
from jaxcnn.preprocessing import Augment, make_preprocess
from jaxcnn.printable import shell_quote
from jaxcnn.training.builder import net_and_rules
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.imported_run import (
    IMPORT_AGAIN,
    imported_config,
    imported_mean,
    is_imported,
    read_imported,
    read_origin,
)
from jaxcnn.training.run_files import read_classes
from jaxcnn.training.run_statistics import STATISTICS_FILE
from jaxcnn.training.schema import SECTIONS, read_saved_config
from jaxcnn.training.train_state import TrainState, create_state
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.read import read_weights


class Stored(NamedTuple):
    """The parameters that evaluation uses, with auxiliary heads where there are some."""

    net: Any
    params: dict[str, Any]
    step: int
    averaged: bool


class StoredRun(abc.ABC):
    """Weights with what belongs to them; they are read when they are asked for.

    Attributes:
        path: the folder or file.
        config: resolved, with the number of classes.
        steps: of the complete checkpoints, ascending, at least one.
        classes: class names by label.
        mean: what is subtracted from images: float32[3], or a mean image float32[S,S,3].
        origin: where imported weights come from; None for a run.
        is_imported: whether another program trained them.
        is_file: whether the weights have no folder, so that nothing can be written.
    """

    path: Path
    config: dict[str, Any]
    steps: list[int]
    classes: Any
    mean: Any
    origin: Any
    is_imported = is_file = False

    @abc.abstractmethod
    def read(self, step: int | None = None) -> Stored:
        """The weights of a step; None takes the newest. Raises CheckpointError and FileError."""

    def check_folder(self) -> None:
        """Raises:
        FileError: it is a weights file, and results are kept in a folder.
        """
        if self.is_file:
            command = f"jaxcnn import {shell_quote(str(self.path))} --out=FOLDER"
            problem = "is a weights file, and results are kept in a folder"
            raise FileError(self.path, problem, f"import it first: {command}")

    def check_step(self, step: int | None) -> None:
        """Raises:
        CheckpointError: there is no checkpoint, or none of this step.
        """
        if not self.steps:
            raise CheckpointError(
                f"{self.path} has no checkpoint; train first: jaxcnn train "
                + shell_quote(f"--workdir={self.path}")
            )
        if step not in (None, *self.steps):
            raise CheckpointError(f"{self.path} has no checkpoint {step}; there are {self.steps}")


class TrainedRun(StoredRun):
    """The workdir of a run.

    Raises:
        FileNotFoundError: no run there. FileError: its config cannot be read.
    """

    origin = None

    def __init__(self, folder: Path) -> None:
        self.path, self.config = folder, read_run_config(folder)

    @functools.cached_property
    def steps(self) -> list[int]:
        return saved_steps(self.path)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        return read_classes(self.path, self.config["model"]["num_classes"])

    @functools.cached_property
    def mean(self) -> np.ndarray:
        augment: Augment = configs.build_section("augment", self.config["augment"], SECTIONS)
        path = self.path / STATISTICS_FILE
        statistics = pixel_statistics.load_statistics(path) if augment.needs_statistics else None
        return make_preprocess(augment, statistics).mean

    def read(self, step: int | None = None) -> Stored:
        _, net, state = read_run(self.path, step)
        return Stored(net, state.evaluated, int(state.step), averaged=bool(state.average))


class ImportedRun(StoredRun):
    """A folder of `write_imported`.

    Raises:
        FileError: its config is missing or damaged.
    """

    is_imported = True

    def __init__(self, folder: Path) -> None:
        self.path, self.steps = folder, [0]
        self.config = read_saved_config(folder / "config.json")

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        return read_classes(self.path, self.config["model"]["num_classes"], IMPORT_AGAIN)

    @functools.cached_property
    def mean(self) -> np.ndarray:
        return imported_mean(self.path, self.config)

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        return read_origin(self.path)

    def read(self, step: int | None = None) -> Stored:
        self.check_step(step)
        found = read_imported(self.path, self.config, self.mean, self.classes)
        return Stored(*found, 0, averaged=False)


class WeightsRun(StoredRun):
    """A weights file, without a folder: nothing is written for it.

    Raises:
        FileError: it cannot be read, or does not say what its net reads.
    """

    is_imported = is_file = True

    def __init__(self, path: Path, choices: Choices) -> None:
        self.path, self.steps, self._weights = path, [0], read_weights(path, choices)
        self.config = imported_config(self._weights)
        self.classes, self.mean = self._weights.classes, self._weights.mean
        self.origin = dict(self._weights.origin)

    def read(self, step: int | None = None) -> Stored:
        self.check_step(step)
        return Stored(self._weights.net, self._weights.params(), 0, averaged=False)


def find_run(path: str | os.PathLike[str], choices: Choices | None = None) -> StoredRun:
    """The run or the weights at `path`.

    Args:
        choices: what a weights file does not say itself.

    Raises:
        FileNotFoundError, FileError: as the classes of this module; `choices` for what says everything.
    """
    path, choices = user_path(path), choices or Choices()
    if is_remote(path) or path.is_dir() or not is_weights_file(path):
        if choices != Choices():
            advice = "leave --source, --net and the other choices out: they are for weights files"
            raise FileError(path, "is not a weights file", advice)
        return ImportedRun(path) if is_imported(path) else TrainedRun(path)
    return WeightsRun(path, choices)


def is_weights_file(path: Path) -> bool:
    """Whether `path` is a file, or the common part of the names of a TensorFlow checkpoint's files."""
    return path.is_file() or path.with_name(f"{path.name}.index").is_file()


def read_run(folder: Path, step: int | None = None) -> tuple[dict[str, Any], Any, TrainState]:
    """(resolved config, net, state on the first device) of the run in `folder`; raises as `load`."""
    config = read_run_config(folder)
    net, *rules = net_and_rules(config)
    shapes = jax.eval_shape(partial(create_state, net, *rules), jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    with contextlib.closing(Checkpoints(folder / "checkpoints", read_only=True)) as checkpoints:
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise CheckpointError(f"{folder} has no checkpoint {step}; there are {steps}")
        found = checkpoints.restore(like, step)
    if found is None:
        raise CheckpointError(
            f"{folder} has no checkpoint yet; train first: jaxcnn train "
            + shell_quote(f"--workdir={folder}")
        )
    return config, net, found[0]


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints of the run in `folder`, in ascending order."""
    if not (folder / "checkpoints").is_dir():
        return []
    with contextlib.closing(Checkpoints(folder / "checkpoints", read_only=True)) as checkpoints:
        return checkpoints.steps()


def read_run_config(folder: Path) -> dict[str, Any]:
    """The config of the run in `folder`.

    Raises:
        FileNotFoundError: no run there.
        FileError: the config cannot be read.
    """
    path = folder / "config.json"
    if not exists(path):
        if is_remote(folder) and bucket_and_key(folder)[1] and exists(folder):
            local_path(folder, "a weights file")
        lacks = "no config.json, or no such bucket" if is_remote(folder) else "no config.json"
        raise FileNotFoundError(
            f"{folder} holds no run ({lacks}); give the workdir of a run that has a checkpoint"
        )
    return read_saved_config(path)
