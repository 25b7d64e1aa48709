"""Gradient reduction over devices inside `jax.shard_map`: in buckets, replicated or sharded.

With `shard_update` each device receives the sum of its shard only (reduce-scatter), updates that shard of
the parameters, and gathers the rest: weight-update sharding (Xu et al. 2020, arXiv 2004.13336; ZeRO-1).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxcnn.parallel.mesh import AXES
from jaxcnn.parallel.parallelism import Parallelism, Plan
from jaxcnn.parallel.param_sharding import ParamSharding, make_buckets, shard_params

_LARGE = 4e6  # bytes


@dataclasses.dataclass(frozen=True)
class GradReduce:
    """Attributes:
    sizes: devices along each mesh axis.
    leaves: a ParamSharding for each parameter, in a tree like the parameters.
    dtype: in which gradients are sent and summed.
    buckets: groups of leaves, by index in the flattened tree, in the order in which they are sent.
    """

    sizes: dict[str, int]
    leaves: Any
    dtype: str
    buckets: tuple[tuple[int, ...], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes with more than one device."""
        return tuple(axis for axis in AXES if self.sizes[axis] > 1)

    def devices(self, axes: Sequence[str]) -> int:
        return math.prod(self.sizes[axis] for axis in axes)

    def reduce(self, grads: Any, sums: Any) -> tuple[Any, Any]:
        """Returns (each gradient or this device's shard of it, summed over devices; `sums` summed over all).

        Each bucket depends on the one before it, so that XLA cannot merge them: the first are sent while
        the gradients of other layers are still computed.
        """
        values, tree = jax.tree.flatten(grads)
        before = None
        for number, bucket in enumerate(self.buckets):
            own = [values[i].astype(self.dtype) for i in bucket]
            if before is not None:
                own, before = lax.optimization_barrier((own, before))
            before = self._reduce(dict(zip(bucket, own, strict=True)))
            if number == len(self.buckets) - 1 and self.axes:
                sums = lax.psum(sums, self.axes)
            for i, value in zip(bucket, before, strict=True):
                values[i] = value.astype(values[i].dtype)
        return jax.tree.unflatten(tree, values), sums

    def _reduce(self, values: dict[int, Array]) -> list[Array]:
        """Reduces the gradients of a bucket, given by the index of their leaf."""
        for axes, sharded, members in self._groups(list(values)):
            own = [values[i] for i in members]
            if sharded:
                own = self._scatter(own, members, axes)
            elif axes and len(self.buckets) > 1 and len(own) > 1:
                own = _sum_as_one(own, axes)
            elif axes:
                own = lax.psum(own, axes)
            values |= zip(members, own, strict=True)
        return list(values.values())

    def own(self, params: Any) -> Any:
        """Returns the shard of each parameter that this device updates."""

        def shard(x: Array, leaf: ParamSharding) -> Array:
            if leaf.shard_axis < 0:
                return x
            count = x.shape[leaf.shard_axis] // self.devices(leaf.axes)
            first = lax.axis_index(leaf.axes) * count
            return lax.dynamic_slice_in_dim(x, first, count, axis=leaf.shard_axis)

        return jax.tree.map(shard, params, self.leaves)

    def whole(self, params: Any) -> Any:
        """Gathers the parameters from each device's shard."""
        values, tree = jax.tree.flatten(params)
        for bucket in self.buckets:
            for axes, sharded, members in self._groups(bucket):
                if sharded:
                    gathered = self._gather([values[i] for i in members], members, axes)
                    for i, value in zip(members, gathered, strict=True):
                        values[i] = value
        return jax.tree.unflatten(tree, values)

    def everywhere(self, flag: Bool[Array, ""]) -> Bool[Array, ""]:
        """Combines `flag` over devices with a logical and, if they may see different gradients."""
        if not any(leaf.shared or leaf.shard_axis >= 0 for leaf in self.flat()):
            return flag
        return lax.pmin(flag.astype(jnp.int32), self.axes) == 1 if self.axes else flag

    def flat(self) -> list[ParamSharding]:
        """The leaves in the order of the flattened parameters."""
        return jax.tree.leaves(self.leaves, is_leaf=lambda x: isinstance(x, ParamSharding))

    def _groups(self, bucket: Sequence[int]) -> Iterator[tuple[tuple[str, ...], bool, list[int]]]:
        """Yields (axes, sharded, indices) of the leaves of a bucket that are sent together. A large sharded
        leaf is sent separately, since packing it would copy it."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        leaves = self.flat()
        for i in bucket:
            sharded = leaves[i].shard_axis >= 0
            alone = i if sharded and leaves[i].bytes >= _LARGE else -1
            groups.setdefault((leaves[i].axes, sharded, alone), []).append(i)
        for (axes, sharded, _), members in groups.items():
            yield axes, sharded, members

    def _scatter(self, values: list[Array], members: list[int], axes: Any) -> list[Array]:
        """Packs several leaves into one array with a row for each device; sends a single leaf unpacked."""
        leaves = [self.flat()[i] for i in members]
        if len(values) == 1:
            axis = leaves[0].shard_axis
            return [lax.psum_scatter(values[0], axes, scatter_dimension=axis, tiled=True)]
        count = self.devices(axes)
        rows = jnp.concatenate(
            [_flat(x, leaf, count) for x, leaf in zip(values, leaves, strict=True)], axis=1
        )
        whole = lax.psum_scatter(rows, axes, scatter_dimension=0, tiled=True)
        return _unpack(whole[0], [x.size // count for x in values], values, leaves)

    def _gather(self, values: list[Array], members: list[int], axes: Any) -> list[Array]:
        leaves = [self.flat()[i] for i in members]
        if len(values) == 1:
            return [lax.all_gather(values[0], axes, axis=leaves[0].shard_axis, tiled=True)]
        flat = [_flat(x, leaf) for x, leaf in zip(values, leaves, strict=True)]
        rows = lax.all_gather(jnp.concatenate(flat), axes, axis=0)
        return _unpack(rows, [x.size for x in values], values, leaves)


def make_grad_reduce(
    plan: Plan, wanted: Parallelism, params: Any, order: Sequence[str]
) -> GradReduce:
    """Makes the reduction of a net's gradients.

    Args:
        params: the net's abstract parameters: a dict by layer.
        order: the layers in the order of computation.
    """
    leaves = shard_params(plan, wanted, params)
    buckets = make_buckets(leaves, order, wanted.bucket_mb * 1e6)
    sizes = {"data": plan.data, "model": plan.model}
    return GradReduce(sizes, leaves, wanted.reduce_dtype, buckets)


def _sum_as_one(values: list[Array], axes: Sequence[str]) -> list[Array]:
    """XLA:TPU overlaps collectives of single arrays only."""
    whole = lax.psum(jnp.concatenate([x.reshape(-1) for x in values]), axes)
    parts = _split(whole, [x.size for x in values])
    return [part.reshape(x.shape) for part, x in zip(parts, values, strict=True)]


def _flat(x: Array, leaf: ParamSharding, *rows: int) -> Array:
    """`x` as one axis, or as `rows` of equally many values, in the order of its `shard_axis`."""
    return jnp.moveaxis(x, leaf.shard_axis, 0).reshape(*rows, -1)


def _unpack(
    packed: Array, lengths: Sequence[int], values: list[Array], leaves: list[ParamSharding]
) -> list[Array]:
    """Splits the last axis of `packed` and undoes `_flat`: the shapes of `values`, but for `shard_axis`."""
    done = []
    for part, x, leaf in zip(_split(packed, lengths), values, leaves, strict=True):
        rest = (n for i, n in enumerate(x.shape) if i != leaf.shard_axis)
        done.append(jnp.moveaxis(part.reshape(-1, *rest), 0, leaf.shard_axis))
    return done


def _split(packed: Array, lengths: Sequence[int]) -> list[Array]:
    return jnp.split(packed, list(itertools.accumulate(lengths[:-1])), axis=-1)
