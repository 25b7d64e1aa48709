"""Communication of one update under a plan, computed from shapes alone.

Counts the bytes that one device sends, at the lower bound of ring algorithms: for B bytes over n devices,
2 (n - 1) / n B for an all-reduce, and half of that for an all-gather to B bytes or a reduce-scatter or
all-to-all of B bytes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jaxcnn.models.classifier import FULLY_CONNECTED
from jaxcnn.parallel.grad_reduce import GradReduce
from jaxcnn.parallel.parallelism import Plan

ITEMSIZE = {"float32": 4, "bfloat16": 2}


class Collective(NamedTuple):
    """Attributes:
    kind: all-reduce, reduce-scatter, all-gather or all-to-all.
    what: the layers or feature maps that are sent.
    bytes: size of the larger of input and output on one device.
    devices: number of devices that take part.
    """

    kind: str
    what: str
    bytes: float
    devices: int

    @property
    def bytes_moved(self) -> float:
        """Bytes that one device sends."""
        once = (self.devices - 1) / self.devices * self.bytes
        return 2 * once if self.kind == "all-reduce" else once


def comm_cost(
    plan: Plan, reduction: GradReduce, net: Any, params: Any, batch_size: int
) -> list[Collective]:
    """Lists the collectives of one update, except those of a few scalars.

    Args:
        net: the Linen module.
        params: its abstract parameters.
        batch_size: global batch size.
    """
    found = gradients(reduction)
    if plan.layers:
        found += exchanges(plan, net, params, batch_size / plan.data)
    return found


def gradients(reduction: GradReduce) -> list[Collective]:
    """Collectives of gradients, and of new parameters if the update is sharded."""
    sizes: dict[tuple[tuple[str, ...], bool, bool], float] = {}
    for leaf in reduction.flat():
        key = (leaf.axes, leaf.shard_axis >= 0, leaf.shared)
        sizes[key] = sizes.get(key, 0.0) + leaf.bytes
    found = []
    for (axes, sharded, shared), size in sizes.items():
        devices, layers = reduction.devices(axes), " of shared layers" if shared else ""
        if devices == 1:
            continue
        if sharded:
            whole = size * 4 / ITEMSIZE[reduction.dtype]
            found.append(Collective("reduce-scatter", f"gradients{layers}", size, devices))
            found.append(Collective("all-gather", f"new parameters{layers}", whole, devices))
        else:
            found.append(Collective("all-reduce", f"gradients{layers}", size, devices))
    return found


def exchanges(plan: Plan, net: Any, params: Any, rows: float) -> list[Collective]:
    """Collectives within a group that splits layers, for `rows` images per group: feature maps in the forward
    pass, and their gradients in the backward pass."""
    item, group, last = ITEMSIZE[net.dtype], plan.model, ""
    sent, inputs = [], []
    if net.dropout:
        sent.append(Collective("all-gather", "image ids for dropout", rows * 8, group))
    if plan.name == "towers":
        images = rows * net.image_size**2 * 3 * item
        sent.append(Collective("all-gather", "images", images, group))
        inputs.append(("conv3", net.exchanged()))
    for name in FULLY_CONNECTED:
        if name in plan.layers:
            inputs.append((name, math.prod(params[name]["kernel"].shape[:-1])))
            last = name
    for name, width in inputs:
        size = rows * width * item
        sent.append(Collective("all-gather", f"input of {name}", size, group))
        sent.append(Collective("reduce-scatter", f"its gradient, {name}", size, group))
    if last:
        # Converts each device's share of the outputs for all rows to all outputs for its own rows.
        width = params[last]["kernel"].shape[-1]
        size = rows / group * width * (4 if last == "fc8" else item)
        sent.append(Collective("all-to-all", f"output of {last}", size, group))
        sent.append(Collective("all-to-all", f"its gradient, {last}", size, group))
    return sent
