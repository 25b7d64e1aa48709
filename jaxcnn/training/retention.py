"""Which checkpoints stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass
class Retention:
    """Keeps the latest checkpoints, the best, and the one that a run with damaged ones went on from.

    Attributes:
        keep: number of latest ones.
        top1: on the held-out images by step, where known. Of equal ones the latest is the best.
        pinned: a step that is kept in any case.
    """

    keep: int
    top1: dict[int, float]
    pinned: int | None = None

    def best(self, steps: Sequence[int]) -> int | None:
        """The step with the highest top-1; None if none of `steps` has one."""
        known = [(self.top1[step], step) for step in steps if step in self.top1]
        return max(known)[1] if known else None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's protocol `PreservationPolicy`."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self.keep :], self.best(steps), self.pinned}
        return [step in kept for step in steps]
