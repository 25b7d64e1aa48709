"""One update: batch and state in, state and sums out. A pure function without jit or mesh.

Each device computes it on its own rows, inside a `jax.shard_map`. `jaxcnn.parallel` does all communication
between devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxcnn.evaluation import ranks
from jaxcnn.jax_settings import PRNG
from jaxcnn.losses import Objective
from jaxcnn.models.context import ShardContext
from jaxcnn.parallel import GradReduce
from jaxcnn.preprocessing import DevicePreprocess, augment_batch
from jaxcnn.training.ema import WeightAverage
from jaxcnn.training.train_state import Controls, TrainState

Batch = dict[str, Array]
Sums = dict[str, Float[Array, ""]]


class Keys(NamedTuple):
    """Random keys: of augmentation, the same at every update, and of dropout, another at each update."""

    data: Array
    dropout: Array


def make_train_step(
    net: Any,
    tx: optax.GradientTransformationExtraArgs,
    objective: Objective,
    device_preprocess: DevicePreprocess,
    average: WeightAverage,
    shard: ShardContext,
    reduction: GradReduce,
    grad_accum_steps: int = 1,
) -> Callable[[TrainState, Batch, Controls], tuple[TrainState, Sums]]:
    """Makes (state, batch, controls) -> (state, sums) on one device's rows and shard of the state.

    Sums are those of `_sums` over all devices; `finite`: 1 where loss and gradients are finite; `leave` and
    `failed`: the number of devices whose process asks to stop, or has no batch. An update that is not
    finite, or lacks a batch, does not change the state, so no such value reaches the parameters or a
    checkpoint.

    Args:
        shard: the layers that the devices of a group share; the step sets `rows` from the batch.
        grad_accum_steps: number of slices of the batch, whose gradients are computed in sequence and summed.
    """
    gradient = jax.grad(partial(_sums, net, objective, device_preprocess, shard), has_aux=True)

    def step(state: TrainState, batch: Batch, controls: Controls) -> tuple[TrainState, Sums]:
        dropout = jax.random.fold_in(jax.random.key(controls.seed, impl=PRNG), state.step)
        keys = Keys(jax.random.key(controls.data_seed, impl=PRNG), dropout)
        grads, total = _accumulated(gradient, state.params, batch, keys, grad_accum_steps)
        leave, failed = jnp.sum(controls.calls, axis=0).astype(jnp.float32)
        total = {**total, "leave": leave, "failed": failed}
        # Divided by n after the sum over devices, so that one collective carries counts and gradients.
        grads, total = reduction.reduce(grads, total)
        finite = reduction.everywhere(jnp.isfinite(total["loss"]) & _all_finite(grads))
        # Multiply, do not divide: XLA:CPU would materialize every quotient, one pass over memory per layer.
        share = 1.0 / jnp.maximum(total["n"], 1.0)
        grads = jax.tree.map(lambda g: g * share, grads)
        own = reduction.own(state.params)
        updates, opt_state = tx.update(
            grads, state.opt_state, own, learning_rate=controls.learning_rate
        )
        params = reduction.whole(optax.apply_updates(own, updates))
        averaged = average.take_in(state.average, params, controls.averaged)
        new = TrainState(state.step + 1, params, opt_state, state.plateau, averaged)
        good = finite & (total["failed"] == 0)
        state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        return state, {**total, "finite": finite.astype(jnp.float32)}

    return step


def _sums(
    net: Any,
    objective: Objective,
    device_preprocess: DevicePreprocess,
    shard: ShardContext,
    params: Any,
    batch: Batch,
    keys: Keys,
) -> tuple[Float[Array, ""], Sums]:
    """(loss, sums), float32 over the examples whose mask is True: `loss` (the objective, nats), `top1`,
    `top5` (counts), `n`."""
    images = augment_batch(keys.data, batch, device_preprocess)
    rows = jnp.stack([batch["epoch"], batch["id"]], axis=1)
    logits, aux = net.apply(
        {"params": params},
        images,
        train=True,
        shard=dataclasses.replace(shard, rows=rows),
        rngs={"dropout": keys.dropout},
    )
    total = lambda x: jnp.sum(jnp.where(batch["mask"], x, 0.0))  # noqa: E731
    loss, rank = total(objective(logits, aux, batch["label"])), ranks(logits, batch["label"])
    n, top1, top5 = total(1.0), total(jnp.float32(rank < 1)), total(jnp.float32(rank < 5))
    return loss, {"loss": loss, "top1": top1, "top5": top5, "n": n}


def _all_finite(grads: Any) -> Array:
    """bool[]: whether all gradients are finite. A sum with a nonfinite term is nonfinite, so sums suffice.

    On a CPU the sums are over columns, because XLA takes a fifth longer to compile GoogLeNet's step with the
    norm. On a TPU column sums would cost AlexNet's step, at 8 images per chip, 5 % more cycles than the norm.
    """
    return jax.lax.platform_dependent(grads, cpu=_finite_columns, default=_finite_norm)


def _finite_columns(grads: Any) -> Array:
    # Reversed, because XLA:CPU would otherwise compute the large gradients of VGG's last layers while the
    # first layers' feature maps are still in memory.
    sums = [g.reshape(-1, g.shape[-1]).sum(axis=0) for g in reversed(jax.tree.leaves(grads))]
    return jnp.isfinite(jnp.concatenate(sums)).all()


def _finite_norm(grads: Any) -> Array:
    return jnp.isfinite(optax.tree.norm(grads))


def _accumulated(
    gradient: Any, params: Any, batch: Batch, keys: Keys, slices: int
) -> tuple[Any, Sums]:
    """`gradient` of the whole batch, accumulated over `slices` slices in sequence.

    A slice takes every slices-th row. Dropout masks follow the image, not the slice.
    """
    if slices == 1:
        return gradient(params, batch, keys)
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, slices, *x.shape[1:]), 1, 0), batch)

    def one(carry: Any, rows: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, gradient(params, rows, keys)), None

    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts), keys)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(one, zeros, parts)[0]
