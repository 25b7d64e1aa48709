"""Reads and writes that fail for a while: tried again with growing pauses.

An error of a disk, a network file system, object storage or the system's limits says nothing of what was
read. It must not count as a corrupt image, and need not end a run.
"""

import errno
import logging
import math
import os
import time
from collections.abc import Callable
from typing import TypeVar

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
STOP_SECONDS = 4.0
POLL_SECONDS = 0.2
_stop_asked = math.inf


class StillFailing(OSError):
    """Each try failed with a transient error; the message says of what."""


def retry(work: Callable[[], _T], path: str | os.PathLike[str], doing: str = "read") -> _T:
    """Returns `work()`, which is tried again after a transient error.

    Raises:
      StillFailing: each try failed with a transient error.
      OSError: another error.
    """
    pauses, began, tries = iter(PAUSES), time.monotonic(), 0
    while True:
        tries += 1
        try:
            return work()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
            code = f"{error.strerror or os.strerror(error.errno)} ({errno.errorcode[error.errno]})"
            pause = next(pauses, None)
            seconds = time.monotonic() - began
            if pause is None or time_left(began, math.inf) <= pause:
                raise StillFailing(
                    error.errno,
                    f"cannot {doing} {path}: {code}, {tries} times in {seconds:.0f} s; this is "
                    "an error of the disk, the network or a limit of the system, not of one file; mend it, "
                    "and give the same command again",
                ) from error
            _LOGGER.warning("cannot %s %s: %s; trying again in %g s", doing, path, code, pause)
            _sleep(pause, began)


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
