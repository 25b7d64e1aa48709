"""ImageNet's 1000 classes: index, WNID, name, in the order of the sorted WNIDs.

That order is TFDS's and torchvision's; the ILSVRC development kit's own numbers differ from it.
"""

import functools
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import NamedTuple

from jaxcnn.data.errors import DataError


class ImageNetClass(NamedTuple):
    index: int
    wnid: str
    name: str


@functools.cache
def class_table() -> tuple[ImageNetClass, ...]:
    """Returns the 1000 classes; row i has index i. Names are unique: "crane (bird)", "crane (machine)"."""
    text = (importlib.resources.files("jaxcnn.data") / "imagenet_classes.tsv").read_text("utf-8")
    rows = (line.split("\t") for line in text.splitlines()[1:])
    return tuple(ImageNetClass(int(index), wnid, name) for index, wnid, name in rows)


def classes_digest(class_names: Sequence[str]) -> str:
    """Returns the SHA-256 of class names in the order of their labels."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()


def display_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns names to display: the table's name for a WNID, any other name unchanged."""
    names = {row.wnid: row.name for row in class_table()}
    return tuple(names.get(name, name) for name in class_names)


def shorten(names: Sequence[str], most: int = 8) -> str:
    """Returns `names` as a text for messages, the first `most` of them."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def check_same_classes(
    splits: tuple[str, str], names: Sequence[tuple[str, ...]], origin: str, advice: str
) -> None:
    """Raises a DataError if the class names of the two splits of `origin` differ."""
    (train, other), (mine, others) = splits, names
    if mine == others:
        return
    only = {train: sorted({*mine} - {*others}), other: sorted({*others} - {*mine})}
    how = "; ".join(f"only in {split}: {shorten(found) or 'none'}" for split, found in only.items())
    how = how if any(only.values()) else "the same names in another order"
    counts = f"the classes of {train} ({len(mine)}) and {other} ({len(others)})"
    raise DataError(f"{counts} in {origin} differ: {how}; {advice}")
