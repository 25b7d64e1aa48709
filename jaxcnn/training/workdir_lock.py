"""The locks of a workdir, which one process has at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterable, Iterator

from jaxcnn.paths import Path, is_remote
from jaxcnn.training.workdir_errors import WorkdirError, cannot_write, in_use
from jaxcnn.training.workdir_lease import Lease, hold_lease

__all__ = ["LOCK", "WorkdirError", "cannot_write", "check_workdir_name", "lock_workdir"]

LOCK = ".running"


@contextlib.contextmanager
def lock_workdir(
    folder: Path, check_stop: Callable[[], None] = lambda: None
) -> Iterator[Lease | None]:
    """Locks `folder` for the block, by a lease in a bucket, or by the operating system, which releases its
    locks if the process dies. Makes the folder; one that stays empty is removed at the end.

    Two locks on a disk, because the file `LOCK`, which names the holder, may be removed by hand during a run,
    and the folder itself cannot be locked on NFS.

    Args:
        check_stop: called while a lease may have an owner; raises to leave.

    Yields:
        The lease, to confirm before writes, if the folder is in a bucket.

    Raises:
        WorkdirError: another process has a lock, or the folder cannot be used.
    """
    if is_remote(folder):
        with hold_lease(folder / LOCK, check_stop) as lease:
            yield lease
        return
    # flock, not the `filelock` package: the error names the process that holds the lock, and a file
    # system without locks is not an error.
    check_workdir_name(folder)
    with contextlib.ExitStack() as stack:
        try:
            missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
            stack.callback(_remove_empty, missing)
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
        yield None


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
    return in_use(folder, holder or "another process")


def _is_same(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _unlink_if_same(path: Path, file: int) -> None:
    if _is_same(path, file):
        path.unlink(missing_ok=True)


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
