"""Steps, epochs and what is due when: pure arithmetic on (examples, batch size, epochs)."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Progress:
    """Attributes:
    examples: N, training examples an epoch (without the held-out ones).
    batch_size: B, examples a step over all devices.
    epochs: length of the run.
    """

    examples: int
    batch_size: int
    epochs: float

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        # 1.1 x 100 / 10 is a little over 11 in binary
        return math.ceil(self.epochs * self.examples / self.batch_size - 1e-9)

    @property
    def steps_per_epoch(self) -> float:
        return self.examples / self.batch_size

    def epoch(self, step: int) -> float:
        """Epochs seen after `step` updates; exact at whole epochs, where it matters to schedules."""
        return step * self.batch_size / self.examples

    def due(self, step: int, every: float) -> bool:
        """Whether something done each `every` epochs is due after `step` updates; at the end always."""
        if step == self.total:
            return True
        return every > 0 and self.passes(step, every)

    def passes(self, step: int, every: float) -> bool:
        """Whether a multiple of `every` epochs is reached with update `step`, the last one or not."""
        return self.epoch(step) // every > self.epoch(step - 1) // every
