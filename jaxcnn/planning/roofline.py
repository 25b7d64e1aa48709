"""What a step cannot be faster than, and the memory it needs, from the net's table and the plan alone.

Counts are of training: of a layer's multiply-adds the forward pass takes one part, the gradient of its
input and that of its kernel another each; the images' own gradient is not needed. Every figure here is a
lower bound or a model, not a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxcnn.models.summary import CONTAINERS, summarise
from jaxcnn.parallel.comm_cost import ITEMSIZE, Collective
from jaxcnn.parallel.grad_reduce import GradReduce
from jaxcnn.parallel.parallelism import Plan
from jaxcnn.planning.hardware import Chip, Network

# Times that each activation passes between chip and memory in a step: written, read by the next layer, and
# read for that layer's gradient; its own gradient written and read (performance.md, A2).
ACTIVATION_PASSES = 5
# Of each parameter, float32: itself and its momentum read and written, its gradient read.
UPDATE_PASSES = 5
PASSING = ("LocalResponseNorm", "Dropout")
# Of a step's bytes that grow with the batch, how many there are for each byte of activations. Compiled for
# v5e:4x4 with libtpu 0.0.42, bfloat16, 128 images a chip: 1.23 VGG E, 1.25 D and C, 1.28 B, 1.43 A, 1.85
# GoogLeNet, 2.19 AlexNet. This is their mean: peaks are within 17% of it. VGG A-LRN, whose LRN is not among
# the activations, has 2.14: its peak is 23% short here.
KEPT = 1.50


class StepCost(NamedTuple):
    """Of one image, in training.

    Attributes:
        macs: multiply-adds of the forward pass, with auxiliary heads.
        first_macs: those of the first layer.
        activations: values that convolutions, pools and fully connected layers put out, without auxiliary
            heads. LRN and dropout are left out: they can be done on the way to the next layer.
        parameters: with auxiliary heads.
    """

    macs: int
    first_macs: int
    activations: int
    parameters: int

    @property
    def flops(self) -> float:
        """Floating-point operations of a training step, two a multiply-add."""
        return 2.0 * (3 * self.macs - self.first_macs)


def step_cost(net: Any) -> StepCost:
    """What training a net takes. Computes nothing."""
    summary = summarise(net)
    layers = [row for row in summary.rows if row.kind not in CONTAINERS]
    macs = [row.macs for row in layers]
    kept = [r for r in layers if r.kind not in PASSING and not r.training_only]
    return StepCost(
        macs=sum(macs),
        first_macs=next(n for n in macs if n),
        activations=sum(math.prod(row.shape) for row in kept),
        parameters=summary.training_parameters,
    )


class StepDemand(NamedTuple):
    """Of one step on one chip.

    Attributes:
        flops: floating-point operations.
        memory_bytes: that pass between chip and memory.
        collectives: what it takes part in.
    """

    flops: float
    memory_bytes: float
    collectives: tuple[Collective, ...]


def step_demand(
    todo: StepCost,
    plan: Plan,
    reduction: GradReduce,
    collectives: Sequence[Collective],
    batch_size: int,
    dtype: str,
    averaged: bool = False,
) -> StepDemand:
    """Of a step of `batch_size` images on all chips.

    Args:
        collectives: `traffic` of the plan.
        dtype: of the computation.
        averaged: whether an average of the parameters is kept.
    """
    rows = batch_size / (plan.data * plan.model)
    passes = ACTIVATION_PASSES * todo.activations * ITEMSIZE[dtype] * rows
    update = update_bytes(reduction, averaged)
    return StepDemand(todo.flops * rows, passes + update, tuple(collectives))


def update_bytes(reduction: GradReduce, averaged: bool = False) -> float:
    """That the update moves between a chip and its memory. A part of a shared update is read and written by
    one chip; the new parameters then arrive whole, as does the average, if any."""
    whole, own = 0.0, 0.0
    for leaf in reduction.flat():
        size = leaf.bytes / ITEMSIZE[reduction.dtype] * 4
        whole += size
        own += size / (reduction.devices(leaf.axes) if leaf.shard_axis >= 0 else 1)
    return UPDATE_PASSES * own + (whole - own) + (2 * whole if averaged else 0.0)


class Roofline(NamedTuple):
    """Seconds of a step that each resource needs by itself, at its peak rate.

    Attributes:
        compute, memory, network: seconds.
        waits: seconds of `network` that nothing else can hide; all of it where nothing overlaps.
    """

    compute: float
    memory: float
    network: float
    waits: float

    @property
    def alone(self) -> float:
        """One chip, without the others."""
        return max(self.compute, self.memory)

    @property
    def step(self) -> float:
        """With `waits` beside the computation and the rest of the network under it."""
        return max(self.alone, self.network - self.waits) + self.waits

    @property
    def none_hidden(self) -> float:
        """With all of the network beside the computation."""
        return self.alone + self.network

    @property
    def hidden(self) -> float:
        """With all of the network under the computation."""
        return max(self.alone, self.network)


def roofline(need: StepDemand, chip: Chip, links: Network, plan: Plan) -> Roofline:
    """The bounds of a step, with no collective hidden."""
    network = sum(seconds(c, links, plan) for c in need.collectives)
    return Roofline(need.flops / chip.flops, need.memory_bytes / chip.bandwidth, network, network)


def seconds(collective: Collective, links: Network, plan: Plan) -> float:
    """Of one collective at the bound of rings: inside each node, then between nodes, both at once where
    it is long. A node's chips each send their part to the other nodes, so together all of it, for each of
    the groups that they belong to."""
    chips, inside = plan.data * plan.model, links.node
    if collective.devices == chips:
        mine = min(inside, chips)
    elif collective.devices == plan.model and not collective.what.endswith("of shared layers"):
        mine = min(inside, plan.model)
    else:  # over `data` alone, a chip of each group
        mine = max(1, inside // plan.model)
    return ring_seconds(collective, mine, links.link, links.uplink * mine / min(inside, chips))


def ring_seconds(collective: Collective, mine: int, link: float, uplink: float) -> float:
    """Of a collective with `mine` of its chips in each node.

    Args:
        link: bytes a second that a chip sends inside a node.
        uplink: that this collective's chips of a node together send to other nodes.
    """
    nodes = collective.devices / mine
    passes = 2 if collective.kind == "all-reduce" else 1
    near = (mine - 1) / mine * collective.bytes / link
    far = (nodes - 1) / nodes * collective.bytes / uplink
    return passes * max(near, far)


def efficiency(alone: float, network: float, hidden: float) -> float:
    """Of `alone` seconds of computation a step the share of the step's time.

    Args:
        network: seconds that the gradients travel.
        hidden: share of the computation that they can travel under: 0 none, 1 all.
    """
    return alone / (alone + max(0.0, network - hidden * alone))


def local_bytes(shapes: Any, specs: Any, sizes: dict[str, int]) -> float:
    """Of a tree of arrays on one device.

    Args:
        specs: a tree of PartitionSpec like it.
        sizes: devices along each mesh axis.
    """

    def one(shape: Any, spec: Any) -> float:
        names = [n for part in spec for n in ((part,) if isinstance(part, str) else part or ())]
        return shape.size * shape.dtype.itemsize / math.prod(sizes[n] for n in names)

    return sum(jax.tree.leaves(jax.tree.map(one, shapes, specs)))


class MemoryModel(NamedTuple):
    """A chip's memory in a step, bytes.

    Attributes:
        fixed: whatever the batch: parameters, momentum, the average if any, gradients.
        an_image: that each image of the chip's share adds.
    """

    fixed: float
    an_image: float

    def peak(self, rows: int) -> float:
        return self.fixed + self.an_image * rows

    def rows(self, limit: float) -> int:
        """The largest share of the batch that fits into `limit` bytes."""
        return max(0, math.floor((limit - self.fixed) / self.an_image))

    def through(self, rows: int, peak: float) -> MemoryModel:
        """With what an image adds as it must be for a peak that is known at `rows`."""
        return MemoryModel(self.fixed, (peak - self.fixed) / rows)


def peak_memory(
    todo: StepCost, state_bytes: float, reduction: GradReduce, side: int, dtype: str
) -> MemoryModel:
    """The model of a chip's peak memory.

    State and gradients are counted; what an image adds is its pixels and KEPT times its activations, for
    activations kept for the backward pass, their gradients, and what the compiler leaves unused between.
    """
    gradients = sum(leaf.bytes for leaf in reduction.flat()) / ITEMSIZE[reduction.dtype] * 4
    an_image = KEPT * todo.activations * ITEMSIZE[dtype] + 3 * side**2
    return MemoryModel(state_bytes + gradients, an_image)


def two_points(low: tuple[int, float], high: tuple[int, float]) -> MemoryModel:
    """The line through two peaks that are known, each (rows, bytes)."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return MemoryModel(low[1] - slope * low[0], slope)
