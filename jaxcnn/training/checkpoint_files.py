"""The folder of a run's checkpoints: which are complete, what their metadata says, and what is set aside."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any

from jaxcnn import object_store
from jaxcnn.paths import Path, epath, is_remote
from jaxcnn.training import checkpoint_objects as objects
from jaxcnn.training.checksums import Checksums, is_sealed, seal

UNREADABLE = "unreadable_checkpoints"
REPLACED = ".replaced"
# What Orbax writes into the folder of a checkpoint, of this version and earlier ones.
_ORBAX = {"state", "meta", "metrics", "_CHECKPOINT_METADATA", "_METADATA", "commit_success.txt"}
_SEALED = {"meta", "top1", "leaves", "checksums", "sha256"}


class LiteralPath(type(epath.Path("/"))):
    """A local path in which no character has a special meaning.

    `glob` of etils, which Orbax calls on a checkpoint's folder, takes the folder as part of the pattern: with
    `[...]` in its name, files are not found, and a save that ends without an error cannot be read. etils also
    takes `/gs/...` and `/s3/...` for object storage.
    """

    def glob(self, pattern: str) -> Iterator[LiteralPath]:
        return (self / name for name in glob.glob(pattern, root_dir=self))

    @property
    def _uri_scheme(self) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class SavedMeta:
    """What is saved beside the arrays of a state.

    Attributes:
        meta: JSON values of the run.
        top1: on the held-out images, if they were evaluated.
        leaves: dtype and shape of the arrays by name. Empty, as `checksums`, in a checkpoint of an earlier
            version, which had neither.
        checksums: of the arrays.
    """

    meta: dict[str, Any]
    top1: float | None
    leaves: dict[str, str]
    checksums: Checksums

    def sealed(self) -> dict[str, Any]:
        """The JSON object that `read_meta` verifies."""
        return seal(dataclasses.asdict(self))


def complete_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder` that hold a state, in ascending order."""
    if is_remote(folder):
        entries = objects.list_entries(folder).items()
        return sorted(
            int(name) for name, inside in entries if _is_step(name) and objects.is_complete(inside)
        )
    return sorted(int(entry.name) for entry in _numbered(folder) if _has_state(entry))


def has_state(folder: Path) -> bool:
    """Whether a run continues from a checkpoint in `folder`. Raises OSError if a bucket does not say."""
    if is_remote(folder):
        entries = objects.list_entries(folder).items()
        names = [name for name, inside in entries if objects.is_complete(inside)]
    else:
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return any(name.removesuffix(REPLACED).isdigit() for name in names)


def incomplete_entries(folder: Path, good: int | None) -> list[tuple[int, str]]:
    """Entries in the place of a checkpoint that hold no state, with what they are: they block their step.

    Those before the checkpoint `good` that hold nothing but remnants of one are removed: a deletion of old
    checkpoints was interrupted there. In a bucket all such are, since a save may have been as well.
    """
    if is_remote(folder):
        return _incomplete_objects(folder)
    found = []
    for entry in _numbered(folder):
        if _has_state(entry):
            continue
        if good is not None and int(entry.name) < good and _is_remnant(entry):
            shutil.rmtree(entry)
        else:
            what = "it has no folder 'state'" if entry.is_dir() else "it is not a folder"
            found.append((int(entry.name), what))
    return found


def read_meta(folder: Path, step: int) -> SavedMeta:
    """The metadata of a checkpoint.

    Raises:
        OSError, ValueError: it cannot be read, or its checksum differs.
    """
    path = folder / str(step) / "meta" / "metadata"  # where Orbax's handler of JSON writes it
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    if not _SEALED & found.keys():  # any of them may be damaged, but hardly all
        return SavedMeta(found, _old_top1(folder / str(step)), {}, {})
    if not is_sealed(found) or found.keys() != _SEALED:
        raise ValueError(f"{path} is damaged: its checksum differs")
    return SavedMeta(**{key: value for key, value in found.items() if key != "sha256"})


