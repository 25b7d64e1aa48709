"""Folders of images as sources: train/CLASS/*.jpg and val/CLASS/*.jpg, or ImageNet's flat val/.

Classes are the sorted names of the class folders. ImageNet's validation images have no class folders; their
labels are read from Kaggle's LOC_val_solution.csv if it is there, else from the list that TFDS ships.
"""

import csv
import dataclasses
import importlib.util
import os
import re
from pathlib import Path

import numpy as np

from jaxcnn.data.errors import CorruptImage, DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_FLAT_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg)")
_LABEL_FILE = "LOC_val_solution.csv"
_LAYOUT = "expected PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files under `root`, sorted by class and name.

    `paths` (bytes, relative to `root`) and `labels` are arrays, not lists of strings: a million of them take
    about 50 MB.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: np.ndarray
    labels: np.ndarray
    ignored: int

    @property
    def ids(self) -> np.ndarray:
        return np.arange(len(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.fsdecode(self._path(index))

    def read(self, index: int) -> tuple[bytes, int]:
        label = int(self.labels[index])
        try:
            with open(self._path(index), "rb", buffering=0) as file:
                return file.read(), label
        except OSError as error:
            raise CorruptImage(f"cannot be read: {error.strerror}", label) from error

    def _path(self, index: int) -> bytes:
        return os.path.join(os.fsencode(self.root), self.paths[index])


def open_folder(
    root: Path, train_split: str, eval_split: str
) -> tuple[FolderSource, FolderSource, str, str]:
    """Returns (train, evaluation, name of the evaluation split, description) of the image folder `root`.

    Raises:
      DataError: a folder is missing or empty, or the classes of the two splits differ.
    """
    if not root.is_dir():
        raise DataError(
            f"no folder {root}; {_LAYOUT}; give the folder that holds {train_split}/ and "
            f"{eval_split}/ as --config.data.source=folder:PATH"
        )
    missing = [split for split in (train_split, eval_split) if not (root / split).is_dir()]
    if missing:
        seen = _shorten(sorted(entry.name for entry in os.scandir(root))) or "nothing"
        raise DataError(
            f"{root} has no {' and no '.join(f'{split}/' for split in missing)}; {_LAYOUT}; it "
            f"holds {seen}; make the folder, or set --config.data.train_split and "
            "--config.data.eval_split to the names of yours"
        )
    train = scan_classes(root / train_split)
    flat = _scan_flat(root / eval_split)
    evaluation = (
        scan_classes(root / eval_split)
        if flat is None
        else _label_flat(root / eval_split, flat, train.class_names)
    )
    _check_same_classes(root, train_split, train.class_names, eval_split, evaluation.class_names)
    ignored = train.ignored + evaluation.ignored
    return (
        train,
        evaluation,
        eval_split,
        f"folder {root}: {len(train.class_names)} classes, {len(train)} {train_split}, "
        f"{len(evaluation)} {eval_split}"
        + (f", {ignored} files that are not images ignored" if ignored else ""),
    )


def scan_classes(folder: Path) -> FolderSource:
    """Returns the images of a folder that contains one folder a class.

    Raises:
      DataError: no class folders, or one without images.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if _is_class_folder(entry))
    if not names:
        raise DataError(
            f"no class folders in {folder}; {_LAYOUT}; make a folder for each class in it"
        )
    paths: list[bytes] = []
    counts: list[int] = []
    empty: list[str] = []
    ignored = sum(1 for entry in os.scandir(folder) if not entry.is_dir())
    for name in names:
        files = [entry.name for entry in os.scandir(folder / name)]
        images = sorted(file for file in files if file.lower().endswith(SUFFIXES))
        ignored += len(files) - len(images)
        if not images:
            empty.append(name)
        paths += [os.fsencode(os.path.join(name, image)) for image in images]
        counts.append(len(images))
    if not paths:
        raise DataError(
            f"no images in the {len(names)} class folders of {folder}; expected files that end "
            f"in {' '.join(SUFFIXES)}; {ignored} other files were seen"
        )
    if empty:
        raise DataError(
            f"no images in the class folder{'s' if len(empty) > 1 else ''} {_shorten(empty)} of "
            f"{folder}; put images there ({' '.join(SUFFIXES)}) or remove the class from every "
            "split"
        )
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return FolderSource(folder, tuple(names), np.array(paths), labels, ignored)


def _is_class_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _scan_flat(folder: Path) -> list[str] | None:
    """Returns the sorted names of ImageNet validation files directly in `folder`, or None."""
    names = sorted(entry.name for entry in os.scandir(folder) if _FLAT_NAME.fullmatch(entry.name))
    return names or None


def _label_flat(folder: Path, names: list[str], class_names: tuple[str, ...]) -> FolderSource:
    wnid_of, origin = _flat_labels(folder)
    index = {wnid: label for label, wnid in enumerate(class_names)}
    labels = np.empty(len(names), np.int32)
    for i, name in enumerate(names):
        wnid = wnid_of.get(Path(name).stem)
        if wnid not in index:
            raise DataError(
                f"{folder / name} has class {wnid or 'unknown'} in {origin}, which is not one of the "
                f"{len(class_names)} class folders of the training split "
                f"({_shorten(list(class_names))}); a flat ImageNet val/ needs ImageNet's 1000 "
                "folders named by WNID"
            )
        labels[i] = index[wnid]
    ignored = sum(1 for _ in os.scandir(folder)) - len(names)
    return FolderSource(
        folder, class_names, np.array(list(map(os.fsencode, names))), labels, ignored
    )


def _flat_labels(folder: Path) -> tuple[dict[str, str], str]:
    """Returns ({file stem: WNID}, the list's path) for ImageNet's validation images."""
    # In Kaggle's archive the list is three folders above val/.
    for place in [folder, *folder.resolve().parents][:5]:
        path = place / _LABEL_FILE
        if path.is_file():
            with path.open(newline="") as file:
                rows = csv.DictReader(file)
                return {r["ImageId"]: r["PredictionString"].split()[0] for r in rows}, str(path)
    # find_spec does not import the package.
    spec = importlib.util.find_spec("tensorflow_datasets")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / "datasets" / "imagenet2012" / "validation_labels.txt"
        if path.is_file():
            wnids = path.read_text().split()
            return {f"ILSVRC2012_val_{i:08d}": w for i, w in enumerate(wnids, 1)}, str(path)
    raise DataError(
        f"{folder} holds ImageNet's validation images without class folders, and no list of their "
        f"labels was found; put Kaggle's {_LABEL_FILE} in that folder"
    )


def _check_same_classes(
    root: Path, first: str, first_names: tuple[str, ...], second: str, second_names: tuple[str, ...]
) -> None:
    if first_names == second_names:
        return
    only_first = sorted(set(first_names) - set(second_names))
    only_second = sorted(set(second_names) - set(first_names))
    raise DataError(
        f"the classes of {root / first} and {root / second} differ: only in {first}/: "
        f"{_shorten(only_first) or 'none'}; only in {second}/: {_shorten(only_second) or 'none'}; "
        "both need the same class folders"
    )


def _shorten(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
