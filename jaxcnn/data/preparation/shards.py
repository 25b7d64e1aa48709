"""The files of a packed split (packed.py) as they are written: shards, each with its part of the index."""

import hashlib
import importlib.metadata
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.crops import rescaled_size
from jaxcnn.data.eval_loader import EvalImage
from jaxcnn.data.sources.packed import INDEX, INDEX_FIELDS, METADATA, PackedImage, shard_name
from jaxcnn.data.sources.source import Source


def complete(folder: Path) -> list[np.ndarray]:
    """The index of each shard that an earlier start completed, up to the first that is not."""
    found = []
    while (rows := folder / chunk_name(len(found))).is_file():
        shard, chunk = folder / shard_name(len(found)), np.load(rows)
        if not shard.is_file() or shard.stat().st_size != chunk["length"].sum():
            break
        found.append(chunk)
    return found


def chunk_name(number: int) -> str:
    return f"{number:05d}.npy"


def write_shard(
    folder: Path, number: int, pictures: Iterable[EvalImage], source: Source
) -> np.ndarray:
    """Writes a shard, then its part of the index, which says that the shard is complete."""
    rows, names, offset = [], [], 0
    path = folder / shard_name(number)
    with open(path, "wb") as file:
        for picture in pictures:
            parts = record(picture)
            length = sum(map(len, parts))
            file.writelines(parts)
            rows.append((number, offset, length, picture.label, not picture.problem))
            names.append(os.fsencode(source.name(picture.position)))
            offset += length
        file.flush()
        os.fsync(file.fileno())
    column = np.array(names)
    chunk = np.empty(len(rows), [*INDEX_FIELDS, ("name", column.dtype)])
    chunk[[field for field, _ in INDEX_FIELDS]] = np.array(rows, list(INDEX_FIELDS))
    chunk["name"] = column
    buffer = io.BytesIO()
    np.save(buffer, chunk)
    write(folder / chunk_name(number), buffer.getvalue())
    return chunk


def record(picture: EvalImage) -> list[bytes]:
    """The bytes of a record, in parts: of an image that cannot be read, the reason."""
    if picture.problem:
        return [picture.problem.encode()]
    ((cut, pixels),) = picture.pixels.items()
    stored = PackedImage(picture.size, rescaled_size(*picture.size, cut.scale), cut.box)
    return [stored.header(), pixels.tobytes()]


def finish(folder: Path, recipe: dict[str, Any], chunks: list[np.ndarray]) -> None:
    """The files that make the folder a split."""
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(chunks))
    write(folder / INDEX, buffer.getvalue())
    facts = {
        "jaxcnn": importlib.metadata.version("jaxcnn"),
        "shards": [int(chunk["length"].sum()) for chunk in chunks],
        "unreadable": sum(int((~chunk["readable"]).sum()) for chunk in chunks),
        "index_sha256": hashlib.sha256(buffer.getbuffer()).hexdigest(),
    }
    write(folder / METADATA, json.dumps(recipe | facts, indent=1).encode())


def write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_suffix(".part")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
