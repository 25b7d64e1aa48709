"""One run at a time in a workdir: two would write over each other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxcnn.training.workdir import WorkdirError, cannot_write

NAME = ".running"


@contextlib.contextmanager
def lock_workdir(folder: Path) -> Iterator[None]:
    """Holds `folder` until the end, however the process ends.

    Raises:
        WorkdirError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(folder / NAME)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)
        os.close(file)


def _locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = os.read(file, 200).decode(errors="replace").strip()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(file)
                raise WorkdirError(
                    f"{path.parent} is in use by {who or 'another process'}; wait for it, or use another "
                    "--workdir. Were the processes meant to train together, each as the only one? Then "
                    "see --distributed"
                ) from error
            return file  # a file system without locks
        if _same(file, path):  # and not one that its holder removed in between
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} of {socket.gethostname()}\n".encode())
            return file
        os.close(file)


def _same(file: int, path: Path) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False
