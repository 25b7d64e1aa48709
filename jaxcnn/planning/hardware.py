"""What chips can do: the figures that a plan is made with, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

GB, GIB, GBIT = 1e9, 2.0**30, 1e9 / 8


class Chip(NamedTuple):
    """One chip, all of its cores together.

    Attributes:
        flops: dense bfloat16 (V100: float16) operations a second, two for a multiply-add.
        memory: bytes of its high-bandwidth memory.
        share: of it that a program gets. JAX takes 0.75 of a GPU's unless
            XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise; libtpu says 15.75 GiB of a v5e.
        bandwidth: of that memory, bytes a second.
        link: bytes a second that it can send to its node or slice: a GPU's NVLinks one way, a TPU's links
            along all axes of a torus.
        node: chips that `link` reaches: GPUs of a node, or the largest slice of a TPU.
        uplink: bytes a second that such a node or slice sends to the others.
        axes: of the torus; 0 for GPUs.
        ring: a TPU's axis is a ring, which doubles what it carries, where its length is a multiple of
            this; below 16 only where every axis is.
        source: of the figures.
        clock: cycles a second, to read a compiler's estimates by; 0 where no source says it.
    """

    flops: float
    memory: float
    share: float
    bandwidth: float
    link: float
    node: int
    uplink: float
    axes: int
    ring: int
    source: str
    clock: float = 0.0

    @property
    def is_tpu(self) -> bool:
        return self.axes > 0

    @property
    def usable(self) -> float:
        """Bytes of memory that a program gets."""
        return self.share * self.memory


_BOOK = "scaling-book tpus.md"  # github.com/jax-ml/scaling-book
# Slices talk over the data-centre network, each TPU with its own share of it (same source).
CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1.0, 1.2e12, 3 * 90 * GB, 4096, 4096 * 6.25 * GB, 3, 4, _BOOK),
    "v5e": Chip(
        197e12, 16 * GIB, 15.75 / 16, 0.81e12, 2 * 90 * GB, 256, 256 * 3.125 * GB, 2, 16, _BOOK, 1.5e9
    ),
    "v5p": Chip(459e12, 95 * GIB, 1.0, 2.8e12, 3 * 180 * GB, 6144, 6144 * 6.25 * GB, 3, 4, _BOOK),
    "v6e": Chip(918e12, 32 * GIB, 1.0, 1.6e12, 2 * 180 * GB, 256, 256 * 12.5 * GB, 2, 16, _BOOK),
    "h100": Chip(
        989e12, 80 * GB, 0.75, 3.35e12, 450 * GB, 8, 8 * 400 * GBIT, 0, 0,
        "NVIDIA H100 SXM data sheet; DGX H100: 400 Gb/s a GPU",
    ),
    "a100": Chip(
        312e12, 80 * GB, 0.75, 2.0e12, 300 * GB, 8, 100 * GBIT, 0, 0,
        "NVIDIA A100 SXM 80 GB data sheet; the network is a guess",
    ),
    "v100": Chip(
        125e12, 32 * GB, 0.75, 0.9e12, 150 * GB, 8, 100 * GBIT, 0, 0,
        "NVIDIA V100 SXM2 data sheet; the network is a guess",
    ),
}  # fmt: skip


# What JAX calls them; exactly these cards, as others of a name differ.
_DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA A100-SXM4-80GB": "a100",
    "Tesla V100-SXM2-32GB": "v100",
}


def by_device_kind(kind: str) -> Chip | None:
    """The chip that JAX gives this `device_kind`, or None where nothing is known of it."""
    return CHIPS[_DEVICE_KINDS[kind]] if kind in _DEVICE_KINDS else None


class Network(NamedTuple):
    """Attributes:
    link: bytes a second that a chip sends inside its node or slice.
    node: chips of a node or slice.
    uplink: bytes a second that a node or slice sends to the others.
    """

    link: float
    node: int
    uplink: float


def network(
    chip: Chip, count: int, shape: Sequence[int] = (), node: int = 0, gbps: float = 0.0
) -> Network:
    """The links of `count` chips.

    Args:
        shape: of a TPU slice; () takes a torus where there are chips enough for one.
        node: GPUs a node; 0 is the chip's own.
        gbps: Gb/s that a node sends to the others; 0 is the chip's own.
    """
    link = chip.link * (_torus(chip, count, shape) if chip.is_tpu else 1.0)
    return Network(link, min(node or chip.node, count), gbps * GBIT or chip.uplink)


def _torus(chip: Chip, count: int, shape: Sequence[int]) -> float:
    """Of a full torus's links, the share that is there. An axis that is no ring carries half."""
    if not shape:
        return 1.0 if count >= chip.ring**chip.axes else 0.5
    rings = [length % chip.ring == 0 for length in shape]
    if chip.ring < 16 and not all(rings):
        rings = [False] * len(shape)
    shares = [1.0 if ring else 0.5 for length, ring in zip(shape, rings, strict=True) if length > 1]
    return math.fsum(shares) / chip.axes
