"""Error rates of the same nets by several test protocols, over all runs that have them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxcnn.research.comparison.outcomes import markdown_table, text_table
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.side_by_side import (
    csv_numbers,
    describe_run,
    mean_text,
    net_name,
    scale_text,
)
from jaxcnn.training import report

HEADER = ("net", "protocol", "split", "top-1 error", "top-5 error", "loss", "n", "images")
WORDS = 3  # columns of text
MEASURES = ("top1", "top5", "loss")


class ProtocolRow(NamedTuple):
    """A protocol on a split: for each of `MEASURES` a value per run of the net; errors in percent."""

    net: str
    protocol: str
    split: str
    values: tuple[tuple[float, ...], ...]
    images: tuple[int, ...]


def protocol_rows(runs: Sequence[FinishedRun]) -> list[ProtocolRow]:
    """Every protocol on every split in the reports of `runs`; results of older weights are left out. Runs
    that only differ in their seeds are of one net."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(_without_seeds(run.trained_config), []).append(run)
    found = []
    for group in groups.values():
        by_protocol: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for run in group:
            for row in report.read_report(run.folder / "report.json")["results"]:
                if row["step"] == run.step:
                    by_protocol.setdefault((row["protocol"], row["split"]), []).append(row)
        for (protocol, split), results in by_protocol.items():
            values = tuple(tuple(_value(row, measure) for row in results) for measure in MEASURES)
            images = tuple(row["n"] for row in results)
            found.append(ProtocolRow(_name(group[0]), protocol, split, values, images))
    return found


def protocol_tables(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """The table as `text`, `markdown` and `csv`.

    Raises:
        ValueError: the runs have no results.
    """
    found = protocol_rows(runs)
    if not found:
        raise ValueError(
            "the reports of these runs hold no results; make some: jaxcnn evaluate --workdir=RUN "
            "--protocol=NAME"
        )
    body = [
        [*row[:WORDS], *map(mean_text, row.values), str(len(row.images)), _counts(row)]
        for row in found
    ]
    about = [describe_run(run) for run in runs]
    text = "\n\n".join([text_table(HEADER, body, left=WORDS), "\n".join(about)])
    points = "\n".join(f"* {line}" for line in about)
    markdown = f"{markdown_table(HEADER, body, left=WORDS)}\n\n{points}"
    return {"text": text, "markdown": markdown, "csv": _csv(found)}


def _csv(found: Sequence[ProtocolRow]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    numbers = [f"{name}{suffix}" for name in HEADER[WORDS:-2] for suffix in ("", " deviation")]
    writer.writerow([*HEADER[:WORDS], *numbers, *HEADER[-2:]])
    for row in found:
        fields = [field for values in row.values for field in csv_numbers(values)]
        writer.writerow([*row[:WORDS], *fields, len(row.images), _counts(row)])
    return stream.getvalue()


def _without_seeds(config: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(config))
    for section in ("init", "data"):
        plain[section].pop("seed")
    for key in ("seed", "evals", "log", "checkpoint"):
        plain.pop(key)
    return json.dumps(plain, sort_keys=True)


def _name(run: FinishedRun) -> str:
    model = run.trained_config["model"]
    scale = scale_text(run.trained_config)
    return f"{net_name(model)}, width {model['width']:g}, {model['image_size']} pixels{scale}"


def _value(row: Mapping[str, Any], measure: str) -> float:
    return row["loss"] if measure == "loss" else 100 * (1 - row[measure])


def _counts(row: ProtocolRow) -> str:
    return " or ".join(f"{n:,}" for n in sorted(set(row.images)))
