"""An index of the records in TFRecord files, for random access.

The files are scanned once, and the index is cached in a file. tfrecord.py has the form of a record;
array_record_files.py has the index of the other format.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np

from jaxcnn.caches import use_writable_caches
from jaxcnn.data.errors import DamagedRecord, DataError
from jaxcnn.data.sources.shard_files import ShardFile, shard_sizes
from jaxcnn.data.sources.tfrecord import (
    FOOTER,
    HEADER,
    WRONG_LENGTH,
    RecordPlace,
    read_length,
    record_data,
)
from jaxcnn.data.threads import ThreadPool
from jaxcnn.files import FileError, read_arrays, write_arrays
from jaxcnn.paths import Path, cache_folder, is_remote, resolved

# Scanning waits for the disk, or for the network of a bucket, not for a core.
_SCAN_THREADS, _SCAN_THREADS_REMOTE = 16, 256


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """By record: shard (int32[N]), offset of the data (int64[N]), their length (int64[N]) and the checksum
    that the file has for them (uint32[N]: CRC-32C, masked as TFRecord files have it)."""

    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    checksum: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def place(self, record: int) -> RecordPlace:
        return RecordPlace(
            self.offset.item(record), self.length.item(record), self.checksum.item(record)
        )

    @property
    def checksums(self) -> np.ndarray | None:
        """uint32[N]: a checksum of each record; None if the files have none that need not be computed."""
        return self.checksum

    @staticmethod
    def scan(file: ShardFile, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns offset, length and checksum of the `count` records of a file of `size` bytes. Thread-safe.

        Raises:
          DataError: the file is damaged or has another number of records.
        """
        return _scan(file, count, size)

    def read(self, files: Sequence[ShardFile], record: int) -> bytes:
        """Returns the data of a record. Thread-safe.

        Raises:
          DamagedRecord: it does not have its checksums.
          DataError: the file is not the one that was indexed.
          OSError: it cannot be read.
        """
        place = self.place(record)
        start, size = place.whole
        data = files[self.shard.item(record)].read(start, size)
        return record_data(data, place, lambda: self.name(files, record))

    def begin(self, files: Sequence[ShardFile], record: int) -> Callable[[], bytes]:
        """Begins `read`; the call of what this returns waits for the data."""
        place = self.place(record)
        wait = files[self.shard.item(record)].begin(*place.whole)
        return lambda: record_data(wait(), place, lambda: self.name(files, record))

    def name(self, files: Sequence[ShardFile], record: int) -> str:
        """The name of a record: its file, and its number there."""
        shard = self.shard[record]
        # A number of another type would convert the whole column.
        return f"{files[shard].name}#{record - np.searchsorted(self.shard, shard)}"


def index_records(
    files: Sequence[ShardFile],
    counts: Sequence[int],
    cache_name: str,
    kind: type[RecordIndex] = RecordIndex,
) -> RecordIndex:
    """Returns the index of `files`, from the cache if it is valid, else by the scan of `kind`.

    The cache is a .npz named after `cache_name`, the split, in their folder or, if that is not writable or in
    a bucket, under $XDG_CACHE_HOME/jaxcnn (~/.cache/jaxcnn), if that is. It contains their names and sizes,
    and is not used if one differs. `counts` are the expected numbers of records.

    Raises:
      DataError: a file is missing, truncated or has another number of records.
    """
    facts = file_facts(files)
    sizes = facts["sizes"].tolist()
    places = cache_places(files[0].path.parent, cache_name)
    for place in places:
        index = _load(place, facts, kind)
        if index is not None and len(index) == sum(counts):
            return index
    threads = _SCAN_THREADS_REMOTE if is_remote(files[0].path) else _SCAN_THREADS
    pool = ThreadPool(min(threads, len(files)), "jaxcnn-scan")
    with contextlib.closing(pool):
        begun = [pool.submit(kind.scan, *scan) for scan in zip(files, counts, sizes, strict=True)]
        scans = [pool.wait_for(scan) for scan in begun]
    index = kind(
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        *(np.concatenate(column) for column in zip(*scans, strict=True)),
    )
    for place in places:
        if not is_remote(place) and _save(place, index, facts):
            break
    return index


def _scan(file: ShardFile, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the offsets, the lengths and the checksums of a file's records."""
    offsets, lengths = np.empty(count, np.int64), np.empty(count, np.int64)
    checksums = np.empty(count, np.uint32)
    position = found = 0
    with file.opened(size, count) as read:
        header = read(0, HEADER)
        while found < count and len(header) == HEADER:
            length = read_length(header)
            if length is None:
                raise DamagedRecord(f"{file.path}#{found}", WRONG_LENGTH)
            lengths[found], offsets[found] = length, position + HEADER
            # The footer of this record and the header of the next.
            following = read(position + HEADER + length, FOOTER + HEADER)
            if len(following) < FOOTER:
                break
            checksums[found] = int.from_bytes(following[:FOOTER], "little")
            position, header = position + HEADER + length + FOOTER, following[FOOTER:]
            found += 1
    if found != count or position != size:
        raise DataError(
            f"{file.path} is damaged: expected {count} records that fill its {size} bytes, found "
            f"{found} that end at byte {position}; copy or prepare the data set again"
        )
    return offsets, lengths, checksums


def file_facts(files: Sequence[ShardFile]) -> dict[str, np.ndarray]:
    """Names and sizes of files: a cache that holds others is of other files. Raises DataError if one is
    missing."""
    sizes = shard_sizes(files)
    missing = [file.path for file, size in zip(files, sizes, strict=True) if size is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} files of the data set are missing, the first is "
            f"{missing[0]}; copy or prepare the data set again"
        )
    return {
        "names": np.array([file.name for file in files]),
        "sizes": np.array(sizes, np.int64),
    }


def cache_places(folder: Path, cache_name: str) -> list[Path]:
    """Where a cache of the files in `folder` may be: with them, else in the user's own cache."""
    name = f"jaxcnn-index-{cache_name}.npz"
    use_writable_caches()
    caches = cache_folder()
    if caches is None:
        return [folder / name]
    key = hashlib.sha256(os.fsencode(resolved(folder))).hexdigest()[:16]
    return [folder / name, caches / "jaxcnn" / key / name]


def _load(place: Path, files: dict[str, np.ndarray], kind: type[RecordIndex]) -> RecordIndex | None:
    """Reads the cache; returns None if it is missing, damaged, of other files, or of an earlier version,
    which had no checksums."""
    columns = [field.name for field in dataclasses.fields(RecordIndex)]
    expect = {"names": (np.str_, "f"), "sizes": (np.integer, "f")}
    try:
        cache = read_arrays(place, expect | dict.fromkeys(columns, (np.integer, "n")), advice="")
    except FileError:
        return None
    same = all(np.array_equal(cache[key], value) for key, value in files.items())
    return kind(*(cache[column] for column in columns)) if same else None


def _save(place: Path, index: RecordIndex, files: dict[str, np.ndarray]) -> bool:
    """Writes the cache; returns whether the place is writable."""
    try:
        write_arrays(place, **files, **dataclasses.asdict(index))
    except OSError:
        return False
    return True
