"""Sources: indexable tables of encoded images, opened by name."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxcnn.data.errors import DataError
from jaxcnn.data.sampler import RandomStream, permutation


@runtime_checkable
class Source(Protocol):
    """An indexable table of encoded images.

    `ids` is int64[len]: each example's position in its split, which does not change when a slice is held
    out; it is computed at each access. `class_names[label]` names a label.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def ids(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes | memoryview, int]:
        """Returns the encoded bytes and the label of example `index`. Thread-safe.

        A packed image's bytes are a memoryview of the file, not a copy.

        Raises:
          CorruptImage: the bytes of this example cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """Returns where example `index` comes from, for messages: a path, or shard#record."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """The examples `indices` (int64[n]) of another source, in that order."""

    base: Source
    indices: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.base.class_names

    @property
    def ids(self) -> np.ndarray:
        return self.base.ids[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[bytes | memoryview, int]:
        return self.base.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.base.name(int(self.indices[index]))


@dataclasses.dataclass(frozen=True, eq=False)
class DataSplits:
    """The splits of a data set: training images without the held-out slice, that slice, and evaluation.

    `held_out` drives the plateau rule and selects the best checkpoint; `evaluation` is the reported split
    and selects nothing; `eval_split` is its name. `description` is one line for the log.
    """

    train: Source
    held_out: Source | None
    evaluation: Source
    eval_split: str
    class_names: tuple[str, ...]
    description: str

    def fingerprint(self) -> dict[str, Any]:
        """Returns what must be equal on all processes of a run, as JSON values."""
        held_out = 0 if self.held_out is None else len(self.held_out)
        first = [self.train.name(i) for i in (0, len(self.train) // 2)] if len(self.train) else []
        return {
            "training images": len(self.train),
            "held-out images": held_out,
            "evaluation images": len(self.evaluation),
            "classes": list(self.class_names),
            "names": first,
        }


def default_data_dir() -> Path:
    """Returns $TFDS_DATA_DIR, or ~/tensorflow_datasets: TFDS's own default."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def open_data(
    source: str,
    data_dir: str = "",
    held_out: int = 0,
    train_split: str = "train",
    eval_split: str = "",
) -> DataSplits:
    """Opens a data set by name; never downloads.

    Args:
      source: 'tfds:NAME' (a TFDS data set prepared under `data_dir`), 'folder:PATH' (train/ and
        val/ with a folder a class, or ImageNet's flat val/), 'packed:DIR' (made by jaxcnn prepare
        --pack), 'synthetic' (1000 classes) or 'synthetic:K' (K classes that a small net learns
        in seconds).
      data_dir: the folder of prepared data sets; '' for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      held_out: number of training examples to remove from `train`, selected by a fixed permutation
        that is the same for every seed.
      train_split: split (TFDS) or folder to train on.
      eval_split: split or folder to report on; '' for 'validation', else 'test' (TFDS), 'val'
        (folder), or the one that was packed.

    Raises:
      DataError: the data are missing or cannot be used; the message says what to do.
    """
    # Each kind is imported on demand, so that none imports another's libraries.
    kind, _, argument = source.partition(":")
    if kind == "tfds" and argument:
        from jaxcnn.data.sources.tfds import open_prepared

        root = Path(data_dir).expanduser() if data_dir else default_data_dir()
        opened = open_prepared(argument, root, train_split, eval_split)
    elif kind == "folder" and argument:
        from jaxcnn.data.sources.folder import open_folder

        root = Path(argument).expanduser()
        opened = open_folder(root, train_split, eval_split or "val")
    elif kind == "packed" and argument:
        from jaxcnn.data.sources.packed import open_packed

        opened = open_packed(Path(argument).expanduser(), train_split, eval_split)
    elif kind == "synthetic":
        from jaxcnn.data.sources.synthetic import open_synthetic

        opened = open_synthetic(argument)
    else:
        raise DataError(
            f"unknown data source {source!r}: expected 'tfds:NAME' (for example 'tfds:imagenet2012'"
            " or 'tfds:digits'), 'folder:PATH', 'packed:DIR', 'synthetic' or 'synthetic:K'"
        )
    train, evaluation, eval_split, description = opened
    kept, held = split_held_out(train, held_out)
    if held is not None:
        description += f", {len(held)} of train held out"
    return DataSplits(kept, held, evaluation, eval_split, train.class_names, description)


def split_held_out(train: Source, count: int) -> tuple[Source, Source | None]:
    """Returns (train without `count` examples, those examples or None), by a fixed permutation."""
    if count == 0:
        return train, None
    if not 0 < count < len(train):
        raise DataError(
            f"data.held_out={count} but the training split has {len(train)} examples: give a "
            f"number from 0 to {len(train) - 1}"
        )
    order = permutation(RandomStream.HELD_OUT, 0, 0, len(train))
    return Subset(train, np.sort(order[count:])), Subset(train, np.sort(order[:count]))
