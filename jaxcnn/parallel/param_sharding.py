"""Shardings of each parameter, its gradient and its momentum, and the buckets of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxcnn.parallel.mesh import AXES
from jaxcnn.parallel.parallelism import Parallelism, Plan


class ParamSharding(NamedTuple):
    """The sharding of one parameter.

    Attributes:
        shared: whether its last axis is split over `model`.
        axes: mesh axes that its gradients are summed over.
        shard_axis: its axis along which the update is split over `axes`; -1 if the update is not split.
        bytes: size of its gradient on one device.
    """

    shared: bool
    axes: tuple[str, ...]
    shard_axis: int
    bytes: float

    def spec(self, rank: int) -> PartitionSpec:
        """The PartitionSpec of the parameter."""
        return PartitionSpec(*(None,) * (rank - 1), "model") if self.shared else PartitionSpec()

    def kept_spec(self, rank: int) -> PartitionSpec:
        """The PartitionSpec of its optimizer state."""
        if self.shard_axis < 0:
            return self.spec(rank)
        names: list[tuple[str, ...]] = [()] * rank
        if self.shared:
            names[-1] = ("model",)
        # An axis over `model` is split again, each of its shards over the other axes.
        names[self.shard_axis] += self.axes
        return PartitionSpec(*(name or None for name in names))


def shard_params(plan: Plan, wanted: Parallelism, params: Any) -> Any:
    """Makes a tree of `ParamSharding` like the parameters.

    Args:
        params: the net's abstract parameters: a dict by layer.
    """
    sizes = {"data": plan.data, "model": plan.model}

    def leaf(layer: str, x: Any) -> ParamSharding:
        split = layer in plan.layers
        axes = tuple(a for a in AXES if sizes[a] > 1 and not (split and a == "model"))
        shape = (*x.shape[:-1], x.shape[-1] // sizes["model"]) if split else x.shape
        devices = math.prod(sizes[a] for a in axes)
        fitting = [a for a in reversed(range(len(shape))) if shape[a] % devices == 0]
        shard_axis = fitting[0] if wanted.shard_update and axes and fitting else -1
        size = math.prod(shape) * jnp.dtype(wanted.reduce_dtype).itemsize
        return ParamSharding(split, axes, shard_axis, size)

    return {
        name: jax.tree.map(lambda x, name=name: leaf(name, x), tree)
        for name, tree in params.items()
    }


def make_buckets(leaves: Any, order: Sequence[str], least: float) -> tuple[tuple[int, ...], ...]:
    """Groups leaf indices into buckets, the last computed layers first. A leaf of at least `least` bytes is a
    bucket; smaller ones are collected until they reach `least`. One bucket if `least` is 0."""
    place = {name: i for i, name in enumerate(order)}
    flat = jax.tree_util.tree_flatten_with_path(
        leaves, is_leaf=lambda x: isinstance(x, ParamSharding)
    )[0]
    names = [jax.tree_util.keystr(path[:-1], simple=True, separator="/") for path, _ in flat]
    by_layer = sorted(range(len(flat)), key=lambda i: -place[names[i]])
    if not least:
        return (tuple(by_layer),)
    buckets: list[list[int]] = []
    small: list[int] = []
    for i in by_layer:
        if flat[i][1].bytes >= least:
            buckets.append([i])
            continue
        small.append(i)
        if sum(flat[j][1].bytes for j in small) >= least:
            buckets.append(small)
            small = []
    return tuple(map(tuple, [*buckets, small] if small else buckets))
