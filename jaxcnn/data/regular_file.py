"""Reading an image file that somebody else named: it never blocks and never reads without end."""

import errno
import os
import stat

from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.limits import check_bytes
from jaxcnn.paths import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular_file(path: str | Path) -> bytes:
    """Returns the bytes of a regular file, or of what a link to one names.

    A FIFO, a socket or a device is refused without waiting for it, and nothing is read from it.

    Raises:
      CorruptImage: not a regular file, larger than `limits.MAX_BYTES`, or shortened while it was read.
      OSError: it cannot be opened or read.
    """
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        file = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # sockets, and devices that are not there
            raise CorruptImage("it is a socket or a device, not a regular file") from error
        raise
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
            raise CorruptImage(f"it is {kind}, not a regular file")
        check_bytes(status.st_size)
        return _read(file, status.st_size)
    except BlockingIOError as error:  # /proc/kmsg calls itself a regular file
        raise CorruptImage("it is a queue of the system, not a regular file") from error
    except MemoryError as error:
        raise CorruptImage("not enough memory to read it") from error
    finally:
        os.close(file)


def _read(file: int, size: int) -> bytes:
    """Reads a file of `size` bytes to its end. Files in /proc give a size of 0."""
    # One byte more than there should be: if it does not come, this was all.
    data = os.read(file, size + 1)
    if size and len(data) == size:
        return data
    parts, total = [data], len(data)
    while part := os.read(file, 1 << 20):
        parts.append(part)
        total += len(part)
        check_bytes(total)
    if total < size:
        raise CorruptImage(
            f"the file became shorter while it was read: {total:,} of {size:,} bytes"
        )
    return b"".join(parts)
