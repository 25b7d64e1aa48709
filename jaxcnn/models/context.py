"""What of a net and of a batch one device computes: everything, or its part inside a `jax.shard_map`.

The devices along one mesh axis are a group that shares layers. Each layer's kernel is cut along its
outputs, as AlexNet's two GPUs cut it (Krizhevsky et al. 2012, section 3.2) and as Krizhevsky 2014
(arXiv 1404.5997) cuts fully connected layers. Between layers each device holds maps in one of
three ways, and `Part` brings them from one to another by the collectives named there.
"""

import enum
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int


class Layout(enum.Enum):
    """How the outputs of a layer lie on the devices of a group."""

    BATCH_SHARDED = "own rows, every output"
    REPLICATED = "the group's rows, every output"
    FEATURE_SHARDED = "the group's rows, own outputs"


@dataclass(frozen=True, eq=False)
class ShardContext:
    """The part that this device computes; by default the whole net on the whole batch.

    Attributes:
      rows: int32[b,2], (epoch, id) of each of this device's images, which key its dropout, so that
        it depends on no device; None numbers them 0 to b - 1.
      axis: the mesh axis of the group; '' where the whole net is here.
      size: devices in the group.
      layers: names of the layers whose outputs the group shares.
    """

    rows: Int[Array, "b 2"] | None = None
    axis: str = ""
    size: int = 1
    layers: frozenset[str] = field(default_factory=frozenset)

    def shard_count(self, name: str) -> int:
        """Into how many the outputs of a layer are cut."""
        return self.size if name in self.layers else 1

    def gather_rows(self, x: Array) -> Array:
        """OWN to ALL: one all-gather, whose gradient is one reduce-scatter."""
        return lax.all_gather(x, self.axis, axis=0, tiled=True)

    def gather_outputs(self, x: Array) -> Array:
        """SHARE to ALL: one all-gather, whose gradient is one reduce-scatter."""
        return lax.all_gather(x, self.axis, axis=x.ndim - 1, tiled=True)

    def replicate(self, x: Array, held: Layout) -> Array:
        """What a layer reads whose outputs are shared."""
        if held is Layout.REPLICATED:
            return x
        return self.gather_rows(x) if held is Layout.BATCH_SHARDED else self.gather_outputs(x)

    def to_batch_sharded(self, x: Array, held: Layout) -> Array:
        """What a layer reads that each device computes for its own rows: from SHARE one all-to-all."""
        if held is Layout.BATCH_SHARDED:
            return x
        if held is Layout.FEATURE_SHARDED:
            return lax.all_to_all(x, self.axis, split_axis=0, concat_axis=x.ndim - 1, tiled=True)
        count = x.shape[0] // self.size
        return lax.dynamic_slice_in_dim(x, lax.axis_index(self.axis) * count, count)

    def identities(self, count: int, held: Layout) -> Int[Array, "n 2"]:
        """(epoch, id) of `count` rows that are held in this way."""
        if self.rows is None:
            numbers = jnp.arange(count, dtype=jnp.int32)
            return jnp.stack([jnp.zeros_like(numbers), numbers], axis=1)
        return self.rows if held is Layout.BATCH_SHARDED else self.gather_rows(self.rows)

    def local_outputs(self, x: Array, held: Layout) -> Array:
        """Of values for every output those that this device holds."""
        if held is not Layout.FEATURE_SHARDED:
            return x
        count = x.shape[-1] // self.size
        first = lax.axis_index(self.axis) * count
        return lax.dynamic_slice_in_dim(x, first, count, axis=x.ndim - 1)

    def dropout_mask(self, key: Array, rate: float, x: Array, held: Layout) -> Array:
        """Which values of x dropout keeps: bool, x's shape; drawn an image at a time.

        The draws are a function of (key, epoch, id, output), so they are the same on any number of devices
        and for any cut of the layer.
        """
        outputs = x.shape[-1] * (self.size if held is Layout.FEATURE_SHARDED else 1)

        def one(row: Array) -> Array:
            own = jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1])
            return jax.random.bernoulli(own, 1.0 - rate, (*x.shape[1:-1], outputs))

        return self.local_outputs(jax.vmap(one)(self.identities(x.shape[0], held)), held)


UNSHARDED = ShardContext()
