"""The learning rate of each update, where a plateau rule may have lowered it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.parallel import Placement
from jaxcnn.training.plateau import Plateau
from jaxcnn.training.progress import Progress
from jaxcnn.training.train_state import TrainState


class LearningRate:
    """Holds the host's own copy of what a plateau rule goes by, so that no update waits for a device."""

    def __init__(
        self, schedule: Callable[..., float], pace: Progress, placement: Placement
    ) -> None:
        self.schedule, self.pace, self.placement = schedule, pace, placement
        self.plateau: dict[str, Any] = {}

    def go_on(self, state: TrainState) -> None:
        """Goes on from `state`."""
        self.plateau = jax.device_get(state.plateau)

    def rate(self, epoch: float) -> float:
        """Of the update made after `epoch` epochs."""
        if isinstance(self.schedule, Plateau):
            return self.schedule(epoch, int(self.plateau["drops"]))
        return self.schedule(epoch)

    def due(self, done: int) -> bool:
        """Whether the rule has yet to see the held-out images judged after `done` updates."""
        return (
            evaluations_due(self.schedule, self.pace, done) and int(self.plateau["judged"]) != done
        )

    def judged(self, state: TrainState, top1: float) -> tuple[TrainState, str]:
        """(`state` with the judgement in it; a line for a person where the rate drops, else '')."""
        rule, before = self.schedule, self.plateau
        if not isinstance(rule, Plateau):
            return state, ""
        self.plateau = rule.judged(before, top1, int(state.step))
        state = dataclasses.replace(state, plateau=self.placement.put_replicated(self.plateau))
        old, new = int(before["drops"]), int(self.plateau["drops"])
        if old == new:
            return state, ""
        times = "judgement" if rule.patience == 1 else "judgements"
        return state, (
            f"plateau: top-1 on held-out images has not risen above {float(before['best']):.2%} for "
            f"{rule.patience} {times}; rate {rule(0.0, old):.3g} -> "
            f"{rule(0.0, new):.3g} (drop {new} of {rule.drops})"
        )


def evaluations_due(schedule: Any, pace: Progress, done: int) -> bool:
    """Whether a plateau rule looks at the held-out images after `done` updates. By its own clock: neither
    the checkpoints' nor the end of a run, both of which may be others when a run goes on."""
    return isinstance(schedule, Plateau) and pace.passes(done, schedule.every_epochs)
