"""SIGTERM and Ctrl-C ask the run to save and leave; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType


class Stopped(Exception):
    """The run was asked to leave."""


class Stopper:
    """While entered, a signal sets a flag that the loop looks at between steps and batches.

    `answer` is what a signal is answered with on the screen.
    """

    def __init__(self, answer: str = "saving after this step") -> None:
        self.signal = ""
        self._answer = answer
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
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
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
            outer = getattr(handler, "__self__", None)
            if isinstance(
                outer, Stopper
            ):  # several runs in one program: it hears of the signal too
                outer.signal = outer.signal or self.signal

    def check(self) -> None:
        """Raises Stopped once a signal has come."""
        if self.signal:
            raise Stopped(self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal and number == signal.SIGINT:
            os._exit(130)
        self.signal = signal.Signals(number).name
        os.write(2, f"\n{self.signal}: {self._answer} (Ctrl-C again leaves at once)\n".encode())
