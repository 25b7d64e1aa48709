"""ImageNet's 1000 classes: index, WNID, name, in the order of the sorted WNIDs.

That order is TFDS's and torchvision's; the ILSVRC development kit's own numbers differ from it.
"""

import functools
import hashlib
import importlib.resources
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from jaxcnn.data.errors import DataError
from jaxcnn.printable import is_control, printable_name


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


def check_class_names(names: Sequence[str], origin: str) -> None:
    """Raises a DataError if names contain control characters or bytes that are not UTF-8, or look alike.

    Each name is a line of a run's classes.txt, and is printed.
    """
    bad = [name for name in names if any(map(is_control, name))]
    if bad:
        raise DataError(
            f"the names of {len(bad)} classes of {origin} contain control characters, line breaks or bytes "
            f"that are not UTF-8, written here as escapes: {shorten(list(map(printable_name, bad)))}; rename "
            "these folders in every split"
        )
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(_same_form(name), name)
        if other is not name:
            raise DataError(
                f"two classes of {origin} have one name in two Unicode forms, {other!a} and "
                f"{name!a}; put their images into one folder, or give them different names"
            )


def difference(mine: Sequence[str], others: Sequence[str], whose: tuple[str, str]) -> str:
    """Returns how the class names of two places, named by `whose`, differ; '' if they do not."""
    if list(mine) == list(others):
        return ""
    left, right = sorted({*mine} - {*others}), sorted({*others} - {*mine})
    if not left and not right:
        return "the same names in another order"
    forms = {_same_form(name): name for name in left}
    pairs = [(forms[_same_form(name)], name) for name in right if _same_form(name) in forms]
    left = [name for name in left if name not in {one for one, _ in pairs}]
    right = [name for name in right if name not in {other for _, other in pairs}]
    parts = [
        f"{one!a} in {whose[0]} differs in Unicode form from {other!a} in {whose[1]}: copy or "
        "rename these folders in one form"
        for one, other in pairs[:1]
    ]
    if len(pairs) > 1:
        parts.append(f"so do {len(pairs) - 1} more names")
    if left or right:
        only = zip(whose, (left, right), strict=True)
        parts += [f"only in {place}: {shorten(found) or 'none'}" for place, found in only]
    return "; ".join(parts)


def _same_form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def check_same_classes(
    splits: tuple[str, str], names: Sequence[tuple[str, ...]], origin: str, advice: str
) -> None:
    """Raises a DataError if the class names of the two splits of `origin` differ."""
    (train, other), (mine, others) = splits, names
    if how := difference(mine, others, splits):
        counts = f"the classes of {train} ({len(mine)}) and {other} ({len(others)})"
        raise DataError(f"{counts} in {origin} differ: {how}; {advice}")
