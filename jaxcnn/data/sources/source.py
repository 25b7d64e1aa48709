"""What a source is, and a part of one."""

import abc
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxcnn.data.errors import CorruptImage


class Records(NamedTuple):
    """What identifies the examples of a source without reading them, one row each.

    `names` are bytes, relative to the place of the data set. `sizes` of the encoded images in bytes and
    `checksums` of their contents are None where they would have to be read.
    """

    names: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray | None = None
    checksums: np.ndarray | None = None


@runtime_checkable
class Source(Protocol):
    """An indexable table of encoded images. `class_names[label]` names a label."""

    class_names: tuple[str, ...]

    @property
    def ids(self) -> np.ndarray:
        """int64[len]: each example's position in its split, the same when a slice of it is held out."""
        return np.arange(len(self))

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, index: int) -> tuple[bytes | memoryview, int]:
        """Returns the encoded bytes and the label of example `index`. Thread-safe.

        A packed image's bytes are a memoryview of the file, not a copy.

        Raises:
          CorruptImage: the bytes of this example cannot be read.
        """
        ...

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Returns where example `index` comes from, for messages: a path, or shard#record."""
        ...


# Returns the encoded image and the label, or raises, as `Source.read`.
Read = Callable[[], tuple[bytes | memoryview, int]]


@runtime_checkable
class Begins(Protocol):
    """A source, such as one in a bucket, that can begin to read an image and wait for it later."""

    def begin(self, index: int) -> Read: ...


def begin(source: Source, index: int) -> Read:
    """Begins `source.read(index)`, if the source can; the call of what this returns waits for it."""
    if isinstance(source, Begins):
        return source.begin(index)
    return functools.partial(source.read, index)


@runtime_checkable
class Recorded(Source, Protocol):
    """A source that knows its examples without reading them."""

    def records(self) -> Records: ...

    def file_sizes(self, start: int, stop: int) -> np.ndarray:
        """Returns int64[stop - start], sizes that `records` does not have; -1 is unknown. Thread-safe."""
        return np.full(stop - start, -1)


class Subset(Source):
    """The examples `indices` (int64[n]) of another source, in that order."""

    def __init__(self, base: Source, indices: np.ndarray):
        self.base, self.indices, self.class_names = base, indices, base.class_names

    @property
    def ids(self) -> np.ndarray:
        return self.base.ids[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[bytes | memoryview, int]:
        return self.base.read(int(self.indices[index]))

    def begin(self, index: int) -> Read:
        return begin(self.base, int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.base.name(int(self.indices[index]))


class Renumbered(Recorded):
    """Another source whose label i is `labels[i]`, a position in `class_names`; -1 stays."""

    def __init__(self, base: Recorded, class_names: tuple[str, ...], labels: np.ndarray):
        self.base, self.class_names, self.labels = base, class_names, labels

    @property
    def ids(self) -> np.ndarray:
        return self.base.ids

    def __len__(self) -> int:
        return len(self.base)

    def read(self, index: int) -> tuple[bytes | memoryview, int]:
        return self._renumbered(lambda: self.base.read(index))

    def begin(self, index: int) -> Read:
        return functools.partial(self._renumbered, begin(self.base, index))

    def _renumbered(self, read: Read) -> tuple[bytes | memoryview, int]:
        try:
            encoded, label = read()
        except CorruptImage as error:
            raise CorruptImage(str(error), self.number(error.label)) from error
        number = self.number(label)
        assert number is not None
        return encoded, number

    def number(self, label: int | None) -> int | None:
        return label if label is None or label < 0 else int(self.labels[label])

    def name(self, index: int) -> str:
        return self.base.name(index)

    def records(self) -> Records:
        found = self.base.records()
        labels = np.where(found.labels < 0, found.labels, self.labels[found.labels])
        return found._replace(labels=labels)

    def file_sizes(self, start: int, stop: int) -> np.ndarray:
        return self.base.file_sizes(start, stop)


class Opened(NamedTuple):
    """An opened data set; `origin` and `note` begin and end its one-line description."""

    train: Source
    evaluation: Source
    eval_split: str
    origin: str
    note: str = ""
