"""What a forward pass knows besides the parameters: training or not, true image sizes, and sharding.

Inside a `jax.shard_map` the devices along one mesh axis are a group that shares layers. Each layer's kernel
is sharded along its outputs, as on AlexNet's two GPUs (Krizhevsky et al. 2012, section 3.2) and in Krizhevsky
2014 (arXiv 1404.5997). Between layers activations have one of three layouts; `ShardContext` converts them.
"""

import enum
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxcnn.models.window import Sizes, Window


class Layout(enum.Enum):
    """How the outputs of a layer lie on the devices of a group."""

    BATCH_SHARDED = "this device's images, every feature"
    REPLICATED = "the group's images, every feature"
    FEATURE_SHARDED = "the group's images, this device's features"


@dataclass(frozen=True, eq=False)
class ShardContext:
    """Which layers this device's group shares; by default none, and the device computes the whole net.

    Attributes:
      rows: int32[b,2], (epoch, id) of each of this device's images. They key dropout, which therefore
        depends on no device; None numbers the images 0 to b - 1.
      axis: the mesh axis of the group; '' where nothing is shared.
      size: devices in the group.
      layers: names of the layers whose outputs the group shares.
    """

    rows: Int[Array, "b 2"] | None = None
    axis: str = ""
    size: int = 1
    layers: frozenset[str] = field(default_factory=frozenset)

    def shard_count(self, name: str) -> int:
        """Into how many shards the outputs of a layer are divided."""
        return self.size if name in self.layers else 1

    def gather_rows(self, x: Array) -> Array:
        """BATCH_SHARDED to REPLICATED: one all-gather, whose gradient is one reduce-scatter."""
        return lax.all_gather(x, self.axis, axis=0, tiled=True)

    def gather_outputs(self, x: Array) -> Array:
        """FEATURE_SHARDED to REPLICATED: one all-gather, whose gradient is one reduce-scatter."""
        return lax.all_gather(x, self.axis, axis=x.ndim - 1, tiled=True)

    def replicate(self, x: Array, layout: Layout) -> Array:
        """REPLICATED, the input of a layer whose outputs are shared."""
        if layout is Layout.REPLICATED:
            return x
        return self.gather_rows(x) if layout is Layout.BATCH_SHARDED else self.gather_outputs(x)

    def to_batch_sharded(self, x: Array, layout: Layout) -> Array:
        """BATCH_SHARDED, the input of a layer that is not shared; FEATURE_SHARDED takes one all-to-all."""
        if layout is Layout.BATCH_SHARDED:
            return x
        if layout is Layout.FEATURE_SHARDED:
            return lax.all_to_all(x, self.axis, split_axis=0, concat_axis=x.ndim - 1, tiled=True)
        count = x.shape[0] // self.size
        return lax.dynamic_slice_in_dim(x, lax.axis_index(self.axis) * count, count)

    def dropout_mask(self, key: Array, rate: float, x: Array, layout: Layout) -> Array:
        """Which values of x dropout keeps: bool, x's shape. The draws are a function of (key, epoch, id,
        feature), and so do not depend on the devices or the sharding of the layer."""
        sharded, features = layout is Layout.FEATURE_SHARDED, x.shape[-1]
        shape = (*x.shape[1:-1], features * (self.size if sharded else 1))
        if self.rows is None:
            numbers = jnp.arange(x.shape[0], dtype=jnp.int32)
            rows = jnp.stack([jnp.zeros_like(numbers), numbers], axis=1)
        else:
            rows = self.rows if layout is Layout.BATCH_SHARDED else self.gather_rows(self.rows)

        def one(row: Array) -> Array:
            image_key = jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1])
            return jax.random.bernoulli(image_key, 1.0 - rate, shape)

        mask = jax.vmap(one)(rows)
        if not sharded:
            return mask
        first = lax.axis_index(self.axis) * features
        return lax.dynamic_slice_in_dim(mask, first, features, axis=x.ndim - 1)


UNSHARDED = ShardContext()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """The state of a forward pass between two layers.

    Attributes:
      sizes: int32[B,2], the true (height, width) of each image in padded activations, whose values are zero
        beyond them; None where nothing is padded.
      train: whether dropout drops and auxiliary heads exist.
      shard: which layers a group of devices shares.
      layout: how the activations lie on the group's devices.
    """

    sizes: Sizes = None
    train: bool = field(default=False, metadata={"static": True})
    shard: ShardContext = field(default=UNSHARDED, metadata={"static": True})
    layout: Layout = field(default=Layout.BATCH_SHARDED, metadata={"static": True})

    def after(self, window: Window) -> "Context":
        """The context after a layer with this window."""
        return self if self.sizes is None else replace(self, sizes=window.out(self.sizes))


INFERENCE = Context()
