"""What identifies the images of a split: names, labels, sizes and checksums, in order.

Two splits with equal fingerprints give the same numbers, wherever they lie. Sizes are those of the encoded
images. TFRecord files store a checksum of each record; of other sources a sample of the contents is read:
every image of a split of up to `SAMPLE`, and that many, evenly spaced, of a larger one. So one image of a
million that is replaced by another of the same size is not seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt32

from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.sources.source import Recorded, Records, Source, Subset
from jaxcnn.data.threads import ThreadPool
from jaxcnn.printable import printable_name

SAMPLE = 1024
_THREADS = 16  # they wait for the disk, not for a core
_CHUNK = 4096
_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Fingerprint:
    """The fingerprint of a split, one row per image; `checksums` are CRCs of all images or of the sample."""

    names: np.ndarray
    labels: Int32[np.ndarray, " n"]
    sizes: Int64[np.ndarray, " n"]
    checksums: UInt32[np.ndarray, " m"]

    @functools.cached_property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of everything."""
        return digest_of(self.names, self.labels, self.sizes, self.checksums)

    def columns(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def digest_of(*columns: np.ndarray | None) -> str:
    """Returns the first 16 hex digits of the SHA-256 of arrays, with their types and lengths."""
    found = hashlib.sha256()
    for column in columns:
        if column is not None:
            found.update(f"{column.dtype.str}{len(column)}".encode())
            found.update(np.ascontiguousarray(column).view(np.uint8).data)
    return found.hexdigest()[:16]


def whole(source: Source) -> Source:
    """The split that `source` is a slice of, or `source` itself."""
    return source.base if isinstance(source, Subset) else source


def records_of(source: Source) -> Records:
    """Returns what identifies the examples of a whole split; of a source that has no records, the names."""
    if isinstance(source, Recorded):
        return source.records()
    if isinstance(source, Subset):
        names, labels, *others = records_of(source.base)
        picked = (None if column is None else column[source.indices] for column in others)
        return Records(names[source.indices], labels[source.indices], *picked)
    names = np.array([os.fsencode(source.name(i)) for i in range(len(source))], np.bytes_)
    unknown = np.full(len(source), -1)
    return Records(names, unknown, unknown)


def take_fingerprint(source: Source, check_stop: Callable[[], None] = lambda: None) -> Fingerprint:
    """Returns the fingerprint of a whole split. Reads the sizes of its files and a sample of their contents.

    Args:
      check_stop: called while files are read; raises to leave early.
    """
    records, pool = records_of(source), ThreadPool(_THREADS, "jaxcnn-fingerprint")
    count = len(records.names)

    def call(function: Callable[[int], Any], positions: Iterable[int]) -> list[Any]:
        futures = [pool.submit(function, i) for i in positions]
        return [pool.wait_for(future, check_stop) for future in futures]

    with contextlib.closing(pool):
        sizes, checksums = records.sizes, records.checksums
        if sizes is None:
            assert isinstance(source, Recorded)  # others have them
            starts = range(0, count, _CHUNK)
            parts = call(lambda i: source.file_sizes(i, min(i + _CHUNK, count)), starts)
            sizes = np.concatenate([*parts, np.empty(0, np.int64)])
        if checksums is None:
            found = call(lambda i: _checksum(source, i), sample_positions(count).tolist())
            checksums = np.array(found, np.uint32)
    return Fingerprint(
        records.names, records.labels.astype(np.int32), sizes.astype(np.int64), checksums
    )


def sample_positions(count: int) -> np.ndarray:
    """Positions of the images of a split of `count` whose contents are read, ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))


def _checksum(source: Source, index: int) -> int:
    try:
        return zlib.crc32(source.read(index)[0])
    except CorruptImage:
        return 0


def differences(old: Fingerprint, new: Fingerprint, class_names: Sequence[str]) -> list[str]:
    """Returns lines that name the first differences between two fingerprints of a split; [] if there are
    none. Takes seconds for a million images."""
    before, now = _positions(old.names), _positions(new.names)
    kept = [name for name in before if name in now]
    at = np.array([before[name] for name in kept], np.int64)
    to = np.array([now[name] for name in kept], np.int64)
    lines = _gone_and_new(before, now, old.sizes, new.sizes)
    for column, text in (
        ("labels", lambda label: f"class {class_names[label]}"),
        ("sizes", lambda size: f"{size:,} bytes"),
    ):
        was, is_ = getattr(old, column)[at], getattr(new, column)[to]
        changed = np.flatnonzero(was != is_)
        lines += _first([f"{_shown(kept[k])}: {text(is_[k])}, was {text(was[k])}" for k in changed])
    moved = np.flatnonzero(at != to)
    if not lines and len(moved):
        first = min(int(at[k]) for k in moved)
        return [f"the same images in another order, from number {first + 1:,} on"]
    if not lines and len(old.checksums) == len(new.checksums):
        changed = sample_positions(len(kept))
        changed = np.arange(len(kept)) if len(new.checksums) == len(kept) else changed
        changed = changed[old.checksums != new.checksums]
        names = [*now]
        lines = _first([f"{_shown(names[k])}: other content of the same size" for k in changed])
    return lines


def _positions(names: np.ndarray) -> dict[bytes, int]:
    """Position by name; names that occur more than once, as those of shards do, get a number: `shard#3`."""
    found = names.tolist()
    if len({*found}) < len(found):
        seen: Counter[bytes] = Counter()
        for i, name in enumerate(found):
            found[i] = b"%s#%d" % (name, seen[name])
            seen[name] += 1
    return {name: i for i, name in enumerate(found)}


def _gone_and_new(
    before: dict[bytes, int], now: dict[bytes, int], old_sizes: np.ndarray, new_sizes: np.ndarray
) -> list[str]:
    """Lines for names that are only in one of two splits. One of each with a size that no other of them has
    is the same image under another name."""
    gone = {name: int(old_sizes[i]) for name, i in before.items() if name not in now}
    added = {name: int(new_sizes[i]) for name, i in now.items() if name not in before}
    counts = Counter(gone.values()), Counter(added.values())
    by_size = {size: name for name, size in added.items()}
    renamed = {
        name: by_size[size]
        for name, size in gone.items()
        if counts[0][size] == counts[1][size] == 1
    }
    new = {*added} - {*renamed.values()}
    return [
        *_first([f"{_shown(name)} is now {_shown(other)}" for name, other in renamed.items()]),
        *_first([f"{_shown(name)} is gone" for name in gone if name not in renamed]),
        *_first([f"{_shown(name)} is new" for name in added if name in new]),
    ]


def _first(lines: list[str]) -> list[str]:
    rest = [f"and {len(lines) - _SHOWN:,} more like these"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *rest]


def _shown(name: bytes) -> str:
    return printable_name(os.fsdecode(name))
