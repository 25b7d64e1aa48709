"""Results of a comparison as a table and sentences: plain text, Markdown and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.research.comparison.grid import Grid, GridCell, GridRun
from jaxcnn.research.comparison.measures import (
    SeedSummary,
    best_summary,
    running_train_error,
    verdict,
)
from jaxcnn.research.comparison.work_queue import RunState, lock_owner, protocol_labels, run_state
from jaxcnn.training import report
from jaxcnn.training.console import duration
from jaxcnn.training.metrics_writer import read_events


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of the runs of a cell.

    Attributes:
        images_per_second: mean over the finished runs of their medians; NaN without any.
        best: whether the variant is compared by this cell.
    """

    cell: GridCell
    summary: SeedSummary
    images_per_second: float
    best: bool = True


def outcomes(grid: Grid) -> list[Outcome]:
    """The outcome of each cell, in the grid's order; one cell of each variant is the best."""
    found = [_outcome(grid, cell) for cell in grid.cells]
    result = []
    for variant in grid.comparison.variants:
        of_variant = [o for o in found if o.cell.variant == variant]
        chosen = best_summary([o.summary for o in of_variant], grid.measure.higher_is_better)
        result += [dataclasses.replace(o, best=i == chosen) for i, o in enumerate(of_variant)]
    return result


def _outcome(grid: Grid, cell: GridCell) -> Outcome:
    values: list[float] = []
    final_errors: list[float] = []
    speeds, counts = [], {"not_reached": 0, "diverged": 0, "missing": 0}
    for run in cell.runs:
        state = run_state(run)
        if state is not RunState.DONE:
            counts["diverged" if state is RunState.DIVERGED else "missing"] += 1
            continue
        results = report.read_report(run.folder / "report.json")
        events = read_events(run.folder / "metrics.jsonl")
        value = grid.measure.value(results, events, next(iter(protocol_labels(run)), ""))
        if value is None:
            counts["not_reached"] += 1
            final_errors += [error for _, error in running_train_error(events)[-1:]]
        else:
            values.append(value)
        if results["images_per_second"]:
            speeds.append(results["images_per_second"])
    speed = statistics.fmean(speeds) if speeds else math.nan
    return Outcome(
        cell, SeedSummary(tuple(values), **counts, final_errors=tuple(final_errors)), speed
    )


def sentences(grid: Grid, found: Sequence[Outcome]) -> list[str]:
    """Each variant against the first one, by the best cell of each."""
    chosen = {o.cell.variant: o for o in found if o.best}
    baseline = grid.comparison.baseline
    lines = [
        verdict(name, o.summary, baseline, chosen[baseline].summary, grid.measure)
        for name, o in chosen.items()
        if name != baseline
    ]
    return lines + [line for o in chosen.values() for line in _edges(grid, o)]


def _edges(grid: Grid, chosen: Outcome) -> list[str]:
    """Notes a best value at the edge of a grid of three or more: a better one may lie beyond."""
    return [
        f"{chosen.cell.variant}: its best {key}, {chosen.cell.point[key]}, is at the edge of the grid."
        for key, values in grid.comparison.grid.items()
        if len(values) > 2
        and chosen.cell.point[key] in (values[0], values[-1])
        and not math.isnan(chosen.summary.mean)
    ]


def table_header(grid: Grid) -> list[str]:
    """The columns of the table."""
    keys = list(grid.comparison.grid)
    measure = [grid.measure.title, "n", *(["best"] if keys else [])]
    return ["variant", *keys, *measure, "epochs", "parameters", "MACs", "images/s"]


def table_rows(grid: Grid, found: Sequence[Outcome]) -> list[list[str]]:
    """The cells of the table as text, one row per outcome."""
    return [
        [
            o.cell.variant,
            *(f"{o.cell.point[key]}" for key in grid.comparison.grid),
            value_text(o.summary),
            count_text(o.summary),
            *(["*" if o.best else ""] if grid.comparison.grid else []),
            f"{o.cell.config['epochs']:g}",
            f"{o.cell.parameters:,}",
            f"{o.cell.macs:,}",
            "" if math.isnan(o.images_per_second) else f"{o.images_per_second:,.0f}",
        ]
        for o in found
    ]


def value_text(summary: SeedSummary) -> str:
    """`59.90 ± 0.42`: mean and standard deviation over the seeds, or why there are none."""
    if summary.not_reached:
        errors = summary.final_errors
        end = f" (ends at {100 * statistics.fmean(errors):.1f} %)" if errors else ""
        return f"not reached{end}"
    if not summary.values:
        return "diverged" if summary.diverged else ""
    spread = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.2f}"
    return f"{summary.mean:.2f}{spread}"


def count_text(summary: SeedSummary) -> str:
    """`3`, `3 (1 not reached)`: the number of runs that ended, and of those without a value."""
    kinds = {
        "not reached": summary.not_reached,
        "diverged": summary.diverged,
        "missing": summary.missing,
    }
    notes = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{summary.runs}" + (f" ({notes})" if notes else "")


