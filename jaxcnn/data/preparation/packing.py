"""Writes a packed data set (sources/packed.py): each image decoded and rescaled once.

A split is written into a temporary folder, which is renamed at the end. Complete shards stay after an
interruption, and the same command continues from there. A shard has a fixed number of images, in the source's
order.
"""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.atomic_file import atomic_file
from jaxcnn.data.crops import square_corner
from jaxcnn.data.errors import DataError
from jaxcnn.data.eval_crops import EvalCrop, whole_image_crop
from jaxcnn.data.eval_loader import EvalImage, EvalLoader
from jaxcnn.data.loader import CorruptCounter
from jaxcnn.data.preparation.shards import chunk_name, complete_shards, finish, record, write_shard
from jaxcnn.data.sources.packed import FORMAT, METADATA, partial_folder
from jaxcnn.data.sources.source import Source, Subset

# Images a shard: at most this many are repeated after an interruption. All 157 shards of ImageNet are mapped.
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

    With `square` the shorter side is rescaled to exactly `shorter_side`, small images are enlarged, and only
    the central square is stored (Krizhevsky et al. 2012, section 2). Without it the whole image is stored and
    `shorter_side` is an upper limit: smaller images keep their size.

    Args:
      splits: by name, each the whole split of a source.
      out: the folder, made if it is missing.
      origin: the data set, as `data.source` names it.
      shorter_side: in pixels.
      square: whether to store only central squares.
      threads: decoding threads; 0 for one a core.
      per_shard: images a shard.
      progress: called after each image.

    Raises:
      DataError: `out` contains another pack, the disk is too small, or too many images are corrupt.
    """
    if shorter_side < 1 or per_shard < 1:
        raise DataError(f"shorter_side={shorter_side}, per_shard={per_shard}: expected 1 or more")

    def choose(height: int, width: int) -> list[EvalCrop]:
        if square:
            corner = square_corner(height, width, shorter_side)
            return [EvalCrop(shorter_side, (*corner, shorter_side, shorter_side))]
        return [whole_image_crop(height, width, min(height, width, shorter_side))]

    made, needed = {}, 0
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
            if not _is_done(out, name, recipe):
                written = sum(f.stat().st_size for f in partial_folder(out, name).glob("*.rgb"))
                needed += max(0, _estimate_bytes(source, choose, threads) - written)
                made[name] = recipe
        if made:
            out.mkdir(parents=True, exist_ok=True)
            _check_room(out, needed)
        for name, recipe in made.items():
            _pack_split(splits[name], out, recipe, choose, threads, progress)
    return list(made)


@contextlib.contextmanager
def _report_os_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or out}: {error.strerror}; complete shards are kept: fix this and "
            "run the same command again, or name another folder with --out=DIR"
        ) from error


def _is_done(out: Path, name: str, recipe: dict[str, Any]) -> bool:
    """Returns whether the split is complete.

    Raises:
      DataError: it was packed, or its packing was started, with other settings.
    """
    for place in (out / name / METADATA, partial_folder(out, name) / _RECIPE):
        if not place.is_file():
            continue
        try:
            seen = json.loads(place.read_text())
            other = [key for key in recipe if seen.get(key) != recipe[key]]
        except (ValueError, AttributeError) as error:
            raise DataError(f"{place} is damaged ({error}); delete {place.parent}") from error
        if other:
            differ = "; ".join(
                f"{k}: {_short(seen.get(k))}, now {_short(recipe[k])}" for k in other
            )
            raise DataError(
                f"{place.parent} was packed with other settings ({differ}); name another folder with "
                "--out=DIR, or delete this one"
            )
        return place.name == METADATA
    return False


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _estimate_bytes(
    source: Source, choose: Callable[[int, int], list[EvalCrop]], threads: int
) -> int:
    """Estimates the size of the packed split from some images spread over it."""
    sampled = np.unique(np.linspace(0, len(source) - 1, min(_SAMPLED, len(source))).astype(int))
    with EvalLoader(Subset(source, sampled), choose, threads=threads) as images:
        size = sum(len(part) for image in images for part in record(image))
    return size * len(source) // len(sampled)


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DataError(
            f"{out} has {free / 1e9:.3g} GB free, the packed images need about {needed / 1e9:.3g} GB; "
            "free some, name a folder on another disk with --out=DIR, or give a smaller --shorter_side"
        )


def _pack_split(
    source: Source,
    out: Path,
    recipe: dict[str, Any],
    choose: Callable[[int, int], list[EvalCrop]],
    threads: int,
    progress: ReportProgress,
) -> None:
    name, per_shard = recipe["split"], recipe["per_shard"]
    folder = partial_folder(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder):
        with atomic_file(folder / _RECIPE) as file:
            file.write(json.dumps(recipe).encode())
        chunks, count = complete_shards(folder), -(-len(source) // per_shard)
        if len(chunks) < count:
            done = len(chunks) * per_shard
            rest = Subset(source, np.arange(done, len(source)))
            with EvalLoader(rest, choose, threads=threads) as images:
                noted = _note_corrupt(
                    images, rest, lambda seen: progress(name, done + seen, len(source))
                )
                for number in range(len(chunks), count):
                    some = itertools.islice(noted, per_shard)
                    chunks.append(write_shard(folder, number, some, rest))
        finish(folder, recipe, chunks)
        os.rename(folder, out / name)
    # Deleted last: an interruption before the rename needs these files to continue.
    for spare in (_RECIPE, *map(chunk_name, range(count))):
        (out / name / spare).unlink()


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


def _note_corrupt(
    images: Iterable[EvalImage], source: Source, progress: Callable[[int], None]
) -> Iterator[EvalImage]:
    """Yields the images, and records the corrupt ones."""
    corrupt = CorruptCounter(source, "packed as corrupt")
    for seen, image in enumerate(images, 1):
        if image.problem:
            corrupt.note(image.position, image.problem, seen)
        yield image
        progress(seen)
