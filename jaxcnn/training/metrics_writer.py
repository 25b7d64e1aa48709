"""metrics.jsonl and TensorBoard events.

The only module that touches clu. clu's writers need TensorFlow and are imported inside a run only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxcnn.data.tensorflow import load_tensorflow
from jaxcnn.files import write_text, writing
from jaxcnn.parallel import ProcessGroup


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What a run logs.

    Attributes:
        every_steps: steps between train events in metrics.jsonl, each the mean over those steps.
        tensorboard: write TensorBoard events too.
        slow_step: a step that takes this many times the median, and at least ten seconds, prints the
            stacks of all threads to standard error; 0 turns this off.
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
    """Appends events to metrics.jsonl, and to TensorBoard. Only process 0 writes."""

    def __init__(self, workdir: Path, tensorboard: bool, process_group: ProcessGroup) -> None:
        self.path = workdir / "metrics.jsonl"
        self._process_group, self._board = process_group, None
        self._failure: OSError | None = None
        if tensorboard and process_group.is_primary:
            logging.getLogger("absl").setLevel(logging.ERROR)
            load_tensorflow()  # with our settings, before clu imports it
            from clu import metric_writers

            events = metric_writers.SummaryWriter(str(workdir))
            self._board = metric_writers.AsyncMultiWriter([events])

    def truncate(self, step: int) -> list[dict[str, Any]]:
        """Removes the events after `step`, which a resumed run writes again; returns the others."""

        def rewrite() -> None:
            kept = [json.dumps(e) + "\n" for e in read_events(self.path) if e["step"] <= step]
            write_text(self.path, "".join(kept))

        self._process_group.run_on_primary(rewrite)
        return read_events(self.path)

    def write(self, event: Mapping[str, Any]) -> None:
        """Appends an event: `kind` 'train' or 'eval', `step`, and its values.

        Raises:
            WriteError: it cannot be written. With several processes `check` raises it, since the others, for
                which process 0 writes, must learn of it first.
        """
        if not self._process_group.is_primary:
            return
        try:
            self._write(event)
        except OSError as error:
            if self._process_group.count == 1:
                raise
            self._failure = self._failure or error

    def check(self) -> None:
        """Raises the error of an earlier `write`, if there was one."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        if self._board is not None:
            with _board_errors(self.path.parent):
                self._board.close()

    def _write(self, event: Mapping[str, Any]) -> None:
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")
        if self._board is None:
            return
        with _board_errors(self.path.parent):
            train = event["kind"] == "train"
            prefix = "train" if train else f"{event['split']}/{event['protocol']}"
            numbers = {k: v for k, v in event.items() if isinstance(v, float) and k != "epoch"}
            scalars = {f"{prefix}/{k}": v for k, v in numbers.items()}
            self._board.write_scalars(event["step"], scalars)


@contextlib.contextmanager
def _board_errors(folder: Path) -> Iterator[None]:
    """Turns clu's error of a write in its thread, and TensorFlow's error, into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        first = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise OSError(f"TensorBoard's events in {folder} cannot be written ({first})") from error


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events in a metrics.jsonl, oldest first, without a last line that a kill cut short."""
    events = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
