"""File formats: each module reads the headers of one, and its arrays when they are asked for.

A module has `TITLE`; `recognises(path, head)`, whether a file with these first bytes may be of its format;
and `read(path)`, which returns a WeightsFile or raises FileError.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from jaxcnn.files import FileError, disk_advice
from jaxcnn.weights.tensors import WeightsFile

# Modules of this folder, in the order in which they are asked. A format is one row and one module.
FORMATS: tuple[str, ...] = ("safetensors",)
HEAD = 4096


def open_weights(path: Path) -> WeightsFile:
    """What the headers of a weights file say. Its content shows the format, not its name.

    Raises:
        FileError: it is missing, damaged, or of no format that is read.
    """
    titles = "; ".join(_module(name).TITLE for name in FORMATS)
    advice = f"give one of these: {titles}"
    head = _head(path, advice)
    for name in FORMATS:
        if _module(name).recognises(path, head):
            return _module(name).read(path)
    raise FileError(path, "is no weights file that jaxcnn reads" if head else "is empty", advice)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def _head(path: Path, advice: str) -> bytes:
    """The first bytes of a regular file; b'' where the path is the common part of the names of several."""
    try:
        if path.is_dir():
            raise FileError(path, "is a folder, not a weights file", advice)
        if not path.exists() and path.with_name(f"{path.name}.index").exists():
            return b""
        if path.exists() and not path.is_file():
            raise FileError(path, "is not a regular file", advice)
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise FileError(path, "does not exist", "check the path") from None
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", disk_advice(error)) from error
