"""Reads that fail for a while: tried again with growing pauses; then an error that stops the run.

An error of a disk, a network file system or the system's limits says nothing of the image that was read. It
must not count as a corrupt one.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxcnn.data.errors import DataError

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


def retry(read: Callable[[], _T], path: str | Path) -> _T:
    """Returns `read()`, which is tried again after a transient error.

    Raises:
      DataError: each try failed with a transient error.
      OSError: another error.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return read()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
            code = f"{os.strerror(error.errno)} ({errno.errorcode[error.errno]})"
            pause = next(pauses, None)
            if pause is None:
                raise DataError(
                    f"cannot read {path}: {code}, {len(PAUSES) + 1} times in {sum(PAUSES):.0f} s; this is an "
                    "error of the disk, the network or a limit of the system, not of one image; mend it, and "
                    "give the same command again"
                ) from error
            _LOGGER.warning("cannot read %s: %s; trying again in %g s", path, code, pause)
            time.sleep(pause)
