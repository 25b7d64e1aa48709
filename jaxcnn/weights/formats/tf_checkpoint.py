"""TensorFlow's checkpoints, as TF-slim publishes its nets: version 1, one file, and version 2, PREFIX.index
with PREFIX.data-00000-of-00001. TensorFlow reads them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from jaxcnn.data.tensorflow import Checkpoint
from jaxcnn.files import FileError
from jaxcnn.weights.tensors import Tensor, WeightsFile

# The last bytes of a table of LevelDB's: a checkpoint of version 1, or the index of one of version 2.
_TABLE = bytes.fromhex("57fb808b247547db")
_PART = re.compile(r"(?P<prefix>.+)\.(index|meta|data-\d{5}-of-(?P<count>\d{5}))")
_ADVICE = "copy the checkpoint again, with all its files"


def checkpoint_prefix(path: Path) -> Path:
    """What TensorFlow calls a checkpoint: the path of a file of version 2 without its last part."""
    found = _PART.fullmatch(path.name)
    if found and (path.name.endswith(".index") or _index(path.with_name(found["prefix"])).exists()):
        return path.with_name(found["prefix"])
    return path


def is_tf_checkpoint(path: Path, head: bytes) -> bool:
    """Whether a path is a file of a checkpoint, or the prefix of its files."""
    del head
    prefix = checkpoint_prefix(path)
    if prefix != path or (_index(path).exists() and not path.exists()):
        return True
    try:
        with open(path, "rb") as file:
            file.seek(-len(_TABLE), os.SEEK_END)
            return file.read() == _TABLE
    except OSError:
        return False


def read_tf_checkpoint(path: Path) -> WeightsFile:
    """The variables of a checkpoint that is named by its prefix or by one of its files, in the order of
    their names; the path of the result is that of the (first) file with their values. A variable is read
    whole whichever of its rows are asked for.

    Raises:
        FileError: it is no checkpoint, is damaged, or lacks a file.
    """
    prefix = checkpoint_prefix(path)
    parts = _parts(prefix)
    stored = sum(map(_size, parts))
    try:
        checkpoint = Checkpoint(os.fspath(prefix))
    except ValueError as error:
        raise FileError(prefix, f"is no checkpoint of TensorFlow's ({error})", _ADVICE) from error
    tensors = {name: _tensor(prefix, checkpoint, name) for name in checkpoint.shapes}
    declared = sum(tensor.nbytes for tensor in tensors.values() if tensor.dtype.kind == "f")
    if declared > stored:
        problem = f"declares {declared:,} bytes of variables, but its files have {stored:,}"
        raise FileError(prefix, f"is damaged: it {problem}", _ADVICE)
    return WeightsFile(parts[0], "tf_checkpoint", tensors)


def _tensor(prefix: Path, checkpoint: Checkpoint, name: str) -> Tensor:
    def rows(start: int, stop: int) -> np.ndarray:
        try:
            found = checkpoint.read(name)
        except ValueError as error:
            problem = f"has the variable {name!r}, which cannot be read ({error})"
            raise FileError(prefix, problem, _ADVICE) from error
        return np.ascontiguousarray(found[start:stop]) if found.ndim else found

    return Tensor(name, checkpoint.shapes[name], checkpoint.dtypes[name], rows)


def _parts(prefix: Path) -> list[Path]:
    """The files that hold the variables."""
    if not _index(prefix).exists():
        return [prefix]
    count = max((_shards(prefix, path) for path in prefix.parent.iterdir()), default=0) or 1
    return [prefix.with_name(f"{prefix.name}.data-{i:05}-of-{count:05}") for i in range(count)]


def _shards(prefix: Path, path: Path) -> int:
    """Of how many data files of the checkpoint this is one; 0 if it is none."""
    found = _PART.fullmatch(path.name)
    return int(found["count"] or 0) if found and found["prefix"] == prefix.name else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", _ADVICE) from error


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")
