"""metrics.jsonl: one event a line, read and cut back to the state that a run goes on from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.file_shapes import misfit
from jaxcnn.files import FileError, exists, parse_json, read_bytes, set_aside, write_text
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
        write_events(path, kept)
    return kept


def write_events(path: Path, events: Sequence[Mapping[str, Any]]) -> None:
    """Writes a metrics.jsonl."""
    write_text(path, "".join(json.dumps(event) + "\n" for event in events))


def _warn_of_gap(path: Path, steps: Sequence[int], last_step: int) -> None:
    """Warns if train events are missing after the last of `steps`, by the distance of the last two."""
    if len(steps) > 1 and last_step - steps[-1] >= 2 * (steps[-1] - steps[-2]):
        text = (
            "%s ends at step %d, but the state is that of step %d: the events in between are lost"
        )
        _LOGGER.warning(text, path, steps[-1], last_step)


def _parse_events(path: Path) -> tuple[list[dict[str, Any]], list[FileError]]:
    """(the events, an error for each damaged line but a last one without a line break)."""
    if not exists(path):
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
