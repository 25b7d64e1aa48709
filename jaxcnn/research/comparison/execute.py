"""A comparison from end to end: has the missing runs made, then writes tables and pictures, publishes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxcnn.research.comparison.curves import draw_curves
from jaxcnn.research.comparison.grid import Grid
from jaxcnn.research.comparison.outcomes import as_text, outcomes, write_tables
from jaxcnn.research.comparison.work_queue import State, holder, run_state, strangers, work_through
from jaxcnn.training.metrics_writer import Console
from jaxcnn.training.signals import StopSignal
from jaxcnn.training.workdir import WorkdirError

TABLES = ("table.md", "table.csv", "table.txt", "curves.png")
# Of each run. metrics.jsonl holds what measures of the course of training are read from.
PUBLISHED = ("report.json", "config.json", "metrics.jsonl")


def compare(
    plans: Sequence[Grid], *, command: Sequence[str], console: Console, stop_signal: StopSignal
) -> dict[str, str]:
    """Does the runs of `plans` that are missing, with whatever other processes share them; then writes
    and prints each comparison's table, and draws its curves.

    Args:
        command: what the user typed, for each run.json.
        stopper: entered.

    Returns:
        Name -> error of the runs that failed here.

    Raises:
        WorkdirError: a workdir holds a run of another config; nothing was changed.
        Stopped: a signal came; the state of the run at hand is saved.
    """
    runs = [run for plan in plans for run in plan.runs()]
    found = strangers(runs)
    if found:
        raise WorkdirError("\n".join(found) + "\nuse another --out, or that comparison's settings")
    errors = work_through(runs, command=command, console=console, stop_signal=stop_signal)
    for plan in plans:
        report = outcomes(plan)
        console.line("\n" + write_tables(plan, report))
        draw_curves(plan, report, plan.folder / "curves.png")
        console.line(f"table.md, table.csv, table.txt and curves.png in {plan.folder}")
    return errors


def overview(plans: Sequence[Grid]) -> str:
    """Every run with its state and workdir, and a count by state. Computes nothing."""
    lines, states = [], []
    for plan in plans:
        for run in plan.runs():
            at = run_state(run)
            pid = f"pid {holder(run.folder).get('pid', '?')}" if at is State.RUNNING else ""
            states.append(at)
            lines.append([run.name, at.value, f"{run.steps:,}", pid, str(run.folder)])
    counts = ", ".join(f"{states.count(s)} {s.value}" for s in State if s in states)
    return (
        as_text(["run", "state", "steps", "", "workdir"], lines)
        + f"\n\n{len(lines)} runs: {counts}"
    )


def publish(plans: Sequence[Grid], to: Path) -> list[Path]:
    """Copies tables, pictures and each run's report, config and events below `to`; no checkpoints.

    Returns:
        The folders written, one a comparison.

    Raises:
        WorkdirError: a run has not ended; nothing was written.
    """
    missing = [
        f"{run.name}: {run_state(run).value}"
        for plan in plans
        for run in plan.runs()
        if run_state(run) not in (State.DONE, State.DIVERGED)
    ]
    if missing:
        raise WorkdirError(
            "\n".join(missing) + "\nonly what is complete is published; run it first"
        )
    folders = []
    for plan in plans:
        place = to / plan.comparison.name
        folders.append(place)
        for run in plan.runs():
            there = place / run.folder.relative_to(plan.folder)
            there.mkdir(parents=True, exist_ok=True)
            for name in PUBLISHED:
                if (run.folder / name).exists():
                    shutil.copyfile(run.folder / name, there / name)
        for name in TABLES:
            shutil.copyfile(plan.folder / name, place / name)
    return folders


def share_programs(folder: Path) -> None:
    """Keeps compiled programs in `folder`, unless the user keeps them somewhere already, so that runs
    which differ by their seed alone compile once. Call it before anything is compiled."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
