"""A comparison's outcome as a table and sentences: for a screen, as Markdown and as CSV."""

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
from jaxcnn.research.comparison.measures import SeedSummary, best, running_train_error, verdict
from jaxcnn.research.comparison.work_queue import State, evaluations_of, holder, run_state
from jaxcnn.training import report
from jaxcnn.training.metrics_writer import duration, read_events


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the runs of a cell came to.

    Attributes:
        images_per_second: mean over the finished runs of each one's median; NaN without any.
        best: whether the variant counts by this cell.
    """

    cell: GridCell
    summary: SeedSummary
    images_per_second: float
    best: bool = True


def outcomes(plan: Grid) -> list[Outcome]:
    """The outcome of each cell, in the plan's order; of each variant one is the best."""
    found = [_outcome(plan, cell) for cell in plan.cells]
    result = []
    for variant in plan.comparison.variants:
        mine = [o for o in found if o.cell.variant == variant]
        chosen = best([o.summary for o in mine], plan.measure.higher_is_better)
        result += [dataclasses.replace(o, best=i == chosen) for i, o in enumerate(mine)]
    return result


def _outcome(plan: Grid, cell: GridCell) -> Outcome:
    values: list[float] = []
    ends: list[float] = []
    rates, counts = [], {"not_reached": 0, "diverged": 0, "missing": 0}
    for run in cell.runs:
        at = run_state(run)
        if at is not State.DONE:
            counts["diverged" if at is State.DIVERGED else "missing"] += 1
            continue
        whole = report.read_report(run.folder / "report.json")
        events = read_events(run.folder / "metrics.jsonl")
        value = plan.measure.value(whole, events, next(iter(evaluations_of(run)), ""))
        if value is None:
            counts["not_reached"] += 1
            ends += [error for _, error in running_train_error(events)[-1:]]
        else:
            values.append(value)
        if whole["images_per_second"]:
            rates.append(whole["images_per_second"])
    speed = statistics.fmean(rates) if rates else math.nan
    return Outcome(cell, SeedSummary(tuple(values), **counts, ends=tuple(ends)), speed)


def sentences(plan: Grid, found: Sequence[Outcome]) -> list[str]:
    """Each variant against the first one, by the best of each."""
    chosen = {o.cell.variant: o for o in found if o.best}
    baseline = plan.comparison.baseline
    lines = [
        verdict(name, o.summary, baseline, chosen[baseline].summary, plan.measure)
        for name, o in chosen.items()
        if name != baseline
    ]
    return lines + [line for o in chosen.values() for line in _edges(plan, o)]


def _edges(plan: Grid, chosen: Outcome) -> list[str]:
    """Says where the best value of a grid of three or more is its first or last: it may lie further."""
    return [
        f"{chosen.cell.variant}: its best {key}, {chosen.cell.point[key]}, is at the edge of the grid."
        for key, values in plan.comparison.grid.items()
        if len(values) > 2
        and chosen.cell.point[key] in (values[0], values[-1])
        and not math.isnan(chosen.summary.mean)
    ]


def header(plan: Grid) -> list[str]:
    """The columns of the table."""
    grid = list(plan.comparison.grid)
    measure = [plan.measure.title, "n", *(["best"] if grid else [])]
    return ["variant", *grid, *measure, "epochs", "parameters", "MACs", "images/s"]


def rows(plan: Grid, found: Sequence[Outcome]) -> list[list[str]]:
    """The table's cells as text: a row an outcome."""
    return [
        [
            o.cell.variant,
            *(f"{o.cell.point[key]}" for key in plan.comparison.grid),
            value_text(o.summary),
            count_text(o.summary),
            *(["*" if o.best else ""] if plan.comparison.grid else []),
            f"{o.cell.config['epochs']:g}",
            f"{o.cell.parameters:,}",
            f"{o.cell.macs:,}",
            "" if math.isnan(o.images_per_second) else f"{o.images_per_second:,.0f}",
        ]
        for o in found
    ]


