"""The papers' update rule as an Optax chain."""

from __future__ import annotations

from typing import Any

import jax
import optax


def momentum(
    *, momentum: float = 0.9, weight_decay: float = 5e-4, decay_biases: bool = False
) -> optax.GradientTransformationExtraArgs:
    """v <- momentum*v - weight_decay*lr*w - lr*g; w <- w + v (Krizhevsky et al. 2012, section 5).

    The learning rate lr is inside the momentum buffer, so a drop takes effect gradually; `optax.sgd` and
    PyTorch multiply by it outside. Call `tx.update(grads, state, params, learning_rate=lr)`.

    Args:
        momentum: 0.9 in all three papers.
        weight_decay: factor of the weight in the gradient; 5e-4 in Krizhevsky et al. 2012 and in Simonyan &
            Zisserman 2014.
        decay_biases: whether biases decay too. The papers mention only weights; Krizhevsky's later code and
            BVLC's nets do not decay biases.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=None if decay_biases else decayed),
        _minus_learning_rate(),
        optax.trace(decay=momentum),
    )


def decayed(params: Any) -> Any:
    """Mask of the leaves that decay when biases do not: True at every leaf named `kernel`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _minus_learning_rate() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, _: Any = None, *, learning_rate: Any, **__: Any) -> Any:
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)  # pyright: ignore[reportArgumentType]


OPTIMIZERS = {"momentum": momentum}
