"""A comparison as a figure: curves of each variant with a band over the seeds, and the final measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.caches import use_writable_caches
from jaxcnn.files import write_figure
from jaxcnn.paths import Path
from jaxcnn.research.comparison.grid import Grid, GridRun
from jaxcnn.research.comparison.measures import SeedSummary, is_reported, running_train_error
from jaxcnn.research.comparison.outcomes import Outcome, value_text
from jaxcnn.research.comparison.work_queue import RunState, protocol_labels, run_state
from jaxcnn.training.metrics_file import read_events

# Okabe and Ito's palette, safe for colour blindness; line styles distinguish variants beyond seven.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")
CURVE_LABELS = {
    "top1": "top-1 (%)",
    "loss": "training loss (nats)",
    "error": "training error of the latest epoch (%)",
}


def draw_comparison(grid: Grid, found: Sequence[Outcome], path: Path) -> None:
    """Writes a PNG. Left: each variant at its best point of the grid, as mean and standard deviation
    over the seeds. Right: the measure of every run, with mean and standard deviation."""
    use_writable_caches()
    from matplotlib.figure import Figure  # imported late: a second of start-up

    chosen = [o for o in found if o.best]
    height = max(3.8, 1.6 + 0.42 * len(chosen))
    figure = Figure(figsize=(11, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(f"{grid.comparison.name}: {grid.cells[0].config['data']['source']}")
    kind, in_epochs = curve_kind(grid, chosen), grid.comparison.budget == "epochs"
    for position, outcome in enumerate(chosen):
        colour, style = COLOURS[position % len(COLOURS)], STYLES[position // len(COLOURS) % 3]
        series = [points for run in outcome.cell.runs if len(points := _series(kind, run))]
        if series:
            epochs, mean, deviation = mean_over_seeds(series)
            x = epochs if in_epochs else epochs * grid.examples * outcome.cell.macs / 1e12
            left.plot(x, mean, lw=1.6, color=colour, ls=style, label=outcome.cell.label(short=True))
            left.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.18, lw=0)
        _points(right, position, outcome.summary, colour)
    _label_axes(grid, kind, left, right, [o.cell.label(short=True) for o in chosen])
    write_figure(path, figure, dpi=120)


def curve_kind(grid: Grid, chosen: Sequence[Outcome]) -> str:
    """What the left panel shows, a key of CURVE_LABELS: top-1 if it was evaluated three times or more."""
    if not grid.measure.is_top1:
        return "error"
    counts = [len(_series("top1", run)) for o in chosen for run in o.cell.runs]
    return "top1" if max(counts) > 2 else "loss"


def mean_over_seeds(series: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(epochs, mean, standard deviation) at the epochs that all runs have. The deviation of one run is 0.

    Args:
        series: of each run, float64[points, 2] of (epoch, value).
    """
    shared = sorted(set.intersection(*({*points[:, 0].tolist()} for points in series)))
    values = np.asarray([[dict(points.tolist())[epoch] for epoch in shared] for points in series])
    spread = values.std(axis=0, ddof=1) if len(series) > 1 else np.zeros(len(shared))
    return np.asarray(shared), values.mean(axis=0), spread


def _series(kind: str, run: GridRun) -> np.ndarray:
    """float64[points, 2] of (epoch, value) of a finished run; empty if there is nothing to draw."""
    points: list[tuple[float, float]] = []
    if run_state(run) is RunState.DONE:
        events = read_events(run.folder / "metrics.jsonl")
        if kind == "error":
            points = [(epoch, 100.0 * error) for epoch, error in running_train_error(events)]
        elif kind == "loss":
            points = [(e["epoch"], e["loss"]) for e in events if e["kind"] == "train"]
        else:
            label = protocol_labels(run)[0]
            rows = [e for e in events if e["kind"] == "eval" and is_reported(e, label)]
            points = [(e["epoch"], 100.0 * e["top1"]) for e in rows]
    return np.asarray(points, np.float64).reshape(-1, 2)


def _points(axes: Any, position: int, summary: SeedSummary, colour: str) -> None:
    """A row of the right panel: each run as a small point, mean and standard deviation as a bar below."""
    rows = [position - 0.18] * len(summary.values)
    axes.plot(summary.values, rows, "o", ms=4, color=colour, alpha=0.5)
    if not np.isnan(summary.mean):
        spread = None if np.isnan(summary.deviation) else summary.deviation
        bar = {"fmt": "D", "ms": 5.5, "capsize": 4, "lw": 1.8, "color": colour}
        axes.errorbar(summary.mean, position, xerr=spread, **bar)
        return
    place = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "center"}
    axes.text(0.5, position, value_text(summary) or "no finished run", color=colour, **place)


def _label_axes(grid: Grid, kind: str, left: Any, right: Any, names: Sequence[str]) -> None:
    xlabel = "epoch" if grid.comparison.budget == "epochs" else "multiply-adds forward ($10^{12}$)"
    left.set(xlabel=xlabel, ylabel=CURVE_LABELS[kind], xlim=(0, None))
    if kind == "error":
        left.axhline(100 * grid.measure.threshold, color="0.5", lw=1, ls="--", zorder=0)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize=9, frameon=False)
    right.set(xlabel=grid.measure.title, yticks=range(len(names)), yticklabels=names)
    right.set_ylim(len(names) - 0.5, -0.5)  # the first variant on top
    right.margins(x=0.15)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
