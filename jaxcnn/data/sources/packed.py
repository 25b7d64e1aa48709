"""A packed data set: images decoded and rescaled once, and read from there by memory map.

DIR/SPLIT/ holds `split.json` (what it was made from, how, and of what sizes its files are), `index.npy` (a
row an image, `INDEX_FIELDS`) and the shards `00000.rgb`, `00001.rgb`, ..., records one after the other. A
record is a header and the rows of RGB pixels; of an image that could not be read, the reason. packing.py
and shards.py make all this.

Views are drawn for the image as it was before, so that ids, draws and boxes of a batch are those of the
source that was packed. Where a view is at the packed scale its pixels are copied, else they are rescaled
from the packed ones.

Memory: the index and the records are mapped, not read. What a process holds resident of them is page cache,
which the system takes back when it needs room. A view takes a copy of the packed pixels that it looks at.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.errors import CorruptImage, DataError

_LOGGER = logging.getLogger(__name__)

MAGIC = b"\x89JCNNP1\n"
FORMAT = 1
FACTS, INDEX = "split.json", "index.npy"
_PARTIAL = ".{}.partial"
INDEX_FIELDS = (
    ("shard", "<i4"),
    ("offset", "<i8"),
    ("length", "<i8"),
    ("label", "<i4"),
    ("readable", "?"),
)  # and `name`, bytes
_HEADER = struct.Struct("<8s8I")
# Region edges closer than this to a whole pixel lie on it: what two divisions leave of a whole number.
_ROUNDING = 1e-6


class Stored(NamedTuple):
    """What a record holds: the part `box` = (top, left, height, width) of an image of `size` rescaled to
    `rescaled`, both (height, width)."""

    size: tuple[int, int]
    rescaled: tuple[int, int]
    box: tuple[int, int, int, int]

    def header(self) -> bytes:
        return _HEADER.pack(MAGIC, *self.size, *self.rescaled, *self.box)

    def place(self, view: ResizedCrop) -> ResizedCrop:
        """The same view of the stored pixels.

        Raises:
          DataError: it looks at what is not stored.
        """
        (height, width), (tall, wide), (top, left, rows, columns) = self
        x, y = view.region[0::2], view.region[1::2]
        across = _along(x, wide / width, left, columns, view.size[1])
        down = _along(y, tall / height, top, rows, view.size[0])
        if across is None or down is None:
            raise DataError(
                f"a view looks at columns {x[0]:.0f} to {x[1]:.0f} and rows {y[0]:.0f} to {y[1]:.0f} of an "
                f"image of {width} x {height} pixels, of which only the central square is packed; use "
                "--config.augment.sampling=square (or centre) and protocols that look at the central "
                "square, or pack without --square"
            )
        if tall < height and (
            across[1] - across[0] < view.size[1] or down[1] - down[0] < view.size[0]
        ):
            _warn_of_enlarging(min(tall, wide))
        region = (across[0], down[0], across[1], down[1])
        return view._replace(image_height=rows, image_width=columns, region=region)


def _along(
    edges: Sequence[float], scale: float, first: int, count: int, size: int
) -> tuple[float, float] | None:
    """A view's edges in the stored pixels along one axis; None where it lies outside them."""
    low, high = (_on_whole(edge * scale - first) for edge in edges)
    # Rescaled sizes and the square's corner are whole: between two scales the square wanders by a pixel.
    if max(-low, high - count) > 1 + (high - low) / size:
        return None
    shift = max(-low, 0.0) - max(high - count, 0.0)
    return max(low + shift, 0.0), min(high + shift, float(count))


def _on_whole(value: float) -> float:
    return float(round(value)) if abs(value - round(value)) < _ROUNDING else value


@functools.cache  # once
def _warn_of_enlarging(shorter_side: int) -> None:
    _LOGGER.warning(
        "views enlarge images that were packed with shorter side %d, and are less sharp than of the images "
        "themselves; pack with a larger --shorter_side",
        shorter_side,
    )


def look(
    data: bytes | memoryview, choose: Callable[[int, int], Sequence[ResizedCrop]]
) -> tuple[UInt8[np.ndarray, "h w 3"], Sequence[ResizedCrop], list[ResizedCrop]]:
    """The stored pixels of a record, the views that `choose(height, width)` asks for of the image as it
    was, and the same views of the stored pixels.

    Raises:
      CorruptImage: the record is damaged.
      DataError: a view looks at what is not stored.
    """
    if len(data) < _HEADER.size:
        raise CorruptImage(f"damaged record: {len(data)} bytes, shorter than its header")
    _, *numbers = _HEADER.unpack_from(data)
    stored = Stored((numbers[0], numbers[1]), (numbers[2], numbers[3]), tuple(numbers[4:]))
    rows, columns = stored.box[2:]
    if len(data) != _HEADER.size + rows * columns * 3 or min(numbers[:4] + numbers[6:]) < 1:
        raise CorruptImage(
            f"damaged record: {len(data)} bytes for {columns} x {rows} pixels and a header of "
            f"{_HEADER.size}"
        )
    views = choose(*stored.size)
    pixels = np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(rows, columns, 3)
    return pixels, views, [stored.place(view) for view in views]


