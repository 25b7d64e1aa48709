"""A watchdog for hanging training steps."""

from __future__ import annotations

import faulthandler
import math
import sys
import time

# The first steps are slow for other reasons, and a median of few steps is unreliable.
MIN_STEPS = 5
MIN_SECONDS = 10.0
# Setting the timer takes over a millisecond, too long for every step: it may fire later by this fraction.
SLACK = 0.1


class Watchdog:
    """Prints the stacks of all threads to standard error, once, if no step is fed for `times` the median
    step (0: never). A hang leaves no other trace. The process continues."""

    def __init__(self, times: float) -> None:
        self._times = times
        self._steps = 0
        self._set_at = -math.inf

    def feed(self, median: float) -> None:
        """Call it after each dispatch; `median` is the median duration of the latest steps in seconds."""
        self._steps += 1
        if not self._times or self._steps <= MIN_STEPS:
            return
        seconds, now = max(MIN_SECONDS, self._times * median), time.monotonic()
        if now - self._set_at > SLACK * seconds:
            late = (1 + SLACK) * seconds
            # A thread outside Python prints them, so a stuck interpreter cannot prevent it.
            if sys.__stderr__ is not None:  # it was not closed when the program started
                faulthandler.dump_traceback_later(late, file=sys.__stderr__)
            self._set_at = now

    def pause(self) -> None:
        """Call it when no step follows for a while: evaluation, saving, the end."""
        faulthandler.cancel_dump_traceback_later()
        self._set_at = -math.inf
