"""The result of a measurement, as JSON and as text; timing, memory and speed of this machine."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.loader import available_cores


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
        ratio: to the peer, or to the bound if there is no peer.
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
        reference = self.peer_images_per_second or self.bound
        return self.images_per_second / reference if reference else None

    def record(self) -> dict[str, Any]:
        """A JSON object."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        facts = dict(fields.pop("facts"))
        return {**fields, "ratio": self.ratio, **facts}

    def line(self) -> str:
        """The record as one line of JSON, figures rounded to four digits."""
        return json.dumps(_rounded(self.record()), allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


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
    return {"processor": _processor(), "cores": available_cores(), **versions}


def _processor() -> str:
    """The processor's name, or its architecture if the system does not give one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


_SIDE = 2048


def matmul_flops() -> float:
    """Floating-point operations per second of this machine's cores: a product of two float32[2048,2048], by
    XLA or NumPy's BLAS, whichever is faster now."""
    x = _operand()
    seconds = []
    for product in (_xla_product(), lambda: np.matmul(x, x)):
        product()
        seconds.append(time_call(product))
    return 2.0 * _SIDE**3 / min(seconds)


@functools.cache
def _operand() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype(np.float32)


@functools.cache
def _xla_product() -> Callable[[], Any]:
    import jax

    x = jax.device_put(_operand(), jax.devices("cpu")[0])
    compiled = jax.jit(lambda x: x @ x).lower(x).compile()
    return lambda: compiled(x).block_until_ready()


def format_measurements(rows: Sequence[Measurement]) -> str:
    """The measurements as a table for the console."""
    head = ("what", "images/s", "seconds", "memory", "bound", "peer", "peer images/s", "ratio")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    left = {0, 5}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _cells(row: Measurement) -> tuple[str, ...]:
    return (
        row.what,
        f"{row.images_per_second:.4g}",
        f"{row.seconds:.4g}",
        f"{row.memory_bytes / 1e9:.2f} GB" if row.memory_bytes else "-",
        f"{row.bound:.4g}" if row.bound else "-",
        row.peer or "-",
        f"{row.peer_images_per_second:.4g}" if row.peer_images_per_second else "-",
        f"{row.ratio:.3f}" if row.ratio else "-",
    )
