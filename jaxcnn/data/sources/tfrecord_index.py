"""An index of the records in TFRecord files, for random access.

A TFRecord file is a sequence of records: length (uint64, little-endian), its checksum (uint32), the data,
their checksum (uint32). The files are scanned once, and the index is cached in a file.
"""

import contextlib
import dataclasses
import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcnn.caches import use_writable_caches
from jaxcnn.data.errors import DataError
from jaxcnn.data.threads import ThreadPool
from jaxcnn.files import FileError, read_arrays, write_arrays

_HEADER, _FOOTER = 12, 4
# Scanning waits for the disk, not for a core.
_SCAN_THREADS = 16


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


def index_records(shards: Sequence[Path], counts: Sequence[int], cache_name: str) -> RecordIndex:
    """Returns the index of `shards`, from the cache if it is valid, else by a scan.

    The cache is a .npz named after `cache_name`, the split, in the folder of the shards or, if that is not
    writable, under $XDG_CACHE_HOME/jaxcnn (~/.cache/jaxcnn), if that is. It contains the shards' names and
    sizes, and is not used if one differs. `counts` are the expected numbers of records.

    Raises:
      DataError: a shard is missing, truncated or has another number of records.
    """
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(shards)} files of the data set are missing, the first is "
            f"{missing[0]}; copy or prepare the data set again"
        )
    files = file_facts(shards)
    places = cache_places(shards[0].parent, cache_name)
    for place in places:
        index = _load(place, files)
        if index is not None and len(index) == sum(counts):
            return index
    pool = ThreadPool(min(_SCAN_THREADS, len(shards)), "jaxcnn-scan")
    with contextlib.closing(pool):
        begun = [pool.submit(_scan, *scan) for scan in zip(shards, counts, strict=True)]
        scans = [pool.wait_for(scan) for scan in begun]
    index = RecordIndex(
        np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        *(np.concatenate(column) for column in zip(*scans, strict=True)),
    )
    for place in places:
        if _save(place, index, files):
            break
    return index


def read_record(shard: Path, offset: int, length: int, name: str) -> bytes:
    """Returns the data of one record. Thread-safe.

    The file is opened for each read, which takes microseconds: ImageNet has 1,088 files, more than many
    systems allow a process to keep open.

    Raises:
      DataError: the file is not the one that was indexed.
      OSError: it cannot be read.
    """
    file = os.open(shard, os.O_RDONLY)
    try:
        data = os.pread(file, _HEADER + length, offset - _HEADER)
    finally:
        os.close(file)
    if len(data) != _HEADER + length or struct.unpack_from("<Q", data)[0] != length:
        raise DataError(
            f"record {name} is not where the index says: the file changed after it was indexed; "
            "start again, and prepare the data set again if that does not help"
        )
    return data[_HEADER:]


def _scan(shard: Path, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the offsets, the lengths and the checksums of a file's records."""
    offsets, lengths = np.empty(count, np.int64), np.empty(count, np.int64)
    checksums = np.empty(count, np.uint32)
    position = found = 0
    with open(shard, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        header = os.pread(file.fileno(), _HEADER, 0)
        while found < count and len(header) == _HEADER:
            lengths[found] = length = struct.unpack_from("<Q", header)[0]
            offsets[found] = position + _HEADER
            # The footer of this record and the header of the next.
            following = os.pread(file.fileno(), _FOOTER + _HEADER, position + _HEADER + length)
            if len(following) < _FOOTER:
                break
            checksums[found] = struct.unpack_from("<I", following)[0]
            position, header = position + _HEADER + length + _FOOTER, following[_FOOTER:]
            found += 1
    if found != count or position != size:
        raise DataError(
            f"{shard} is damaged: expected {count} records that fill its {size} bytes, found "
            f"{found} that end at byte {position}; copy or prepare the data set again"
        )
    return offsets, lengths, checksums


def file_facts(shards: Sequence[Path]) -> dict[str, np.ndarray]:
    """Names and sizes of files: a cache that holds others is of other files."""
    return {
        "names": np.array([shard.name for shard in shards]),
        "sizes": np.array([shard.stat().st_size for shard in shards], np.int64),
    }


def cache_places(folder: Path, cache_name: str) -> list[Path]:
    """Where a cache of the files in `folder` may be: with them, else in the user's own cache."""
    name = f"jaxcnn-index-{cache_name}.npz"
    use_writable_caches()
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "jaxcnn"
    if not home.is_absolute():  # there is no home folder
        return [folder / name]
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return [folder / name, home / key / name]


def _load(place: Path, files: dict[str, np.ndarray]) -> RecordIndex | None:
    """Reads the cache; returns None if it is missing, damaged, of other files, or of an earlier version,
    which had no checksums."""
    columns = [field.name for field in dataclasses.fields(RecordIndex)]
    expect = {"names": (np.str_, "f"), "sizes": (np.integer, "f")}
    try:
        cache = read_arrays(place, expect | dict.fromkeys(columns, (np.integer, "n")), advice="")
    except FileError:
        return None
    same = all(np.array_equal(cache[key], value) for key, value in files.items())
    return RecordIndex(*(cache[column] for column in columns)) if same else None


def _save(place: Path, index: RecordIndex, files: dict[str, np.ndarray]) -> bool:
    """Writes the cache; returns whether the place is writable."""
    try:
        write_arrays(place, **files, **dataclasses.asdict(index))
    except OSError:
        return False
    return True
