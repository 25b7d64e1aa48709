"""Weight averages over updates; evaluation uses the average if a run has one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

KINDS = ("off", "uniform", "exponential")


@dataclasses.dataclass(frozen=True)
class WeightAverage:
    """Polyak averaging (Szegedy et al. 2014, section 6, which gives neither its window nor its weights).

    Training continues from the raw weights. Every evaluation, the choice of the best checkpoint and
    `jaxcnn.load` use the average.

    Attributes:
        kind: 'off'; 'uniform', the mean of the weights after each update, for up to a few million updates
            (with more, a float32 mean loses single updates: set from_epoch); or 'exponential', which gives
            the latest weights the factor 1 - decay. Until it holds 1 / (1 - decay) updates the
            exponential average is a plain mean, so that the first weights do not dominate.
        decay: decay of 'exponential', per update.
        from_epoch: averaging begins with the first update after this many epochs; before it the
            average equals the weights.
    """

    kind: str = "off"
    decay: float = 0.9999
    from_epoch: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")
        if not self.from_epoch >= 0:
            raise ValueError(f"from_epoch must be 0 or more, got {self.from_epoch}")

    def lines(self) -> list[tuple[str, str]]:
        """(name, text) rows for the console; none when off."""
        if self.kind == "off":
            return []
        decay = f", decay {self.decay:g}" if self.kind == "exponential" else ""
        since = f"from epoch {self.from_epoch:g}" if self.from_epoch else "from the start"
        return [("average", f"of the weights, {self.kind}{decay}, {since}; used for evaluation")]

    def start(self, params: Any) -> dict[str, Any]:
        """The average before any update: `params` (copies, because both are donated) and `count` int32[],
        the number of updates in the average. Empty when off."""
        if self.kind == "off":
            return {}
        return {"params": jax.tree.map(jnp.copy, params), "count": jnp.zeros((), jnp.int32)}

    def counts(self, epoch: float) -> bool:
        """Whether the average includes the update made after `epoch` epochs."""
        return epoch >= self.from_epoch

    def take_in(
        self, average: dict[str, Any], params: Any, counts: Bool[Array, ""]
    ) -> dict[str, Any]:
        """The average including the weights `params`, or those weights if they do not count."""
        if self.kind == "off":
            return {}
        first = ~counts | (average["count"] == 0)
        weight = 1.0 / (average["count"].astype(jnp.float32) + 1.0)
        if self.kind == "exponential":
            weight = jnp.maximum(weight, 1.0 - self.decay)
        moved = lambda old, new: jnp.where(first, new, old + (new - old) * weight)  # noqa: E731
        return {
            "params": jax.tree.map(moved, average["params"], params),
            "count": jnp.where(counts, average["count"] + 1, 0),
        }
