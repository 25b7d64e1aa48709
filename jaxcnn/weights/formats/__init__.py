"""File formats: each module reads the headers of one, and its arrays when they are asked for.

A format is a row of FORMATS and two functions of its module, which is imported when the row is asked:
`sniff(path, head)`, whether a file with these first bytes is of the format, and `read(path)`, which returns a
WeightsFile or raises FileError.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxcnn.files import FileError, disk_advice
from jaxcnn.weights.tensors import WeightsFile

HEAD = 4096


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        title: for the list of what is read; '' for a file without weights, whose `read` says what it is.
        module: of this folder.
        sniff, read: names of its functions.
    """

    title: str
    module: str
    sniff: str = "recognises"
    read: str = "read"

    def recognises(self, path: Path, head: bytes) -> bool:
        return self._function(self.sniff)(path, head)

    def open(self, path: Path) -> WeightsFile:
        return self._function(self.read)(path)

    def _function(self, name: str) -> Callable:
        return getattr(importlib.import_module(f"{__name__}.{self.module}"), name)


# In the order in which they are asked: signatures first, protocol buffers, which have none, last.
FORMATS: dict[str, Format] = {
    "safetensors": Format("safetensors (.safetensors)", "safetensors"),
    "pytorch": Format("PyTorch (.pth)", "pytorch"),
    "pickle": Format("", "pytorch", "is_pickle", "refuse_pickle"),
    "keras_h5": Format("Keras (.h5, .weights.h5)", "keras_h5"),
    "keras_zip": Format("Keras 3 (.keras)", "keras_zip"),
    "matconvnet": Format("MatConvNet (.mat)", "matconvnet"),
    "npy": Format("pickled dict of arrays (.npy)", "numpy_files", "is_npy", "read_npy"),
    "npz": Format("NumPy (.npz)", "numpy_files", "is_npz", "read_npz"),
    "tf_checkpoint": Format(
        "TensorFlow checkpoint (.ckpt, or its .index)",
        "tf_checkpoint", "is_tf_checkpoint", "read_tf_checkpoint",
    ),
    "mean_image": Format("", "caffe", "is_mean_image", "refuse_mean_image"),
    "prototxt": Format("", "caffe", "is_prototxt", "refuse_prototxt"),
    "caffemodel": Format("Caffe (.caffemodel)", "caffe", "is_caffemodel", "read_caffemodel"),
    "onnx": Format("ONNX (.onnx)", "onnx_file", "is_onnx", "read_onnx"),
}  # fmt: skip


def open_weights(path: Path) -> WeightsFile:
    """What the headers of a weights file say. Its content shows the format, not its name.

    Raises:
        FileError: it is missing, damaged, or of no format that is read.
    """
    titles = "; ".join(row.title for row in FORMATS.values() if row.title)
    advice = f"give one of these: {titles}"
    head = _head(path, advice)
    for row in FORMATS.values():
        if row.recognises(path, head):
            return row.open(path)
    raise FileError(path, "is no weights file that jaxcnn reads" if head else "is empty", advice)


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
