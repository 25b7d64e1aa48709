"""What a run says: metrics.jsonl, TensorBoard events, one line in place on a terminal.

The only module that touches clu; its writers need TensorFlow and are imported inside a run only.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """How often a run speaks.

    Attributes:
        every_steps: steps to an event in metrics.jsonl, each the mean over those steps.
        tensorboard: write TensorBoard events too.
        slow_step: a step that takes so many times the median one, and ten seconds at least, is shown
            with what every thread is doing; 0 shows none.
    """

    every_steps: int = 20
    tensorboard: bool = True
    slow_step: float = 20.0

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1, got {self.every_steps}")
        if not (self.slow_step == 0 or self.slow_step >= 2):
            raise ValueError(f"slow_step must be 0 or at least 2, got {self.slow_step:g}")


class MetricsWriter:
    """Appends events to metrics.jsonl, and to TensorBoard."""

    def __init__(
        self, workdir: Path, tensorboard: bool, process_group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        """Of several processes the first one writes."""
        self.path = workdir / "metrics.jsonl"
        self._process_group = process_group
        self._board = _tensorboard(workdir) if tensorboard and process_group.is_primary else None

    def cut_back(self, step: int) -> list[dict[str, Any]]:
        """Drops the events after `step`, which a resumed run will write again; gives those kept."""

        def cut() -> None:
            whole = self.path.with_suffix(".tmp")
            kept = (json.dumps(e) + "\n" for e in read_events(self.path) if e["step"] <= step)
            whole.write_text("".join(kept))
            whole.replace(self.path)

        self._process_group.run_on_primary(cut)
        return read_events(self.path)

    def write(self, event: Mapping[str, Any]) -> None:
        if not self._process_group.is_primary:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")
        if self._board is not None:
            prefix = (
                event["kind"]
                if event["kind"] == "train"
                else f"{event['split']}/{event['protocol']}"
            )
            numbers = {k: v for k, v in event.items() if isinstance(v, float) and k != "epoch"}
            self._board.write_scalars(
                event["step"], {f"{prefix}/{k}": v for k, v in numbers.items()}
            )

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl, oldest first; a last line that a kill cut short is left out."""
    events = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


class Console:
    """Lines for a person: one line rewritten in place on a terminal, plain lines elsewhere."""

    PLAIN_SECONDS = 10.0
    PLACE_SECONDS = 0.2

    def __init__(self, stream: Any = None, *, silent: bool = False) -> None:
        """`stream` is a text file; None is standard output. A silent screen is of a process that others
        speak for."""
        self.stream: TextIO = stream or sys.stdout
        self.silent = silent
        self.in_place = self.stream.isatty()
        self._open = False
        self._last = 0.0

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.silent:
            return
        self.end_place()
        print(text, file=self.stream, flush=True)

    def progress(self, text: str, last: bool = False) -> None:
        """A line that the next one replaces; elsewhere than on a terminal one every ten seconds."""
        now = time.monotonic()
        if self.silent or (
            not last
            and now - self._last < (self.PLACE_SECONDS if self.in_place else self.PLAIN_SECONDS)
        ):
            return
        self._last = now
        if self.in_place:
            columns = shutil.get_terminal_size().columns  # a wrapped line could not be rewritten
            print("\r\x1b[2K" + text[: columns - 1], end="", file=self.stream, flush=True)
            self._open = True
        else:
            print(text, file=self.stream, flush=True)

    def end_place(self) -> None:
        if self._open:
            print(file=self.stream)
            self._open = False


def duration(seconds: float) -> str:
    """`42s`, `3m10s`, `1h02m`, `2d03h`."""
    whole = round(seconds)
    for unit, size, small, small_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small_size:02d}{small}"
    return f"{whole}s"


def _tensorboard(workdir: Path) -> Any:
    logging.getLogger("absl").setLevel(logging.ERROR)
    from clu import metric_writers

    return metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(str(workdir))])
