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


@dataclasses.dataclass(frozen=True)
class Log:
    """How often a run speaks.

    Attributes:
        every_steps: steps to an event in metrics.jsonl, each the mean over those steps.
        tensorboard: write TensorBoard events too.
    """

    every_steps: int = 20
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1, got {self.every_steps}")


class Metrics:
    """Appends events to metrics.jsonl, and to TensorBoard."""

    def __init__(self, workdir: Path, tensorboard: bool) -> None:
        self.path = workdir / "metrics.jsonl"
        self._board = _tensorboard(workdir) if tensorboard else None

    def cut_back(self, step: int) -> list[dict[str, Any]]:
        """Drops the events after `step`, which a resumed run will write again; gives those kept."""
        events = [e for e in read_events(self.path) if e["step"] <= step]
        whole = self.path.with_suffix(".tmp")
        whole.write_text("".join(json.dumps(e) + "\n" for e in events))
        whole.replace(self.path)
        return events

    def write(self, event: Mapping[str, Any]) -> None:
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


class Screen:
    """Lines for a person: one line rewritten in place on a terminal, plain lines elsewhere."""

    PLAIN_SECONDS = 10.0
    PLACE_SECONDS = 0.2

    def __init__(self, stream: Any = None) -> None:
        """`stream` is a text file; None is standard output."""
        self.stream: TextIO = stream or sys.stdout
        self.in_place = self.stream.isatty()
        self._open = False
        self._last = 0.0

    def line(self, text: str) -> None:
        """A line that stays."""
        self.end_place()
        print(text, file=self.stream, flush=True)

    def progress(self, text: str, last: bool = False) -> None:
        """A line that the next one replaces; elsewhere than on a terminal one every ten seconds."""
        now = time.monotonic()
        if not last and now - self._last < (
            self.PLACE_SECONDS if self.in_place else self.PLAIN_SECONDS
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
