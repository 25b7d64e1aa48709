"""Shows what every thread is doing when a step takes far too long: a hang has no other witness."""

from __future__ import annotations

import faulthandler
import math
import sys
import time

# The first steps are slow for other reasons, and a median of few says little.
_LEAST_STEPS = 5
_LEAST_SECONDS = 10.0
# Setting it takes over a millisecond, too long for every step: it may come later by this share.
_SLACK = 0.1


class Watchdog:
    """Fed once a step; when it is not fed for `times` the median step, standard error gets the stacks of
    all threads of this process, once. The process goes on."""

    def __init__(self, times: float) -> None:
        self._times = times
        self._steps = 0
        self._set = -math.inf

    def feed(self, median: float) -> None:
        """A step began; `median` is that of the latest steps, in seconds."""
        self._steps += 1
        if self._times and self._steps > _LEAST_STEPS:
            # By a thread of its own outside Python, which a stuck interpreter cannot stop.
            seconds, now = max(_LEAST_SECONDS, self._times * median), time.monotonic()
            if now - self._set > _SLACK * seconds:
                late = (1 + _SLACK) * seconds
                faulthandler.dump_traceback_later(late, file=sys.__stderr__ or sys.stderr)
                self._set = now

    def rest(self) -> None:
        """No step is due: evaluation, saving, the end."""
        faulthandler.cancel_dump_traceback_later()
        self._set = -math.inf
