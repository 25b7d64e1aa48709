"""Which features of a TFDS data set are the image and the label, and the classes of integer labels.

Only what is clear is accepted: an `Image` of uint8, because TFDS stores the bits of other types in the pixels
of a PNG, and a `ClassLabel` or a single integer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.shard_files import ShardFile
from jaxcnn.data.sources.tfrecord_index import RecordIndex, cache_places, file_facts
from jaxcnn.data.tensorflow import load_tensorflow, load_tfds
from jaxcnn.data.threads import ThreadPool
from jaxcnn.files import FileError, read_arrays, write_arrays
from jaxcnn.paths import Path, is_remote

_LOGGER = logging.getLogger(__name__)
# Of a disk, and of a bucket.
_THREADS, _THREADS_REMOTE, _TASK = 16, 128, 512


class Keys(NamedTuple):
    """The keys of image and label in a record, and the class names; None for integers without names."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


def choose_features(info: Any, folder: Path, image_key: str, label_key: str) -> Keys:
    """The features that the keys name; '' takes the data set's supervised keys, else 'image' and 'label'.

    Raises:
      DataError: a key is missing, or its feature cannot be used; the message lists the types of all features.
    """
    features = dict(sorted(_flatten(info.features)))
    supervised: tuple[Any, ...] = tuple(info.supervised_keys or ())[:2]
    if len(supervised) != 2 or not all(isinstance(key, str) for key in supervised):
        supervised = ("image", "label")
    image, label = image_key or supervised[0], label_key or supervised[1]
    problem = _image_problem(features, image) or _label_problem(features, label)
    if problem:
        rows = (f"  {name}: {_text(feature)}" for name, feature in features.items())
        raise DataError(
            f"the data set in {folder} cannot be used for image classification: {problem}. Its features:\n"
            + "\n".join(rows)
        )
    names = features[label].names if _is_class_label(features[label]) else None
    return Keys(image, label, None if names is None else tuple(names))


def _flatten(features: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(key in a record, feature) of the features, those of inner dictionaries as 'outer/inner'."""
    for name, feature in features.items():
        if isinstance(feature, load_tfds().features.FeaturesDict):
            yield from _flatten(feature, f"{prefix}{name}/")
        else:
            yield prefix + name, feature


def _image_problem(features: Mapping[str, Any], key: str) -> str:
    types = load_tfds().features
    usable = [k for k, f in features.items() if type(f) is types.Image and f.np_dtype == np.uint8]
    advice = (
        f"set --config.data.image_key to {' or '.join(usable) or 'an Image of uint8: it has none'}"
    )
    if key not in features:
        return f"it has no feature {key!r} for images; {advice}"
    feature = features[key]
    if type(feature) is not types.Image:
        return f"{key} is {_text(feature)}, expected an Image; {advice}"
    if feature.np_dtype != np.uint8:
        return (
            f"the images {key} are of type {np.dtype(feature.np_dtype).name}, only uint8 (0 to 255) can "
            f"be used; prepare the data set with such images, or {advice}"
        )
    return ""


def _label_problem(features: Mapping[str, Any], key: str) -> str:
    usable = [k for k, f in features.items() if _is_class_label(f)]
    usable += [k for k, f in features.items() if _is_integer(f) and k not in usable]
    advice = f"set --config.data.label_key to {' or '.join(usable) or 'a ClassLabel: it has none'}"
    if key not in features:
        return f"it has no feature {key!r} for labels; {advice}"
    if key not in usable:
        return f"{key} is {_text(features[key])}, expected a ClassLabel or one integer; {advice}"
    return ""


def _is_class_label(feature: Any) -> bool:
    return isinstance(feature, load_tfds().features.ClassLabel) and bool(feature.num_classes)


def _is_integer(feature: Any) -> bool:
    types = load_tfds().features
    integer = isinstance(feature, types.Tensor) and np.issubdtype(feature.np_dtype, np.integer)
    return bool(integer) and tuple(feature.shape) == ()


def _text(feature: Any) -> str:
    return " ".join(repr(feature).split())


def read_labels(
    files: Sequence[ShardFile], index: RecordIndex, key: str, cache_name: str
) -> np.ndarray:
    """int64[N]: the integer labels `key` of a split's records, -1 where there is none.

    All records are read once; a cache like that of the index keeps the labels.
    """
    facts = file_facts(files)
    places = cache_places(files[0].path.parent, f"{cache_name}-{key.replace('/', '.')}")
    expect = {"names": (np.str_, "f"), "sizes": (np.integer, "f"), "labels": (np.int64, "n")}
    for place in places:
        with contextlib.suppress(FileError):
            found = read_arrays(place, expect, advice="")
            same = all(np.array_equal(found[name], value) for name, value in facts.items())
            if same and len(found["labels"]) == len(index):
                return found["labels"]
    _LOGGER.warning(
        "reading %d labels of %s once, since %s has no class names", len(index), cache_name, key
    )
    remote = is_remote(files[0].path)
    pool = ThreadPool(_THREADS_REMOTE if remote else _THREADS, "jaxcnn-labels")
    with contextlib.closing(pool):
        tasks = [
            pool.submit(_labels, files, index, key, range(start, min(start + _TASK, len(index))))
            for start in range(0, len(index), _TASK)
        ]
        labels = np.concatenate([pool.wait_for(task) for task in tasks])
    arrays: dict[str, Any] = {**facts, "labels": labels}
    for place in places:
        if is_remote(place):
            continue
        with contextlib.suppress(OSError):
            write_arrays(place, **arrays)
            break
    return labels


def _labels(files: Sequence[ShardFile], index: RecordIndex, key: str, records: range) -> np.ndarray:
    tf = load_tensorflow()
    labels = np.full(len(records), -1)
    for position, record in enumerate(records):
        data = index.read(files, record)
        values = tf.train.Example.FromString(data).features.feature[key].int64_list.value
        if len(values) == 1:
            labels[position] = values[0]
    return labels


def number_classes(labels: np.ndarray, key: str, split: str) -> tuple[str, ...]:
    """'0', '1', ...: the names of integer labels, each of which `split` must have.

    Raises:
      DataError: the labels are not the whole numbers from 0 to the number of classes minus 1.
    """
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(len(found))):
        missing = np.setdiff1d(np.arange(min(found[-1], len(labels)) + 1), found)
        first = f"; {missing[0]} is the first that is missing" if len(missing) else ""
        raise DataError(
            f"the labels {key} have no class names, and those of {split} are {len(found):,} numbers from "
            f"{found[0]:,} to {found[-1]:,}, expected all from 0 to the number of classes minus 1{first}; "
            "prepare the data set with a ClassLabel, or set --config.data.label_key to another feature"
        )
    return tuple(map(str, found.tolist()))
