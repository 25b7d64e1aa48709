"""What is shown is never fatal: a terminal may hang up, a reader of output may end, a disk may be full."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any


class SafeStream:
    """A text stream that keeps its errors of writing in `error` instead of raising them.

    A later write is tried again, since a full disk may have room then. None stands for a closed stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        try:
            self._open().write(text)
        except UnicodeEncodeError as error:  # no such characters in the locale's encoding
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError) as error:  # ValueError: the file object was closed
            self.error = error
        return len(text)

    def flush(self) -> None:
        try:
            self._open().flush()
        except (OSError, ValueError) as error:
            self.error = error

    def isatty(self) -> bool:
        try:
            return self._open().isatty()
        except (OSError, ValueError, AttributeError):
            return False

    def lost_reader(self) -> bool:
        """Whether what was written last went to a pipe that nobody reads, which is no error: `| head`."""
        return isinstance(self.error, OSError) and self.error.errno == errno.EPIPE

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _open(self) -> Any:
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream


def safe(stream: Any) -> SafeStream:
    """`stream` as a SafeStream."""
    return stream if isinstance(stream, SafeStream) else SafeStream(stream)


def protect_standard_streams() -> None:
    """Makes sys.stdout and sys.stderr safe in this program.

    Descriptors that were closed (`>&-`) get the null device. Otherwise the next file to be opened, perhaps a
    checkpoint, would get their number, and what C++ libraries print would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, this one
            os.set_inheritable(descriptor, True)
    sys.stdout, sys.stderr = safe(sys.stdout), safe(sys.stderr)
