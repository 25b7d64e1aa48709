"""What the devices of a plan send each other in one update, from shapes alone.

Bytes that one device sends, at the lower bound of ring algorithms: of B bytes over n devices an
all-reduce sends 2 (n - 1) / n B, an all-gather to B or a reduce-scatter or all-to-all of B half of that.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jaxcnn.models.layers import FULLY_CONNECTED
from jaxcnn.parallel.grad_reduce import GradReduce
from jaxcnn.parallel.parallelism import Plan

ITEMSIZE = {"float32": 4, "bfloat16": 2}


class Collective(NamedTuple):
    """Attributes:
    kind: all-reduce, reduce-scatter, all-gather or all-to-all.
    what: the layers or maps.
    bytes: of the larger side on one device.
    devices: that take part.
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
    """The collectives of one update, but for a few scalars.

    Args:
        net: the Linen module.
        params: its parameters, abstract.
        batch_size: of all devices.
    """
    found = gradients(reduction)
    if plan.layers:
        found += exchanges(plan, net, params, batch_size / plan.data)
    return found


def gradients(reduction: GradReduce) -> list[Collective]:
    """Of gradients, and of new parameters where the update is shared."""
    sizes: dict[tuple[tuple[str, ...], bool, bool], float] = {}
    for leaf in reduction.flat():
        key = (leaf.axes, leaf.shard_axis >= 0, leaf.shared)
        sizes[key] = sizes.get(key, 0.0) + leaf.bytes
    found = []
    for (axes, cut, shared), size in sizes.items():
        devices, layers = reduction.devices(axes), " of shared layers" if shared else ""
        if devices == 1:
            continue
        if cut:
            whole = size * 4 / ITEMSIZE[reduction.dtype]
            found.append(Collective("reduce-scatter", f"gradients{layers}", size, devices))
            found.append(Collective("all-gather", f"new parameters{layers}", whole, devices))
        else:
            found.append(Collective("all-reduce", f"gradients{layers}", size, devices))
    return found


def exchanges(plan: Plan, net: Any, params: Any, rows: float) -> list[Collective]:
    """Within a group that shares layers, of `rows` images together: of maps, forward, and of their
    gradients, backward."""
    item, group, last = ITEMSIZE[net.dtype], plan.model, ""
    sent, maps = [], []
    if net.dropout:
        sent.append(Collective("all-gather", "identities for dropout", rows * 8, group))
    if plan.name == "towers":
        images = rows * net.image_size**2 * 3 * item
        sent.append(Collective("all-gather", "images", images, group))
        maps.append(("conv3", net.exchanged()))
    for name in FULLY_CONNECTED:
        if name in plan.layers:
            maps.append((name, math.prod(params[name]["kernel"].shape[:-1])))
            last = name
    for name, width in maps:
        size = rows * width * item
        sent.append(Collective("all-gather", f"input of {name}", size, group))
        sent.append(Collective("reduce-scatter", f"its gradient, {name}", size, group))
    if last:
        # Each device's outputs for all rows become all outputs for its own rows.
        width = params[last]["kernel"].shape[-1]
        size = rows / group * width * (4 if last == "fc8" else item)
        sent.append(Collective("all-to-all", f"output of {last}", size, group))
        sent.append(Collective("all-to-all", f"its gradient, {last}", size, group))
    return sent
