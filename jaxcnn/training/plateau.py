"""The rate falls once held-out images are no longer judged better: a pure rule over the state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Plateau:
    """`rate` times `factor` for each of at most `drops` drops, made when validation stops improving
    (Krizhevsky et al. 2012, section 5; Simonyan & Zisserman 2014, section 3.1: three divisions by 10).

    Every `every_epochs` the held-out images are judged by the first protocol. Top-1 above the best one so
    far is an improvement; after `patience` judgements without one the rate drops.

    Attributes:
        patience: unstated in the papers, where a person judged. 5 leaves a run of 74 or 90 epochs room
            for three drops, and is beyond the noise of a few epochs.
    """

    rate: float
    factor: float = 0.1
    patience: int = 5
    drops: int = 3
    every_epochs: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be positive, got {self.rate}")
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor must lie in (0, 1], got {self.factor}")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        if self.drops < 0:
            raise ValueError(f"drops must be 0 or more, got {self.drops}")
        if not self.every_epochs > 0:
            raise ValueError(f"every_epochs must be above 0, got {self.every_epochs}")

    def __call__(self, epoch: float, drops: int = 0) -> float:
        """The rate after so many drops; of the epoch itself it does not depend."""
        del epoch
        return self.rate * self.factor**drops

    def start(self) -> dict[str, jax.Array]:
        """What the rule goes by before the first judgement: `best` float32[], the highest top-1 so far;
        `waited` int32[], judgements since it rose; `drops` int32[]; `judged` int32[], the step of the
        latest judgement, so that a stop can neither lose one nor count it twice."""
        zero = jnp.zeros((), jnp.int32)
        return {"best": jnp.float32(-1.0), "waited": zero, "drops": zero, "judged": zero}

    def judged(self, before: Mapping[str, Any], top1: float, step: int) -> dict[str, np.ndarray]:
        """What the rule goes by once the held-out images gave `top1` after `step` updates.

        Args:
            before: as `start` gives it.
            top1: fraction of images.
        """
        best, waited, drops = before["best"], int(before["waited"]), int(before["drops"])
        # Compared as it is kept: 0.7 is above the float32 nearest to it.
        if np.float32(top1) > best:
            best, waited = np.float32(top1), 0
        else:
            waited += 1
        if waited == self.patience:
            waited, drops = 0, min(drops + 1, self.drops)
        return {
            "best": np.asarray(best, np.float32),
            "waited": np.asarray(waited, np.int32),
            "drops": np.asarray(drops, np.int32),
            "judged": np.asarray(step, np.int32),
        }
