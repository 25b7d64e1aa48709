"""Writes a packed data set (sources/packed.py): each image decoded and rescaled once.

A split is written into a temporary folder, which is renamed at the end. Complete shards stay after an
interruption, and the same command continues from there. A shard has a fixed number of images, in the source's
order.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxcnn.data.errors import DataError
from jaxcnn.data.eval_crops import EvalCrop, center_crop, whole_image_crop
from jaxcnn.data.eval_loader import EvalImage, EvalLoader
from jaxcnn.data.loader import CorruptCounter
from jaxcnn.data.preparation.shards import (
    chunk_name,
    complete_shards,
    digest_name,
    finish,
    record,
    write_shard,
)
from jaxcnn.data.sources.packed_files import FORMAT, METADATA, partial_folder
from jaxcnn.data.sources.source import Source, Subset
from jaxcnn.files import read_json, write_text
from jaxcnn.paths import Path, file_size

# Images per shard: at most this many are repeated after an interruption. ImageNet has 157 shards, all mapped.
PER_SHARD = 8192
# Images that are packed on trial to estimate the size of all.
_SAMPLED = 64
_RECIPE = "recipe.json"

# (split, images done, images in total).
ReportProgress = Callable[[str, int, int], None]


def pack(
    splits: dict[str, Source],
    out: Path,
    *,
    origin: str,
    shorter_side: int,
    square: bool = False,
    threads: int = 0,
    per_shard: int = PER_SHARD,
    progress: ReportProgress = lambda *_: None,
) -> list[str]:
    """Packs `splits` into out/SPLIT; returns the names of the splits that were not there yet.

    With `square` the shorter side is rescaled to exactly `shorter_side` pixels, small images are enlarged,
    and only the central square is stored (Krizhevsky et al. 2012, section 2). Without it the whole image is
    stored and `shorter_side` is an upper limit: smaller images keep their size.

    Args:
      splits: by name, each the whole split of a source.
      origin: the data set, as `data.source` names it.
      threads: decoding threads; 0 for one per core.
      per_shard: images per shard.
      progress: called after each image.

    Raises:
      DataError: `out` contains another pack, the disk is too small, or too many images are corrupt.
    """
    if shorter_side < 1:
        raise DataError(f"shorter_side={shorter_side}: expected 1 or more")
    missing: dict[str, _Split] = {}
    with _report_os_errors(out):
        for name, source in splits.items():
            recipe = {
                "format": FORMAT,
                "source": origin,
                "split": name,
                "images": len(source),
                "shorter_side": shorter_side,
                "square": square,
                "filter": "bilinear",
                "per_shard": per_shard,
                "class_names": list(source.class_names),
            }
            split = _Split(source, out / name, partial_folder(out, name), recipe, threads)
            if not split.is_done():
                missing[name] = split
        needed = sum(split.estimate_bytes() for split in missing.values())
        if missing:
            out.mkdir(parents=True, exist_ok=True)
            _check_disk(out, needed)
        for split in missing.values():
            split.write(progress)
    return list(missing)


@contextlib.contextmanager
def _report_os_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or out}: {error.strerror}; complete shards are kept: fix this and "
            "run the same command again, or name another folder with --out=DIR"
        ) from error


def _check_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DataError(
            f"{out} has {free / 1e9:.3g} GB free, the packed images need about {needed / 1e9:.3g} GB; "
            "free some, name a folder on another disk with --out=DIR, or give a smaller --shorter_side"
        )


@dataclasses.dataclass(frozen=True)
class _Split:
    """A split to pack: its images, its folder, the folder before it is complete, and the settings."""

    source: Source
    folder: Path
    partial: Path
    recipe: dict[str, Any]
    threads: int

    def is_done(self) -> bool:
        """Returns whether the split is complete.

        Raises:
          DataError: it was packed, or its packing was started, with other settings.
          FileError: its description is damaged.
        """
        for place in (self.folder / METADATA, self.partial / _RECIPE):
            if not place.is_file():
                continue
            seen = read_json(place, dict, advice=f"delete {place.parent}")
            other = [k for k, value in self.recipe.items() if seen.get(k) != value]
            if other:
                differ = "; ".join(
                    f"{k}: {_short(seen.get(k))}, now {_short(self.recipe[k])}" for k in other
                )
                raise DataError(
                    f"{place.parent} was packed with other settings ({differ}); name another folder with "
                    "--out=DIR, or delete this one"
                )
            return place.name == METADATA
        return False

    def estimate_bytes(self) -> int:
        """Estimates the size of what is missing, from some images spread over the split."""
        count = len(self.source)
        sampled = np.unique(np.linspace(0, count - 1, min(_SAMPLED, count)).astype(int))
        with self._load(Subset(self.source, sampled)) as images:
            size = sum(len(part) for image in images for part in record(image))
        written = sum(file_size(file) for file in self.partial.glob("*.rgb"))
        return max(0, size * count // len(sampled) - written)

    def write(self, progress: ReportProgress) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)
        with _exclusive(self.partial):
            write_text(self.partial / _RECIPE, json.dumps(self.recipe))
            per_shard, chunks = self.recipe["per_shard"], complete_shards(self.partial)
            count = -(-len(self.source) // per_shard)
            if len(chunks) < count:
                rest = Subset(self.source, np.arange(len(chunks) * per_shard, len(self.source)))
                with self._load(rest) as images:
                    noted = self._note(images, rest, progress)
                    for number in range(len(chunks), count):
                        some = itertools.islice(noted, per_shard)
                        chunks.append(write_shard(self.partial, number, some, rest))
            finish(self.partial, self.recipe, chunks)
            os.rename(self.partial, self.folder)
        # Deleted last: an interruption before the rename needs these files to continue.
        spare = [name(number) for name in (chunk_name, digest_name) for number in range(count)]
        for file in (_RECIPE, *spare):
            (self.folder / file).unlink(missing_ok=True)

    def _load(self, source: Source) -> EvalLoader:
        return EvalLoader(source, self._choose, threads=self.threads)

    def _choose(self, height: int, width: int) -> list[EvalCrop]:
        side = self.recipe["shorter_side"]
        if self.recipe["square"]:
            return [center_crop(height, width, side, side, square=True)]
        return [whole_image_crop(height, width, min(height, width, side))]

    def _note(
        self, images: EvalLoader, rest: Source, progress: ReportProgress
    ) -> Iterator[EvalImage]:
        """Yields the images, records the corrupt ones and reports progress."""
        corrupt, count = CorruptCounter(rest, "packed as corrupt"), len(self.source)
        for seen, image in enumerate(images, 1):
            if image.problem:
                corrupt.note(image.position, image.problem, seen)
            yield image
            progress(self.recipe["split"], count - len(rest) + seen, count)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Locks the folder: two processes would overwrite each other's files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DataError(f"another process packs into {folder}; wait until it ends") from None
    finally:
        os.close(descriptor)
