"""The workdir of a run: locked for one process, and checked to belong to the same run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import config as configs
from jaxcnn.files import read_lines, write_text
from jaxcnn.parallel import ProcessGroup
from jaxcnn.training import run_files
from jaxcnn.training.schema import read_saved_config

LOCK = ".running"


class WorkdirError(RuntimeError):
    """A workdir that cannot be used for this run; says what to do."""


@contextlib.contextmanager
def claim_workdir(
    folder: Path, config: Mapping[str, Any], class_names: Sequence[str], examples: int
) -> Iterator[None]:
    """Makes `folder` the workdir of a run of `config`, locked until the end of the block.

    Args:
        folder: created if absent.
        class_names: of the source, by label.
        examples: training examples in an epoch, without the held-out ones.

    Raises:
        WorkdirError: it is in use, holds a run of another config or of other data, or cannot be written.
        FileError: config.json or classes.txt of the run there is damaged.
    """
    with lock_workdir(folder):
        path, names = folder / "config.json", "".join(f"{name}\n" for name in class_names)
        if has_begun(folder):
            _check_same_config(path, config)
            _check_same_data(folder, names, examples)
        try:
            configs.save_config(config, path)
            write_text(folder / "classes.txt", names)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        yield


def has_begun(folder: Path) -> bool:
    """Whether `folder` has checkpoints from which a run continues."""
    checkpoints = folder / "checkpoints"
    return checkpoints.is_dir() and any(e.name.isdigit() for e in checkpoints.iterdir())


def check_shared(folder: Path, process_group: ProcessGroup) -> None:
    """Checks that every process sees the folder that process 0 writes.

    Raises:
        WorkdirError: on every process, naming those that do not see it.
    """
    if process_group.count == 1:
        return
    token, first = process_group.gather([secrets.token_hex(8), str(folder)])[0]
    path = folder / ".shared"
    process_group.run_on_primary(lambda: path.write_text(token))
    seen = process_group.gather(path.exists() and path.read_text() == token)
    process_group.run_on_primary(lambda: path.unlink())
    if not all(seen):
        blind = ", ".join(str(i) for i, sees in enumerate(seen) if not sees)
        raise WorkdirError(
            f"process {blind} does not see the workdir {first} of process 0; use a --workdir on a file "
            "system that all machines share"
        )


def _check_same_config(path: Path, config: Mapping[str, Any]) -> None:
    saved = read_saved_config(path)
    if not saved["model"]["num_classes"]:  # as --print_config prints it; taken from the data
        saved["model"]["num_classes"] = config["model"]["num_classes"]
    changed = configs.forbidden_difference(saved, config)
    if changed:
        raise WorkdirError(
            f"{path.parent} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            f"only {', '.join(configs.MAY_DIFFER)} may differ on resume; use another --workdir, or the "
            "settings of that run"
        )


def _check_same_data(folder: Path, names: str, examples: int) -> None:
    before = folder / "classes.txt"
    advice = "delete it, if these are the data of the run: this command writes it again"
    if before.exists() and "".join(f"{n}\n" for n in read_lines(before, advice=advice)) != names:
        raise WorkdirError(
            f"the classes of the data differ from {before}, so labels would not mean the same as in "
            "training; use another --workdir, or the original data"
        )
    starts = run_files.read_starts(folder / "run.json")
    if starts and starts[-1]["examples"] != examples:
        raise WorkdirError(
            f"the run in {folder} began with {starts[-1]['examples']:,} training examples, now there "
            f"are {examples:,}, so it cannot resume exactly; use another --workdir, or the original data"
        )


def _cannot_write(folder: Path, error: OSError) -> WorkdirError:
    reason = str(error)
    if folder.is_symlink() and not folder.exists():
        reason = f"it is a link to {os.readlink(folder)}, which does not exist"
    elif folder.exists() and not folder.is_dir():
        reason = "it is a file"
    return WorkdirError(f"cannot write to the workdir {folder}: {reason}; use another --workdir")


@contextlib.contextmanager
def lock_workdir(folder: Path) -> Iterator[None]:
    """Locks `folder` for the block. The operating system releases the locks if the process dies.

    Two locks, because the file `LOCK`, which names the holder, may be removed by hand during a run, and the
    folder itself cannot be locked on NFS.

    Raises:
        WorkdirError: another process has a lock, or the folder cannot be used.
    """
    # flock, not the `filelock` package: the error names the process that holds the lock, and a file
    # system without locks is not an error.
    check_workdir_name(folder)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            own = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, own)
            if not _lock(own):
                raise _in_use(folder)
            file = _lock_file(folder / LOCK)
            stack.callback(os.close, file)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        stack.callback(_unlink_if_same, folder / LOCK, file)  # called first
        yield


def check_workdir_name(folder: Path) -> None:
    """Raises a WorkdirError if the path is not UTF-8, the only one that checkpoints can be stored under."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(folder).decode(errors="backslashreplace")
        raise WorkdirError(
            f"the path of the workdir, {shown}, is not UTF-8, and checkpoints cannot be saved there; use "
            "another --workdir, or rename the folder"
        ) from None


def _lock_file(path: Path) -> int:
    """Creates and locks the file that names this process; returns its descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(file):
            os.close(file)
            raise _in_use(path.parent)
        if _is_same(path, file):  # else the previous holder has just removed it
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} of {socket.gethostname()}\n".encode())
            return file
        os.close(file)


def _lock(file: int) -> bool:
    """Locks an open file or folder; False if another process has the lock. True without a lock where the
    file system has none: NFS has none for folders."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _in_use(folder: Path) -> WorkdirError:
    holder = ""
    with contextlib.suppress(OSError):
        holder = (folder / LOCK).read_text("utf-8", "replace").strip()
    return WorkdirError(
        f"{folder} is in use by {holder or 'another process'}; wait for it, or use another --workdir. If "
        "these processes should train together but each one runs alone, see --distributed"
    )


def _is_same(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _unlink_if_same(path: Path, file: int) -> None:
    if _is_same(path, file):
        path.unlink(missing_ok=True)
