"""The papers' update rule as an Optax chain."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax


def momentum(
    *, momentum: float = 0.9, weight_decay: float = 5e-4, decay_biases: bool = False
) -> optax.GradientTransformationExtraArgs:
    """v <- momentum*v - weight_decay*rate*w - rate*g; w <- w + v (Krizhevsky et al. 2012, section 5).

    The rate is inside the momentum buffer, so a drop of the rate reaches the weights slowly; `optax.sgd`
    and PyTorch keep it outside. Call `tx.update(grads, state, params, learning_rate=rate)`.

    Args:
        momentum: 0.9 in all three papers.
        weight_decay: multiplies the weight; 5e-4 in Krizhevsky et al. 2012 and Simonyan & Zisserman 2014.
        decay_biases: whether biases decay too. The papers speak of weights; Krizhevsky's later code and
            BVLC's nets leave biases out.
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
    """True at every leaf called `kernel`: the leaves that decay when biases do not."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


class _Empty(NamedTuple):
    """This transformation keeps nothing."""


def _minus_learning_rate() -> optax.GradientTransformationExtraArgs:
    def init(params: Any) -> _Empty:
        del params
        return _Empty()

    def update(
        updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **_: Any
    ) -> Any:
        del params
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


OPTIMIZERS = {"momentum": momentum}
