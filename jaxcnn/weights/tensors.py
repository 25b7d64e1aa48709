"""The arrays of a weights file, before anything but its headers is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.files import FileError

_MOST_AXES, _MOST_VALUES = 16, 2**48


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array in a file.

    Attributes:
        name: as in the file.
        shape: its shape. All its bytes are in the file: the reader of the headers has checked that.
        dtype: as stored; bfloat16 is ml_dtypes'.
        rows: (start, stop) -> the rows [start, stop) along the first axis, C-contiguous, as stored. It reads
            these rows only where the format allows it, and raises FileError. Of a scalar it gives the scalar
            for (0, 1).
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[int, int], np.ndarray] = dataclasses.field(repr=False)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The whole array."""
        return self.rows(0, self.shape[0] if self.shape else 1)


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """What the headers of a weights file say.

    Attributes:
        path: the file.
        format: a key of `formats.FORMATS`.
        tensors: by name, in the order of the file (of its layers, where the file has layers).
        facts: what else the file says. Known keys: 'layers', layer name -> type as the file calls it, in the
            order of the net; 'mean', RGB on the 0..255 scale; 'classes', names in the order of the outputs;
            'model', the fields of a jaxcnn net; 'reads', which arrays the layers of an ONNX graph use, in
            order (`formats.onnx_graph.Reading`); 'graph', sizes that it states; 'net', the name of Caffe's;
            'layouts', of the kernels in a file of jaxcnn that are not stored as here.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses shapes that no NumPy array has: with a size of 0 or 1 they take few bytes or none."""
        for tensor in self.tensors.values():
            axes = len(tensor.shape)
            if axes > _MOST_AXES or math.prod(max(size, 1) for size in tensor.shape) > _MOST_VALUES:
                problem = f"has {tensor.name} of a shape that no layer has: {tensor.shape[:6]}"
                raise FileError(self.path, problem, "give the weights of a net")
