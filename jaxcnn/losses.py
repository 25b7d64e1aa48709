"""Cross-entropy and the auxiliary heads' weight: multinomial logistic regression in all three papers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Objective:
    """The training objective: cross-entropy, and of each auxiliary head (Szegedy et al. 2014, section 5) the
    cross-entropy times `auxiliary_weight`."""

    auxiliary_weight: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.auxiliary_weight <= 1:
            raise ValueError(f"auxiliary_weight must lie in [0, 1], got {self.auxiliary_weight}")

    def __call__(
        self,
        logits: Float[Array, "B K"],
        aux: tuple[Float[Array, "B K"], ...],
        labels: Int[Array, " B"],
    ) -> Float[Array, " B"]:
        """Objective of each example: main + weight * (auxiliary heads), in nats."""
        total = cross_entropy(logits, labels)
        for head in aux:
            total = total + self.auxiliary_weight * cross_entropy(head, labels)
        return total


def cross_entropy(logits: Float[Array, "B K"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
    """-log softmax(logits)[label] of each example, in nats (Krizhevsky et al. 2012, section 3.5)."""
    log_posterior = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(log_posterior, labels[:, None], axis=-1)[:, 0]
