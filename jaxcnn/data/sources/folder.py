"""Image files as sources: train/CLASS/*.jpg and val/CLASS/*.jpg, ImageNet's flat val/, or a list of files.

Classes are the sorted names of the class folders. ImageNet's validation images have no class folders; their
labels are read from Kaggle's LOC_val_solution.csv if it is there, else from the list that TFDS ships.
image_files.py says which files count; those in folders inside a class folder do, as in torchvision.
"""

import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from jaxcnn.data.classes import shorten
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.regular_file import read_regular_file
from jaxcnn.data.sources.image_files import (
    FORMATS,
    LeftOut,
    describe,
    find_images,
    is_folder,
    is_hidden,
)
from jaxcnn.data.sources.imagenet_labels import LABEL_FILE, flat_labels
from jaxcnn.data.sources.retries import retry
from jaxcnn.data.sources.source import Opened, Recorded, Records, Source
from jaxcnn.paths import Path, local_path

_LOGGER = logging.getLogger(__name__)
_FLAT_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg)")
_LAYOUT = "expected PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource(Recorded):
    """Image files under `root`, sorted by class and name.

    `paths` (bytes, relative to `root`) and `labels` are arrays, not lists of strings: a million of them take
    about 50 MB. `left_out` counts what is not an image, by kind.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: np.ndarray
    labels: np.ndarray
    left_out: LeftOut

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))

    def read(self, index: int) -> tuple[bytes, int]:
        return _read(self.name(index), int(self.labels[index]))

    def records(self) -> Records:
        return Records(self.paths, self.labels)

    def file_sizes(self, start: int, stop: int) -> np.ndarray:
        folder = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            paths = self.paths[start:stop].tolist()
            return np.array([_size(path, folder) for path in paths], np.int64)
        finally:
            os.close(folder)


class ImageFiles(Source):
    """Image files as a source without labels. A missing file counts as a corrupt image."""

    class_names = ()

    def __init__(self, paths: Sequence[str | Path]):
        self._paths = [local_path(path, "an image file") for path in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return str(self._paths[index])

    def read(self, index: int) -> tuple[bytes, int]:
        return _read(self._paths[index], -1)


def _size(path: bytes, folder: int) -> int:
    try:
        return retry(lambda: os.stat(path, dir_fd=folder).st_size, os.fsdecode(path))
    except OSError:
        return -1  # such as a link that leads nowhere, which counts as a corrupt image


def _read(path: str | Path, label: int) -> tuple[bytes, int]:
    try:
        return retry(lambda: read_regular_file(path), path), label
    except CorruptImage as error:
        raise CorruptImage(str(error), label) from error
    except OSError as error:
        raise CorruptImage(error.strerror or str(error), label) from error


def open_folder(
    root: Path, train_split: str, eval_split: str, classes: tuple[str, ...] = ()
) -> Opened:
    """Opens the image folder `root`, which is on a disk.

    Args:
      classes: of a trained net that is evaluated, which needs no images to train on; see `open_data`.

    Raises:
      DataError: a folder is missing or empty.
    """
    if not root.is_dir():
        raise DataError(
            f"no folder {root}; {_LAYOUT}; give the folder that holds {train_split}/ and "
            f"{eval_split}/ as --config.data.source=folder:PATH"
        )
    missing = [split for split in (train_split, eval_split) if not (root / split).is_dir()]
    if classes and missing:
        alone = _open_alone(root, train_split, eval_split, classes)
        if alone is not None:
            return alone
    if missing:
        seen = shorten(sorted(entry.name for entry in os.scandir(root))) or "nothing"
        raise DataError(
            f"{root} has no {' and no '.join(f'{split}/' for split in missing)}; {_LAYOUT}; it "
            f"holds {seen}; make the folder, or set --config.data.train_split and "
            "--config.data.eval_split to the names of yours"
        )
    train = _scan_classes(root / train_split)
    evaluation = _scan_flat(root / eval_split, train.class_names)
    if evaluation is None:
        evaluation = _scan_classes(root / eval_split)
    for source in (train, evaluation):
        _warn_left_out(source)
    ignored = (train.left_out + evaluation.left_out).total()
    note = f", {ignored} files that are not images ignored" if ignored else ""
    return Opened(train, evaluation, eval_split, f"folder {root}", note)


def _warn_left_out(source: FolderSource) -> None:
    if source.left_out:
        text = "left out of %s: %s (%s files in class folders count)"
        _LOGGER.warning(text, source.root, describe(source.left_out), FORMATS)


def _open_alone(
    root: Path, train_split: str, eval_split: str, classes: tuple[str, ...]
) -> Opened | None:
    """The images to evaluate a net of `classes` on, beside an empty training split: those of the folder
    `eval_split`, or those in `root` if it is such a folder itself. None if there are none."""
    place = root / eval_split
    if not place.is_dir():
        entries = os.listdir(root)
        if not ({*classes} & {*entries} or any(map(_FLAT_NAME.fullmatch, entries))):
            return None
        place = root
    evaluation = _scan_flat(place, classes)
    if evaluation is None:
        evaluation = _scan_classes(place)
    _warn_left_out(evaluation)
    none = np.array([], np.int32)
    train = FolderSource(
        root / train_split, evaluation.class_names, np.array([], np.bytes_), none, LeftOut()
    )
    return Opened(train, evaluation, eval_split, f"folder {place}")


def _scan_classes(folder: Path) -> FolderSource:
    """Returns the images of a folder that contains one folder per class."""
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    names = sorted(entry.name for entry in entries if is_folder(entry))
    if not names:
        raise DataError(
            f"no class folders in {folder}; {_LAYOUT}; make a folder for each class in it"
        )
    left_out = LeftOut({"not in a class folder": len(entries) - len(names)})
    paths: list[bytes] = []
    counts: list[int] = []
    deeper = 0
    for name in names:
        images = find_images(folder / name, left_out)
        deeper += sum("/" in image for image in images)
        paths += [os.fsencode(os.path.join(name, image)) for image in images]
        counts.append(len(images))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        seen = f": {describe(left_out)}" if left_out.total() else ""
        raise DataError(
            f"no images in {len(empty)} of the {len(names)} class folders of {folder}: "
            f"{shorten(empty)} ({left_out.total()} files that are not images were seen{seen}); put "
            f"{FORMATS} images there, or remove the class from every split"
        )
    if deeper:
        _LOGGER.warning(
            "%d of the images in %s lie in folders inside class folders; they count as images of the class",
            deeper,
            folder,
        )
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    # Whatever the locale decodes them with.
    class_names = tuple(os.fsencode(name).decode(errors="surrogateescape") for name in names)
    return FolderSource(folder, class_names, np.array(paths), labels, +left_out)


def _scan_flat(folder: Path, class_names: tuple[str, ...]) -> FolderSource | None:
    """Returns ImageNet's validation images directly in `folder`, or None if there are none."""
    files = os.listdir(folder)
    images = sorted(filter(_FLAT_NAME.fullmatch, files))
    if not images:
        return None
    wnid_of, origin = flat_labels(folder)
    index = {wnid: label for label, wnid in enumerate(class_names)}
    labels = np.empty(len(images), np.int32)
    for i, name in enumerate(images):
        wnid = wnid_of.get(pathlib.Path(name).stem)
        if wnid not in index:
            raise DataError(
                f"{folder / name} has class {wnid or 'unknown'} in {origin}, which is not one of the "
                f"{len(class_names)} class folders of the training split "
                f"({shorten(class_names)}); a flat ImageNet val/ needs ImageNet's 1000 "
                "folders named by WNID"
            )
        labels[i] = index[wnid]
    paths = np.array([os.fsencode(name) for name in images])
    others = LeftOut(
        pathlib.Path(name).suffix or "without suffix"
        for name in files
        if not (is_hidden(name) or name == LABEL_FILE or _FLAT_NAME.fullmatch(name))
    )
    return FolderSource(folder, class_names, paths, labels, others)
