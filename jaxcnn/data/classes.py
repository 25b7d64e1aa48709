"""ImageNet's 1000 classes: index, WNID, name, in the order of the sorted WNIDs.

That order is TFDS's and torchvision's; the ILSVRC development kit's own numbers differ from it.
"""

import functools
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import NamedTuple


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
