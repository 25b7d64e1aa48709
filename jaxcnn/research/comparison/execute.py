"""A comparison from end to end: trains the missing runs, writes tables and curves, publishes results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxcnn.caches import temporary_folder
from jaxcnn.files import copy_file, exists, writing
from jaxcnn.folders import make_folder
from jaxcnn.paths import Path, is_remote
from jaxcnn.research.comparison.curves import draw_comparison
from jaxcnn.research.comparison.grid import Grid
from jaxcnn.research.comparison.outcomes import outcomes, write_tables
from jaxcnn.research.comparison.work_queue import (
    ENDED,
    RunState,
    conflicting_workdirs,
    lock_owner,
    run_queue,
    run_state,
)
from jaxcnn.research.text_tables import text_table
from jaxcnn.training.console import Console
from jaxcnn.training.signals import StopSignal
from jaxcnn.training.workdir_lock import WorkdirError

TABLES = ("table.md", "table.csv", "table.txt", "curves.png")
# Files of each run. Measures over the course of training are computed from metrics.jsonl.
PUBLISHED = ("report.json", "config.json", "metrics.jsonl")


def compare(
    grids: Sequence[Grid], *, command: Sequence[str], console: Console, stop_signal: StopSignal
) -> dict[str, str]:
    """Trains the missing runs of `grids`, together with other processes that share them; then prints and
    writes the table of each comparison, and draws its curves. Arguments and result are those of `run_queue`.

    Raises:
        WorkdirError: a workdir holds a run of another config; nothing was changed.
        Stopped: a signal came; the state of the current run is saved.
    """
    runs = [run for grid in grids for run in grid.runs()]
    conflicts = conflicting_workdirs(runs)
    if conflicts:
        advice = "use another --out, or that comparison's settings"
        raise WorkdirError("\n".join([*conflicts, advice]))
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
    lines = []
    for row in rows:
        pid = "" if row["pid"] is None else f"pid {row['pid']}"
        lines.append([row["run"], row["state"], f"{row['steps']:,}", pid, row["workdir"]])
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in RunState if s in states)
    table = text_table(["run", "state", "steps", "", "workdir"], lines)
    return f"{table}\n\n{len(lines)} runs: {counts}"


def publish(grids: Sequence[Grid], to: Path) -> list[Path]:
    """Copies tables, curves and the report, config and events of each run, without checkpoints, to a folder
    per comparison in `to`; returns these folders.

    Raises:
        WorkdirError: a run has not ended; nothing was written.
    """
    states = [(run.name, run_state(run)) for grid in grids for run in grid.runs()]
    missing = [f"{name}: {state.value}" for name, state in states if state not in ENDED]
    if missing:
        advice = "only complete comparisons are published; run it first"
        raise WorkdirError("\n".join([*missing, advice]))
    for grid in grids:
        target = to / grid.comparison.name
        for run in grid.runs():
            run_target = target / run.folder.relative_to(grid.folder)
            with writing(run_target):
                make_folder(run_target)
            for name in PUBLISHED:
                if exists(run.folder / name):
                    copy_file(run.folder / name, run_target / name)
        for name in TABLES:
            copy_file(grid.folder / name, target / name)
    return [to / grid.comparison.name for grid in grids]


def share_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder`, unless the user has set a cache, so that runs which only differ
    in their seed compile once. Call it before anything is compiled. A folder in a bucket would be as slow as
    compiling: then they are kept as long as this process runs."""
    place = temporary_folder() if is_remote(folder) else folder.absolute()
    if place and jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
