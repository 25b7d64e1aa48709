"""Reads and writes that fail for a while: tried again with growing pauses.

An error of a disk, a network file system, object storage or the system's limits says nothing of what was
read. It must not count as a corrupt image, and need not end a run.

Many threads meet the same outage: they say together that they wait, a line for each pause and not for each
thread, and that it is over.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from jaxcnn.paths import bucket_and_key, is_bucket_name

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

TRANSIENT = frozenset(
    {
        *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT),  # disks, NFS
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS),  # limits
        *(errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ESHUTDOWN),  # FUSE, SMB
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)
# Seconds before each further try; a file server that starts again answers within a minute or two.
PAUSES = (0.1, 0.5, 2.0, 8.0, 20.0, 60.0)
# After a stop was asked for, each read or write of object storage gets these: whoever asked kills soon.
STOP_SECONDS = 2.5
POLL_SECONDS = 0.2
_stop_asked = math.inf


class StillFailing(OSError):
    """Each try failed with a transient error; the message says of what."""

    def __str__(self) -> str:
        return str(self.strerror or super().__str__())


def retry(work: Callable[[], _T], path: str | os.PathLike[str], doing: str = "read") -> _T:
    """Returns `work()`, which is tried again after a transient error.

    Raises:
      StillFailing: each try failed with a transient error.
      OSError: another error.
    """
    began = time.monotonic()
    try:
        return work()
    except OSError as error:
        if error.errno not in TRANSIENT:
            raise
        first = error
    with (outage := _outage(_place(path))):
        result = _try_again(work, first, f"cannot {doing} {path}", began, outage)
        outage.answered = True
    return result


def _try_again(
    work: Callable[[], _T], error: OSError, problem: str, began: float, outage: _Outage
) -> _T:
    pauses, tries = iter(PAUSES), 1
    while True:
        assert error.errno is not None
        code = f"{error.strerror or os.strerror(error.errno)} ({errno.errorcode[error.errno]})"
        pause = next(pauses, None)
        if pause is None or time_left(began, math.inf) <= pause:
            seconds = time.monotonic() - began
            raise StillFailing(
                error.errno,
                f"{problem}: {code}, {tries} times in {seconds:.0f} s; this is an error of the disk, the "
                "network or a limit of the system, not of one file; mend it, and give the same command again",
            ) from error
        outage.say(tries, f"{problem}: {code}", pause)
        _sleep(pause, began)
        try:
            return work()
        except OSError as again:
            if again.errno not in TRANSIENT:
                raise
            error, tries = again, tries + 1


class _Outage:
    """What the threads of this process say together while a place does not answer; entered by each."""

    def __init__(self, place: str) -> None:
        self._place, self._lock = place, threading.Lock()
        self._waiting = self._said = 0
        self._since = 0.0
        self.answered = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._waiting:
                self._said, self._since, self.answered = 0, time.monotonic(), False
            self._waiting += 1

    def __exit__(self, *unused: object) -> None:
        with self._lock:
            self._waiting -= 1
            over = not self._waiting and self.answered
        if over:
            seconds = time.monotonic() - self._since
            _LOGGER.warning("%s answers again, after %.1f s", self._place, seconds)

    def say(self, number: int, problem: str, pause: float) -> None:
        """Says that a thread makes its pause `number`, unless another thread said that of its own."""
        with self._lock:
            said, self._said = self._said, max(self._said, number)
        if number > said:
            _LOGGER.warning("%s; trying again in %g s", problem, pause)


@functools.cache
def _outage(place: str) -> _Outage:
    return _Outage(place)


def _place(path: str | os.PathLike[str]) -> str:
    """What may be out of order as a whole: a bucket, or this machine's disks."""
    return f"gs://{bucket_and_key(path)[0]}" if is_bucket_name(os.fspath(path)) else "the disk"


def time_left(began: float, limit: float) -> float:
    """Seconds that are left of the `limit` of what began at `began`, by `time.monotonic`."""
    left = began + limit - time.monotonic()
    return min(left, max(began, _stop_asked) + STOP_SECONDS - time.monotonic())


def hurry() -> None:
    """This program was asked to stop: what has to wait for object storage soon gives up."""
    global _stop_asked
    _stop_asked = min(_stop_asked, time.monotonic())


def take_time() -> None:
    """Ends `hurry`."""
    global _stop_asked
    _stop_asked = math.inf


def _sleep(pause: float, began: float) -> None:
    until = time.monotonic() + pause
    while (left := until - time.monotonic()) > 0 and time_left(began, math.inf) > 0:
        time.sleep(min(left, POLL_SECONDS))
