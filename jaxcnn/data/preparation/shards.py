"""Writes the files of a packed split (sources/packed.py): shards, each with its part of the index."""

import hashlib
import importlib.metadata
import io
import json
import logging
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxcnn.data.crops import rescaled_size
from jaxcnn.data.eval_loader import EvalImage
from jaxcnn.data.sources.packed_check import metadata_digest
from jaxcnn.data.sources.packed_files import INDEX, INDEX_FIELDS, METADATA, shard_name
from jaxcnn.data.sources.packed_record import PackedImage
from jaxcnn.data.sources.source import Source
from jaxcnn.files import atomic_file, read_text, write_text, writing
from jaxcnn.paths import Path, file_size

_LOGGER = logging.getLogger(__name__)


def complete_shards(folder: Path) -> list[np.ndarray]:
    """Returns the index of each complete shard, up to the first that is not complete."""
    found = []
    while (rows := folder / chunk_name(len(found))).is_file():
        shard = folder / shard_name(len(found))
        try:
            chunk = np.load(rows)
        except (OSError, ValueError, EOFError) as error:
            _LOGGER.warning("%s is damaged (%s): its shard is packed again", rows, error)
            break
        if not shard.is_file() or file_size(shard) != chunk["length"].sum():
            break
        found.append(chunk)
    return found


def chunk_name(number: int) -> str:
    return f"{number:05d}.npy"


def digest_name(number: int) -> str:
    return f"{number:05d}.sha256"


def _shard_digest(folder: Path, number: int) -> str:
    """The SHA-256 of a complete shard, noted when it was written; an earlier version did not note it."""
    if (noted := folder / digest_name(number)).is_file():
        return read_text(noted, advice=f"delete {folder}, and give the same command again")
    with open(folder / shard_name(number), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shard(
    folder: Path, number: int, images: Iterable[EvalImage], source: Source
) -> np.ndarray:
    """Writes a shard, then its part of the index, which marks the shard as complete."""
    rows, offset, digest = [], 0, hashlib.sha256()
    path = folder / shard_name(number)
    with writing(path), open(path, "wb") as file:
        for image in images:
            parts = record(image)
            length, name = sum(map(len, parts)), os.fsencode(source.name(image.position))
            for part in parts:
                file.write(part)
                digest.update(part)
            rows.append((number, offset, length, image.label, not image.problem, name))
            offset += length
        file.flush()
        os.fsync(file.fileno())
    write_text(folder / digest_name(number), digest.hexdigest())
    longest = max(len(name) for *_, name in rows)
    chunk = np.array(rows, [*INDEX_FIELDS, ("name", f"S{longest}")])
    with atomic_file(folder / chunk_name(number)) as file:
        np.save(file, chunk)
    return chunk


def record(image: EvalImage) -> list[bytes]:
    """Returns the bytes of a record, in parts; for a corrupt image, the reason."""
    if image.problem:
        return [image.problem.encode()]
    ((crop, pixels),) = image.pixels.items()
    stored = PackedImage(image.size, rescaled_size(*image.size, crop.scale), crop.box)
    return [stored.header(), pixels.tobytes()]


def finish(folder: Path, recipe: dict[str, Any], chunks: list[np.ndarray]) -> None:
    """Writes the index and the metadata, which complete the split."""
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(chunks))
    with atomic_file(folder / INDEX) as file:
        file.write(buffer.getbuffer())
    metadata = {
        "jaxcnn": importlib.metadata.version("jaxcnn"),
        "shards": [int(chunk["length"].sum()) for chunk in chunks],
        "unreadable": sum(int((~chunk["readable"]).sum()) for chunk in chunks),
        "shard_sha256": [_shard_digest(folder, number) for number in range(len(chunks))],
        "index_sha256": hashlib.sha256(buffer.getbuffer()).hexdigest(),
    }
    metadata = recipe | metadata
    metadata["sha256"] = metadata_digest(metadata)
    write_text(folder / METADATA, json.dumps(metadata, indent=1))
