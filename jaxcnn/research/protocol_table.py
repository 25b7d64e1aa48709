"""What test protocols make of the same nets: each protocol's error rates over the runs that have them."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.research.table import as_markdown, as_text
from jaxcnn.research.trained import Trained
from jaxcnn.training import report

HEADER = ("net", "protocol", "top-1 error", "top-5 error", "loss", "n", "images")
MEASURES = ("top1", "top5", "loss")


def rows(runs: Sequence[Trained]) -> list[tuple[str, str, list[list[float]], list[int]]]:
    """(net, protocol, values of each of `MEASURES`, images) of every protocol that the reports of runs of a
    net have; errors in percent. Runs of a net differ in their seeds alone."""
    groups: dict[str, list[Trained]] = {}
    for run in runs:
        groups.setdefault(_without_seeds(run.own_config), []).append(run)
    found = []
    for group in groups.values():
        by_protocol: dict[str, list[Mapping[str, Any]]] = {}
        for run in group:
            for row in report.read_report(run.folder / "report.json")["results"]:
                if row["split"] != "held_out" and row["step"] == run.step:
                    by_protocol.setdefault(row["protocol"], []).append(row)
        for protocol, results in by_protocol.items():
            values = [[_value(row, measure) for row in results] for measure in MEASURES]
            found.append((_name(group[0]), protocol, values, [row["n"] for row in results]))
    return found


def as_tables(runs: Sequence[Trained]) -> dict[str, str]:
    """The table as `text`, `markdown` and `csv`."""
    found = rows(runs)
    body = [
        [net, protocol, *(_text(v) for v in values), str(len(images)), _counts(images)]
        for net, protocol, values, images in found
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    numbers = [f"{name}{suffix}" for name in HEADER[2:5] for suffix in ("", " deviation")]
    writer.writerow([*HEADER[:2], *numbers, *HEADER[5:]])
    for (net, protocol, values, images), line in zip(found, body, strict=True):
        fields = []
        for one in values:
            spread = f"{statistics.stdev(one):.10g}" if len(one) > 1 else ""
            fields += [f"{statistics.fmean(one):.10g}", spread]
        writer.writerow([net, protocol, *fields, len(images), line[-1]])
    return {
        "text": as_text(HEADER, body),
        "markdown": as_markdown(HEADER, body),
        "csv": stream.getvalue(),
    }


def _without_seeds(config: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(config))
    for section in ("init", "data"):
        plain[section].pop("seed")
    for key in ("seed", "evals", "log", "checkpoint"):
        plain.pop(key)
    return json.dumps(plain, sort_keys=True)


def _name(run: Trained) -> str:
    model, augment = run.own_config["model"], run.own_config["augment"]
    low, high = augment["scale"]
    s = f", S {low}" + ("" if low == high else f" to {high}")
    s = "" if augment["sampling"] == "area" else s
    return f"{model['name']} {model.get('column', '')}".strip() + s


def _value(row: Mapping[str, Any], measure: str) -> float:
    return row["loss"] if measure == "loss" else 100 * (1 - row[measure])


def _text(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _counts(images: Sequence[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted(set(images)))
