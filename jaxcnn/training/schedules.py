"""Epochs and steps, learning rate schedules, and the learning rate of each update.

A schedule is a function of the epoch in double precision on the host: one callable here and one row in
`SCHEDULES`. `Plateau` depends on evaluations of the held-out images too, and its state is in the train state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.parallel import Placement

if TYPE_CHECKING:
    from jaxcnn.training.train_state import TrainState

Schedule = Callable[[float], float]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Conversion between steps and epochs, and what is due after a step.

    Attributes:
        examples: N, training examples in an epoch, without the held-out ones.
        batch_size: B, examples in a step, over all devices.
        epochs: length of the run.
    """

    examples: int
    batch_size: int
    epochs: float

    @property
    def total(self) -> int:
        """Number of updates of the run."""
        # The small number absorbs rounding: 1.1 * 100 / 10 is slightly above 11 in binary.
        return math.ceil(self.epochs * self.examples / self.batch_size - 1e-9)

    def epoch(self, step: int) -> float:
        """Epochs seen after `step` updates; exact at whole epochs, where schedules change."""
        return step * self.batch_size / self.examples

    def due(self, step: int, every: float) -> bool:
        """Whether work done every `every` epochs is due after `step` updates; at the end it always is."""
        return step == self.total or (every > 0 and self.passes(step, every))

    def passes(self, step: int, every: float) -> bool:
        """Whether update `step` reaches a multiple of `every` epochs."""
        return self.epoch(step) // every > self.epoch(step - 1) // every


def constant(*, rate: float) -> Schedule:
    """The same learning rate throughout."""
    _check(rate)
    return lambda _: rate


def listed(*, rate: float, drops: tuple[float, ...], factor: float = 0.1) -> Schedule:
    """`rate`, multiplied by `factor` at each epoch in `drops`, from that epoch on.

    The reproducible form of "divide by 10 when validation stops improving" (Krizhevsky et al. 2012,
    section 5; Simonyan & Zisserman 2014, section 3.1).
    """
    _check(rate, factor)
    if list(drops) != sorted(drops) or any(d <= 0 for d in drops):
        raise ValueError(f"drops must be rising epochs above 0, got {drops}")
    return lambda epoch: rate * factor ** sum(epoch >= drop for drop in drops)


def exponential(*, rate: float, factor: float = 0.96, every: float = 8.0) -> Schedule:
    """rate * factor ** floor(epoch / every) (Szegedy et al. 2014, section 6: 4 % every 8 epochs)."""
    _check(rate, factor)
    if every <= 0:
        raise ValueError(f"every must be above 0, got {every}")
    return lambda epoch: rate * factor ** math.floor(epoch / every)


@dataclasses.dataclass(frozen=True)
class Plateau:
    """`rate`, multiplied by `factor` when validation stops improving, at most `drops` times
    (Krizhevsky et al. 2012, section 5; Simonyan & Zisserman 2014, section 3.1: three divisions by 10).

    Every `every_epochs` epochs the first protocol evaluates the held-out images. A top-1 above the best so
    far is an improvement; after `patience` evaluations without one the learning rate drops.

    Attributes:
        patience: unstated in the papers, whose authors decided by hand. 5 leaves a run of 74 or 90 epochs
            room for three drops, and exceeds the noise of a few epochs.
    """

    rate: float
    factor: float = 0.1
    patience: int = 5
    drops: int = 3
    every_epochs: float = 1.0

    def __post_init__(self) -> None:
        _check(self.rate, self.factor)
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        if self.drops < 0:
            raise ValueError(f"drops must be 0 or more, got {self.drops}")
        if not self.every_epochs > 0:
            raise ValueError(f"every_epochs must be above 0, got {self.every_epochs}")

    def __call__(self, epoch: float, drops: int = 0) -> float:
        """The learning rate after `drops` drops; it does not depend on the epoch."""
        del epoch
        return self.rate * self.factor**drops

    def initial_state(self) -> dict[str, jax.Array]:
        """The rule's state before the first evaluation.

        `best` float32[] is the highest top-1 so far, `waited` int32[] the evaluations since it rose,
        `drops` int32[] the drops so far. `judged` int32[] is the step of the latest evaluation, so that a
        stop neither loses an evaluation nor counts it twice.
        """
        zero = jnp.zeros((), jnp.int32)
        return {"best": jnp.float32(-1.0), "waited": zero, "drops": zero, "judged": zero}

    def update(self, before: Mapping[str, Any], top1: float, step: int) -> dict[str, np.ndarray]:
        """The rule's state after an evaluation of the held-out images with `top1`, a fraction, after `step`
        updates."""
        # Compared in the precision of the state: 0.7 is above the float32 nearest to it.
        best, drops = np.float32(max(np.float32(top1), before["best"])), int(before["drops"])
        waited = 0 if best > before["best"] else int(before["waited"]) + 1
        if waited == self.patience:
            waited, drops = 0, min(drops + 1, self.drops)
        counts = {"waited": waited, "drops": drops, "judged": step}
        return {"best": np.asarray(best), **{k: np.asarray(v, np.int32) for k, v in counts.items()}}


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "listed": listed,
    "exponential": exponential,
    "plateau": Plateau,
}


def _check(rate: float, factor: float = 1.0) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be positive, got {rate}")
    if not 0 < factor <= 1:
        raise ValueError(f"factor must lie in (0, 1], got {factor}")


class LearningRate:
    """The learning rate of each update. Keeps a host copy of the plateau rule's state, so that no update
    waits for a device."""

    def __init__(self, schedule: Schedule, progress: Progress, placement: Placement) -> None:
        self.schedule, self.progress, self.placement = schedule, progress, placement
        self.plateau: dict[str, Any] = {}

    def restore(self, state: TrainState) -> None:
        """Continues from `state`."""
        self.plateau = jax.device_get(state.plateau)

    def rate(self, epoch: float) -> float:
        """The learning rate of the update made after `epoch` epochs."""
        if isinstance(self.schedule, Plateau):
            return self.schedule(epoch, int(self.plateau["drops"]))
        return self.schedule(epoch)

    def after_evaluation(self, state: TrainState, top1: float | None) -> tuple[TrainState, str]:
        """`state` after a plateau rule, if any, has seen its evaluation, and a line to print if it drops.

        Args:
            top1: of the held-out images with `state`; None if they were not evaluated.
        """
        rule, before, step = self.schedule, self.plateau, int(state.step)
        if not isinstance(rule, Plateau) or top1 is None:
            return state, ""
        if not plateau_due(rule, self.progress, step) or int(before["judged"]) == step:
            return state, ""
        self.plateau = rule.update(before, top1, step)
        state = dataclasses.replace(state, plateau=self.placement.put_replicated(self.plateau))
        old, new = int(before["drops"]), int(self.plateau["drops"])
        if old == new:
            return state, ""
        times = "evaluation" if rule.patience == 1 else "evaluations"
        return state, (
            f"plateau: top-1 on held-out images has not risen above {float(before['best']):.2%} for "
            f"{rule.patience} {times}; learning rate {rule(0.0, old):.3g} -> "
            f"{rule(0.0, new):.3g} (drop {new} of {rule.drops})"
        )


def plateau_due(schedule: Any, progress: Progress, step: int) -> bool:
    """Whether a plateau rule needs the held-out images evaluated after `step` updates. It depends on the
    rule's own interval only: the checkpoints' and the end of the run may change on resume."""
    return isinstance(schedule, Plateau) and progress.passes(step, schedule.every_epochs)
