"""Makes a packed data set (packed.py): each image decoded and rescaled once.

A split is made in a folder of another name, which is renamed when all is done. A shard that is complete
stays, so that the same command goes on after a stop; it is a fixed number of images, in the source's order.
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

from jaxcnn.data.crops import square_corner
from jaxcnn.data.errors import DataError
from jaxcnn.data.eval_crops import EvalCrop, whole_image_crop
from jaxcnn.data.eval_loader import EvalImage, EvalLoader
from jaxcnn.data.loader import CorruptCounter
from jaxcnn.data.preparation.shards import chunk_name, complete, finish, record, write, write_shard
from jaxcnn.data.sources.packed import FORMAT, METADATA, partial_folder
from jaxcnn.data.sources.source import Source, Subset

# Images a shard: at most so many are done again after a stop. ImageNet's 157 shards are all mapped at once.
PER_SHARD = 8192
# Images that are tried to foresee how much room all take.
_TRIED = 64
_RECIPE = "recipe.json"

# (split, images done, images in all).
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
    """Packs `splits` into out/SPLIT; returns the names of those that it made and were not there.

    With `square` the shorter side is rescaled to exactly `shorter_side`, small images enlarged, and the
    central square is stored (Krizhevsky et al. 2012, section 2). Without, the whole image is stored, and
    `shorter_side` is a cap: smaller images stay as they are.

    Args:
      splits: by name, each the whole split of a source.
      out: the folder, made where it is missing.
      origin: what the splits are of, as `data.source` names it.
      shorter_side: in pixels.
      square: whether to store central squares alone.
      threads: decoding threads; 0 for one a core.
      per_shard: images a shard.
      progress: called after each image.

    Raises:
      DataError: `out` holds another pack or has no room, or too many images cannot be read.
    """
    if shorter_side < 1 or per_shard < 1:
        raise DataError(f"shorter_side={shorter_side}, per_shard={per_shard}: expected 1 or more")

    def cut(height: int, width: int) -> list[EvalCrop]:
        if square:
            corner = square_corner(height, width, shorter_side)
            return [EvalCrop(shorter_side, (*corner, shorter_side, shorter_side))]
        return [whole_image_crop(height, width, min(height, width, shorter_side))]

    made, needed = {}, 0
    with _writing(out):
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
                begun = sum(f.stat().st_size for f in partial_folder(out, name).glob("*.rgb"))
                needed += max(0, _foreseen(source, cut, threads) - begun)
                made[name] = recipe
        if made:
            out.mkdir(parents=True, exist_ok=True)
            _check_room(out, needed)
        for name, recipe in made.items():
            _pack_split(splits[name], out, recipe, cut, threads, progress)
    return list(made)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or out}: {error.strerror}; what is complete is kept: see to it "
            "and give the same command again, or name another folder with --out=DIR"
        ) from error


def _is_done(out: Path, name: str, recipe: dict[str, Any]) -> bool:
    """Whether the split is there.

    Raises:
      DataError: it is there or begun, but of another recipe.
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
                f"{place.parent} was packed otherwise ({differ}); name another folder with --out=DIR, or "
                "delete this one"
            )
        return place.name == METADATA
    return False


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _foreseen(source: Source, cut: Callable[[int, int], list[EvalCrop]], threads: int) -> int:
    """About how many bytes the split will take, from some images spread over it."""
    tried = np.unique(np.linspace(0, len(source) - 1, min(_TRIED, len(source))).astype(int))
    with EvalLoader(Subset(source, tried), cut, threads=threads) as pictures:
        taken = sum(len(part) for picture in pictures for part in record(picture))
    return taken * len(source) // len(tried)


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DataError(
            f"{out} has {free / 1e9:.3g} GB free, the packed images will take about {needed / 1e9:.3g} GB; "
            "free some, name a folder on another disk with --out=DIR, or give a smaller --shorter_side"
        )


def _pack_split(
    source: Source,
    out: Path,
    recipe: dict[str, Any],
    cut: Callable[[int, int], list[EvalCrop]],
    threads: int,
    progress: ReportProgress,
) -> None:
    name, per_shard = recipe["split"], recipe["per_shard"]
    folder = partial_folder(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        write(folder / _RECIPE, json.dumps(recipe).encode())
        chunks, count = complete(folder), -(-len(source) // per_shard)
        if len(chunks) < count:
            done = len(chunks) * per_shard
            rest = Subset(source, np.arange(done, len(source)))
            with EvalLoader(rest, cut, threads=threads) as pictures:
                counted = _counted(
                    pictures, rest, lambda seen: progress(name, done + seen, len(source))
                )
                for number in range(len(chunks), count):
                    some = itertools.islice(counted, per_shard)
                    chunks.append(write_shard(folder, number, some, rest))
        finish(folder, recipe, chunks)
        os.rename(folder, out / name)
    # Last: a stop before the rename finds all that it needs to get there.
    for spare in (_RECIPE, *map(chunk_name, range(count))):
        (out / name / spare).unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two processes would write over each other."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DataError(f"another process packs into {folder}; wait for it") from None
    finally:
        os.close(descriptor)


def _counted(
    pictures: Iterable[EvalImage], source: Source, progress: Callable[[int], None]
) -> Iterator[EvalImage]:
    """The pictures, those that cannot be read noted."""
    unreadable = CorruptCounter(source, "packed as unreadable")
    for seen, picture in enumerate(pictures, 1):
        if picture.problem:
            unreadable.note(picture.position, picture.problem, seen)
        yield picture
        progress(seen)
