"""What a measurement says: one `Row`, as JSON and as text."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.data.loader import available_cores


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measured figure.

    Attributes:
        what: what was timed, with all that it depends on: `step vgg_d train float32 batch 16`.
        images_per_second: from the median.
        seconds: median of one repeat: a step, a batch, a start.
        memory_bytes: peak of the process that did it, resident; 0 where it was not read.
        bound: images a second that cannot be beaten here; None where nothing is known of the device.
        peer: the program that it is compared with, with its version; '' for none.
        peer_images_per_second: of the peer, in the same run.
        ratio: to the peer, or to the bound where there is no peer.
        facts: whatever else belongs to it, JSON values.
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
        beside = self.peer_images_per_second or self.bound
        return self.images_per_second / beside if beside else None

    def record(self) -> dict[str, Any]:
        """A JSON object."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        facts = dict(fields.pop("facts"))
        return {**fields, "ratio": self.ratio, **facts}

    def line(self) -> str:
        """The record on one line, figures to four digits."""
        return json.dumps(_rounded(self.record()), allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def median_seconds(work: Callable[[], Any], repeats: int, warm_up: int = 1) -> float:
    """Median of `repeats` timed calls, after `warm_up` that are not timed. `work` waits for its result."""
    for _ in range(warm_up):
        work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_memory() -> int:
    """Bytes of this process that were resident at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, and the versions that figures depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return {"processor": processor(), "cores": available_cores(), **versions}


def processor() -> str:
    """The processor's name, or its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def text(rows: Sequence[Measurement]) -> str:
    """A table for people."""
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
