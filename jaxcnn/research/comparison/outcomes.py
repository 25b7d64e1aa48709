"""Results of a comparison as a table and sentences: plain text, Markdown and CSV."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from jaxcnn.files import write_text
from jaxcnn.research.comparison.grid import Grid, GridCell, GridRun
from jaxcnn.research.comparison.measures import (
    SeedSummary,
    best_summary,
    running_train_error,
    verdict,
)
from jaxcnn.research.comparison.work_queue import RunState, lock_owner, protocol_labels, run_state
from jaxcnn.research.text_tables import (
    bullets,
    csv_numbers,
    csv_table,
    markdown_table,
    mean_text,
    text_table,
)
from jaxcnn.training import run_files
from jaxcnn.training.console import duration
from jaxcnn.training.metrics_file import read_events


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of the runs of a cell."""

    cell: GridCell
    summary: SeedSummary
    images_per_second: float  # mean over the finished runs of their medians; NaN without any
    best: bool = True  # whether the variant is compared by this cell


def outcomes(grid: Grid) -> list[Outcome]:
    """The outcome of each cell, in the grid's order; one cell of each variant is the best."""
    found = [_outcome(grid, cell) for cell in grid.cells]
    result = []
    for variant in grid.comparison.variants:
        of_variant = [o for o in found if o.cell.variant == variant]
        chosen = best_summary([o.summary for o in of_variant], grid.measure.is_top1)
        result += [dataclasses.replace(o, best=i == chosen) for i, o in enumerate(of_variant)]
    return result


def _outcome(grid: Grid, cell: GridCell) -> Outcome:
    values, final_errors, speeds = [], [], []
    counts = {"not_reached": 0, "diverged": 0, "missing": 0}
    for run in cell.runs:
        state = run_state(run)
        if state is not RunState.DONE:
            counts["diverged" if state is RunState.DIVERGED else "missing"] += 1
            continue
        results = run_files.read_report(run.folder / "report.json")
        events = read_events(run.folder / "metrics.jsonl")
        value = grid.measure.value(results, events, next(iter(protocol_labels(run)), ""))
        if value is None:
            counts["not_reached"] += 1
            final_errors += [error for _, error in running_train_error(events)[-1:]]
        else:
            values.append(value)
        if results["images_per_second"]:
            speeds.append(results["images_per_second"])
    summary = SeedSummary(tuple(values), **counts, final_errors=tuple(final_errors))
    return Outcome(cell, summary, statistics.fmean(speeds) if speeds else math.nan)


def sentences(grid: Grid, found: Sequence[Outcome]) -> list[str]:
    """Each variant against the first one, by the best cell of each; and a note where a best value is at the
    edge of a grid of three or more, since a better one may lie outside."""
    best = [o for o in found if o.best]
    base = best[0]
    lines = [
        verdict(o.cell.variant, o.summary, base.cell.variant, base.summary, grid.measure)
        for o in best[1:]
    ]
    for o in best:
        for key, values in grid.comparison.grid.items():
            value = o.cell.point[key]
            at_edge = len(values) > 2 and value in (values[0], values[-1])
            if at_edge and not math.isnan(o.summary.mean):
                lines.append(
                    f"{o.cell.variant}: its best {key}, {value}, is at the edge of the grid."
                )
    return lines


def table_header(grid: Grid) -> list[str]:
    """The columns of the table."""
    keys = list(grid.comparison.grid)
    best = ["best"] if keys else []
    columns = ["variant", *keys, grid.measure.title, "n", *best, "epochs"]
    return [*columns, "parameters", "MACs", "images/s"]


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
    if summary.values:
        return mean_text(summary.values)
    return "diverged" if summary.diverged else ""


def count_text(summary: SeedSummary) -> str:
    """`3`, `3 (1 not reached)`: the number of runs that ended, and of those without a value."""
    kinds = ("not_reached", "diverged", "missing")
    counts = [(getattr(summary, kind), kind.replace("_", " ")) for kind in kinds]
    notes = ", ".join(f"{count} {kind}" for count, kind in counts if count)
    return f"{summary.runs}" + (f" ({notes})" if notes else "")


