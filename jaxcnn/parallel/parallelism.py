"""How a run is distributed over devices: the configuration and the resulting plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxcnn.models.context import ShardContext
from jaxcnn.parallel.mesh import Placement, make_placement

PLANS = ("data", "towers", "fully_connected")
PLAN_NAMES = {
    "data": "data parallel",
    "towers": "one AlexNet tower per device",
    "fully_connected": "fully connected layers split",
}


@dataclasses.dataclass(frozen=True)
class Parallelism:
    """The configured distribution over devices.

    Attributes:
        data: number of device groups; each group holds the whole net. 0 uses all devices.
        model: devices per group, which may split layers. 0 chooses by plan: 2 for 'towers', the devices of
            a process for 'fully_connected', otherwise 1.
        plan: 'data', every device holds the whole net; 'towers', AlexNet's two towers on two devices
            (Krizhevsky et al. 2012, section 3.2); 'fully_connected', convolutions data parallel, fully
            connected layers split (Krizhevsky 2014, arXiv 1404.5997); 'auto' chooses the one that sends
            the fewest bytes for this batch, which need not be the fastest.
        shard_update: each device updates only its shard of the parameters, and holds only that shard's
            momentum (ZeRO-1; Xu et al. 2020, arXiv 2004.13336). Gradients are then reduce-scattered and
            new parameters gathered.
        reduce_dtype: in which gradients are sent and summed, 'float32' or 'bfloat16'.
        bucket_mb: above 0, gradients are sent during the backward pass, the last layers' first: kernels of
            at least this many MB separately, smaller ones in buckets. This uses more memory on TPUs
            (docs/pods.md). 0 leaves it to XLA: GPUs send buckets of 30 MiB when they are ready, TPUs send
            nearly all gradients at the end.
    """

    data: int = 0
    model: int = 0
    plan: str = "data"
    shard_update: bool = False
    reduce_dtype: str = "float32"
    bucket_mb: float = 0.0

    def __post_init__(self) -> None:
        if self.plan not in ("auto", *PLANS):
            raise ValueError(f"plan must be auto or one of {', '.join(PLANS)}, got {self.plan!r}")
        if self.reduce_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"reduce_dtype must be float32 or bfloat16, got {self.reduce_dtype!r}")
        if min(self.data, self.model) < 0 or not self.bucket_mb >= 0:
            raise ValueError(
                "data, model and bucket_mb must be 0 or more, got "
                f"{self.data}, {self.model}, {self.bucket_mb:g}"
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
    name: one of PLANS.
    data, model: sizes of the mesh axes.
    layers: names of the layers whose outputs are split over the devices of a group.
    """

    name: str
    data: int
    model: int
    layers: frozenset[str] = frozenset()

    @property
    def part(self) -> ShardContext:
        """Which share of the net a device computes; without batch rows."""
        return ShardContext(axis="model", size=self.model, layers=self.layers)

    def placement(self, devices: Sequence[Any]) -> Placement:
        return make_placement(devices, self.data, self.model)
