"""What training changes: one dataclass of arrays, a pure function of (config, updates done)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array


@struct.dataclass
class TrainState:
    """Fields are arrays, or what stands for arrays in abstract evaluation.

    Attributes:
        step: int32[], updates done.
        params: the net's parameters, float32.
        opt_state: the optimiser's buffers.
        plateau: best, waited and drops of the plateau rule; empty when it is off.
        average: params and count of Polyak averaging; empty when it is off.
    """

    step: Any
    params: Any
    opt_state: Any
    plateau: Any
    average: Any


@dataclasses.dataclass(frozen=True)
class Init:
    """Where parameters start.

    Attributes:
        seed: they are drawn from it; -1 takes the config's `seed`.
    """

    seed: int = -1


def create(net: Any, tx: optax.GradientTransformation, key: Array) -> TrainState:
    """A fresh state: parameters drawn from `key` (training form, so auxiliary heads are made)."""
    images = jnp.zeros((1, net.image_size, net.image_size, 3), jnp.float32)
    key, dropout = jax.random.split(key)
    params = net.init({"params": key, "dropout": dropout}, images, train=True)["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), {}, {})


def describe_leaves(tree: Any) -> dict[str, str]:
    """Every array of `tree` as name -> `float32[3,3,64,64]`, for diffs a reader can use."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
