"""Data sets prepared by TFDS, read without its input pipeline.

TFDS's metadata give the splits, their files and the class names. The records are indexed once and then read
in any order, which gives an exact shuffle and an exact resume.
"""

import dataclasses
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.sources.source import Opened, Records, Source
from jaxcnn.data.sources.tfrecord_index import RecordIndex, index_records, read_record
from jaxcnn.data.tensorflow import load_tensorflow, load_tfds
from jaxcnn.printable import shell_quote

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NAME = re.compile(r"[a-z][a-z0-9_]*(?:/[A-Za-z0-9_.+-]+)?(?::\d+\.\d+\.\d+)?")
METADATA_FILE = "dataset_info.json"


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedSource(Source):
    """One split of a prepared data set."""

    class_names: tuple[str, ...]
    shards: tuple[Path, ...]
    index: RecordIndex
    image_key: str
    label_key: str

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        shard = int(self.index.shard[index])
        first = int(np.searchsorted(self.index.shard, shard))
        return f"{self.shards[shard].name}#{index - first}"

    def records(self) -> Records:
        # The labels are in the records, whose checksums cover them.
        names = np.array([os.fsencode(shard.name) for shard in self.shards])[self.index.shard]
        unknown = np.full(len(self), -1)
        return Records(names, unknown, self.index.length, self.index.checksum)

    def read(self, index: int) -> tuple[bytes, int]:
        index = int(index)
        shard = self.shards[self.index.shard[index]]
        offset, length = int(self.index.offset[index]), int(self.index.length[index])
        try:
            data = read_record(shard, offset, length, self.name(index))
        except OSError as error:
            raise DataError(
                f"cannot read {shard}: {error.strerror}; check the disk or the network file system of the "
                "data set"
            ) from error
        tf = load_tensorflow()
        try:
            features = tf.train.Example.FromString(data).features.feature
            label = features[self.label_key].int64_list.value[0]
        except Exception as error:  # protobuf's decode error has no stable public name
            raise DataError(
                f"record {self.name(index)} is damaged ({error}); copy or prepare the data set again"
            ) from error
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"record {self.name(index)} has label {label}, expected 0 to "
                f"{len(self.class_names) - 1}; a split without labels cannot be used"
            )
        images = features[self.image_key].bytes_list.value
        if len(images) != 1:
            raise CorruptImage(f"the record holds {len(images)} images", label)
        return images[0], label


def open_prepared(name: str, data_dir: Path, train_split: str, eval_split: str) -> Opened:
    """Opens the data set `name` under `data_dir`.

    `name` may end in a version (imagenet2012:5.1.0) and contain a configuration (imagenette/320px-v2).

    Raises:
      DataError: it is not prepared, or not in a supported form.
    """
    folder = find_prepared(name, data_dir)
    if folder is None:
        imagenet = name.startswith("imagenet2012")
        arguments = "imagenet2012 --tars=DIR " if imagenet else f"{name} "
        arguments += shell_quote(f"--data_dir={data_dir}")
        raise DataError(
            f"the data set {name!r} is not prepared under {data_dir}: no {METADATA_FILE} in "
            f"{data_dir / name.partition(':')[0]}/VERSION/; prepare it with: jaxcnn prepare "
            f"{arguments}{'' if imagenet else ' (this downloads it)'}, or name its folder with "
            "--config.data.data_dir=DIR"
        )
    info = _metadata(folder)
    splits = list(info.splits)
    eval_split = eval_split or ("validation" if "validation" in splits else "test")
    for split in (train_split, eval_split):
        if split not in splits:
            raise DataError(
                f"the data set in {folder} has no split {split!r}, only {', '.join(splits)}; set "
                "--config.data.train_split and --config.data.eval_split to two of these"
            )
    train, evaluation = (_open_split(folder, info, split) for split in (train_split, eval_split))
    return Opened(train, evaluation, eval_split, f"tfds {info.full_name} in {data_dir}")


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Returns the folder of the newest prepared version of `name` (or of its version), or None."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"tfds:{name} is not a data set's name: expected NAME, NAME/CONFIGURATION or "
            "NAME:VERSION, for example tfds:imagenet2012 or tfds:imagenet2012:5.1.0"
        )
    base, _, version = name.partition(":")
    if not (data_dir / base).is_dir():
        return None
    # Not a glob, which takes a folder that may not be read for an empty one.
    found = [
        entry
        for entry in (data_dir / base).iterdir()
        if _VERSION.fullmatch(entry.name)
        and entry.name == (version or entry.name)
        and (entry / METADATA_FILE).is_file()
    ]
    newest_last = sorted(found, key=lambda entry: [int(n) for n in entry.name.split(".")])
    return newest_last[-1] if newest_last else None


def _metadata(folder: Path) -> Any:
    """Returns TFDS's description of a prepared data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            info = load_tfds().builder_from_directory(str(folder)).info
        except Exception as error:  # TFDS raises many types on damaged metadata
            raise DataError(
                f"the metadata of the data set in {folder} cannot be read ({error}); copy or "
                "prepare it again"
            ) from error
    if info.file_format.value != "tfrecord":
        raise DataError(
            f"the data set in {folder} is stored as {info.file_format.value}; only tfrecord is "
            "supported; prepare it again in another --data_dir with TFDS's default file format"
        )
    return info


def _open_split(folder: Path, info: Any, split: str) -> PreparedSource:
    types: Any = load_tfds().features
    features: dict[str, Any] = dict(info.features.items())
    image_key, label_key = (info.supervised_keys or ("image", "label"))[:2]
    image, label = features.get(image_key), features.get(label_key)
    if not isinstance(image, types.Image) or not isinstance(label, types.ClassLabel):
        raise DataError(
            f"the data set in {folder} is not for image classification: expected features "
            f"'image' (Image) and 'label' (ClassLabel), it has {', '.join(features)}"
        )
    details = info.splits[split]
    shards = tuple(folder / Path(path).name for path in sorted(details.filenames))
    index = index_records(shards, list(details.shard_lengths), split)
    class_names = tuple(features[label_key].names)
    return PreparedSource(class_names, shards, index, image_key, label_key)
