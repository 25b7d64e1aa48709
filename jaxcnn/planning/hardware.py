"""Peak rates and memory of accelerators, with their sources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

GB, GIB, GBIT = 1e9, 2.0**30, 1e9 / 8


class Chip(NamedTuple):
    """One chip, with all of its cores.

    Attributes:
        flops: dense bfloat16 (V100: float16) operations per second; a multiply-add counts as two.
        memory: bytes of high-bandwidth memory.
        share: fraction of the memory that a program can use. JAX uses 0.75 of a GPU's memory unless
            XLA_PYTHON_CLIENT_MEM_FRACTION is set; libtpu reports 15.75 GiB for a v5e.
        bandwidth: of that memory, in bytes per second.
        link: bytes per second that the chip can send within its node or slice: a GPU's NVLinks in one
            direction, a TPU's links along all axes of a torus.
        node: number of chips connected by `link`: GPUs of a node, or the largest TPU slice.
        uplink: bytes per second that such a node or slice sends to the others.
        axes: of the torus; 0 for GPUs.
        ring: an axis of a TPU slice is a ring, which doubles its bandwidth, if its length is a multiple of
            this; if `ring` is below 16, only if every axis is.
        source: of the figures.
        clock: cycles per second, to convert a compiler's estimates; 0 if no source has it.
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
        """Bytes of memory that a program can use."""
        return self.share * self.memory


_BOOK = "scaling-book tpus.md"  # github.com/jax-ml/scaling-book
# Slices communicate over the data-centre network; each TPU has its own bandwidth there (same source).
CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1.0, 1.2e12, 3 * 90 * GB, 4096, 4096 * 6.25 * GB, 3, 4, _BOOK),
    "v5e": Chip(
        197e12, 16 * GIB, 15.75 / 16, 0.81e12, 2 * 90 * GB, 256, 256 * 3.125 * GB, 2, 16, _BOOK, 1.5e9
    ),
    "v5p": Chip(459e12, 95 * GIB, 1.0, 2.8e12, 3 * 180 * GB, 6144, 6144 * 6.25 * GB, 3, 4, _BOOK),
    "v6e": Chip(918e12, 32 * GIB, 1.0, 1.6e12, 2 * 180 * GB, 256, 256 * 12.5 * GB, 2, 16, _BOOK),
    "h100": Chip(
        989e12, 80 * GB, 0.75, 3.35e12, 450 * GB, 8, 8 * 400 * GBIT, 0, 0,
        "NVIDIA H100 SXM data sheet; DGX H100: 400 Gb/s per GPU",
    ),
    "a100": Chip(
        312e12, 80 * GB, 0.75, 2.0e12, 300 * GB, 8, 100 * GBIT, 0, 0,
        "NVIDIA A100 SXM 80 GB data sheet; the network is assumed",
    ),
    "v100": Chip(
        125e12, 32 * GB, 0.75, 0.9e12, 150 * GB, 8, 100 * GBIT, 0, 0,
        "NVIDIA V100 SXM2 data sheet; the network is assumed",
    ),
}  # fmt: skip


# JAX's device_kind, for exactly these models: variants with similar names differ.
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
    """The chip with JAX's `device_kind`, or None if it is unknown."""
    return CHIPS[_DEVICE_KINDS[kind]] if kind in _DEVICE_KINDS else None


class Network(NamedTuple):
    """Attributes:
    link: bytes per second that a chip sends within its node or slice.
    node: chips per node or slice.
    uplink: bytes per second that a node or slice sends to the others.
    """

    link: float
    node: int
    uplink: float


def network(
    chip: Chip, count: int, shape: Sequence[int] = (), node: int = 0, gbps: float = 0.0
) -> Network:
    """Returns the bandwidths of `count` chips.

    Args:
        shape: of a TPU slice; () assumes a torus if there are enough chips.
        node: GPUs per node; 0 uses the chip's default.
        gbps: Gb/s from a node to the others; 0 uses the chip's default.
    """
    link = chip.link * (_torus(chip, count, shape) if chip.is_tpu else 1.0)
    return Network(link, min(node or chip.node, count), gbps * GBIT or chip.uplink)


def _torus(chip: Chip, count: int, shape: Sequence[int]) -> float:
    """Available fraction of a full torus's bandwidth. An axis that is not a ring has half the bandwidth."""
    if not shape:
        return 1.0 if count >= chip.ring**chip.axes else 0.5
    rings = [length % chip.ring == 0 for length in shape]
    if chip.ring < 16 and not all(rings):
        rings = [False] * len(shape)
    shares = [1.0 if ring else 0.5 for length, ring in zip(shape, rings, strict=True) if length > 1]
    return math.fsum(shares) / chip.axes
