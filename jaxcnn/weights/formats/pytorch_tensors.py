"""Tensors of PyTorch's pickles: views of storages, checked against what the storages declare."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from ml_dtypes import bfloat16

from jaxcnn.weights.formats.restricted_pickle import Global
from jaxcnn.weights.formats.stored_bytes import FileBytes
from jaxcnn.weights.tensors import Tensor

_MOST_AXES = 8
DTYPES = {
    "DoubleStorage": np.dtype("<f8"), "FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(bfloat16), "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"), "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}  # fmt: skip


class Storage(NamedTuple):
    """A run of elements that tensors share.

    Attributes:
        key: names it in the file.
        dtype: of its elements.
        count: of the elements in the file.
        start, size: the part that is meant; files of 2017 may have parts.
    """

    key: str
    dtype: np.dtype
    count: int
    start: int
    size: int


class View(NamedTuple):
    """A tensor: element [i, j, ...] is the storage's offset + i * strides[0] + j * strides[1] + ..."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        steps = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        rows = zip(self.shape, self.strides, steps, strict=True)
        return 0 in self.shape or all(n == 1 or stride == step for n, stride, step in rows)

    def tensor(self, name: str, stored: FileBytes) -> Tensor:
        """The tensor by a name, given the bytes of its storage."""
        return Tensor(name, self.shape, self.storage.dtype, partial(_rows, self, stored))


def _rows(view: View, stored: FileBytes, start: int, stop: int) -> np.ndarray:
    size = view.storage.dtype.itemsize
    shape = (stop - start, *view.shape[1:]) if view.shape else ()
    if 0 in shape:
        return np.empty(shape, view.storage.dtype)
    first = view.storage.start + view.offset + (start * view.strides[0] if shape else 0)
    reach = sum((n - 1) * stride for n, stride in zip(shape, view.strides, strict=True)) + 1
    data = stored.read(first * size, reach * size).view(view.storage.dtype)
    if view.is_contiguous:
        return data.reshape(shape)
    strides = [stride * size for stride in view.strides]
    # The strides stay within `data`: `rebuild_tensor` has checked them.
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(data, shape, strides))


def load_storage(identity: Any) -> Storage:
    """The storage that a persistent id means: ('storage', type, key, device, elements[, part])."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise ValueError("refers to what is no storage")
    _, kind, key, _, count, *part = identity
    if not isinstance(kind, Global) or not isinstance(kind.value, np.dtype):
        raise ValueError("has a storage of no type")
    if type(key) is not str:
        raise ValueError("has a storage without a name")
    _check_count(count)
    start, size = 0, count
    if part and part[0] is not None:
        if type(part[0]) is not tuple or len(part[0]) != 3:
            raise ValueError("has a part of a storage without a place")
        _, start, size = part[0]
        _check_count(start, size)
        if start + size > count:
            raise ValueError(f"has a part that ends behind the {count:,} elements of its storage")
    return Storage(key, kind.value, count, start, size)


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
    """torch._utils._rebuild_tensor, and _v2 without its gradients and hooks."""
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError("a tensor without a storage, a shape and strides")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError(f"a tensor of {len(shape)} axes and {len(strides)} strides")
    _check_count(offset, *shape, *strides)
    count = math.prod(shape)
    reach = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    # No view repeats elements (a stride of zero does), so that no tensor is larger than the file.
    if count and max(reach, count) > storage.size:
        raise ValueError(
            f"a tensor of shape {shape} that ends behind the {storage.size:,} elements of its storage"
        )
    return View(storage, offset, shape, strides)


def rebuild_parameter(data: Any, *_: Any) -> View:
    """torch._utils._rebuild_parameter: the tensor."""
    if not isinstance(data, View):
        raise TypeError("a parameter without a tensor")
    return data


def ordered_dict(items: Any = None) -> dict[Any, Any]:
    """collections.OrderedDict, empty or, as Python 2 writes it, of pairs."""
    if items is None:
        return {}
    if type(items) is not list:
        raise TypeError("a dict of what is no list")
    # Taken out, so that a pickle cannot make ten thousand dicts of one long list.
    pairs, items[:] = list(items), []
    if not all(type(pair) is list and len(pair) == 2 and type(pair[0]) is str for pair in pairs):
        raise TypeError("a dict of what are no pairs")
    return dict(pairs)


TABLE: dict[str, Any] = {
    "collections.OrderedDict": ordered_dict,
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
}


def _check_count(*numbers: Any) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number < 2**63:
            raise ValueError("a size, an offset or a stride that is none")
