"""What test protocols make of the same nets: each protocol's error rates over the runs that have them."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxcnn.research.comparison.outcomes import markdown_table, text_table
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.side_by_side import describe_run
from jaxcnn.training import report

HEADER = ("net", "protocol", "split", "top-1 error", "top-5 error", "loss", "n", "images")
WORDS = 3  # columns of text
MEASURES = ("top1", "top5", "loss")


class ProtocolRow(NamedTuple):
    """A protocol on a split over the runs of a net: of each of `MEASURES` a value a run, in percent."""

    net: str
    protocol: str
    split: str
    values: tuple[tuple[float, ...], ...]
    images: tuple[int, ...]


def protocol_rows(runs: Sequence[FinishedRun]) -> list[ProtocolRow]:
    """Every protocol on every split that the reports of runs of a net have. Runs of a net differ in their
    seeds alone; of a report only results of the newest weights count."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(_without_seeds(run.trained_config), []).append(run)
    found = []
    for group in groups.values():
        together: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for run in group:
            for row in report.read_report(run.folder / "report.json")["results"]:
                if row["step"] == run.step:
                    together.setdefault((row["protocol"], row["split"]), []).append(row)
        for (protocol, split), results in together.items():
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
            "the reports of these runs hold no results; make some: jaxcnn evaluate "
            "--workdir=RUN --protocol=NAME"
        )
    body = [
        [*line[:WORDS], *(_text(v) for v in line.values), str(len(line.images)), _counts(line)]
        for line in found
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
    for line in found:
        fields = []
        for one in line.values:
            spread = f"{statistics.stdev(one):.10g}" if len(one) > 1 else ""
            fields += [f"{statistics.fmean(one):.10g}", spread]
        writer.writerow([*line[:WORDS], *fields, len(line.images), _counts(line)])
    return stream.getvalue()


def _without_seeds(config: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(config))
    for section in ("init", "data"):
        plain[section].pop("seed")
    for key in ("seed", "evals", "log", "checkpoint"):
        plain.pop(key)
    return json.dumps(plain, sort_keys=True)


def _name(run: FinishedRun) -> str:
    model, augment = run.trained_config["model"], run.trained_config["augment"]
    low, high = augment["scale"]
    s = f", S {low}" + ("" if low == high else f" to {high}")
    s = "" if augment["sampling"] == "random_resized_crop" else s
    name = f"{model['name']} {model.get('column', '')}".strip()
    return f"{name}, width {model['width']:g}, {model['image_size']} pixels{s}"


def _value(row: Mapping[str, Any], measure: str) -> float:
    return row["loss"] if measure == "loss" else 100 * (1 - row[measure])


def _text(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _counts(line: ProtocolRow) -> str:
    return " or ".join(f"{n:,}" for n in sorted(set(line.images)))
