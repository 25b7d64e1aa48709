"""Data sets prepared by TFDS, as TFRecord or array_record files, read without its input pipeline.

TFDS's metadata give the splits, their files and the class names. The records are indexed once and then read
in any order, which gives an exact shuffle and an exact resume.
"""

import dataclasses
import logging
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.errors import CorruptImage, DamagedRecord, DataError
from jaxcnn.data.sources.array_record_files import ARRAY_RECORD, ArrayRecordIndex
from jaxcnn.data.sources.shard_cache import ShardCache, open_shards
from jaxcnn.data.sources.shard_files import ShardFile, shard_file
from jaxcnn.data.sources.source import Opened, Recorded, Records, Source, Subset
from jaxcnn.data.sources.tfds_features import Keys, choose_features, number_classes, read_labels
from jaxcnn.data.sources.tfds_metadata import (
    METADATA_FILE,
    TFRECORD,
    find_prepared,
    read_metadata,
)
from jaxcnn.data.sources.tfrecord_index import RecordIndex, index_records
from jaxcnn.data.tensorflow import load_tensorflow
from jaxcnn.paths import Path, is_remote
from jaxcnn.printable import shell_quote

_LOGGER = logging.getLogger(__name__)
# By the name that TFDS gives a file format.
_INDEXES: Mapping[str, type[RecordIndex]] = {TFRECORD: RecordIndex, ARRAY_RECORD: ArrayRecordIndex}


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedSource(Recorded):
    """One split of a prepared data set."""

    class_names: tuple[str, ...]
    files: tuple[ShardFile, ...]
    index: RecordIndex
    image_key: str
    label_key: str

    @property
    def shards(self) -> tuple[Path, ...]:
        return tuple(file.path for file in self.files)

    @property
    def in_bucket(self) -> bool:
        return is_remote(self.files[0].path)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return self.index.name(self.files, index)

    def records(self) -> Records:
        # The labels are in the records, whose checksums cover them.
        names = np.array([os.fsencode(file.name) for file in self.files])[self.index.shard]
        unknown = np.full(len(self), -1)
        return Records(names, unknown, self.index.length, self.index.checksums)

    def read(self, index: int) -> tuple[bytes, int]:
        return self._example(index, lambda: self.index.read(self.files, index))

    def begin(self, index: int) -> Callable[[], tuple[bytes, int]]:
        wait = self.index.begin(self.files, index)
        return lambda: self._example(index, wait)

    def _example(self, index: int, read: Callable[[], bytes]) -> tuple[bytes, int]:
        file = self.files[self.index.shard.item(index)]
        try:
            try:
                data = read()
            except DataError:
                if not file.distrust():
                    raise
                data = self.index.read(self.files, index)
        except OSError as error:
            raise DataError(
                f"cannot read {file.path}: {error.strerror}; check the disk, the network file system or the "
                "bucket of the data set"
            ) from error
        tf = load_tensorflow()
        try:
            features = tf.train.Example.FromString(data).features.feature
            label = features[self.label_key].int64_list.value[0]
        except Exception as error:  # protobuf's decode error has no stable public name
            reason = f"it is not an example with the feature {self.label_key} ({error})"
            raise DamagedRecord(self.name(index), reason) from error
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"record {self.name(index)} has label {label}, expected 0 to "
                f"{len(self.class_names) - 1}; a split without labels cannot be used"
            )
        images = features[self.image_key].bytes_list.value
        if len(images) != 1:
            raise CorruptImage(f"the record holds {len(images)} images", label)
        return images[0], label


