"""What is said of a weights file in origin.json: the file, its hashes, and how its classes are known."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxcnn.data.classes import class_table
from jaxcnn.files import FileError
from jaxcnn.weights.tensors import WeightsFile

BACKGROUND = "background"


def class_names(
    file: WeightsFile, outputs: int, given: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """(names by label, how they are known).

    Args:
        outputs: of the net, without a background class that is left out.

    Raises:
        FileError: their number is not that of the outputs, or nothing says them.
    """
    imagenet = tuple(row.wnid for row in class_table())
    named = {len(imagenet): imagenet, len(imagenet) + 1: (BACKGROUND, *imagenet)}
    own = tuple(file.facts.get("classes", ()))
    if given:
        names, how = given, "given by the user"
    elif own:
        names, how = own, "from the file"
    elif outputs in named:
        names, how = (
            named[outputs],
            "ImageNet's, in the order of their WNIDs, as the source has them",
        )
        if outputs > len(imagenet):
            how += ", after a background class (--drop_background leaves it out)"
    else:
        advice = "give a file with one name per line: --classes=FILE"
        raise FileError(file.path, f"has {outputs} outputs and no names for them", advice)
    if len(names) != outputs or len(set(names)) != outputs:
        raise FileError(
            file.path,
            f"has {outputs} outputs, but there are {len(set(names))} names",
            "give --classes=FILE",
        )
    return names, how


def file_facts(file: WeightsFile, hashes: tuple[str, str]) -> dict[str, Any]:
    """The part of origin.json that describes the file itself."""
    return {
        "file": file.path.name,
        "format": file.format,
        "bytes": file.path.stat().st_size,
        "sha256": hashes[0],
    }


def file_hashes(path: Path) -> tuple[str, str]:
    """(SHA-256, SHA-1) of a file, as hex digits."""

    def hexdigest(name: str) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, name).hexdigest()

    with ThreadPoolExecutor(2) as threads:  # hashing leaves Python's lock to others
        sha256, sha1 = threads.map(hexdigest, ("sha256", "sha1"))
    return sha256, sha1
