"""Checks the checksums of packed data sets: all at once, or in the background of a run."""

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxcnn.data.sources.packed import PackedSource
from jaxcnn.data.sources.packed_files import METADATA, how_to_pack, shard_name
from jaxcnn.data.sources.retries import retry
from jaxcnn.data.sources.shard_files import shard_file
from jaxcnn.data.sources.source import Source, Subset

_LOGGER = logging.getLogger(__name__)

_CHUNK = 1 << 20
# Between two chunks in the background, which takes at most 100 MB/s from the disk: 45 minutes for ImageNet.
_PAUSE_SECONDS = 0.01


def metadata_digest(metadata: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a packed split's metadata without this digest itself."""
    rest = {key: value for key, value in metadata.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def packed_problems(source: PackedSource) -> Iterator[str]:
    """Yields what is wrong with a packed split's files: reads all of it. Its index was checked on opening."""
    metadata, folder = source.metadata, source.folder
    again = f"pack or copy it again ({how_to_pack(folder.parent)})"
    if "shard_sha256" not in metadata:
        yield (
            f"{folder} has no checksums, since an earlier version packed it; it can be trained on; to have "
            f"them, pack into another folder ({how_to_pack(folder.parent)})"
        )
    elif metadata.get("sha256") != metadata_digest(metadata):
        yield f"{folder / METADATA} does not have the recorded SHA-256; {again}"
    known = {shard_name(number) for number in range(len(source.shards))}
    seen = {path.name for path in folder.iterdir() if path.name.endswith(".rgb")}
    for name in sorted(seen - known):
        yield f"{folder / name} belongs to no packed data set; move it away"
    yield from shard_problems(source, range(len(source.shards)))


def shard_problems(
    source: PackedSource, numbers: Iterable[int], pause: Callable[[], None] = lambda: None
) -> Iterator[str]:
    """Yields the damage of shards; calls `pause` after each mebibyte. Yields nothing without checksums."""
    expected = source.metadata.get("shard_sha256", ())
    for number in numbers if expected else ():
        path = source.folder / shard_name(number)
        digest, file, position = hashlib.sha256(), shard_file(path), 0
        try:
            while part := retry(lambda: file.read(position, _CHUNK), path):  # noqa: B023 (called at once)
                digest.update(part)
                position += len(part)
                pause()
        except OSError as error:
            yield f"{path} cannot be read ({error.strerror})"
            continue
        if digest.hexdigest() != expected[number]:
            again = how_to_pack(source.folder.parent)
            yield f"{path} does not have the recorded SHA-256; pack or copy it again ({again})"


class _Stopped(Exception):
    """The run ended before all was checked."""


@contextlib.contextmanager
def checked_in_background(
    sources: Iterable[Source | None], process_index: int = 0, process_count: int = 1
) -> Iterator[threading.Thread]:
    """Checks this process's share of the shards of packed sources during the block, in a slow thread.

    Damage is logged; then every `read` of the source raises it as a DataError. Sources in a bucket are left
    out, because each run would download all of them: `prepare packed:DIR --verify` checks them.
    """
    packed = {
        id(base): base
        for base in map(_base, sources)
        if isinstance(base, PackedSource) and not base.in_bucket
    }
    stop = threading.Event()

    def pause() -> None:
        if stop.wait(_PAUSE_SECONDS):
            raise _Stopped

    def work() -> None:
        with contextlib.suppress(
            OSError, AttributeError
        ):  # of this thread only, where that is possible
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            for source in packed.values():
                share = range(process_index, len(source.shards), process_count)
                for problem in shard_problems(source, share, pause):
                    _LOGGER.warning("%s", problem)
                    source.damage.append(problem)
        except _Stopped:
            pass
        except Exception as error:  # such as a disk that does not answer
            _LOGGER.warning("the checksums of the packed data were not all checked: %s", error)

    thread = threading.Thread(target=work, name="jaxcnn-checksums", daemon=True)
    if packed:
        thread.start()
    try:
        yield thread
    finally:
        stop.set()


def _base(source: Source | None) -> Source | None:
    while isinstance(source, Subset):
        source = source.base
    return source
