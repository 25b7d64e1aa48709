"""Objects in buckets of Google Cloud Storage: their content, read by ranges and written whole.

TensorStore's client does it: Orbax installs it, it waits without Python's lock, and a read of 15 kB takes
0.08 ms of a core (urllib3: 0.23 ms, gcsfs: over 1 ms). What is in a folder is asked of `epath`.

Every error is an OSError, with an errno of `retries.TRANSIENT` if another try may succeed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxcnn.paths import Path, bucket_and_key
from jaxcnn.retries import POLL_SECONDS, TRANSIENT, retry, time_left

# Of one request; TensorStore itself would wait for ever.
TIMEOUT_SECONDS = 60.0
# Bytes a second of an upload that goes on; one that stalls is ended by TensorStore.
_SLOWEST = 250_000
# Those in flight at a time; whoever reads has less threads.
_CONCURRENCY = 2048

# The generation of an object that does not exist, in TensorStore.
NONE = b"\x02"

_STATUS = re.compile(r"([A-Z_]{5,}): (?:All \d+ retry attempts failed: )?(.*)", re.DOTALL)
_ERRNO = {
    "NOT_FOUND": errno.ENOENT,
    "PERMISSION_DENIED": errno.EACCES,
    "UNAUTHENTICATED": errno.EACCES,
    "INVALID_ARGUMENT": errno.EINVAL,
    "FAILED_PRECONDITION": errno.EINVAL,
}  # any other may be mended by another try


class Changed(OSError):
    """An object is not of the generation that a write or deletion asked for: another process wrote it."""


class _PastTheEnd(OSError):
    """An object has fewer bytes than were asked for."""


class Content(NamedTuple):
    """What an object holds, and its generation, which each write of the object changes."""

    data: bytes
    generation: bytes


def read(path: Path, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes from `start` to `stop` of an object; fewer if it ends before. Thread-safe; not retried.

    Raises:
        OSError: it cannot be read; FileNotFoundError: it does not exist.
    """
    return read_content(path, start, stop).data


def read_content(path: Path, start: int = 0, stop: int | None = None) -> Content:
    """As `read`, with the object's generation."""
    return begin_read(path, start, stop)()


def begin_read(path: Path, start: int = 0, stop: int | None = None) -> Callable[[], Content]:
    """Begins `read_content`; the call of what this returns waits for the result, or raises. One thread that
    begins several reads before it waits takes half the processor time of a thread for each."""
    store, key = _locate(path)
    begun = store.read(key, byte_range=slice(start, stop))
    return lambda: _content(path, start, store, key, begun)


def _content(path: Path, start: int, store: Any, key: str, begun: Any) -> Content:
    try:
        found = _result(path, lambda: begun)
    except _PastTheEnd as error:
        if "'416'" in str(error):  # it ends before `start`
            return Content(b"", b"")
        found = _result(path, lambda: store.read(key, byte_range=slice(start, None)))
    if found.state != "value":
        raise FileNotFoundError(
            errno.ENOENT, "there is no such object, or no such bucket", str(path)
        )
    return Content(found.value, found.stamp.generation)


def write(
    path: Path, data: bytes, if_generation: bytes | None = None, seconds: float | None = None
) -> bytes:
    """Writes an object, all of it or nothing; returns its generation. Thread-safe; not retried.

    Args:
        path: of the object.
        data: its content.
        if_generation: write only if the object is of this generation; `NONE`: if it does not exist.
        seconds: how long to wait for the answer, besides the time that the data take; TIMEOUT_SECONDS if
            None. A write that was not answered may still be done.

    Raises:
        Changed: the object is of another generation.
        OSError: it cannot be written.
    """
    store, key = _locate(path)
    seconds = (TIMEOUT_SECONDS if seconds is None else seconds) + len(data) / _SLOWEST
    stamp = _result(path, lambda: store.write(key, data, if_equal=if_generation), seconds)
    if not stamp.generation:
        raise Changed(errno.EEXIST, "another process wrote it", str(path))
    return stamp.generation


def delete(path: Path, if_generation: bytes | None = None) -> None:
    """Deletes an object, if there is one. Raises as `write`."""
    store, key = _locate(path)
    if not _result(path, lambda: store.write(key, None, if_equal=if_generation)).generation:
        raise Changed(errno.EEXIST, "another process wrote it", str(path))


def answers(folder: Path, seconds: float) -> bool:
    """Whether object storage answers a read in `folder`, with an object or a refusal, within `seconds`."""
    store, key = _locate(folder / ".answers")
    try:
        _result(folder, lambda: store.read(key), seconds)
    except OSError as error:
        return error.errno not in TRANSIENT
    return True


