"""Opens a data set by name as its splits: training, held out, evaluation."""

import dataclasses
import logging
import os
from typing import Any

import numpy as np

from jaxcnn.caches import temporary_folder
from jaxcnn.data.classes import check_class_names, check_same_classes, difference
from jaxcnn.data.errors import DataError
from jaxcnn.data.fingerprint import digest_of, records_of, whole
from jaxcnn.data.sampler import RandomStream, permutation
from jaxcnn.data.sources.digits import prepare_digits
from jaxcnn.data.sources.folder import open_folder
from jaxcnn.data.sources.packed import open_packed
from jaxcnn.data.sources.shard_cache import open_cache
from jaxcnn.data.sources.source import Opened, Recorded, Renumbered, Source, Subset
from jaxcnn.data.sources.synthetic import open_synthetic
from jaxcnn.data.sources.tfds import open_prepared
from jaxcnn.paths import Path, is_remote, user_path

_LOGGER = logging.getLogger(__name__)


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
        """Returns what must be equal on all processes of a run, as JSON values. Reads no file."""
        splits = {"training": whole(self.train), "evaluation": self.evaluation}
        return {
            "training images": len(self.train),
            "held-out images": 0 if self.held_out is None else len(self.held_out),
            "evaluation images": len(self.evaluation),
            "classes": list(self.class_names),
            **{f"{k} names and labels": digest_of(*records_of(s)) for k, s in splits.items()},
        }


def default_data_dir() -> Path:
    """Returns $TFDS_DATA_DIR, or ~/tensorflow_datasets: TFDS's own default."""
    return user_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def open_data(
    source: str,
    data_dir: str = "",
    held_out: int = 0,
    train_split: str = "train",
    eval_split: str = "",
    image_key: str = "",
    label_key: str = "",
    classes: tuple[str, ...] = (),
    cache_dir: str = "",
    cache_gb: float = 0.0,
) -> DataSplits:
    """Opens a data set by name; never downloads.

    Args:
      source: 'tfds:NAME' (a TFDS data set prepared under `data_dir`), 'folder:PATH' (train/ and
        val/ with a folder per class, or ImageNet's flat val/), 'packed:DIR' (made by jaxcnn prepare
        --pack), 'synthetic' (1000 classes) or 'synthetic:K' (K classes that a small net learns
        in seconds).
      data_dir: the folder of prepared data sets; '' for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      held_out: number of training examples to remove from `train`, selected by a fixed permutation
        that is the same for every seed.
      train_split: split (TFDS) or folder to train on.
      eval_split: split or folder to report on; '' for 'validation', else 'test' (TFDS), 'val'
        (folder), or the one that was packed. Splits of TFDS may be slices: 'train[:80%]'.
      image_key: the feature that holds the images (TFDS); '' for the supervised keys, else 'image'.
      label_key: the feature that holds the labels (TFDS); '' for the supervised keys, else 'label'.
      classes: names by label of a trained net that is evaluated. Labels are numbered by them, also where
        the data have only some of the classes; and a folder may lack the training split, or consist of
        class folders, or of ImageNet's validation images, without folders of splits.
      cache_dir: local folder in which shards of data sets in buckets are kept; '' keeps none.
      cache_gb: what it may hold, in 10^9 bytes; 0: nine tenths of what is free.

    Raises:
      DataError: the data are missing or cannot be used; the message says what to do.
    """
    splits, keys, kept = (train_split, eval_split), (image_key, label_key), (cache_dir, cache_gb)
    opened = _open(source, data_dir, splits, keys, classes, kept)
    train, evaluation, eval_split, origin, note = opened
    if eval_split == train_split:
        text = "data.eval_split and data.train_split are both %s: what is evaluated was trained on"
        _LOGGER.warning(text, train_split)
    names = train.class_names
    check_class_names(names, origin)
    if not classes:
        check_same_classes(
            (train_split, eval_split),
            (names, evaluation.class_names),
            origin,
            "both splits need the same classes (in a folder, the same class folders)",
        )
    description = (
        f"{origin}: {len(names)} classes, {len(train)} {train_split}, "
        f"{len(evaluation)} {eval_split}{note}"
    )
    if classes:
        train, evaluation = (numbered_as(part, classes, source) for part in (train, evaluation))
        if names != classes:
            description += f", numbered as the {len(classes)} classes of the net"
            names = classes
    kept, held = split_held_out(train, held_out if len(train) else 0)
    if held is not None:
        description += f", {len(held)} of train held out"
    return DataSplits(kept, held, evaluation, eval_split, names, description)


