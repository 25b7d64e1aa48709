"""metrics.jsonl and TensorBoard events.

The only module that touches clu. clu's writers need TensorFlow and are imported inside a run only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxcnn.data.tensorflow import load_tensorflow
from jaxcnn.file_shapes import misfit
from jaxcnn.files import (
    FileError,
    parse_json,
    read_bytes,
    set_aside,
    system_error,
    write_text,
    writing,
)
from jaxcnn.parallel import ProcessGroup
from jaxcnn.paths import Path
from jaxcnn.training.run_files import RESULT

_LOGGER = logging.getLogger("jaxcnn")

# What the readers of metrics.jsonl use.
EVENT = {"kind": str, "step": int, "epoch": float}
KINDS = {
    "train": {
        **EVENT,
        "loss": float,
        "top1": float,
        "learning_rate": float,
        "images_per_second": float,
    },
    "eval": {**EVENT, **RESULT},
}


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

            with _board_errors(workdir):
                events = metric_writers.SummaryWriter(str(workdir))
            self._board = metric_writers.AsyncMultiWriter([events])

    def truncate(self, step: int) -> list[dict[str, Any]]:
        """Removes the events after `step`, which a resumed run writes again; returns the others."""

        def recover() -> (
            None
        ):  # the events are not sent to the other processes, which read the file
            recover_events(self.path, step)

        self._process_group.run_on_primary(recover)
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
        with writing(self.path), self.path.open("ab") as file:
            file.write(json.dumps(event).encode() + b"\n")
        if self._board is None:
            return
        with _board_errors(self.path.parent):
            train = event["kind"] == "train"
            prefix = "train" if train else f"{event['split']}/{event['protocol']}"
            values = {k: v for k, v in event.items() if isinstance(v, float) and k != "epoch"}
            scalars = {f"{prefix}/{k}": v for k, v in values.items()}
            self._board.write_scalars(event["step"], scalars)


@contextlib.contextmanager
def _board_errors(folder: Path) -> Iterator[None]:
    """Turns clu's error of a write in its thread, and TensorFlow's error, into a WriteError."""
    try:
        yield
    except Exception as error:
        first = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        with writing(folder / "events.out.tfevents.*"):
            raise system_error(error) or OSError(first) from error


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events in a metrics.jsonl, oldest first, without a last line that a kill cut short.

    Raises:
        FileError: it cannot be read, or a line is damaged; the message gives its number.
    """
    events, problems = _parse_events(path)
    if problems:
        raise problems[0]
    return events


def recover_events(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """The events up to `last_step` that can be read, to which the file is cut back.

    If lines are damaged, the whole file is set aside first, with a warning.
    """
    try:
        events, problems = _parse_events(path)
    except FileError as error:
        events, problems = [], [error]
    kept = [event for event in events if last_step is None or event["step"] <= last_step]
    if problems:
        _LOGGER.warning(
            "%s %s%s; it is now %s, the %d events that can be read are kept",
            *(path, problems[0].problem),
            f", and {len(problems) - 1} more lines are damaged" if problems[1:] else "",
            *(set_aside(path), len(events)),
        )
    _warn_of_gap(path, [e["step"] for e in kept if e["kind"] == "train"], last_step or 0)
    if problems or last_step is not None:
        write_text(path, "".join(json.dumps(event) + "\n" for event in kept))
    return kept


def _warn_of_gap(path: Path, steps: Sequence[int], last_step: int) -> None:
    """Warns if train events are missing after the last of `steps`, by the distance of the last two."""
    if len(steps) > 1 and last_step - steps[-1] >= 2 * (steps[-1] - steps[-2]):
        text = (
            "%s ends at step %d, but the state is that of step %d: the events in between are lost"
        )
        _LOGGER.warning(text, path, steps[-1], last_step)


def _parse_events(path: Path) -> tuple[list[dict[str, Any]], list[FileError]]:
    """(the events, an error for each damaged line but a last one without a line break)."""
    if not path.exists():
        return [], []
    events: list[dict[str, Any]] = []
    problems: list[FileError] = []
    advice = "resume the run, which sets the file aside and goes on with the other lines"
    *lines, last = read_bytes(path, advice=advice).split(b"\n")
    for number, line in enumerate([*lines, last] if last else lines, 1):
        where = f"line {number}"
        try:
            event = parse_json(line, EVENT, path=path, advice=advice, where=where)
            if problem := misfit(event, KINDS.get(event["kind"], EVENT), ""):
                raise FileError(path, f"({where}) is not valid: {problem}", advice)
        except FileError as error:
            if number <= len(lines) or not line.startswith(b"{"):  # else a kill cut it short
                problems.append(error)
        else:
            events.append(event)
    return events, problems