def list_folder(folder: Path) -> dict[str, int | None]:
    """The names in a folder, with the sizes of objects in bytes and None for folders. One request for each
    5,000 objects. Not retried.

    Raises:
        OSError: it cannot be listed; FileNotFoundError: there is no such folder, or no such bucket.
    """
    try:
        with errors_of_gcsfs(folder):
            found = _gcsfs().ls(os.fspath(folder), detail=True)
    except FileNotFoundError:
        text = "there is no such folder, or no such bucket"
        raise FileNotFoundError(errno.ENOENT, text, str(folder)) from None
    return {
        one["name"].rstrip("/").rpartition("/")[2]: one["size"] if one["type"] == "file" else None
        for one in found
    }


def list_sizes(folder: Path) -> dict[str, int]:
    """The sizes in bytes of the objects in a folder, by name. Raises as `list_folder`."""
    return {name: size for name, size in list_folder(folder).items() if size is not None}


def keys(folder: Path) -> list[str]:
    """The names of all objects in a folder and the folders in it, relative to it, in alphabetical order. A
    request for each 1,000. gcsfs tries again after transient errors, for half a minute.

    TensorStore lists faster, but gives no keys and no error where it has no rights.

    Raises:
        OSError: it cannot be listed; FileNotFoundError: there is no such bucket.
    """
    with errors_of_gcsfs(folder):
        found = _gcsfs().find(os.fspath(folder))
    start = len("/".join(bucket_and_key(folder)).rstrip("/")) + 1
    return sorted(name[start:] for name in found if not name.endswith("/"))


def copy(path: Path, to: Path) -> None:
    """Copies an object within object storage, all of it or nothing. Raises OSError."""
    with errors_of_gcsfs(path):
        _gcsfs().cp_file(os.fspath(path), os.fspath(to))


def remove_tree(folder: Path) -> None:
    """Deletes all that a folder holds, and nothing else: no name is a pattern. Raises OSError."""
    for name in keys(folder):
        delete(folder / name)


def read_again(path: Path, start: int = 0, stop: int | None = None) -> bytes:
    """`read`, tried again after transient errors."""
    return retry(lambda: read(path, start, stop), path)


def write_again(path: Path, data: bytes) -> None:
    """`write`, tried again after transient errors."""
    retry(lambda: write(path, data), path, "write")


def _result(path: Path, begin: Callable[[], Any], seconds: float | None = None) -> Any:
    """The result of a request, or an OSError."""
    began, limit = time.monotonic(), TIMEOUT_SECONDS if seconds is None else seconds
    try:
        future = begin()
        while (left := time_left(began, limit)) > 0:
            with contextlib.suppress(TimeoutError):
                return future.result(timeout=min(left, POLL_SECONDS))
        text = f"object storage did not answer in {time.monotonic() - began:.0f} s"
        raise OSError(errno.ETIMEDOUT, text, str(path))
    except ValueError as error:  # of which TensorStore makes all its errors
        text = " ".join(str(error).split())
        status = _STATUS.match(text)
        if status and status[1] == "OUT_OF_RANGE":
            raise _PastTheEnd(errno.EINVAL, text, str(path)) from error
        code = _ERRNO.get(status[1], errno.EIO) if status else errno.EIO
        shown = (status[2] if status else text).partition(" [http_response")[0]
        raise OSError(code, shown[:200], str(path)) from error


@contextlib.contextmanager
def errors_of_gcsfs(path: Path) -> Iterator[None]:
    """Turns what gcsfs raises in the block into an OSError with an errno, of `path`."""
    import aiohttp
    import google.auth.exceptions
    from gcsfs.retry import HttpError

    try:
        yield
    except (HttpError, google.auth.exceptions.GoogleAuthError) as error:
        status = error.code if isinstance(error, HttpError) else 401
        refused = status in (401, 403)
        wrong = 400 <= (status or 0) < 500 and status not in (404, 408, 429)
        code, cause = errno.EACCES if refused else errno.EINVAL if wrong else errno.EIO, error
    except aiohttp.ClientError as error:
        code, cause = errno.EIO, error
    except OSError as error:
        if error.errno is not None:
            raise
        missing, refused = isinstance(error, FileNotFoundError), str(error).startswith("Forbidden")
        code, cause = errno.ENOENT if missing else errno.EACCES if refused else errno.EIO, error
    else:
        return
    text = " ".join(str(cause).split()) or "object storage did not answer"
    raise OSError(code, text[:300], str(path)) from cause


def _gcsfs() -> Any:
    import fsspec

    return fsspec.filesystem("gs")


def _locate(path: Path) -> tuple[Any, str]:
    """(the store, the key in it) of an object."""
    bucket, key = bucket_and_key(path)
    return _store(bucket, os.getpid()), key


@functools.cache  # by process: a fork has none of TensorStore's threads
def _store(bucket: str, process: int) -> Any:
    del process
    import tensorstore as ts

    # Errors come here at once: `retry` says that it waits, and a stop can end it.
    context = ts.Context(
        {
            "gcs_request_retries": {"max_retries": 0},
            "gcs_request_concurrency": {"limit": _CONCURRENCY},
        }
    )
    return ts.KvStore.open(f"gs://{bucket}/", context=context).result()