def value_text(summary: SeedSummary) -> str:
    """`59.90 ± 0.42`: mean and standard deviation over the seeds, or why there is none."""
    if summary.not_reached:
        end = f" (ends at {100 * statistics.fmean(summary.ends):.1f} %)" if summary.ends else ""
        return f"not reached{end}"
    if not summary.values:
        return "diverged" if summary.diverged else ""
    spread = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.2f}"
    return f"{summary.mean:.2f}{spread}"


def count_text(summary: SeedSummary) -> str:
    """`3`, `3 (1 not reached)`: runs that ended, and what became of those without a value."""
    kinds = {
        "not reached": summary.not_reached,
        "diverged": summary.diverged,
        "missing": summary.missing,
    }
    notes = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{summary.runs}" + (f" ({notes})" if notes else "")


def as_text(head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns in line, for a screen: the first `left` ones to the left, the others to the right."""
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


def as_markdown(
    head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1, words: int = 0
) -> str:
    """A Markdown table: the first `left` columns and the last `words` ones to the left."""
    numbers = len(head) - left - words
    rule = [*["---"] * left, *["---:"] * numbers, *["---"] * words]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def as_csv(plan: Grid, found: Sequence[Outcome]) -> str:
    """The table with numbers bare: an empty field is one that is not known."""
    keys = list(plan.comparison.grid)
    counts = ["n", "not_reached", "diverged", "missing"]
    head = ["variant", *keys, plan.measure.name, "deviation", *counts]
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


def facts(plan: Grid) -> list[str]:
    """What the figures of a table are of: data, net, seeds, budget, machine, versions."""
    comparison, config = plan.comparison, plan.cells[0].config
    finished = [run for run in plan.runs() if run_state(run) is State.DONE]
    reports = [report.read_report(run.folder / "report.json") for run in finished]
    tested = sorted({row["n"] for r in reports for row in r["results"]})
    budget = {
        "epochs": f"all variants train {config['epochs']:g} epochs",
        "macs": "all variants spend the same multiply-adds, forward in training, as "
        f"{comparison.baseline} in {config['epochs']:g} epochs; drops of the rate move along",
    }[comparison.budget]
    model = config["model"]
    test = f", {' or '.join(f'{n:,}' for n in tested)} test images" if tested else ""
    lines = [
        f"Seeds: {', '.join(map(str, comparison.seeds))}. ± is the standard deviation over them "
        "(n - 1).",
        f"Budget: {budget}.",
        f"Net: {model['name']}, width {model['width']:g}, images of {model['image_size']} pixels. "
        "MACs are multiply-adds of one image forward in training; parameters are those of inference.",
        f"Data: {config['data']['source']}, {plan.examples:,} training images{test}"
        + (f", {', '.join(evaluations_of(plan.cells[0].runs[0]))}." if config["evals"] else "."),
    ]
    if finished:
        seconds = sum(r["seconds"] for r in reports)
        lines += [*_machines(finished), f"All runs together: {duration(seconds)}."]
    return lines


def _machines(runs: Sequence[GridRun]) -> list[str]:
    """Where and with what the runs were made; what they agree in is said once."""
    starts = [start for run in runs for start in report.read_starts(run.folder / "run.json")]
    machines = {holder(run.folder).get("machine", "unknown machine") for run in runs}
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


def write_tables(plan: Grid, found: Sequence[Outcome]) -> str:
    """Writes table.md, table.csv and table.txt into the plan's folder; gives table.txt's text."""
    head, body = header(plan), rows(plan, found)
    about = [plan.comparison.about] if plan.comparison.about else []
    said = sentences(plan, found)
    text = "\n".join([plan.comparison.name, *about, "", as_text(head, body), "", *said])
    points = "\n".join(f"* {line}" for line in [*said, *facts(plan)])
    parts = [f"# {plan.comparison.name}", *about, as_markdown(head, body), points]
    write(plan.folder / "table.md", "\n\n".join([*parts, "![curves](curves.png)"]) + "\n")
    write(plan.folder / "table.csv", as_csv(plan, found))
    write(plan.folder / "table.txt", "\n".join([text, *facts(plan)]) + "\n")
    return text


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all: other processes may write the same one."""
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    whole.write_text(text)
    whole.replace(path)
