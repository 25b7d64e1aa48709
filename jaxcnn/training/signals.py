"""SIGTERM and Ctrl-C ask the run to save and leave, on all its processes; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup


class Stopped(Exception):
    """The run was asked to leave."""


class StopSignal:
    """While entered, a signal sets a flag that the loop looks at between steps and batches.

    `answer` is the line printed when a signal arrives. A signal to one process of `process_group` reaches
    the others through it.
    """

    def __init__(
        self, answer: str = "saving after this step", process_group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self.signal = ""
        self._answer = answer
        self._process_group = process_group
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        # Python lets only the main thread set handlers; elsewhere (a notebook's worker) signals stay
        # with whoever has them.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: one that Python did not set, and cannot set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # pyright: ignore[reportArgumentType]
            outer = getattr(handler, "__self__", None)
            if isinstance(
                outer, StopSignal
            ):  # several runs in one program: it hears of the signal too
                outer.signal = outer.signal or self.signal

    def check(self) -> None:
        """Raises Stopped once a signal has come, to this process or another.

        Processes do not see it at the same moment: it is for work that ends in `Crew.each`."""
        if self.signal:
            raise Stopped(self.signal)
        if called := self._process_group.stop_requested():
            raise Stopped(called)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal and number == signal.SIGINT:
            os._exit(130)
        self.signal = signal.Signals(number).name
        self._process_group.request_stop(self.signal)
        os.write(2, f"\n{self.signal}: {self._answer} (Ctrl-C again leaves at once)\n".encode())
