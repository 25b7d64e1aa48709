"""Layouts of stored kernels, as text: how each becomes jaxcnn's kernel (H, W, I, O), and back.

A layout names the axes of the stored array in order: H and W, the kernel's rows and columns; I and O, its
input and output channels. Axes in parentheses are one stored axis. An axis that is not named has length one.
Examples: 'OIHW' (convolutions of Caffe and PyTorch), 'HWIO' (of TensorFlow), 'O(IHW)' (a fully connected
layer on a channel-major feature map), '(HWI)O' (on a feature map with channels last), 'OI'.
A bias has the layout 'O'; axes of length one around it do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np

AXES = "HWIO"
_BLOCK = 2**21  # bytes; a transposition stays in the processor's cache


@cache
def stored_axes(layout: str) -> tuple[str, ...]:
    """The axes of the stored array, each as the letters that it merges: 'O(IHW)' -> ('O', 'IHW')."""
    axes = tuple(part.strip("()") for part in re.findall(r"\([HWIO]+\)|[HWIO]", layout))
    letters = "".join(axes)
    assert len("".join(axes)) == len(re.sub(r"[()]", "", layout)), layout
    assert len(set(letters)) == len(letters), layout
    return axes


def stored_shape(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in a file of a kernel that is (H, W, I, O) here, or of a bias (O,)."""
    sizes = _sizes(shape)
    axes = stored_axes(layout)
    assert all(sizes[a] == 1 for a in AXES if a not in "".join(axes)), (layout, shape)
    return tuple(int(np.prod([sizes[a] for a in axis])) for axis in axes)


def fits(layout: str, stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a stored shape is that of an array of `shape` here."""
    if len(shape) == 1:
        return int(np.prod(stored, dtype=object)) == shape[0] and max(stored, default=1) == shape[0]
    return stored == stored_shape(layout, shape)


def from_stored(array: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """A view of a stored array, or of a bias, with the axes of jaxcnn: (H, W, I, O) or (O,)."""
    if len(shape) == 1:
        return array.reshape(shape)
    sizes = _sizes(shape)
    letters = "".join(stored_axes(layout))
    parts = array.reshape([sizes[letter] for letter in letters])
    there = [letters.index(letter) for letter in AXES if letter in letters]
    return parts.transpose(there).reshape(shape)


def to_stored(array: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `from_stored`, C-contiguous: a writer of files may ignore strides."""
    if array.ndim == 1:
        return np.ascontiguousarray(array)
    stored = np.empty(stored_shape(layout, array.shape), array.dtype)
    if not layout.startswith("O"):
        stored[...] = _moved(array, layout)
        return stored
    start = 0
    for block in stored_blocks(array, layout):
        stored[start : start + len(block)] = block
        start += len(block)
    return stored


def stored_blocks(array: np.ndarray, layout: str) -> Iterator[np.ndarray]:
    """What `to_stored` gives, in C-contiguous blocks of its rows of some megabytes: a writer of files needs
    no second copy of a large kernel. The layout begins with O."""
    assert layout.startswith("O"), layout
    outputs = array.shape[-1]
    step = max(1, _BLOCK * outputs // max(1, array.nbytes))
    for start in range(0, outputs, step):
        yield np.ascontiguousarray(_moved(array[..., start : start + step], layout))


def _moved(array: np.ndarray, layout: str) -> np.ndarray:
    letters = "".join(stored_axes(layout))
    there = [AXES.index(letter) for letter in letters]
    rest = [i for i in range(4) if i not in there]  # of length one
    return array.transpose(there + rest).reshape(stored_shape(layout, array.shape))


def _sizes(shape: tuple[int, ...]) -> dict[str, int]:
    return (
        dict(zip(AXES, shape, strict=True))
        if len(shape) == 4
        else {"H": 1, "W": 1, "I": 1, "O": shape[0]}
    )
