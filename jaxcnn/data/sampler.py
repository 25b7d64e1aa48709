"""Deterministic shuffling: counter-based random bits, epoch permutations, per-step indices.

Everything here is a pure function of (seed, epoch, id), so the order of images and the crops drawn from them
do not depend on hosts, threads or restarts. Only raw bits of numpy's Philox counter are used: numpy
guarantees that they never change, but may change the stream of `Generator`'s methods.
"""

import enum
import functools
import itertools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

_MASK = (1 << 64) - 1


class RandomStream(enum.IntEnum):
    """What random bits are for; two streams never share bits, whatever the seed."""

    ORDER = 1
    CROP = 2
    HELD_OUT = 3
    SYNTHETIC = 4


class _Local(threading.local):
    """One generator per thread: setting its state and drawing are two calls."""

    def __init__(self) -> None:
        self.generator = np.random.Philox(0)


_LOCAL = _Local()


class SampleIndex(NamedTuple):
    """One row of a batch: a position in the source, in an epoch."""

    position: int
    epoch: int


def random_bits(
    stream: RandomStream, seed: int, epoch: int, example_id: int, count: int
) -> np.ndarray:
    """Returns uint64[count], a function of the arguments alone."""
    # A new generator would ask the system for a seed, which takes five times as long as the draw.
    state: Any = {
        "bit_generator": "Philox",
        "state": {"key": (seed & _MASK, stream), "counter": (0, 0, epoch, example_id)},
        "buffer": (0, 0, 0, 0),
        "buffer_pos": 4,  # Philox makes four integers at a time; none of them is left over
        "has_uint32": 0,
        "uinteger": 0,
    }
    _LOCAL.generator.state = state
    return np.asarray(_LOCAL.generator.random_raw(count), np.uint64)


def permutation(stream: RandomStream, seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns int64[size]: a permutation of 0..size-1, a function of the arguments alone."""
    return np.argsort(random_bits(stream, seed, epoch, 0, size), kind="stable")


def train_indices(
    size: int,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[list[SampleIndex]]:
    """Yields this process's indices of each global batch from `start_step` on, without end.

    Stream position p = step * batch_size + i holds epoch p // size and example
    permutation(seed, epoch)[p % size]; process h of P has the rows i of
    [h * batch_size / P, (h + 1) * batch_size / P). A batch may span two epochs.
    """
    local = batch_size // process_count
    order = functools.lru_cache(2)(lambda epoch: permutation(RandomStream.ORDER, seed, epoch, size))
    for step in itertools.count(start_step):
        first = step * batch_size + process_index * local
        yield [
            SampleIndex(int(order(p // size)[p % size]), p // size)
            for p in range(first, first + local)
        ]
