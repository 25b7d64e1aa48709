"""The lease of a workdir in a bucket, where there are no locks: an object that its owner renews.

An object's generation changes with each write, and a write may ask for one. So nobody compares clocks: a
lease whose generation stays the same for `EXPIRES_SECONDS` has no owner any more.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxcnn import object_store, retries
from jaxcnn.object_store import Changed, Content
from jaxcnn.paths import Path
from jaxcnn.training.console import Console
from jaxcnn.training.this_machine import machine, process_start
from jaxcnn.training.workdir_errors import WorkdirError, cannot_write, in_use

_LOGGER = logging.getLogger("jaxcnn")

RENEW_SECONDS = 10.0
EXPIRES_SECONDS = 45.0
_POLL_SECONDS = 1.0
# How long one write of the lease may take.
_ANSWER_SECONDS = 10.0


class LeaseLost(WorkdirError):
    """Another run has taken the workdir; nothing more may be written there."""


class Lease:
    """A lease that a thread renews, from `acquire` to `release`."""

    def __init__(self, path: Path) -> None:
        self._path, self._token = path, secrets.token_hex(8)
        self._owner = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "machine": machine(),
            "process_start": process_start(os.getpid()),
            "start": _now(),
            "token": self._token,
        }
        self._generation, self._renewed, self._lost = b"", 0.0, ""
        self._failing = False  # whether the last renewal was not answered
        self._renewing, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="jaxcnn-lease", daemon=True)

    def acquire(self, check_stop: Callable[[], None] = lambda: None) -> None:
        """Creates the lease, or takes it over from a run that has ended; reads it back.

        Args:
            check_stop: called while another run may have it; raises to leave.

        Raises:
            WorkdirError: another run has it.
            OSError: it cannot be written or read.
        """
        try:
            self._write_again(object_store.NONE)
        except Changed:
            self._take_over(check_stop)
        found = self._read()
        if found is None or _parse(found.data).get("token") != self._token:
            raise in_use(self._path.parent, _holder(_parse(found.data) if found else {}))
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseLost if another run is known to have the workdir."""
        if self._lost:
            raise LeaseLost(self._lost)

    def confirm(self) -> None:
        """Asks the bucket whether this run still has the workdir, unless a renewal proved it lately; for
        before a write.

        Raises:
            LeaseLost: another run has it.
            OSError: the bucket does not answer.
        """
        self.check()
        if time.monotonic() - self._renewed > EXPIRES_SECONDS - RENEW_SECONDS:
            self._renew()
            self.check()

    def release(self) -> None:
        """Deletes the lease, if this run still has it."""
        self._ended.set()
        self._thread.join()
        if self._lost:
            return
        try:
            if self._failing:
                raise OSError(errno.ETIMEDOUT, "object storage does not answer")
            object_store.delete(self._path, self._generation)
        except Changed:
            pass  # it has been taken since
        except OSError as error:
            text = "%s cannot be removed (%s); the next start waits %.0f s"
            _LOGGER.warning(text, self._path, error.strerror, EXPIRES_SECONDS)

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self._lost:
            try:
                self._renew()
                self._failing = False
            except OSError:  # tried again; `confirm` says so before a write
                self._failing = True

    def _renew(self) -> None:
        with self._renewing:
            try:
                self._write(self._generation)
            except Changed:
                self._lost = self._taken()

    def _taken(self) -> str:
        holder = "another run"
        with contextlib.suppress(OSError):
            found = self._read()
            holder = _holder(_parse(found.data)) if found else "somebody who has removed the lease"
        return (
            f"the workdir {self._path.parent} was taken by {holder}, because this run could not renew its "
            f"lease {self._path.name} for {EXPIRES_SECONDS:.0f} s; nothing more is written there. To go on "
            "from its newest checkpoint, end that run and give the same command again"
        )

    def _take_over(self, check_stop: Callable[[], None]) -> None:
        """Waits until the lease has no owner, and replaces it."""
        folder = self._path.parent
        while (found := self._read()) is not None:
            owner = _parse(found.data)
            if not _has_ended(owner):
                _say_wait(folder, owner)
                if self._wait(found.generation, check_stop):
                    renewed = f"{_holder(owner)}, which renewed it less than {_POLL_SECONDS + 1:.0f} s ago"
                    raise in_use(folder, renewed)
            with contextlib.suppress(Changed):  # removed, or taken over by another start
                return self._write_again(found.generation)
        with contextlib.suppress(Changed):
            return self._write_again(object_store.NONE)
        raise in_use(folder, "another process, which started at the same time")

    def _wait(self, generation: bytes, check_stop: Callable[[], None]) -> bool:
        """Whether somebody renews the lease within EXPIRES_SECONDS."""
        until = time.monotonic() + EXPIRES_SECONDS
        while time.monotonic() < until:
            check_stop()
            time.sleep(min(_POLL_SECONDS, RENEW_SECONDS))
            found = self._read()
            if found is None:
                return False
            if found.generation != generation:
                return True
        return False

    def _write(self, generation: bytes) -> None:
        """Writes the lease if it is of `generation`, or was written by this run since."""
        began = time.monotonic()
        content = json.dumps({**self._owner, "renewed": _now()}, indent=2).encode() + b"\n"
        try:
            new = object_store.write(self._path, content, generation, seconds=_ANSWER_SECONDS)
        except Changed:  # perhaps by a write whose answer was lost
            found = self._read()
            if found is None or _parse(found.data).get("token") != self._token:
                raise
            new = found.generation
        self._generation, self._renewed = new, began

    def _write_again(self, generation: bytes) -> None:
        retries.retry(lambda: self._write(generation), self._path, "write")

    def _read(self) -> Content | None:
        try:
            return retries.retry(lambda: object_store.read_content(self._path), self._path)
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def hold_lease(path: Path, check_stop: Callable[[], None]) -> Iterator[Lease]:
    """Holds the lease `path` for the block.

    Raises:
        WorkdirError: another run has it, or it cannot be written.
    """
    lease = Lease(path)
    try:
        lease.acquire(check_stop)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        yield lease
    finally:
        lease.release()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _holder(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('process')} of {owner.get('host')}"


def _say_wait(folder: Path, owner: dict[str, Any]) -> None:
    try:
        renewed = datetime.datetime.fromisoformat(str(owner.get("renewed")))
        age = max(0.0, (datetime.datetime.now(datetime.UTC) - renewed).total_seconds())
        last = f", which renewed its lease last {age:,.0f} s ago by its clock"
    except (ValueError, TypeError):
        last = ""
    Console().line(
        f"{folder} is in use by {_holder(owner)}{last}; waiting up to {EXPIRES_SECONDS:.0f} s for a sign of "
        "life, then its workdir is taken over"
    )


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine and has ended."""
    process, here = owner.get("process"), machine()
    if not here or owner.get("machine") != here or not isinstance(process, int):
        return False
    return process_start(process) != owner.get("process_start")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
