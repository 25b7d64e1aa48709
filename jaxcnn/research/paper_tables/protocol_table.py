"""Error rates of the same nets by several test protocols, over all runs that have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.side_by_side import (
    describe_run,
    imported_from,
    net_name,
    scale_text,
)
from jaxcnn.research.text_tables import (
    bullets,
    csv_numbers,
    csv_table,
    markdown_table,
    mean_text,
    text_table,
)
from jaxcnn.training import run_files

TEXTS = ("net", "protocol", "split")
NUMBERS = ("top-1 error", "top-5 error", "loss")  # errors in percent
COUNTS = ("n", "images")


def protocol_tables(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """The table as `text`, `markdown` and `csv`: a row for every protocol on every split in the reports of
    `runs`, with means over the runs that only differ in their seeds. Results of older weights are left out.

    Raises:
        ValueError: the runs have no results.
    """
    head = (*TEXTS, *NUMBERS, *COUNTS)
    numbers = [f"{name}{suffix}" for name in NUMBERS for suffix in ("", " deviation")]
    body, csv_rows = [], [[*TEXTS, *numbers, *COUNTS]]
    for texts, results in _results(runs):
        values = [[100 * (1 - row[key]) for row in results] for key in ("top1", "top5")]
        values.append([row["loss"] for row in results])
        images = " or ".join(f"{n:,}" for n in sorted({row["n"] for row in results}))
        counts = [str(len(results)), images]
        body.append([*texts, *map(mean_text, values), *counts])
        csv_rows.append([*texts, *(field for v in values for field in csv_numbers(v)), *counts])
    if not body:
        raise ValueError(
            "the reports of these runs hold no results; make some: jaxcnn evaluate --workdir=RUN "
            "--protocol=NAME"
        )
    about = [describe_run(run) for run in runs]
    return {
        "text": "\n\n".join([text_table(head, body, left=len(TEXTS)), "\n".join(about)]),
        "markdown": f"{markdown_table(head, body, left=len(TEXTS))}\n\n{bullets(about)}",
        "csv": csv_table(csv_rows),
    }


def _results(
    runs: Sequence[FinishedRun],
) -> list[tuple[tuple[str, str, str], list[Mapping[str, Any]]]]:
    """(net, protocol, split) with a row of report.json for each run of the net."""
    nets: dict[str, list[FinishedRun]] = {}
    for run in runs:
        same = _without_seeds(run.trained_config) + imported_from(run)
        nets.setdefault(same, []).append(run)
    found = []
    for same in nets.values():
        rows: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for run in same:
            for row in run_files.read_report(run.folder / "report.json")["results"]:
                if row["step"] == run.step:
                    key = (_description(same[0]), row["protocol"], row["split"])
                    rows.setdefault(key, []).append(row)
        found += rows.items()
    return found


def _without_seeds(config: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(config))
    for section in ("init", "data"):
        plain[section].pop("seed")
    for key in ("seed", "evals", "log", "checkpoint"):
        plain.pop(key)
    return json.dumps(plain, sort_keys=True)


def _description(run: FinishedRun) -> str:
    model, scale = run.trained_config["model"], scale_text(run.trained_config)
    name = f"{net_name(model)}, width {model['width']:g}, {model['image_size']} pixels{scale}"
    return ", ".join(filter(None, (name, imported_from(run))))
