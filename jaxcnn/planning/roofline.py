"""Roofline model: lower bounds of a step's time, and a model of its memory, from layer table and plan.

Counts are for training: the forward pass, the gradient of a layer's input and the gradient of its kernel
take the same number of multiply-adds each; the gradient of the images is not needed. All figures are lower
bounds or modelled, not measured.
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

# Memory accesses per activation and step: written, read by the next layer, and read for that layer's
# gradient; its gradient written and read (performance.md, A2).
ACTIVATION_PASSES = 5
# Memory accesses per float32 parameter: it and its momentum read and written, its gradient read.
UPDATE_PASSES = 5
PASSING = ("LocalResponseNorm", "Dropout")
# Bytes of step memory that grow with the batch, per byte of activations. Compiled for v5e:4x4 with libtpu
# 0.0.42, bfloat16, 128 images per chip: 1.23 VGG E, 1.25 D and C, 1.28 B, 1.43 A, 1.85 GoogLeNet, 2.19
# AlexNet. With their mean, modelled peaks are within 17%. VGG A-LRN has 2.14, since the output of LRN is not
# counted among the activations: its peak is underestimated by 23%.
KEPT = 1.50


class StepCost(NamedTuple):
    """Work of training on one image.

    Attributes:
        macs: multiply-adds of the forward pass, with auxiliary heads.
        first_macs: those of the first layer.
        activations: output values of convolutions, pools and fully connected layers, without auxiliary
            heads. LRN and dropout are excluded: they can be fused with the next layer.
        parameters: number of parameters, with auxiliary heads.
    """

    macs: int
    first_macs: int
    activations: int
    parameters: int

    @property
    def flops(self) -> float:
        """Floating-point operations of a training step; a multiply-add counts as two."""
        return 2.0 * (3 * self.macs - self.first_macs)


def step_cost(net: Any) -> StepCost:
    """Computes the training work of a net from its shapes."""
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


def memory_traffic(
    cost: StepCost, rows: int, reduction: GradReduce, dtype: str, averaged: bool = False
) -> float:
    """Bytes that a step of `rows` images reads and writes on one chip.

    Args:
        dtype: of the computation.
        averaged: whether a parameter average is maintained.
    """
    passes = ACTIVATION_PASSES * cost.activations * ITEMSIZE[dtype] * rows
    return passes + update_bytes(reduction, averaged)


def update_bytes(reduction: GradReduce, averaged: bool = False) -> float:
    """Memory traffic of the update on one chip, in bytes. In a sharded update a chip reads and writes only
    its shard, and then receives the full parameters and the average, if any."""
    whole, own = 0.0, 0.0
    for leaf in reduction.flat():
        size = leaf.bytes / ITEMSIZE[reduction.dtype] * 4
        whole += size
        own += size / (reduction.devices(leaf.axes) if leaf.shard_axis >= 0 else 1)
    return UPDATE_PASSES * own + (whole - own) + (2 * whole if averaged else 0.0)


class Roofline(NamedTuple):
    """Seconds per step that each resource needs at its peak rate.

    Attributes:
        compute, memory, network: seconds.
        waits: seconds of `network` that cannot be hidden; all of it if nothing overlaps.
    """

    compute: float
    memory: float
    network: float
    waits: float

    @property
    def alone(self) -> float:
        """Step time of one chip without communication."""
        return max(self.compute, self.memory)

    @property
    def step(self) -> float:
        """Step time with `waits` added to the computation and the rest of the communication hidden."""
        return max(self.alone, self.network - self.waits) + self.waits

    @property
    def none_hidden(self) -> float:
        """Step time with no communication hidden."""
        return self.alone + self.network

    @property
    def hidden(self) -> float:
        """Step time with all communication overlapped with the computation."""
        return max(self.alone, self.network)


def roofline(
    flops: float,
    traffic: float,
    collectives: Sequence[Collective],
    chip: Chip,
    links: Network,
    plan: Plan,
) -> Roofline:
    """Computes the bounds of a step, with no collective hidden.

    Args:
        flops: floating-point operations of the step on one chip.
        traffic: its memory traffic, in bytes.
        collectives: those that a chip takes part in.
    """
    network = sum(seconds(c, links, plan) for c in collectives)
    return Roofline(flops / chip.flops, traffic / chip.bandwidth, network, network)


def seconds(collective: Collective, links: Network, plan: Plan) -> float:
    """Lower bound of a collective's time with ring algorithms, within and between nodes concurrently. Each
    chip of a node sends its shard to the other nodes, so together they send all of it, for each group."""
    chips, inside = plan.data * plan.model, links.node
    if collective.devices == chips:
        mine = min(inside, chips)
    elif collective.devices == plan.model and not collective.what.endswith("of shared layers"):
        mine = min(inside, plan.model)
    else:  # over `data` alone, a chip of each group
        mine = max(1, inside // plan.model)
    return ring_seconds(collective, mine, links.link, links.uplink * mine / min(inside, chips))


def ring_seconds(collective: Collective, mine: int, link: float, uplink: float) -> float:
    """Time of a collective with `mine` of its chips in each node, in seconds.

    Args:
        link: bytes per second that a chip sends within a node.
        uplink: bytes per second that the collective's chips of a node send together to other nodes.
    """
    nodes = collective.devices / mine
    passes = 2 if collective.kind == "all-reduce" else 1
    near = (mine - 1) / mine * collective.bytes / link
    far = (nodes - 1) / nodes * collective.bytes / uplink
    return passes * max(near, far)


def local_bytes(shapes: Any, specs: Any, sizes: dict[str, int]) -> float:
    """Size of a tree of arrays on one device, in bytes.

    Args:
        specs: a matching tree of PartitionSpec.
        sizes: devices along each mesh axis.
    """

    def one(shape: Any, spec: Any) -> float:
        names = [n for part in spec for n in ((part,) if isinstance(part, str) else part or ())]
        return shape.size * shape.dtype.itemsize / math.prod(sizes[n] for n in names)

    return sum(jax.tree.leaves(jax.tree.map(one, shapes, specs)))


class MemoryModel(NamedTuple):
    """Memory of a step on one chip, in bytes.

    Attributes:
        fixed: independent of the batch: parameters, momentum, the average if any, gradients.
        an_image: added by each image on the chip.
    """

    fixed: float
    an_image: float

    def peak(self, rows: int) -> float:
        return self.fixed + self.an_image * rows

    def rows(self, limit: float) -> int:
        """The largest number of images per chip that fits into `limit` bytes."""
        return max(0, math.floor((limit - self.fixed) / self.an_image))

    def through(self, rows: int, peak: float) -> MemoryModel:
        """Scales the bytes per image to match a known `peak` at `rows` images."""
        return MemoryModel(self.fixed, (peak - self.fixed) / rows)


def peak_memory(
    cost: StepCost, state_bytes: float, reduction: GradReduce, side: int, dtype: str
) -> MemoryModel:
    """Models a chip's peak memory.

    State and gradients are counted. An image adds its pixels and KEPT times its activations, for activations
    kept for the backward pass, their gradients, and fragmentation.
    """
    gradients = sum(leaf.bytes for leaf in reduction.flat()) / ITEMSIZE[reduction.dtype] * 4
    an_image = KEPT * cost.activations * ITEMSIZE[dtype] + 3 * side**2
    return MemoryModel(state_bytes + gradients, an_image)


def two_points(low: tuple[int, float], high: tuple[int, float]) -> MemoryModel:
    """Fits a line through two known peaks, each (rows, bytes)."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return MemoryModel(low[1] - slope * low[0], slope)