def open_prepared(
    name: str,
    data_dir: Path,
    train_split: str,
    eval_split: str,
    image_key: str = "",
    label_key: str = "",
    cache: ShardCache | None = None,
) -> Opened:
    """Opens the data set `name` under `data_dir`.

    `name` may end in a version (imagenet2012:5.1.0) and contain a configuration (imagenette/320px-v2). A
    split may be a slice or a sum, as TFDS writes them: 'train[:80%]', 'train[80%:]', 'train+test[:100]'.
    Files in a bucket are kept in `cache`, if there is one.

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
    info = read_metadata(folder)
    keys = choose_features(info, folder, image_key, label_key)
    eval_split = eval_split or ("validation" if "validation" in info.splits else "test")
    names = train_split, eval_split
    train, evaluation = (_open_split(folder, info, split, keys) for split in names)
    if keys.class_names is None:
        classes = number_classes(train.labels(keys.label), keys.label, train_split)
        train, evaluation = (part.with_classes(classes) for part in (train, evaluation))
    train, evaluation = (part.kept_in(cache) for part in (train, evaluation))
    shared = len(np.intersect1d(train.records(), evaluation.records()))
    if shared and train_split != eval_split:
        text = "%d of the %d images of data.eval_split=%s are in data.train_split=%s too"
        _LOGGER.warning(text, shared, len(evaluation.records()), eval_split, train_split)
    origin = f"tfds {info.full_name} in {data_dir}"
    return Opened(train.source(), evaluation.source(), eval_split, origin)


class _FilePart(NamedTuple):
    """`take` records of a file, after `skip` others."""

    name: str
    skip: int
    take: int


@dataclasses.dataclass(frozen=True)
class _Part:
    """The records `indices` (all, if None) of whole splits, in that order."""

    whole: PreparedSource
    splits: tuple[str, ...]
    indices: np.ndarray | None = None

    def source(self) -> Source:
        return self.whole if self.indices is None else Subset(self.whole, self.indices)

    def with_classes(self, names: tuple[str, ...]) -> "_Part":
        whole = dataclasses.replace(self.whole, class_names=names)
        return dataclasses.replace(self, whole=whole)

    def kept_in(self, cache: ShardCache | None) -> "_Part":
        whole = dataclasses.replace(self.whole, files=open_shards(self.whole.shards, cache))
        return dataclasses.replace(self, whole=whole)

    def labels(self, key: str) -> np.ndarray:
        """int64[N]: the integer labels."""
        name = "+".join(self.splits)
        return self._pick(read_labels(self.whole.files, self.whole.index, key, name))

    def records(self) -> np.ndarray:
        """Numbers of the records, which are equal in two parts of a data set for the same record."""
        index = self.whole.index
        files = np.array([zlib.crc32(os.fsencode(file.name)) for file in self.whole.files])
        return self._pick(files[index.shard] * 2**31 + index.offset)

    def _pick(self, values: np.ndarray) -> np.ndarray:
        return values if self.indices is None else values[self.indices]


def _open_split(folder: Path, info: Any, split: str, keys: Keys) -> _Part:
    """A split, or a slice or sum of splits in the order in which TFDS reads it."""
    if split in info.splits:
        return _Part(_open_whole(folder, info, (split,), keys), (split,))
    parts = _file_parts(folder, info, split)
    of_file = {
        pathlib.Path(p).name: name for name in info.splits for p in info.splits[name].filenames
    }
    splits = tuple(dict.fromkeys(of_file[part.name] for part in parts))
    whole = _open_whole(folder, info, splits, keys)
    numbers = {file.name: number for number, file in enumerate(whole.files)}
    first = np.searchsorted(whole.index.shard, np.arange(len(numbers)))
    ranges = (np.arange(part.take) + part.skip + first[numbers[part.name]] for part in parts)
    return _Part(whole, splits, np.concatenate([*ranges]))


def index_all(folder: Path) -> None:
    """Indexes the records of all splits of the prepared data set in `folder`. Raises DataError."""
    info = read_metadata(folder)
    for split in info.splits:
        _open_whole(folder, info, (split,), Keys("", "", None))


def _file_parts(folder: Path, info: Any, split: str) -> list[_FilePart]:
    """The parts of files that a slice or sum of splits consists of, as TFDS computes them."""
    try:
        found = info.splits[split].file_instructions
    except Exception as error:  # TFDS raises many types
        names = list(info.splits)
        reason = "" if re.fullmatch(r"\w+", split) else f" ({' '.join(str(error).split())[:200]})"
        slices = f"--config.data.train_split='{names[0]}[:90%]'"
        slices += f" --config.data.eval_split='{names[0]}[90%:]'"
        raise DataError(
            f"the data set in {folder} has no split {split!r}{reason}, only {', '.join(names)}; set "
            f"--config.data.train_split and --config.data.eval_split to two of these, or to slices: {slices}"
        ) from error
    if not found:
        raise DataError(
            f"{split!r} of the data set in {folder} has no records; give a larger slice"
        )
    return [_FilePart(pathlib.Path(part.filename).name, part.skip, part.take) for part in found]


def _open_whole(folder: Path, info: Any, splits: Sequence[str], keys: Keys) -> PreparedSource:
    """All records of one or more splits, one after the other."""
    kind = _INDEXES[info.file_format.value]
    files: list[ShardFile] = []
    indexes: list[RecordIndex] = []
    for split in splits:
        details = info.splits[split]
        names = [pathlib.Path(path).name for path in sorted(details.filenames)]
        shards = [shard_file(folder / name) for name in names]
        index = index_records(shards, list(details.shard_lengths), split, kind)
        indexes.append(dataclasses.replace(index, shard=index.shard + np.int32(len(files))))
        files += shards
    columns = (
        np.concatenate([getattr(index, field.name) for index in indexes])
        for field in dataclasses.fields(RecordIndex)
    )
    index = kind(*columns)
    return PreparedSource(keys.class_names or (), tuple(files), index, keys.image, keys.label)
