"""Keeps what Orbax reports a second time off the console: the caller gets the same error as an exception."""

from __future__ import annotations

import logging
import sys
import threading


def silence_orbax() -> None:
    """Silences Orbax's log of each save, and the tracebacks of a failed save or restore. Others pass.

    They come from its threads, from TensorStore, whose reads end after Orbax has closed the event loop that
    waits for them, and from asyncio, when it frees the tasks of a failed restore.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if getattr(threading.excepthook, "__module__", "") == __name__:
        return
    thread_hook, unraisable_hook = threading.excepthook, sys.unraisablehook

    def in_thread(failed: threading.ExceptHookArgs, /) -> None:
        if not type(failed.thread).__module__.startswith("orbax"):
            thread_hook(failed)

    def unraisable(failed: sys.UnraisableHookArgs, /) -> None:
        code = getattr(failed.object, "cr_code", None)  # of a coroutine
        of_orbax = code is not None and "orbax" in code.co_filename
        of_tensorstore = failed.object is None and str(failed.exc_value) == "Event loop is closed"
        if not (of_orbax or of_tensorstore):
            unraisable_hook(failed)

    threading.excepthook, sys.unraisablehook = in_thread, unraisable
    logging.getLogger("asyncio").addFilter(_is_not_orbax)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not ("never retrieved" in text and ("orbax" in text or "tensorstore" in text))
