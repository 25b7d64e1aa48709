"""A packed data set: images decoded and rescaled once, and read by memory map.

DIR/SPLIT/ holds `split.json` (source, settings, file sizes, checksums), `index.npy` (a row of `INDEX_FIELDS`
per image) and the shards `00000.rgb`, `00001.rgb`, ..., which are concatenated records. A record is a header
and the RGB pixels, row by row; for a corrupt image, the reason. preparation/packing.py and shards.py write
them, packed_files.py names them, and packed_record.py reads a record.

Crops are drawn for the original image, so ids, draws and boxes of a batch equal those of the source that was
packed. At the packed scale the pixels of a crop are copied; at other scales they are resized from the packed
pixels. On a disk, index and records are memory-mapped: the system reclaims their pages when it needs memory.
In a bucket, the index is read once, and each record by its range.
"""

import dataclasses
import functools
import hashlib
import io
import logging
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np

from jaxcnn.data.classes import check_same_classes
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.sources.mapped import MappedFile
from jaxcnn.data.sources.packed_files import (
    FORMAT,
    INDEX,
    METADATA,
    PARTIAL,
    SPLIT,
    how_to_pack,
    shard_name,
)
from jaxcnn.data.sources.shard_cache import ShardCache, open_shards
from jaxcnn.data.sources.shard_files import ShardFile, list_bucket_folder, shard_sizes
from jaxcnn.data.sources.source import Opened, Recorded, Records
from jaxcnn.files import FileError, read_bytes, read_json
from jaxcnn.paths import Path, is_remote

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedSource(Recorded):
    """One split of a packed data set. Positions, labels and names are those of the source that was packed."""

    folder: Path
    class_names: tuple[str, ...]
    index: np.ndarray
    index_file: MappedFile | None  # None: in a bucket, whose index was read
    shards: tuple[MappedFile, ...] | tuple[ShardFile, ...]
    metadata: dict[str, Any]
    # What packed_check.py finds during a run: no image is read any more.
    damage: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return os.fsdecode(bytes(self.index["name"][index]))

    def records(self) -> Records:
        index = self.index
        return Records(self._names(), index["label"].copy(), index["length"].copy())

    def _names(self) -> np.ndarray:
        """The names, relative to the folder that was packed: the same images packed from another place have
        the same."""
        names = np.ascontiguousarray(self.index["name"])
        root = os.fsencode(os.path.join(self.metadata["source"].removeprefix("folder:"), ""))
        table = names.view(np.uint8).reshape(len(names), -1)
        if table.shape[1] <= len(root) or not (table[:, : len(root)] == [*root]).all():
            return names
        return np.ascontiguousarray(table[:, len(root) :]).view(f"S{table.shape[1] - len(root)}")[
            :, 0
        ]

    @property
    def in_bucket(self) -> bool:
        return self.index_file is None

    def read(self, index: int) -> tuple[bytes | memoryview, int]:
        if self.damage:
            raise DataError(self.damage[0])
        if self.index_file is not None:
            self.index_file.check()
        number, offset, length, *_ = self.index[index].item()
        return self._image(index, lambda: self.shards[number].read(offset, length))

    def begin(self, index: int) -> Callable[[], tuple[bytes | memoryview, int]]:
        number, offset, length, *_ = self.index[index].item()
        shard = self.shards[number]
        if isinstance(shard, MappedFile):
            return functools.partial(self.read, index)
        return functools.partial(self._image, index, shard.begin(offset, length))

    def _image(
        self, index: int, read: Callable[[], bytes | memoryview]
    ) -> tuple[bytes | memoryview, int]:
        number, _, length, label, readable, _ = self.index[index].item()
        try:
            record = read()
        except OSError as error:
            path = self.folder / shard_name(number)
            raise DataError(f"{path} cannot be read ({error.strerror}); {self._again}") from error
        if len(record) != length:
            path = self.folder / shard_name(number)
            raise DataError(f"{path} is shorter than its index says; {self._again}")
        if not readable:
            raise CorruptImage(bytes(record).decode(errors="replace"), label)
        return record, label

    @property
    def _again(self) -> str:
        return f"pack or copy it again ({how_to_pack(self.folder.parent)})"


