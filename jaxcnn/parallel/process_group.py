"""The processes of a run: what they tell each other beside the arrays, and how they end together.

Messages go through the coordination service of `jax.distributed`, not through devices: a wait has no
limit of its own, and it ends when a process is gone, since the service misses its heartbeat.
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
from collections.abc import Callable
from typing import Any, TypeVar

import jax

_POLL_SECONDS = 0.5
_LEAVE_SECONDS = 5.0
_GONE = "jaxcnn/gone"
# The service outlives a run: the next one in a program needs keys of its own.
_ASSEMBLED = itertools.count()

Value = TypeVar("Value")


class PeerFailed(RuntimeError):
    """Another process could not go on; its own message says why."""


@dataclasses.dataclass(eq=False)
class ProcessGroup:
    """This process among those of the run. `Crew()` is a process alone.

    Attributes:
        index, count: this process, and how many there are.
    """

    index: int = 0
    count: int = 1
    _name: str = "jaxcnn"
    _round: int = 0
    _polled: float = 0.0
    _called: str = ""

    @property
    def is_primary(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, by index; all of them must call it. Values are JSON."""
        if self.count == 1:
            return [value]
        client, self._round = _client(), self._round + 1
        client.key_value_set(self._key(self._round, self.index), json.dumps(value))
        values = [json.loads(self._wait(self._key(self._round, i))) for i in range(self.count)]
        if self._round > 2:  # all have read these: each told something after that
            client.key_value_delete(self._key(self._round - 2, self.index))
        return values

    def run_on_all(self, work: Callable[[], Value]) -> Value:
        """What `work` gives here, once it is done on every process. All of them must call it.

        Raises:
            What `work` raised, here; where it raised on other processes alone, the error of the first of
            them if it is one of jaxcnn's, else OtherFailed.
        """
        if self.count == 1:
            return work()
        try:
            mine = work()
        except Exception as error:
            self.gather(_told(error))
            raise
        for index, failure in enumerate(self.gather(None)):
            if failure is not None:
                raise _again(index, *failure)
        return mine

    def gather_results(self, work: Callable[[], Any]) -> list[Any]:
        """What `work` gives on every process, by index, as JSON; for the rest see `own`."""
        return self.gather(self.run_on_all(work))

    def run_on_primary(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on the first process, which alone does it. All of them must call this."""
        return self.gather_results(work if self.is_primary else lambda: None)[0]

    def request_stop(self, what: str) -> None:
        """Asks all processes to stop, because of `what`. Called by a signal's handler, which must not raise:
        where the service is gone, the others end by themselves."""
        if self.count == 1:
            return
        words = f"{what} of process {self.index}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _client().key_value_set(f"{self._name}/stop/{self.index}", words, allow_overwrite=True)

    def stop_requested(self) -> str:
        """Why a process asked all to stop, or ''. Cheap: asks twice a second at most."""
        now = time.monotonic()
        if self.count > 1 and not self._called and now - self._polled > _POLL_SECONDS:
            self._polled = now
            found = _client().key_value_dir_get(f"{self._name}/stop")
            self._called = found[0][1] if found else ""
        return self._called

    def _key(self, round_: int, index: int) -> str:
        return f"{self._name}/round/{round_}/{index}"

    def _wait(self, key: str) -> str:
        while True:  # in short waits, so that signals are handled
            try:
                return _client().blocking_key_value_get(key, 500)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise PeerFailed(f"lost the other processes: {_line(error)}") from None
            if gone := _gone():
                raise PeerFailed(f"process {gone[0]} could not go on; its own message says why")


SINGLE_PROCESS = ProcessGroup()


def join_process_group() -> ProcessGroup:
    """The processes that `jax.distributed` has joined. All of them must call it, as often as each other."""
    return ProcessGroup(jax.process_index(), jax.process_count(), f"jaxcnn/{next(_ASSEMBLED)}")


def leave_process_group(code: int) -> None:
    """Ends this process with `code`, at once, where it is one of several; returns where it is alone.

    For a process that cannot go on. Others may wait for it: in `gather` they learn that it is gone, in a
    collective its connections break. At its ordinary end it would wait for them instead, and be aborted
    with pages of C++. The first process waits a little, since all are aborted when it ends.
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


def check_same(process_group: ProcessGroup, what: str, value: Any, advice: str) -> None:
    """Checks that every process has the same `value`.

    Raises:
        ValueError: on every process: who has another one, and where it differs.
    """
    values = process_group.gather(value)
    others = [i for i, other in enumerate(values) if other != values[0]]
    if others:
        rows = [f"  process {i}: {_difference(values[i], values[0])}" for i in others]
        raise ValueError(
            f"the processes do not have the same {what}:\n  process 0: "
            f"{_difference(values[0], values[others[0]])}\n" + "\n".join(rows[:8]) + f"\n{advice}"
        )


def _difference(value: Any, other: Any) -> str:
    """Of two JSON values what differs in the first."""
    if isinstance(value, dict) and isinstance(other, dict):
        keys = [k for k in {**value, **other} if value.get(k) != other.get(k)]
        parts = []
        for key in keys[:4]:
            inner = _difference(value.get(key), other.get(key))
            parts.append(f"{key}.{inner}" if isinstance(value.get(key), dict) else f"{key}={inner}")
        return ", ".join(parts)
    return json.dumps(value)[:100]


def _told(error: Exception) -> tuple[str, str, str]:
    return type(error).__module__, type(error).__name__, str(error)


def _again(index: int, module: str, name: str, text: str) -> Exception:
    """An error of another process, as one of this."""
    if module.startswith("jaxcnn."):
        return getattr(importlib.import_module(module), name)(text)
    return PeerFailed(
        f"process {index} could not go on: {name}: {text.splitlines()[0] if text else ''}"
    )


def _gone() -> list[int]:
    return sorted(int(index) for _, index in _client().key_value_dir_get(_GONE))


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200]


def _client() -> Any:
    from jax._src import distributed  # as Orbax does: JAX has no public way to this service

    return distributed.global_state.client
