"""When checkpoints are saved, and which of them stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When states are saved and how many are kept. The end of a run and a stop always save.

    Attributes:
        every_epochs: epochs between saves.
        keep: number of latest checkpoints kept, in addition to the best one on `data.held_out` images.
    """

    every_epochs: float = 1.0
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every_epochs <= 0:
            raise ValueError(f"every_epochs must be above 0, got {self.every_epochs}")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")


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

    def kept(self, steps: Sequence[int]) -> set[int | None]:
        """Those of `steps` that stay."""
        return {*sorted(steps)[-self.keep :], self.best(steps), self.pinned}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's protocol `PreservationPolicy`."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self.kept(steps)
        return [step in kept for step in steps]
