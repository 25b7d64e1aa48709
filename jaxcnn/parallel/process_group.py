"""Host-side coordination of a run's processes: key-value exchange, errors and shutdown.

Messages go through the coordination service of `jax.distributed`, not through devices. Waits have no
timeout; they end if a process dies, because the service detects the missing heartbeat.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from jaxcnn.config import difference

_POLL_SECONDS = 0.5
_LEAVE_SECONDS = 5.0
_GONE = "jaxcnn/gone"
# The service outlives a run: each run in a program needs distinct keys.
_GROUP_NUMBERS = itertools.count()

Value = TypeVar("Value")


class PeerFailed(RuntimeError):
    """Another process failed; its own message says why."""


class PeersLost(PeerFailed):
    """Another process is gone: nothing more can be done together."""


@dataclasses.dataclass(eq=False)
class ProcessGroup:
    """The processes of a run, seen from this one. `ProcessGroup()` is a single process.

    Attributes:
        index: index of this process, from 0.
        count: number of processes.
    """

    index: int = 0
    count: int = 1
    _name: str = "jaxcnn"
    _round: int = 0
    _polled: float = 0.0
    _stop_reason: str = ""

    @property
    def is_primary(self) -> bool:
        """Whether this process writes files and logs for all."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """Returns the JSON `value` of every process, by index. All processes must call it."""
        if self.count == 1:
            return [value]
        client, self._round = _client(), self._round + 1
        place = f"{self._name}/round/{self._round}"
        client.key_value_set(f"{place}/{self.index}", json.dumps(value))
        values = [json.loads(self._wait(f"{place}/{i}")) for i in range(self.count)]
        if self._round > 2:  # all processes have read these: each has sent a later value
            client.key_value_delete(f"{self._name}/round/{self._round - 2}/{self.index}")
        return values

    def run_on_all(self, work: Callable[[], Value]) -> Value:
        """Returns the local result of `work` once every process is done. All processes must call it.

        Raises:
            The local error of `work`. If `work` failed only on other processes: the error of the first of
            them if its class belongs to jaxcnn, else PeerFailed.
        """
        if self.count == 1:
            return work()
        try:
            mine = work()
        except Exception as error:
            self.gather((type(error).__module__, type(error).__name__, str(error)))
            raise
        for index, failure in enumerate(self.gather(None)):
            if failure is not None:
                raise _as_local_error(index, *failure)
        return mine

    def gather_results(self, work: Callable[[], Any]) -> list[Any]:
        """Returns the JSON result of `work` of every process, by index. Raises as `run_on_all` does."""
        return self.gather(self.run_on_all(work))

    def run_on_primary(self, work: Callable[[], Any]) -> Any:
        """Runs `work` on process 0 only; returns its JSON result everywhere. All processes must call it."""
        return self.gather_results(work if self.is_primary else lambda: None)[0]

    def request_stop(self, what: str) -> None:
        """Asks all processes to stop because of `what`. Signal handlers call it, so it does not raise: if the
        service is gone, the other processes exit anyway."""
        if self.count == 1:
            return
        reason = f"{what} of process {self.index}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _client().key_value_set(f"{self._name}/stop/{self.index}", reason, allow_overwrite=True)

    def stop_requested(self) -> str:
        """Why a process asked all to stop, or ''. Cheap: polls the service at most twice a second."""
        now = time.monotonic()
        if self.count > 1 and not self._stop_reason and now - self._polled > _POLL_SECONDS:
            self._polled = now
            found = _client().key_value_dir_get(f"{self._name}/stop")
            self._stop_reason = found[0][1] if found else ""
        return self._stop_reason

    def _wait(self, key: str) -> str:
        while True:  # short waits, so that signal handlers can run
            try:
                return _client().blocking_key_value_get(key, 500)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    line = str(error).splitlines()[0][:200]
                    raise PeersLost(f"lost the other processes: {line}") from None
            if gone := _gone():
                raise PeersLost(f"process {gone[0]} failed; its own message says why")


SINGLE_PROCESS = ProcessGroup()


def join_process_group() -> ProcessGroup:
    """Returns the group of all `jax.distributed` processes. All must call it equally often."""
    return ProcessGroup(jax.process_index(), jax.process_count(), f"jaxcnn/{next(_GROUP_NUMBERS)}")


def leave_process_group(code: int) -> None:
    """Exits this process immediately with `code` if there are other processes; returns if there are none.

    For a process that failed while others may wait for it: in `gather` they see that it is gone, and in a
    collective its connections break. A regular exit would wait for the others, and then abort with a long
    C++ trace. Process 0 waits a few seconds first, because all processes abort when it exits.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    index, count = jax.process_index(), jax.process_count()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().key_value_set(f"{_GONE}/{index}", str(index), allow_overwrite=True)
        until = time.monotonic() + _LEAVE_SECONDS
        while index == 0 and len(_gone()) < count and time.monotonic() < until:
            time.sleep(0.1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_same(
    process_group: ProcessGroup, what: str, value: Mapping[str, Any], advice: str
) -> None:
    """Checks that every process has the same JSON `value`.

    Raises:
        ValueError: on every process, with the processes whose value differs and the difference.
    """
    first, *others = process_group.gather(value)
    rows = [
        f"  process 0 -> process {i}: {', '.join(d[:200] for d in difference(first, other)[:4])}"
        for i, other in enumerate(others, 1)
        if other != first
    ]
    if rows:
        listed = "\n".join(rows[:8])
        raise ValueError(f"the processes do not have the same {what}:\n{listed}\n{advice}")


def _as_local_error(index: int, module: str, name: str, text: str) -> Exception:
    """Recreates an error of process `index`, so that callers catch jaxcnn's errors by class."""
    if module.startswith("jaxcnn."):
        kind = getattr(importlib.import_module(module), name)
        return kind.__new__(kind, text)  # without __init__, whose arguments are not known here
    return PeerFailed(f"process {index} failed: {name}: {text.splitlines()[0] if text else ''}")


def _gone() -> list[int]:
    return sorted(int(index) for _, index in _client().key_value_dir_get(_GONE))


def _client() -> Any:
    try:
        from jax._src import (
            distributed,
        )  # JAX has no public API for this service; Orbax does the same

        return distributed.global_state.client
    except (ImportError, AttributeError) as error:
        known = "several processes need jax 0.10 to 0.12"
        raise RuntimeError(f"{known}, not {jax.__version__}: {error}") from error
