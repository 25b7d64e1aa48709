"""Reads of a data set: tried again after transient errors; then an error that stops the run."""

import os
from collections.abc import Callable
from typing import TypeVar

from jaxcnn import retries
from jaxcnn.data.errors import DataError

_T = TypeVar("_T")


def retry(read: Callable[[], _T], path: str | os.PathLike[str]) -> _T:
    """Returns `read()`, which is tried again after a transient error.

    Raises:
      DataError: each try failed with a transient error.
      OSError: another error.
    """
    try:
        return retries.retry(read, path)
    except retries.StillFailing as error:
        raise DataError(error.strerror) from error
