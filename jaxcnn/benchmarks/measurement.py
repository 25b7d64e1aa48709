"""The result of a measurement, as JSON and as text; timing, memory and speed of this machine."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.data.loader import available_cores, processor_name
from jaxcnn.research.text_tables import text_table


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measured figure.

    Attributes:
        what: what was timed, with everything that it depends on: `vgg_d train, float32, batch 16, 224 px`.
        images_per_second: from the median.
        seconds: median over repeats of one step, batch or start.
        memory_bytes: peak resident memory of the measured process; 0 if it was not read.
        bound: upper bound of images per second on this device; None if unknown.
        peer: the program it is compared with, and its version; '' for none.
        peer_images_per_second: the peer's, measured in the same run.
        facts: further JSON values.
    """

    what: str
    images_per_second: float
    seconds: float
    memory_bytes: int = 0
    bound: float | None = None
    peer: str = ""
    peer_images_per_second: float | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Ratio to the peer, or to the bound if there is no peer."""
        reference = self.peer_images_per_second or self.bound
        return self.images_per_second / reference if reference else None

    def record(self) -> dict[str, Any]:
        """All fields, the facts and the machine as JSON values; figures rounded to four digits."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        facts = fields.pop("facts")
        text = json.dumps({**fields, "ratio": self.ratio, **facts, **machine()}, allow_nan=False)
        return json.loads(text, parse_float=lambda figure: float(f"{float(figure):.4g}"))


def in_turns(repeats: int, timers: Mapping[str, Callable[[], float]]) -> dict[str, np.ndarray]:
    """The seconds that each timer returns, float[repeats]. Timers alternate, because the speed of a machine
    varies."""
    rounds = [[timer() for timer in timers.values()] for _ in range(repeats)]
    return dict(zip(timers, np.asarray(rounds).T, strict=True))


def time_call(work: Callable[[], Any]) -> float:
    """Seconds of one call. `work` waits for its result."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> dict[str, Any]:
    """The processor, the cores available to this process, and the versions of JAX."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return {"processor": processor_name(), "cores": available_cores(), **versions}


def seconds_per_flop() -> float:
    """Seconds per floating-point operation of this machine's cores: in a product of two float32[2048,2048] by
    XLA or NumPy's BLAS, whichever is faster now."""
    seconds = []
    for product in _products(2048):
        product()
        seconds.append(time_call(product))
    return min(seconds) / (2.0 * 2048**3)


@functools.cache
def _products(side: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import jax

    x = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    y = jax.device_put(x, jax.devices("cpu")[0])
    compiled = jax.jit(lambda y: y @ y).lower(y).compile()
    return lambda: np.matmul(x, x), lambda: compiled(y).block_until_ready()


def format_measurements(rows: Sequence[Measurement]) -> str:
    """The measurements as a table for the console."""
    head = ("what", "peer", "images/s", "seconds", "memory", "bound", "peer images/s", "ratio")
    return text_table(head, [_cells(row) for row in rows], left=2)


def _cells(row: Measurement) -> tuple[str, ...]:
    return (
        row.what,
        row.peer or "-",
        f"{row.images_per_second:.4g}",
        f"{row.seconds:.4g}",
        f"{row.memory_bytes / 1e9:.2f} GB" if row.memory_bytes else "-",
        f"{row.bound:.4g}" if row.bound else "-",
        f"{row.peer_images_per_second:.4g}" if row.peer_images_per_second else "-",
        f"{row.ratio:.3f}" if row.ratio else "-",
    )
