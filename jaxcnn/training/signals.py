"""Signals that ask all processes of a run to save and exit; a second Ctrl-C exits at once."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType

from jaxcnn import retries
from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup
from jaxcnn.streams import stop_waiting

ALWAYS = (signal.SIGTERM, signal.SIGINT)
# The end of an ssh session, and warnings of batch systems before a limit. nohup ignores SIGHUP, and a program
# may have a handler of its own: these stay.
IF_FATAL = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class Stopped(Exception):
    """A signal asked the run to stop."""


class StopSignal:
    """Context manager in which a signal sets a flag that the loop checks between steps and batches, prints
    `answer`, and goes to the other processes of `process_group`.

    Python runs handlers of signals in the main thread and not before a call into a library returns, which may
    be a compilation or wait for another process. So a thread of its own answers the signal and passes it on.
    """

    def __init__(
        self, answer: str = "saving after this step", process_group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self.signal, self._answer, self._process_group = "", answer, process_group
        self._before: dict[int, object] = {}
        # Whether a Ctrl-C came, to the main thread and to the listener's; whether a signal was answered.
        self._handled = self._heard = self._answered = False
        self._listener: _Listener | None = None

    def __enter__(self) -> StopSignal:
        # Only the main thread may set handlers. In another thread (of a notebook, for example) the
        # existing handlers stay.
        if threading.current_thread() is threading.main_thread():
            self._listener = _Listener(self._answer_signal)
            for number in (*ALWAYS, *filter(_would_end_us, IF_FATAL)):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            # None: the handler was not set from Python and cannot be restored
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # pyright: ignore[reportArgumentType]
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, StopSignal):  # nested: the outer one gets the signal too
                outer.signal = outer.signal or self.signal
                outer._handled |= self._handled
                outer._heard |= self._heard
                outer._answered |= self._answered
        if self._before and not any(map(_is_ours, self._before.values())):
            retries.take_time()
        if self._listener is not None:
            self._listener.close()

    def check(self) -> None:
        """Raises Stopped after a signal to this process or another.

        Processes do not see the signal at the same moment: in several processes, call this inside
        `ProcessGroup.run_on_all`, which makes them fail together.
        """
        if reason := self.reason() or self._process_group.stop_requested():
            raise Stopped(reason)

    def reason(self) -> str:
        """The signal that this process got, or ''; with the process unless it is the first, which reports."""
        index = self._process_group.index
        return f"{self.signal} of process {index}" if self.signal and index else self.signal

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            if self._handled:
                os._exit(130)
            self._handled = True
        stop_waiting()
        retries.hurry()
        self.signal = self.signal or signal.Signals(number).name

    def _answer_signal(self, number: int) -> None:
        """Called in the listener's thread, for each signal."""
        if number not in self._before:
            return
        if number == signal.SIGINT:
            if self._heard:
                os._exit(130)
            self._heard = True
        if not self._answered:
            self._answered = True
            retries.hurry()
            self.signal = self.signal or signal.Signals(number).name
            again = "again" if number == signal.SIGINT else "twice"
            _tell(f"\n{self.signal}: {self._answer} (Ctrl-C {again} exits at once)\n")
            self._process_group.request_stop(self.signal)


class _Listener:
    """Calls `answer` with the number of each signal that has a handler, in a thread, at once."""

    def __init__(self, answer: Callable[[int], None]) -> None:
        self._answer = answer
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="jaxcnn-signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.write(self._writer, b"\0")  # no signal's number
        self._thread.join()
        os.close(self._writer)
        os.close(self._reader)

    def _listen(self) -> None:
        while number := os.read(self._reader, 1)[0]:
            self._answer(number)


def _would_end_us(number: int) -> bool:
    handler = signal.getsignal(number)
    return handler == signal.SIG_DFL or _is_ours(handler)


def _is_ours(handler: object) -> bool:
    return isinstance(getattr(handler, "__self__", None), StopSignal)


def _tell(text: str) -> None:
    """Writes to standard error, unless it is gone or nobody reads it."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode())
