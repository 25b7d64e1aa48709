"""Data sets prepared by TFDS, read without its input pipeline.

TFDS's metadata give the splits, their files and the class names. The records are indexed once and then read
in any order, which gives an exact shuffle and an exact resume.
"""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.sources.tfrecord_index import RecordIndex, index_records, read_record
from jaxcnn.data.tensorflow import load_tensorflow, load_tfds

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NAME = re.compile(r"[a-z][a-z0-9_]*(?:/[A-Za-z0-9_.+-]+)?(?::\d+\.\d+\.\d+)?")
METADATA_FILE = "dataset_info.json"


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedSource:
    """One split of a prepared data set."""

    class_names: tuple[str, ...]
    shards: tuple[Path, ...]
    index: RecordIndex
    image_key: str
    label_key: str

    @property
    def ids(self) -> np.ndarray:
        return np.arange(len(self.index))

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        shard = int(self.index.shard[index])
        first = int(np.searchsorted(self.index.shard, shard))
        return f"{self.shards[shard].name}#{index - first}"

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
        return self._parse(data, index)

    def _parse(self, data: bytes, index: int) -> tuple[bytes, int]:
        tf = load_tensorflow()
        try:
            features = tf.train.Example.FromString(data).features.feature
            label = features[self.label_key].int64_list.value[0]
        except Exception as error:  # protobuf's decode error has no stable public name
            raise DataError(
                f"record {self.name(index)} is damaged ({error}); copy or prepare the data set "
                "again"
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


def open_prepared(
    name: str, data_dir: Path, train_split: str, eval_split: str
) -> tuple[PreparedSource, PreparedSource, str, str]:
    """Returns (train, evaluation, evaluation split, description) of the data set `name` under `data_dir`.

    `name` may end in a version (imagenet2012:5.1.0) and contain a configuration (imagenette/320px-v2). The
    handwritten digits, which need no download, are prepared on first use.

    Raises:
      DataError: it is not prepared, or not in a supported form.
    """
    folder = find_prepared(name, data_dir)
    if folder is None and name == "digits":
        from jaxcnn.data.sources.digits import prepare_digits

        folder = prepare_digits(data_dir)
        print(f"prepared the handwritten digits in {folder}")
    if folder is None:
        raise DataError(
            f"the data set {name!r} is not prepared under {data_dir}: no {METADATA_FILE} in "
            f"{data_dir / name.partition(':')[0]}/VERSION/; {_how_to_prepare(name, data_dir)}, or "
            "name its folder with --config.data.data_dir=DIR"
        )
    info = _metadata(folder)
    splits = list(info.splits)
    wanted = eval_split or ("validation" if "validation" in splits else "test")
    for split in (train_split, wanted):
        if split not in splits:
            raise DataError(
                f"the data set in {folder} has no split {split!r}, only {', '.join(splits)}; set "
                "--config.data.train_split and --config.data.eval_split to two of these"
            )
    image_key, label_key = _keys(folder, info)
    class_names = tuple(info.features[label_key].names)
    train, evaluation = (
        _open_split(folder, info, split, class_names, image_key, label_key)
        for split in (train_split, wanted)
    )
    return (
        train,
        evaluation,
        wanted,
        f"tfds {info.full_name} in {data_dir}: {len(class_names)} classes, {len(train)} "
        f"{train_split}, {len(evaluation)} {wanted}",
    )


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Returns the folder of the newest prepared version of `name` (or of its version), or None."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"tfds:{name} is not a data set's name: expected NAME, NAME/CONFIGURATION or "
            "NAME:VERSION, for example tfds:imagenet2012 or tfds:imagenet2012:5.1.0"
        )
    base, _, version = name.partition(":")
    parent = data_dir / base
    if not parent.is_dir():
        return None
    versions = [entry for entry in parent.iterdir() if _VERSION.fullmatch(entry.name)]
    found = [
        entry
        for entry in sorted(versions, key=lambda entry: [int(n) for n in entry.name.split(".")])
        if (entry / METADATA_FILE).is_file() and (not version or entry.name == version)
    ]
    return found[-1] if found else None


def _how_to_prepare(name: str, data_dir: Path) -> str:
    if name.startswith("imagenet2012"):
        return f"prepare it with: jaxcnn prepare imagenet2012 --tars=DIR --data_dir={data_dir}"
    return f"prepare it with: jaxcnn prepare {name} --data_dir={data_dir}" + (
        "" if name == "digits" else " (this downloads it)"
    )


def _metadata(folder: Path) -> Any:
    tfds = load_tfds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tfds.builder_from_directory(str(folder)).info
        except Exception as error:  # TFDS raises many types on damaged metadata
            raise DataError(
                f"the metadata of the data set in {folder} cannot be read ({error}); copy or "
                "prepare it again"
            ) from error


def _keys(folder: Path, info: Any) -> tuple[str, str]:
    """Returns the names of the image feature and of the label feature."""
    tfds = load_tfds()
    features = dict(info.features.items())
    image_key, label_key = (info.supervised_keys or ("image", "label"))[:2]
    if not isinstance(features.get(image_key), tfds.features.Image) or not isinstance(
        features.get(label_key), tfds.features.ClassLabel
    ):
        raise DataError(
            f"the data set in {folder} is not for image classification: expected features "
            f"'image' (Image) and 'label' (ClassLabel), it has {', '.join(features)}"
        )
    return image_key, label_key


def _open_split(
    folder: Path,
    info: Any,
    split: str,
    class_names: tuple[str, ...],
    image_key: str,
    label_key: str,
) -> PreparedSource:
    details = info.splits[split]
    if info.file_format.value != "tfrecord":
        raise DataError(
            f"the data set in {folder} is stored as {info.file_format.value}; only tfrecord is "
            "supported; prepare it again in another --data_dir with TFDS's default file format"
        )
    shards = tuple(folder / Path(path).name for path in sorted(details.filenames))
    index = index_records(shards, list(details.shard_lengths), split)
    return PreparedSource(class_names, shards, index, image_key, label_key)
