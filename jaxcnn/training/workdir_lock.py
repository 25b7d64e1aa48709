"""The locks of a workdir, which one process has at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator

from jaxcnn.paths import Path

LOCK = ".running"


class WorkdirError(RuntimeError):
    """A workdir that cannot be used for this run; says what to do."""


def cannot_write(folder: Path, error: OSError) -> WorkdirError:
    """The error that says why `folder` cannot be written."""
    reason = str(error)
    if os.path.islink(folder) and not folder.exists():
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
            raise cannot_write(folder, error) from error
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
        holder = (folder / LOCK).read_bytes().decode("utf-8", "replace").strip()
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
