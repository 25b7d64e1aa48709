"""SIGTERM and Ctrl-C ask all processes of a run to save and exit; a second Ctrl-C exits at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup


class Stopped(Exception):
    """A signal asked the run to stop."""


class StopSignal:
    """Context manager in which a signal sets a flag that the loop checks between steps and batches, prints
    `answer`, and goes to the other processes of `process_group`."""

    def __init__(
        self, answer: str = "saving after this step", process_group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self.signal, self._answer, self._process_group = "", answer, process_group
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        # Only the main thread may set handlers. In another thread (of a notebook, for example) the
        # existing handlers stay.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            # None: the handler was not set from Python and cannot be restored
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # pyright: ignore[reportArgumentType]
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, StopSignal):  # nested: the outer one gets the signal too
                outer.signal = outer.signal or self.signal

    def check(self) -> None:
        """Raises Stopped after a signal to this process or another.

        Processes do not see the signal at the same moment: in several processes, call this inside
        `ProcessGroup.run_on_all`, which makes them fail together.
        """
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
        os.write(2, f"\n{self.signal}: {self._answer} (Ctrl-C again exits at once)\n".encode())