def _csv(grid: Grid, found: Sequence[Outcome]) -> str:
    """The table as CSV with plain numbers; unknown fields are empty."""
    keys = list(grid.comparison.grid)
    head = ["variant", *keys, grid.measure.name, "deviation", "n"]
    head += ["not_reached", "diverged", "missing", "best", "epochs", "parameters", "macs"]
    rows: list[list[Any]] = [[*head, "images_per_second", "values"]]
    for o in found:
        s = o.summary
        numbers = [s.runs, s.not_reached, s.diverged, s.missing, int(o.best)]
        numbers += [o.cell.config["epochs"], o.cell.parameters, o.cell.macs, o.images_per_second]
        fields = csv_numbers(() if s.not_reached else s.values)
        fields += ["" if math.isnan(n) else f"{n:.10g}" for n in numbers]
        values = " ".join(f"{v:.10g}" for v in s.values)
        rows.append([o.cell.variant, *(o.cell.point[k] for k in keys), *fields, values])
    return csv_table(rows)


def provenance(grid: Grid) -> list[str]:
    """Where the figures of a table come from: data, net, seeds, budget, machine, versions."""
    comparison, config = grid.comparison, grid.cells[0].config
    model, epochs = config["model"], f"{config['epochs']:g} epochs"
    finished = [run for run in grid.runs() if run_state(run) is RunState.DONE]
    reports = [run_files.read_report(run.folder / "report.json") for run in finished]
    tested = sorted({row["n"] for r in reports for row in r["results"]})
    data = [config["data"]["source"], f"{grid.examples:,} training images"]
    data += [f"{' or '.join(f'{n:,}' for n in tested)} test images"] if tested else []
    data += protocol_labels(grid.cells[0].runs[0]) if config["evals"] else []
    budget = {
        "epochs": f"all variants train {epochs}",
        "macs": "all variants spend the same multiply-adds, forward in training, as "
        f"{comparison.baseline} in {epochs}; learning rate drops are scaled along",
    }[comparison.budget]
    lines = [
        f"Seeds: {', '.join(map(str, comparison.seeds))}. ± is the standard deviation over them "
        "(n - 1).",
        f"Budget: {budget}.",
        f"Net: {model['name']}, width {model['width']:g}, images of {model['image_size']} pixels. "
        "MACs are multiply-adds of one image forward in training; parameters are those of inference.",
        f"Data: {', '.join(data)}.",
    ]
    if finished:
        seconds = duration(sum(r["seconds"] for r in reports))
        lines += [*_machines(finished), f"All runs together: {seconds}."]
    return lines


def _machines(runs: Sequence[GridRun]) -> list[str]:
    """Machines, devices and versions of the runs, without repetition."""
    starts = [start for run in runs for start in run_files.read_starts(run.folder / "run.json")]
    machines = {lock_owner(run.folder).get("machine", "unknown machine") for run in runs}
    devices = {", ".join(s["devices"]) for s in starts}
    versions = set()
    for start in starts:
        packages = [f"{p} {start['versions'][p]}" for p in ("jaxcnn", "jax", "flax")]
        commit = start["git_commit"][:12] + (" with changes" if start["git_modified"] else "")
        versions.add(", ".join(packages + ([f"commit {commit}"] if commit else [])))
    return [
        f"Machine: {'; '.join(sorted(machines))}; devices: {'; '.join(sorted(devices))}.",
        f"Versions: {'; '.join(sorted(versions))}.",
    ]


def write_tables(grid: Grid, found: Sequence[Outcome]) -> str:
    """Writes table.md, table.csv and table.txt into the grid's folder; returns the plain text."""
    name, origin = grid.comparison.name, provenance(grid)
    head, body = table_header(grid), table_rows(grid, found)
    about = [grid.comparison.about] if grid.comparison.about else []
    verdicts = sentences(grid, found)
    text = "\n".join([name, *about, "", text_table(head, body), "", *verdicts])
    notes = bullets([*verdicts, *origin])
    page = [f"# {name}", *about, markdown_table(head, body), notes, "![curves](curves.png)\n"]
    files = {"md": "\n\n".join(page), "csv": _csv(grid, found)}
    files["txt"] = "\n".join([text, *origin]) + "\n"
    for suffix, content in files.items():
        write_text(grid.folder / f"table.{suffix}", content)
    return text
