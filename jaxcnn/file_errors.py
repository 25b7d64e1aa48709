"""Errors of files: what is wrong with one that is read or written, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from jaxcnn.paths import is_bucket_name
from jaxcnn.retries import StillFailing

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room, or ask for more",
    errno.EROFS: "the file system is read-only: use another folder, or mount it for writing",
    errno.EACCES: "check the owner and the permissions of the file and its folder",
    errno.EPERM: "check the owner and the permissions of the file and its folder",
    errno.EMFILE: "the process has too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "the machine has too many open files: close other programs",
    errno.EFBIG: "the limit on the size of files is reached: raise it (ulimit -f)",
    errno.EISDIR: "a folder has its name: move it away",
    errno.ENOENT: "its folder does not exist any more",
    errno.ENOTDIR: "a file has the name of its folder: move it away",
    errno.ENAMETOOLONG: "use a shorter path",
}  # fmt: skip


_BUCKET_ADVICE = {
    errno.ENOENT: "there is no such bucket: make it (gcloud storage buckets create NAME), or name another",
    errno.EACCES: "log in (gcloud auth application-default login), or give the machine's service account the "
    "role 'Storage Object Admin' on the bucket",
}  # fmt: skip


class FileError(ValueError):
    """A file that cannot be read as what it should be.

    Attributes:
        path: the file.
        problem: what is wrong with it.
        advice: what to do.
    """

    def __init__(self, path: str | os.PathLike[str], problem: str, advice: str) -> None:
        super().__init__(f"{os.fspath(path)} {problem}; {advice}")
        self.path, self.problem, self.advice = path, problem, advice


class WriteError(OSError):
    """A file that cannot be written. Has the errno, strerror and filename of the system's error."""

    def __str__(self) -> str:
        if self.filename is None:  # an error of another process, of which only the text came here
            return super().__str__()
        return f"{self.filename} cannot be written ({self.strerror}); {disk_advice(self)}"


def disk_advice(error: OSError) -> str:
    """What to do about an error of the system. It says 'full' only if the disk is full."""
    if isinstance(error.filename, str) and is_bucket_name(error.filename):
        return _BUCKET_ADVICE.get(
            error.errno or 0, "check the network, and give the same command again"
        )
    return _ADVICE.get(error.errno or 0, "check the disk or the network file system")


def system_error(error: BaseException | None) -> OSError | None:
    """The error of the system behind one that a library raised in its place, or None.

    It is found among the causes of `error`, or by its text, which TensorFlow and TensorStore quote.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        for number in (errno.EIO, errno.ESTALE, *_ADVICE):
            if os.strerror(number) in str(error):
                return OSError(number, os.strerror(number))
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError of the block, which writes `path`, into a WriteError, unless it says more already."""
    try:
        yield
    except (WriteError, StillFailing):
        raise
    except OSError as error:
        text = error.strerror or str(error) or type(error).__name__
        raise WriteError(error.errno, text, os.fspath(path)) from error