def text_table(head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> str:
    """A plain text table: the first `left` columns are left-aligned, the others right-aligned."""
    lines = [head, *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def join(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    text = [join(line) for line in lines]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def markdown_table(
    head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1, words: int = 0
) -> str:
    """A Markdown table: the first `left` and the last `words` columns are left-aligned."""
    numbers = len(head) - left - words
    rule = [*["---"] * left, *["---:"] * numbers, *["---"] * words]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def csv_table(grid: Grid, found: Sequence[Outcome]) -> str:
    """The table as CSV with plain numbers; unknown fields are empty."""
    keys = list(grid.comparison.grid)
    counts = ["n", "not_reached", "diverged", "missing"]
    head = ["variant", *keys, grid.measure.name, "deviation", *counts]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*head, "best", "epochs", "parameters", "macs", "images_per_second", "values"])
    for o in found:
        s = o.summary
        numbers = [s.mean, s.deviation, s.runs, s.not_reached, s.diverged, s.missing, int(o.best)]
        numbers += [o.cell.config["epochs"], o.cell.parameters, o.cell.macs, o.images_per_second]
        fields = ["" if math.isnan(n) else f"{n:.10g}" for n in numbers]
        each = " ".join(f"{v:.10g}" for v in s.values)
        writer.writerow([o.cell.variant, *(o.cell.point[k] for k in keys), *fields, each])
    return stream.getvalue()


def provenance(grid: Grid) -> list[str]:
    """Where the figures of a table come from: data, net, seeds, budget, machine, versions."""
    comparison, config = grid.comparison, grid.cells[0].config
    finished = [run for run in grid.runs() if run_state(run) is RunState.DONE]
    reports = [report.read_report(run.folder / "report.json") for run in finished]
    tested = sorted({row["n"] for r in reports for row in r["results"]})
    budget = {
        "epochs": f"all variants train {config['epochs']:g} epochs",
        "macs": "all variants spend the same multiply-adds, forward in training, as "
        f"{comparison.baseline} in {config['epochs']:g} epochs; learning rate drops are scaled along",
    }[comparison.budget]
    model = config["model"]
    test = f", {' or '.join(f'{n:,}' for n in tested)} test images" if tested else ""
    lines = [
        f"Seeds: {', '.join(map(str, comparison.seeds))}. ± is the standard deviation over them "
        "(n - 1).",
        f"Budget: {budget}.",
        f"Net: {model['name']}, width {model['width']:g}, images of {model['image_size']} pixels. "
        "MACs are multiply-adds of one image forward in training; parameters are those of inference.",
        f"Data: {config['data']['source']}, {grid.examples:,} training images{test}"
        + (f", {', '.join(protocol_labels(grid.cells[0].runs[0]))}." if config["evals"] else "."),
    ]
    if finished:
        seconds = sum(r["seconds"] for r in reports)
        lines += [*_machines(finished), f"All runs together: {duration(seconds)}."]
    return lines


def _machines(runs: Sequence[GridRun]) -> list[str]:
    """Machines, devices and versions of the runs, without repetition."""
    starts = [start for run in runs for start in report.read_starts(run.folder / "run.json")]
    machines = {lock_owner(run.folder).get("machine", "unknown machine") for run in runs}
    devices = {", ".join(s["devices"]) for s in starts}
    versions = {_versions(s) for s in starts}
    return [
        f"Machine: {'; '.join(sorted(machines))}; devices: {'; '.join(sorted(devices))}.",
        f"Versions: {'; '.join(sorted(versions))}.",
    ]


def _versions(start: Mapping[str, Any]) -> str:
    commit = start["git_commit"][:12] + (" with changes" if start["git_modified"] else "")
    versions = ", ".join(f"{p} {start['versions'][p]}" for p in ("jaxcnn", "jax", "flax"))
    return versions + (f", commit {commit}" if commit else "")


def write_tables(grid: Grid, found: Sequence[Outcome]) -> str:
    """Writes table.md, table.csv and table.txt into the grid's folder; returns the plain text."""
    head, body = table_header(grid), table_rows(grid, found)
    about = [grid.comparison.about] if grid.comparison.about else []
    verdicts = sentences(grid, found)
    text = "\n".join([grid.comparison.name, *about, "", text_table(head, body), "", *verdicts])
    points = "\n".join(f"* {line}" for line in [*verdicts, *provenance(grid)])
    parts = [f"# {grid.comparison.name}", *about, markdown_table(head, body), points]
    write_atomically(
        grid.folder / "table.md", "\n\n".join([*parts, "![curves](curves.png)"]) + "\n"
    )
    write_atomically(grid.folder / "table.csv", csv_table(grid, found))
    write_atomically(grid.folder / "table.txt", "\n".join([text, *provenance(grid)]) + "\n")
    return text


def write_atomically(path: Path, text: str) -> None:
    """Writes a file atomically: other processes may write the same one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