def open_packed(
    root: Path, train_split: str, eval_split: str, cache: ShardCache | None = None
) -> Opened:
    """Opens the packed data set in `root`. Files in a bucket are kept in `cache`, if there is one.

    Raises:
      DataError: it is missing, incomplete, damaged, or of another version.
    """
    folders = _folders(root)
    found = sorted(name for name in folders if not name.startswith("."))
    others = [name for name in found if name != train_split]
    wanted = eval_split or (others[0] if len(others) == 1 else "")
    missing = [split for split in (train_split, wanted) if split not in found]
    if missing and any(fnmatch(name, PARTIAL.format("*")) for name in folders):
        raise DataError(
            f"the packing of {root} is not complete: wait for it, or run the same command again"
        )
    if missing:
        raise DataError(
            f"{root} has no packed split {missing[0] or 'to evaluate on'}, it holds "
            f"{', '.join(found) or 'none'}: set --config.data.train_split and --config.data.eval_split to "
            f"two of these, or {how_to_pack(root)}"
        )
    train, evaluation = (open_split(root / split, cache) for split in (train_split, wanted))
    metadata = train.metadata
    sources = metadata["source"], evaluation.metadata["source"]
    check_same_classes(
        (train_split, wanted),
        (train.class_names, evaluation.class_names),
        f"packed {root}",
        f"they were packed from two data sets ({', '.join(sources)}); {how_to_pack(root)}",
    )
    form = "central squares of" if metadata["square"] else "shorter side at most"
    origin = f"packed {root} (from {metadata['source']}, {form} {metadata['shorter_side']})"
    return Opened(train, evaluation, wanted, origin)


def _folders(root: Path) -> list[str]:
    """Names of the folders in `root` that are packed splits, or begin with a dot. Raises DataError."""
    if is_remote(root):
        names = [name for name, size in list_bucket_folder(root).items() if size is None]
    elif root.is_dir():
        names = [entry.name for entry in root.iterdir() if entry.is_dir()]
    else:
        names = []
    if not names and (is_remote(root) or not root.is_dir()):
        raise DataError(f"no folder {root}; {how_to_pack(root)}")
    return [name for name in names if name.startswith(".") or (root / name / METADATA).is_file()]


def open_split(folder: Path, cache: ShardCache | None = None) -> PackedSource:
    """Opens one packed split; checks the index's SHA-256 and, on a disk, the sizes of its files."""
    again = f"pack or copy it again ({how_to_pack(folder.parent)})"
    try:
        metadata = read_json(folder / METADATA, {"format": int}, advice=again)
        if metadata["format"] != FORMAT:
            raise DataError(
                f"{folder} is packed in format {metadata['format']}; this version of jaxcnn reads format "
                f"{FORMAT}; {again}"
            )
        metadata = read_json(folder / METADATA, SPLIT, advice=again)
        names, sizes = tuple(metadata["class_names"]), metadata["shards"]
        paths = [folder / shard_name(number) for number in range(len(sizes))]
        index_file = None if is_remote(folder) else MappedFile(folder / INDEX, None, again)
        data = index_file.data if index_file else read_bytes(folder / INDEX, advice=again)
        if hashlib.sha256(data).hexdigest() != metadata["index_sha256"]:
            raise DataError(f"{folder / INDEX} does not have the recorded SHA-256; {again}")
        if index_file is None:
            index = np.load(io.BytesIO(data))
            shards = open_shards(paths, cache, metadata.get("shard_sha256", ()))
            _check_sizes(shards, sizes, again)
        else:
            found = np.load(folder / INDEX, mmap_mode="r")
            index = np.ndarray(found.shape, found.dtype, data, offset=found.offset)
            shards = tuple(map(MappedFile, paths, sizes, [again] * len(sizes)))
        if len(metadata.get("shard_sha256", sizes)) != len(sizes):
            raise ValueError(f"{len(metadata['shard_sha256'])} checksums of {len(sizes)} shards")
    except FileError as error:
        raise DataError(str(error)) from error
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{folder} cannot be read ({problem}); {again}") from error
    return PackedSource(folder, names, index, index_file, shards, metadata)


def _check_sizes(shards: Sequence[ShardFile], sizes: Sequence[int], again: str) -> None:
    for shard, size, seen in zip(shards, sizes, shard_sizes(shards), strict=True):
        if seen != size:
            raise DataError(f"{shard.path} has {seen or 0:,} bytes, expected {size:,}; {again}")