def numbered_as(source: Source, classes: tuple[str, ...], name: str) -> Source:
    """Returns `source` with the labels of a net's `classes`, found by name.

    Raises:
      DataError: it has other classes.
    """
    if source.class_names == classes:
        return source
    label_of = {one: label for label, one in enumerate(classes)}
    if not label_of.keys() >= {*source.class_names}:
        differ = difference(classes, source.class_names, ("classes.txt", "the data"))
        raise DataError(
            f"the net was trained on {len(classes)} classes (classes.txt), {name} has "
            f"{len(source.class_names)} ({differ}): give data whose classes are some of the net's: --data=..."
        )
    assert isinstance(source, Recorded)  # as all sources of `_open`
    labels = np.array([label_of[one] for one in source.class_names], np.int32)
    return Renumbered(source, classes, labels)


def _open(
    source: str,
    data_dir: str,
    splits: tuple[str, str],
    keys: tuple[str, str],
    classes: tuple[str, ...],
    kept: tuple[str, float],
) -> Opened:
    kind, _, argument = source.partition(":")
    place, (train_split, eval_split) = source_path(source), splits
    if any(keys) and kind != "tfds":
        raise DataError(f"data.image_key and data.label_key are for tfds:NAME, not for {source}")
    if kind == "tfds" and argument:
        if argument == "digits":  # needs no download
            root = _prepare_digits(data_dir)
        else:
            root = user_path(data_dir) if data_dir else default_data_dir()
        return open_prepared(argument, root, *splits, *keys, open_cache(root, *kept))
    if kind == "folder" and place:
        return open_folder(place, train_split, eval_split or "val", classes)
    if kind == "packed" and place:
        return open_packed(place, train_split, eval_split, open_cache(place, *kept))
    if kind == "synthetic":
        return open_synthetic(argument)
    if source == NO_DATA and classes:
        raise DataError(
            "imported weights name no data: give some whose classes are outputs of the net, "
            "--data=folder:PATH"
        )
    raise DataError(
        f"unknown data source {source!r}: expected 'tfds:NAME' (for example 'tfds:imagenet2012'"
        " or 'tfds:digits'), 'folder:PATH', 'packed:DIR', 'synthetic' or 'synthetic:K'"
    )


def source_path(source: str) -> Path | None:
    """The place that a source names; None for those that name none.

    Raises:
        ValueError: it is no path that is served. DataError: it is a folder of images in a bucket.
    """
    kind, _, text = source.partition(":")
    if kind not in ("folder", "packed") or not text:
        return None
    path = user_path(text)
    if kind == "folder" and is_remote(path):
        raise DataError(
            f"a folder of images is read from a disk, not from a bucket: {path}. Copy it to a disk, or pack "
            "it into few large files, which are read from a bucket too: jaxcnn prepare folder:PATH --pack "
            "--out=DIR"
        )
    return path


def _prepare_digits(data_dir: str) -> Path:
    """Prepares the digits; returns the folder of prepared data sets. If none was named and the default one
    cannot be written, that is a temporary one."""
    if data_dir:
        return prepare_digits(user_path(data_dir))
    try:
        return prepare_digits(default_data_dir())
    except (ValueError, OSError, DataError):
        temporary = temporary_folder()
        if temporary is None or os.environ.get("TFDS_DATA_DIR"):
            raise
        return prepare_digits(temporary / "tensorflow_datasets")


# The `data.source` of imported weights whose data jaxcnn does not know.
NO_DATA = "folder:"
# What `data.source` begins with.
SOURCE_KINDS = ("tfds", "folder", "packed", "synthetic")


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
