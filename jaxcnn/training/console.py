"""Text on the console: lines, a progress line that is rewritten in place on a terminal, compile times."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, TextIO

from jaxcnn.malloc_tuning import give_back_freed


class Console:
    """Writes to a text stream. Elsewhere than on a terminal, progress becomes a line every ten seconds."""

    TERMINAL_SECONDS = 0.2
    PLAIN_SECONDS = 10.0

    def __init__(self, stream: Any = None, *, silent: bool = False) -> None:
        """
        Args:
            stream: a text file; None is standard output.
            silent: write nothing: process 0 speaks for this one.
        """
        self.stream: TextIO = stream or sys.stdout
        self.silent = silent
        self.in_place = self.stream.isatty()
        self._open = False
        self._last = 0.0

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.silent:
            return
        self.end_progress()
        print(text, file=self.stream, flush=True)

    def progress(self, text: str, last: bool = False) -> None:
        """A line that the next one replaces; skipped if the previous one is too recent and not `last`."""
        now = time.monotonic()
        interval = self.TERMINAL_SECONDS if self.in_place else self.PLAIN_SECONDS
        if self.silent or (not last and now - self._last < interval):
            return
        self._last = now
        if self.in_place:
            columns = shutil.get_terminal_size().columns  # a wrapped line could not be rewritten
            print("\r\x1b[2K" + text[: columns - 1], end="", file=self.stream, flush=True)
            self._open = True
        else:
            print(text, file=self.stream, flush=True)

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
    whole = round(seconds)
    for unit, size, small, small_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small_size:02d}{small}"
    return f"{whole}s"
