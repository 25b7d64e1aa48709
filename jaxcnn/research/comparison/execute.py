"""A comparison from end to end: trains the missing runs, writes tables and curves, publishes results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.research.comparison.curves import draw_comparison
from jaxcnn.research.comparison.grid import Grid
from jaxcnn.research.comparison.outcomes import outcomes, text_table, write_tables
from jaxcnn.research.comparison.work_queue import (
    RunState,
    conflicting_workdirs,
    lock_owner,
    run_queue,
    run_state,
)
from jaxcnn.training.console import Console
from jaxcnn.training.signals import StopSignal
from jaxcnn.training.workdir import WorkdirError

TABLES = ("table.md", "table.csv", "table.txt", "curves.png")
# Files of each run. Measures over the course of training are computed from metrics.jsonl.
PUBLISHED = ("report.json", "config.json", "metrics.jsonl")


def compare(
    grids: Sequence[Grid], *, command: Sequence[str], console: Console, stop_signal: StopSignal
) -> dict[str, str]:
    """Trains the missing runs of `grids`, together with other processes that share them; then prints and
    writes the table of each comparison, and draws its curves.

    Args:
        command: what the user typed, for each run.json.
        stop_signal: entered.

    Returns:
        Name -> error of the runs that failed in this process.

    Raises:
        WorkdirError: a workdir holds a run of another config; nothing was changed.
        Stopped: a signal came; the state of the current run is saved.
    """
    runs = [run for grid in grids for run in grid.runs()]
    conflicts = conflicting_workdirs(runs)
    if conflicts:
        raise WorkdirError(
            "\n".join(conflicts) + "\nuse another --out, or that comparison's settings"
        )
    errors = run_queue(runs, command=command, console=console, stop_signal=stop_signal)
    for grid in grids:
        found = outcomes(grid)
        console.line("\n" + write_tables(grid, found))
        draw_comparison(grid, found, grid.folder / "curves.png")
        console.line(f"table.md, table.csv, table.txt and curves.png in {grid.folder}")
    return errors


def run_rows(grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """Name, state, steps, process id (None if it is not running) and workdir of every run."""
    rows = []
    for run in (run for grid in grids for run in grid.runs()):
        state = run_state(run)
        pid = lock_owner(run.folder).get("pid", "?") if state is RunState.RUNNING else None
        row = {"run": run.name, "state": state.value, "steps": run.steps, "pid": pid}
        rows.append({**row, "workdir": str(run.folder)})
    return rows


def overview(grids: Sequence[Grid]) -> str:
    """A table of every run with its state and workdir, and the number of runs in each state."""
    rows = run_rows(grids)
    lines = [
        [
            row["run"],
            row["state"],
            f"{row['steps']:,}",
            "" if row["pid"] is None else f"pid {row['pid']}",
            row["workdir"],
        ]
        for row in rows
    ]
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(s.value)} {s.value}" for s in RunState if s.value in states)
    table = text_table(["run", "state", "steps", "", "workdir"], lines)
    return f"{table}\n\n{len(lines)} runs: {counts}"


def publish(grids: Sequence[Grid], to: Path) -> list[Path]:
    """Copies tables, curves and the report, config and events of each run below `to`; no checkpoints.

    Returns:
        The folders written, one per comparison.

    Raises:
        WorkdirError: a run has not ended; nothing was written.
    """
    missing = [
        f"{run.name}: {run_state(run).value}"
        for grid in grids
        for run in grid.runs()
        if run_state(run) not in (RunState.DONE, RunState.DIVERGED)
    ]
    if missing:
        raise WorkdirError(
            "\n".join(missing) + "\nonly complete comparisons are published; run it first"
        )
    folders = []
    for grid in grids:
        target = to / grid.comparison.name
        folders.append(target)
        for run in grid.runs():
            run_target = target / run.folder.relative_to(grid.folder)
            run_target.mkdir(parents=True, exist_ok=True)
            for name in PUBLISHED:
                if (run.folder / name).exists():
                    shutil.copyfile(run.folder / name, run_target / name)
        for name in TABLES:
            shutil.copyfile(grid.folder / name, target / name)
    return folders


def share_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder`, unless the user has set a cache, so that runs which only differ
    in their seed compile once. Call it before anything is compiled."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
