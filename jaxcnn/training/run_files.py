"""The small files of a run that are read again: classes.txt, run.json and report.json.

A damaged one is an error that names it, or is set aside, with a warning, and written again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.evaluation import Result
from jaxcnn.files import FileError, exists, read_json, read_lines, set_aside, write_text
from jaxcnn.paths import Path

_LOGGER = logging.getLogger("jaxcnn")

START = {
    "examples": int,
    "devices?": [str],
    "versions?": dict,
    "git_commit?": str,
    "git_modified?": bool,
    "data?": {"train": str, "evaluation": str},
    "accepted_changes?": [str],
}
# Of an evaluation, in report.json and in metrics.jsonl.
RESULT = {
    "protocol": str,
    "split": str,
    "n": int,
    "top1": float,
    "top5": float,
    "loss": numbers.Real,
}
ROW = {"step": int, **RESULT, "images?": str}
REPORT = {
    "results": [ROW],
    "step": int,
    "seconds": float,
    "images_per_second": (None, float),
    "compile_seconds?": float,
    "unreadable_images?": [str],
}


_WRITTEN_BY_RUN = "delete it, and run the run's own command again, which writes it"


def read_classes(folder: Path, outputs: int, advice: str = _WRITTEN_BY_RUN) -> tuple[str, ...]:
    """The class names of the run in `folder`, whose net has `outputs` classes; `advice` is for errors.

    Raises:
        FileError: classes.txt is missing or damaged, or has another number of names.
    """
    path = folder / "classes.txt"
    names = read_lines(path, advice=advice)
    if len(names) != outputs:
        raise FileError(
            path, f"has {len(names)} names for the {outputs} classes of the net", advice
        )
    return names


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts in run.json, oldest first. A damaged file stops no run: a warning, and no starts."""
    try:
        return _read_starts(path)
    except FileError as error:
        _LOGGER.warning("%s %s; going on without the earlier starts", path, error.problem)
        return []


def add_start(path: Path, start: Mapping[str, Any]) -> None:
    """Appends a start to run.json. A damaged file is set aside, and a new one begins."""
    try:
        starts = _read_starts(path)
    except FileError as error:
        _LOGGER.warning("%s %s; it is now %s", path, error.problem, set_aside(path))
        starts = []
    write_text(path, json.dumps({"starts": [*starts, start]}, indent=2) + "\n")


def _read_starts(path: Path) -> list[dict[str, Any]]:
    return read_json(path, {"starts": [START]}, advice="")["starts"] if exists(path) else []


def read_report(path: Path) -> dict[str, Any]:
    """report.json, or an empty report.

    Raises:
        FileError: it is damaged.
    """
    advice = "run the run's own command again, which sets it aside and evaluates what is lost"
    return read_json(path, REPORT, advice=advice) if exists(path) else {"results": []}


def report_or_empty(path: Path) -> dict[str, Any]:
    """`read_report`, but an empty report, and a warning, if it is damaged."""
    try:
        return read_report(path)
    except FileError as error:
        _LOGGER.warning("%s", error)
        return {"results": []}


def recover_report(path: Path) -> dict[str, Any]:
    """`read_report`, but a damaged file is set aside, with a warning, and the report is empty."""
    try:
        return read_report(path)
    except FileError as error:
        _LOGGER.warning(
            "%s %s; it is now %s. What the run evaluates itself is evaluated again, results that `jaxcnn "
            "evaluate` added are not",
            *(path, error.problem, set_aside(path)),
        )
        return {"results": []}


def write_report(
    path: Path, report: Mapping[str, Any], results: Sequence[tuple[int, Result]], **facts: Any
) -> dict[str, Any]:
    """Writes report.json: `report` with `results`, a list of (step, result), added.

    A report describes one state: results of another step than `facts["step"]` are dropped.
    """
    rows = [{"step": step, **dataclasses.asdict(result)} for step, result in results]
    written = {(row["protocol"], row["split"]) for row in rows}
    old = [row for row in report["results"] if row["step"] == facts["step"]]
    kept = [row for row in old if (row["protocol"], row["split"]) not in written]
    new = {**report, **facts, "results": [*kept, *rows]}
    write_text(path, json.dumps(new, indent=2) + "\n")
    return new
