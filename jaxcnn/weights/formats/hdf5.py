"""HDF5 files: which arrays they hold and where, without following a link or reading what is not there.

h5py reads the headers only. The arrays must lie in one piece in the file itself, as Keras writes them, and
are then read like any other bytes: nothing is inflated, and what a header declares is compared with the size
of the file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.formats.stored_bytes import AGAIN, FileBytes, tensor
from jaxcnn.weights.tensors import Tensor

_MOST_OBJECTS = 10_000
_DEEPEST = 16
_MOST_TEXTS = 4_096
_LONGEST_TEXT = 1_024
_ANEW = (
    "load it with the program that wrote it and save only the weights, uncompressed, in one file"
)


class Objects(NamedTuple):
    """What an HDF5 file holds.

    Attributes:
        arrays: path of a dataset -> the array, in the order of the paths.
        texts: path of a group -> the texts of the attribute asked for, where it has that attribute; () where
            they are of variable length: libhdf5 hangs on damaged heaps, in which those lie.
    """

    arrays: dict[str, Tensor]
    texts: dict[str, tuple[str, ...]]


def read_objects(source: FileBytes, attribute: str) -> Objects:
    """All arrays of an HDF5 file, and the texts of an attribute of its groups.

    Raises:
        FileError: it is damaged, or has links, datasets outside the file, virtual, chunked or compressed
            datasets, types that are not plain numbers, or more objects or deeper groups than weights have.
    """
    import h5py

    found = Objects({}, {})
    try:
        with h5py.File(_View(source), "r") as root:
            for path, member in _members(h5py, root, source):
                if isinstance(member, h5py.Dataset):
                    found.arrays[path] = _array(h5py, source, path, member)
                elif attribute in member.attrs:
                    found.texts[path] = _texts(h5py, source, path, member.attrs.get_id(attribute))
    except FileError:
        raise
    except Exception as error:  # h5py raises a dozen types on damaged files
        text = " ".join(str(error).split()) or type(error).__name__
        raise FileError(source.path, f"is not a readable HDF5 file ({text})", AGAIN) from error
    stored = sum(array.nbytes for array in found.arrays.values())
    if stored > source.size:
        problem = f"declares arrays of {stored:,} bytes in a file of {source.size:,}: they overlap"
        raise FileError(source.path, problem, _ANEW)
    return found


def _members(h5py: Any, root: Any, source: FileBytes) -> Iterator[tuple[str, Any]]:
    """The groups, the root with the path '', and the datasets, each once."""
    path = source.path
    waiting, seen = [("", root)], {h5py.h5o.get_info(root.id).addr}
    while waiting:
        name, member = waiting.pop()
        yield name, member
        if isinstance(member, h5py.Dataset):
            continue
        if len(member) + len(seen) > _MOST_OBJECTS:
            raise FileError(path, f"has more than {_MOST_OBJECTS:,} objects", _ANEW)
        if name.count("/") > _DEEPEST:
            raise FileError(path, f"has groups nested deeper than {_DEEPEST}", _ANEW)
        inside = []
        for key in member:
            where = f"{name}/{key}".lstrip("/")
            link = member.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "another file" if isinstance(link, h5py.ExternalLink) else "another object"
                raise FileError(path, f"has a link to {kind} at {where!r}, not followed", _ANEW)
            child = member[key]
            if not isinstance(child, h5py.Dataset | h5py.Group):
                raise FileError(path, f"has a named datatype at {where!r}", _ANEW)
            address = h5py.h5o.get_info(child.id).addr
            if address in seen:
                raise FileError(path, f"reaches the object {where!r} in two ways", _ANEW)
            seen.add(address)
            inside.append((where, child))
        waiting += reversed(inside)


def _array(h5py: Any, source: FileBytes, name: str, dataset: Any) -> Tensor:
    def refused(problem: str) -> FileError:
        return FileError(source.path, f"has the dataset {name!r} {problem}", _ANEW)

    plist = dataset.id.get_create_plist()
    if plist.get_external_count():
        raise refused("with its data in other files, which are not opened")
    layouts = {h5py.h5d.VIRTUAL: "made of other datasets (virtual), which are not opened",
               h5py.h5d.CHUNKED: "stored in chunks or compressed",
               h5py.h5d.COMPACT: "stored in its header"}  # fmt: skip
    layout = plist.get_layout()
    if layout != h5py.h5d.CONTIGUOUS:
        raise refused(layouts.get(layout, "stored in an unknown way"))
    stored, shape = dataset.id.get_type(), dataset.shape
    if shape is None:
        raise refused("without a shape")
    try:
        dtype = np.dtype(dataset.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "iuf" or not h5py.h5t.py_create(dtype).equal(stored):
        raise refused("of a type that is not a plain number")
    size, offset = math.prod(shape) * dtype.itemsize, dataset.id.get_offset()
    allocated = dataset.id.get_storage_size()
    if allocated != size or (offset is None and size):
        raise refused(f"declared with {size:,} bytes and stored with {allocated:,}")
    return tensor(name, source, offset or 0, tuple(map(int, shape)), dtype)


def _texts(h5py: Any, source: FileBytes, path: str, attribute: Any) -> tuple[str, ...]:
    text = h5py.check_string_dtype(attribute.dtype)
    if text is None or text.length is None or not attribute.shape:
        return ()
    count = math.prod(attribute.shape)
    if count > _MOST_TEXTS or text.length > _LONGEST_TEXT:
        problem = f"has {count:,} names of {text.length:,} bytes in the attributes of {path!r}"
        raise FileError(source.path, problem, _ANEW)
    values: Any = np.empty(attribute.shape, attribute.dtype)
    attribute.read(values)
    return tuple(value.decode() for value in values.ravel().tolist())


class _View(io.RawIOBase):
    """A run of bytes as the file-like object that h5py reads."""

    def __init__(self, source: FileBytes) -> None:
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._source.size - self._position))
        if count:
            view[:count] = self._source.read(self._position, count).data
        self._position += count
        return count
