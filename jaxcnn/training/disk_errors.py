"""What an error of the disk means, also of one that a library has wrapped, and what to do about it."""

from __future__ import annotations

import errno
import re

from jaxcnn.file_errors import disk_advice
from jaxcnn.retries import TRANSIENT

# Of this process's limits and rights, or of a network file system that may answer again later. EIO is not
# among them: a disk's bad block stays bad.
_LIMITS = {errno.EACCES, errno.EPERM} | TRANSIENT - {errno.EIO}
# TensorStore's words for a refusal, or no answer.
_OF_STORE = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|retry attempts failed"
)


def error_number(error: BaseException) -> int | None:
    """The operating system's number of `error`; TensorStore's errors have it in their text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"os_error_code='(\d+)'|OS error (\d+)|\[Errno (\d+)\]", str(error))
    return int(found[found.lastindex or 0]) if found else None


def is_about_this_process(error: BaseException, remote: bool = False) -> bool:
    """Whether a file could not be read for lack of rights, memory or descriptors: it may be a good one.

    Args:
        remote: it is in object storage, which may answer later.
    """
    if remote and (error_number(error) == errno.EIO or _OF_STORE.search(str(error))):
        return True
    return error_number(error) in _LIMITS or "RESOURCE_EXHAUSTED" in str(error)


def write_advice(error: BaseException) -> str:
    """What to do if `error` came from writing."""
    if "can't start new thread" in str(error):
        return "no more threads may be started (`ulimit -u`, or a container's pids limit): raise the limit"
    number = error_number(error)
    if number is None:
        return "mend what the message names, or choose another --workdir"
    return f"{disk_advice(OSError(number, ''))}, or choose another --workdir"


def short(error: BaseException) -> str:
    """The first line of the message, without TensorStore's settings. A long one keeps its end, which has the
    operating system's reason."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = re.sub(r" \[tensorstore_spec='.*?'\]", "", text)
    return text if len(text) <= 400 else f"{text[:150]} ... {text[-240:]}"
