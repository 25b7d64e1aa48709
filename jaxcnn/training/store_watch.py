"""Calls into Orbax for a checkpoint in a bucket, which end if object storage does not answer any more.

TensorStore, below Orbax, tries a request 32 times, for a quarter of an hour, and takes no other number from
Orbax. A large save may take long as well: what counts is whether object storage still answers.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from jaxcnn import object_store, retries
from jaxcnn.data.threads import run_in_thread
from jaxcnn.parallel import ProcessGroup
from jaxcnn.paths import Path, is_remote

# What `retries` waits in all.
LIMIT_SECONDS = sum(retries.PAUSES)
_ASK_SECONDS = 1.0

Value = TypeVar("Value")


class StoreLost(OSError):
    """Object storage has not answered for too long. The call, and what it began, is left behind."""


class StoreWatch:
    """Watches the object storage in which `folder` lies; on a local disk it only calls.

    Attributes:
        folder: of the checkpoints.
        lost: whether a call was left behind, so that there is nothing to wait for.
    """

    def __init__(self, folder: Path, process_group: ProcessGroup) -> None:
        self.folder, self._process_group, self.lost = folder, process_group, False

    def call(self, work: Callable[[], Value]) -> Value:
        """Returns `work()`.

        Raises:
            OSError: in place of gcsfs' errors.
            StoreLost: object storage has not answered for LIMIT_SECONDS, or, after a stop was asked for, for
                `retries.STOP_SECONDS`.
        """
        if not is_remote(self.folder):
            return work()
        answered = asked = time.monotonic()

        def check() -> None:
            nonlocal answered, asked
            if time.monotonic() - asked < _ASK_SECONDS:
                return
            if self._process_group.stop_requested():
                retries.hurry()
            began = time.monotonic()
            if object_store.answers(self.folder, 2 * _ASK_SECONDS):
                answered = began
            asked = time.monotonic()
            if retries.time_left(answered, LIMIT_SECONDS) <= 0:
                self.lost = True
                text = f"object storage has not answered for {asked - answered:.0f} s"
                raise StoreLost(errno.ETIMEDOUT, text, str(self.folder))

        with object_store.errors_of_gcsfs(self.folder):
            return run_in_thread(work, check)
