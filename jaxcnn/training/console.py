"""Text on the console: lines, a progress line that is rewritten in place on a terminal, compile times."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from jaxcnn.malloc_tuning import give_back_freed
from jaxcnn.printable import printable, say
from jaxcnn.streams import safe


class Console:
    """Writes to a text stream; an error of writing is no error of the run. If the stream is not a terminal,
    progress is a line every ten seconds."""

    TERMINAL_SECONDS = 0.2
    PLAIN_SECONDS = 10.0

    def __init__(self, stream: Any = None, *, silent: bool = False) -> None:
        """`stream` is a text file; None is standard output. `silent`: process 0 prints instead."""
        self.stream = safe(stream or sys.stdout)
        self.silent = silent
        self.in_place = self.stream.isatty()
        self._open = False
        self._last = 0.0

    def line(self, text: str) -> None:
        """Prints a line."""
        if self.silent:
            return
        self.end_progress()
        say(text, self.stream)

    def progress(self, text: str, last: bool = False) -> None:
        """Prints a line that the next one replaces; skipped soon after another, unless `last`."""
        now = time.monotonic()
        interval = self.TERMINAL_SECONDS if self.in_place else self.PLAIN_SECONDS
        if self.silent or (not last and now - self._last < interval):
            return
        self._last, self._open, text = now, self.in_place, printable(text)
        if self.in_place:
            columns = shutil.get_terminal_size().columns  # a wrapped line could not be rewritten
            text = "\r\x1b[2K" + text[: columns - 1]
        print(text, end="" if self.in_place else "\n", file=self.stream, flush=True)

    def end_progress(self) -> None:
        """Ends the progress line, if there is one, so that it stays."""
        if self._open:
            print(file=self.stream)
            self._open = False


class Compiler:
    """Compiles lowered functions, and adds up the seconds, so that no other time includes them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.seconds = 0.0

    def __call__(self, what: str, lowered: Any) -> Any:
        """The compiled function; `what` names it on the console."""
        self._console.progress(f"compiling {what} ...", last=True)
        began = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - began
        give_back_freed()
        self.seconds += seconds
        self._console.line(f"compiled {what} in {seconds:.1f} s")
        return compiled


def duration(seconds: float) -> str:
    """`42s`, `3m10s`, `1h02m`, `2d03h`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