def known_top1(folder: Path, images: str) -> dict[int, float]:
    """Top-1 on the held-out images by step, of the complete checkpoints that have one.

    Args:
        folder: of the checkpoints.
        images: their digest, if known: what was measured on others is left out.
    """
    found = {}
    for step in complete_steps(folder):
        try:
            saved = read_meta(folder, step)
        except (OSError, ValueError):  # `Checkpoints.restore` finds it and says so
            continue
        same = not images or saved.meta.get("images", images) in ("", images)
        if saved.top1 is not None and same:
            found[step] = saved.top1
    return found


def set_aside(folder: Path, step: int) -> Path:
    """Moves a checkpoint out of the way, so that its step can be saved again; nothing deletes it there."""
    aside = folder.with_name(UNREADABLE)
    if is_remote(folder):
        inside = objects.list_entries(folder)[str(step)]
        objects.move(folder / str(step), aside / f"{step}_{time.time_ns()}", inside)
        return aside
    aside.mkdir(exist_ok=True)
    # Not a rename: `checkpoints` may be a link to another file system.
    shutil.move(folder / str(step), aside / f"{step}_{time.time_ns()}")
    return aside


def put_back_replaced(folder: Path) -> None:
    """Removes what `move_replaced` kept, or puts it back if its new checkpoint was not completed."""
    if is_remote(folder):
        _put_back_objects(folder)
        return
    for entry in folder.glob(f"*{REPLACED}"):
        step = folder / entry.name.removesuffix(REPLACED)
        if _has_state(step):
            shutil.rmtree(entry)
        else:
            entry.rename(step)


def move_replaced(folder: Path, step: int) -> None:
    """Makes room for a new checkpoint of `step`; the old one is kept until `put_back_replaced`."""
    if is_remote(folder):
        inside = objects.list_entries(folder)[str(step)]
        objects.move(folder / str(step), folder / f"{step}{REPLACED}", inside)
        return
    (folder / str(step)).rename(folder / f"{step}{REPLACED}")


def remove_steps(folder: Path, steps: Iterable[int]) -> None:
    """Deletes checkpoints in a bucket."""
    entries = objects.list_entries(folder)
    for step in steps:
        objects.remove(folder / str(step), entries[str(step)])


def remove_tree(folder: Path) -> None:
    """Deletes a folder with all that it holds, if there is one."""
    if is_remote(folder):
        object_store.remove_tree(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _incomplete_objects(folder: Path) -> list[tuple[int, str]]:
    found = []
    for name, inside in objects.list_entries(folder).items():
        if not _is_step(name) or objects.is_complete(inside):
            continue
        if {one.partition("/")[0] for one in inside} <= _ORBAX:
            objects.remove(folder / name, inside)
        else:
            found.append((int(name), f"it has no state or no {objects.COMMITTED}"))
    return found


def _put_back_objects(folder: Path) -> None:
    entries = objects.list_entries(folder)
    for name, inside in entries.items():
        step = name.removesuffix(REPLACED)
        if step == name:
            continue
        if objects.is_complete(entries.get(step, ())):
            objects.remove(folder / name, inside)
        elif objects.is_complete(inside):
            objects.remove(folder / step, entries.get(step, ()))  # of an interrupted save
            objects.move(folder / name, folder / step, inside)


def _numbered(folder: Path) -> Iterator[Path]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return (entry for entry in entries if _is_step(entry.name))


def _is_step(name: str) -> bool:
    return name.isdecimal() and str(int(name)) == name


def _read(path: Path) -> bytes:
    return object_store.read_again(path) if is_remote(path) else path.read_bytes()


def _is_remnant(entry: Path) -> bool:
    if os.path.islink(entry) or not entry.is_dir():
        return False
    return {inside.name for inside in entry.iterdir()} <= _ORBAX


def _has_state(entry: Path) -> bool:
    return (entry / "state").is_dir()


def _old_top1(checkpoint: Path) -> float | None:
    """Earlier versions had it in a file of its own."""
    try:
        return float(json.loads(_read(checkpoint / "metrics" / "metrics"))["top1"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