@dataclasses.dataclass(frozen=True, eq=False)
class PackedSource:
    """One split of a packed data set. Positions, labels and names are those of the source it was made of."""

    class_names: tuple[str, ...]
    index: np.ndarray
    shards: tuple[memoryview, ...]
    facts: dict[str, Any]

    @property
    def ids(self) -> np.ndarray:
        return np.arange(len(self.index))

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return os.fsdecode(bytes(self.index["name"][index]))

    def read(self, index: int) -> tuple[memoryview, int]:
        shard, offset, length, label, readable, _ = self.index[index].item()
        record = self.shards[shard][offset : offset + length]
        if not readable:
            raise CorruptImage(bytes(record).decode(errors="replace"), label)
        return record, label


def open_packed(
    root: Path, train_split: str, eval_split: str
) -> tuple[PackedSource, PackedSource, str, str]:
    """(train, evaluation, evaluation split, description) of what was packed into `root`.

    Raises:
      DataError: it is missing, half made, damaged, or of another version.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}; {_how_to_pack(root)}")
    found = sorted(path.parent.name for path in root.glob(f"[!.]*/{FACTS}"))
    others = [name for name in found if name != train_split]
    wanted = eval_split or (others[0] if len(others) == 1 else "")
    missing = [split for split in (train_split, wanted) if split not in found]
    if missing and any(root.glob(_PARTIAL.format("*"))):
        raise DataError(
            f"the packing of {root} is not done: let it end, or give the same command again"
        )
    if missing:
        raise DataError(
            f"{root} has no packed split {missing[0] or 'to evaluate on'}, it holds "
            f"{', '.join(found) or 'none'}: set --config.data.train_split and --config.data.eval_split to "
            f"two of these, or {_how_to_pack(root)}"
        )
    train, evaluation = (open_split(root / split) for split in (train_split, wanted))
    if train.class_names != evaluation.class_names:
        raise DataError(
            f"the classes of {root / train_split} ({len(train.class_names)}) and {root / wanted} "
            f"({len(evaluation.class_names)}) differ: they were packed from two data sets "
            f"({train.facts['source']}, {evaluation.facts['source']}); {_how_to_pack(root)}"
        )
    facts = train.facts
    form = "central squares of" if facts["square"] else "shorter side at most"
    return (
        train,
        evaluation,
        wanted,
        f"packed {root} (from {facts['source']}, {form} {facts['shorter_side']}): "
        f"{len(train.class_names)} classes, {len(train)} {train_split}, {len(evaluation)} {wanted}",
    )


def open_split(folder: Path) -> PackedSource:
    """One packed split, its files checked against their sizes and the index against its SHA-256."""
    again = f"pack or copy it again ({_how_to_pack(folder.parent)})"
    try:
        facts = json.loads((folder / FACTS).read_text())
        version = facts["format"]
        if version == FORMAT:
            sizes, names, digest = facts["shards"], facts["class_names"], facts["index_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / FACTS} cannot be read ({error!r}); {again}") from error
    if version != FORMAT:
        raise DataError(
            f"{folder} is packed in format {version}; this version of jaxcnn reads format {FORMAT}; {again}"
        )
    try:
        with open(folder / INDEX, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise DataError(f"{folder / INDEX} is not the index that was written; {again}")
        shards = tuple(_map(folder / shard_name(k), size, again) for k, size in enumerate(sizes))
        index = np.load(folder / INDEX, mmap_mode="r").view(np.ndarray)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; {again}") from error
    return PackedSource(tuple(names), index, shards, facts)


def _map(path: Path, size: int, again: str) -> memoryview:
    # Checked here, since to read beyond the end of a mapped file ends the process.
    with open(path, "rb") as file:
        seen = os.fstat(file.fileno()).st_size
        if seen != size:
            raise DataError(f"{path} has {seen:,} bytes, expected {size:,}; {again}")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def shard_name(number: int) -> str:
    return f"{number:05d}.rgb"


def partial_folder(root: Path, split: str) -> Path:
    """Where a split lies while it is made."""
    return root / _PARTIAL.format(split)


def _how_to_pack(root: Path) -> str:
    return f"pack with: python -m jaxcnn.cli.prepare SOURCE --pack --shorter_side=256 --out={root}"
