"""A packed data set: images decoded and rescaled once, and read by memory map.

DIR/SPLIT/ holds `split.json` (source, settings, file sizes, checksums), `index.npy` (a row of `INDEX_FIELDS`
per image) and the shards `00000.rgb`, `00001.rgb`, ..., which are concatenated records. A record is a header
and the RGB pixels, row by row; for a corrupt image, the reason. preparation/packing.py and shards.py write
them, packed_files.py names them.

Crops are drawn for the original image, so ids, draws and boxes of a batch equal those of the source that was
packed. At the packed scale the pixels of a crop are copied; at other scales they are resized from the packed
pixels. Index and records are memory-mapped: the system reclaims their pages when it needs memory.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.classes import check_same_classes
from jaxcnn.data.crops import ResizedCrop
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
from jaxcnn.data.sources.source import Opened, Recorded, Records
from jaxcnn.files import FileError, read_json
from jaxcnn.paths import Path, is_remote

_LOGGER = logging.getLogger(__name__)

_MAGIC = b"\x89JCNNP1\n"
_HEADER = struct.Struct("<8s8I")
# Edges closer than this to a whole pixel count as whole: the rounding error of two divisions.
_ROUNDING = 1e-6


class PackedImage(NamedTuple):
    """What a record stores: the part `box` = (top, left, height, width) of an image of `size`, rescaled to
    `rescaled`; both are (height, width)."""

    size: tuple[int, int]
    rescaled: tuple[int, int]
    box: tuple[int, int, int, int]

    def header(self) -> bytes:
        return _HEADER.pack(_MAGIC, *self.size, *self.rescaled, *self.box)

    def place(self, crop: ResizedCrop) -> ResizedCrop:
        """Maps a crop of the original image to the stored pixels.

        Raises:
          DataError: the crop reads pixels that are not stored.
        """
        (height, width), (tall, wide), (top, left, rows, columns) = self
        x, y = crop.region[0::2], crop.region[1::2]
        across = _along(x, wide / width, left, columns, crop.size[1])
        down = _along(y, tall / height, top, rows, crop.size[0])
        if across is None or down is None:
            raise DataError(
                f"a crop reads columns {x[0]:.0f} to {x[1]:.0f} and rows {y[0]:.0f} to {y[1]:.0f} of an "
                f"image of {width} x {height} pixels, of which only the central square is packed; use "
                "--config.augment.sampling=random_crop_in_square (or center_crop) and protocols whose crops "
                "lie in the central square, or pack without --square"
            )
        shrunk, (rows_out, columns_out) = tall < height, crop.size
        if shrunk and (across[1] - across[0] < columns_out or down[1] - down[0] < rows_out):
            with _WARNING:  # threads that crop at the same time
                _warn_of_enlarging(min(tall, wide))
        region = (across[0], down[0], across[1], down[1])
        return crop._replace(image_height=rows, image_width=columns, region=region)


def _along(
    edges: Sequence[float], scale: float, first: int, count: int, size: int
) -> tuple[float, float] | None:
    """Returns a crop's edges in the stored pixels along one axis; None if it lies outside them."""
    low, high = (_on_whole(edge * scale - first) for edge in edges)
    # Rescaled sizes and the square's corner are rounded, so the square moves by a pixel between two scales.
    if max(-low, high - count) > 1 + (high - low) / size:
        return None
    shift = max(-low, 0.0) - max(high - count, 0.0)
    return max(low + shift, 0.0), min(high + shift, float(count))


def _on_whole(value: float) -> float:
    return float(round(value)) if abs(value - round(value)) < _ROUNDING else value


_WARNING = threading.Lock()


@functools.cache  # once
def _warn_of_enlarging(shorter_side: int) -> None:
    _LOGGER.warning(
        "crops enlarge images that were packed with shorter side %d, and are less sharp than crops of the "
        "original images; pack with a larger --shorter_side",
        shorter_side,
    )


def is_record(data: bytes | memoryview) -> bool:
    """Whether the bytes are a record of a packed data set, not an encoded image."""
    return data[: len(_MAGIC)] == _MAGIC


def read_record(data: bytes | memoryview) -> tuple[PackedImage, UInt8[np.ndarray, "h w 3"]]:
    """Returns a record's header and its pixels, which are a view of `data`.

    Raises:
      CorruptImage: the record is damaged.
    """
    if len(data) < _HEADER.size:
        raise CorruptImage(f"damaged record: {len(data)} bytes, shorter than its header")
    _, *numbers = _HEADER.unpack_from(data)
    stored = PackedImage((numbers[0], numbers[1]), (numbers[2], numbers[3]), tuple(numbers[4:]))
    rows, columns = stored.box[2:]
    if len(data) != _HEADER.size + rows * columns * 3 or min(numbers[:4] + numbers[6:]) < 1:
        raise CorruptImage(
            f"damaged record: {len(data)} bytes for {columns} x {rows} pixels and a header of "
            f"{_HEADER.size}"
        )
    return stored, np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(rows, columns, 3)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedSource(Recorded):
    """One split of a packed data set. Positions, labels and names are those of the source that was packed."""

    folder: Path
    class_names: tuple[str, ...]
    index: np.ndarray
    index_file: MappedFile
    shards: tuple[MappedFile, ...]
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

    def read(self, index: int) -> tuple[memoryview, int]:
        if self.damage:
            raise DataError(self.damage[0])
        self.index_file.check()
        number, offset, length, label, readable, _ = self.index[index].item()
        shard = self.shards[number]
        shard.check()
        record = shard.data[offset : offset + length]
        if not readable:
            raise CorruptImage(bytes(record).decode(errors="replace"), label)
        return record, label


def open_packed(root: Path, train_split: str, eval_split: str) -> Opened:
    """Opens the packed data set in `root`.

    Raises:
      DataError: it is missing, incomplete, damaged, or of another version.
    """
    if is_remote(root):
        raise DataError(
            f"packed data sets are read from a disk, not from a bucket: copy {root} to one (gcloud storage "
            "cp -r) and give packed:DIR, or read the data set that was packed: tfds:NAME with data_dir=gs://..."
        )
    if not root.is_dir():
        raise DataError(f"no folder {root}; {how_to_pack(root)}")
    found = sorted(path.parent.name for path in root.glob(f"[!.]*/{METADATA}"))
    others = [name for name in found if name != train_split]
    wanted = eval_split or (others[0] if len(others) == 1 else "")
    missing = [split for split in (train_split, wanted) if split not in found]
    if missing and any(root.glob(PARTIAL.format("*"))):
        raise DataError(
            f"the packing of {root} is not complete: wait for it, or run the same command again"
        )
    if missing:
        raise DataError(
            f"{root} has no packed split {missing[0] or 'to evaluate on'}, it holds "
            f"{', '.join(found) or 'none'}: set --config.data.train_split and --config.data.eval_split to "
            f"two of these, or {how_to_pack(root)}"
        )
    train, evaluation = (open_split(root / split) for split in (train_split, wanted))
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


def open_split(folder: Path) -> PackedSource:
    """Opens one packed split; checks the sizes of its files and the index's SHA-256."""
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
        with open(folder / INDEX, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != metadata["index_sha256"]:
                raise DataError(f"{folder / INDEX} does not have the recorded SHA-256; {again}")
        index_file = MappedFile(folder / INDEX, None, again)
        found = np.load(folder / INDEX, mmap_mode="r")
        index = np.ndarray(found.shape, found.dtype, index_file.data, offset=found.offset)
        shards = tuple(
            MappedFile(folder / shard_name(k), size, again) for k, size in enumerate(sizes)
        )
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
