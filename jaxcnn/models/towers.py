"""AlexNet's two towers: which are computed here, and how they exchange feature maps.

The exchange is a concatenation on one device, a collective where each device holds one tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from jaxcnn.models.context import ShardContext


@dataclass(frozen=True)
class Towers:
    """How feature maps that every tower sees become each tower's own, and back.

    Attributes:
      count: towers that this device computes one by one.
      shard: set where each device of a group holds one tower, as on the paper's GPUs.
    """

    count: int
    shard: ShardContext | None = None

    @property
    def indices(self) -> tuple[int | None, ...]:
        """The towers computed here; None is all that the parameters hold."""
        return tuple(range(self.count)) if self.count > 1 else (None,)

    def split(self, x: Array) -> Sequence[Array]:
        return jnp.split(x, self.count, axis=-1) if self.count > 1 else [x]

    def exchange(self, maps: Sequence[Array]) -> Array:
        """Every tower's maps side by side; one all-gather where each device holds one tower."""
        if self.shard is not None:
            return self.shard.gather_outputs(maps[0])
        return jnp.concatenate(maps, axis=-1) if self.count > 1 else maps[0]
