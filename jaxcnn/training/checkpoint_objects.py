"""Checkpoints in a bucket, where Orbax writes a step's objects in their final place and `commit_success.txt`
last: a step without it is not complete.

Object storage has no rename. A step is moved by copies, the mark last, and deletions, the mark first: so each
moment has a complete step, and what a kill leaves is known by the missing mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from jaxcnn import object_store
from jaxcnn.paths import Path
from jaxcnn.retries import retry

COMMITTED = "commit_success.txt"
_THREADS = 16

# The names of objects by the folder that they lie in.
Entries = dict[str, set[str]]


def list_entries(folder: Path) -> Entries:
    """The entries of a folder, by one listing: the names of the objects in each, `{''}` of an object."""
    found: Entries = {}
    for key in object_store.keys(folder):
        name, _, inside = key.partition("/")
        found.setdefault(name, set()).add(inside)
    return found


def is_complete(inside: Iterable[str]) -> bool:
    """Whether these are the objects of a complete checkpoint."""
    inside = set(inside)
    return COMMITTED in inside and any(name.startswith("state/") for name in inside)


def move(entry: Path, to: Path, inside: Iterable[str]) -> None:
    """Moves an entry with the objects `inside` to a place that holds nothing complete."""
    last_first = sorted(inside, key=lambda name: name == COMMITTED)
    unmarked = [name for name in last_first if name != COMMITTED]
    _each(unmarked, lambda name: object_store.copy(_object(entry, name), _object(to, name)))
    if len(unmarked) < len(last_first):
        object_store.copy(entry / COMMITTED, to / COMMITTED)
    remove(entry, last_first)


def remove(entry: Path, inside: Iterable[str]) -> None:
    """Deletes an entry with the objects `inside`."""
    if COMMITTED in inside:
        mark = entry / COMMITTED
        retry(lambda: object_store.delete(mark), mark, "delete")
    object_store.remove_tree(entry)


def _object(entry: Path, inside: str) -> Path:
    return entry / inside if inside else entry


def _each(names: Iterable[str], work) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, names))
