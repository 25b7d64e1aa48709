"""What is shown is never fatal: a terminal may hang up, a reader of output may end, a disk may be full."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from typing import Any

_POLL_MILLISECONDS = 200
_STOPPING = threading.Event()


class SafeStream:
    """A text stream that keeps its errors of writing in `error` instead of raising them.

    A later write is tried again, since a full disk may have room then. It waits for a reader that pauses
    (`| less`, Ctrl-S), but not after `stop_waiting()`. None stands for a closed stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        try:
            self._ready().write(text)
        except UnicodeEncodeError as error:  # no such characters in the locale's encoding
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError) as error:  # ValueError: the file object was closed
            self.error = error
        return len(text)

    def flush(self) -> None:
        try:
            self._ready().flush()
        except (OSError, ValueError) as error:
            self.error = error

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (OSError, ValueError, AttributeError):
            return False

    def lost_reader(self) -> bool:
        """Whether what was written last went to a pipe that nobody reads, which is no error: `| head`."""
        return isinstance(self.error, OSError) and self.error.errno == errno.EPIPE

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _ready(self) -> Any:
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            number = self._stream.fileno()
        except (OSError, ValueError, AttributeError):  # no file of the system
            return self._stream
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        while not poll.poll(_POLL_MILLISECONDS):
            if _STOPPING.is_set():
                raise BlockingIOError(errno.EAGAIN, "nobody reads it")
        return self._stream


def safe(stream: Any) -> SafeStream:
    """`stream` as a SafeStream."""
    return stream if isinstance(stream, SafeStream) else SafeStream(stream)


def stop_waiting() -> None:
    """From now on, text that its reader does not take at once is dropped: this program was asked to stop."""
    _STOPPING.set()


def is_paused() -> bool:
    """Whether a reader of this program's output did not take its last text."""
    errors = [stream.error for stream in (sys.stdout, sys.stderr) if isinstance(stream, SafeStream)]
    return any(isinstance(error, BlockingIOError) for error in errors)


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
