"""Does the runs of a plan that are missing, however many processes share them.

A process holds a run by a lock on a file in its workdir, which the system frees when the process ends,
however it ends; so whoever comes by next takes the run and resumes it. The folder must lie on a file
system with `flock`, which any local one is.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import gc
import json
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn import config as configs
from jaxcnn.research.comparison.grid import GridRun
from jaxcnn.research.comparison.measures import is_reported
from jaxcnn.training import Diverged, evaluator, report
from jaxcnn.training import run as train
from jaxcnn.training.checkpoint import CheckpointError
from jaxcnn.training.metrics_writer import Console
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.workdir import WorkdirError, has_begun

HOLDER, DIVERGED = "holder.json", "diverged.json"


class State(enum.StrEnum):
    """Of a run. Waiting: begun, and nobody is at it."""

    DONE = "done"
    DIVERGED = "diverged"
    RUNNING = "running"
    WAITING = "waiting"
    TO_DO = "to do"


def run_state(run: GridRun) -> State:
    """What the files of a run say."""
    if is_done(run):
        return State.DONE
    if (run.folder / DIVERGED).exists():
        return State.DIVERGED
    if _is_held(run.folder):
        return State.RUNNING
    return State.WAITING if (run.folder / "run.json").exists() else State.TO_DO


def is_done(run: GridRun) -> bool:
    """Whether the report has every protocol of the run at its last step."""
    found = report.read_report(run.folder / "report.json")
    if found.get("step") != run.steps:
        return False
    return all(
        any(is_reported(row, label) for row in found["results"]) for label in evaluations_of(run)
    )


def evaluations_of(run: GridRun) -> list[str]:
    """Labels of the protocols of a run, in the config's order."""
    side = run.config["model"]["image_size"]
    return [protocol.label(side) for protocol in evaluator.run_protocols(run.config)]


def strangers(runs: Sequence[GridRun]) -> list[str]:
    """Workdirs that hold a run of another plan, each with what differs. Nothing is changed."""
    found = []
    for run in runs:
        path = run.folder / "config.json"
        worth = has_begun(run.folder) or (run.folder / "report.json").exists()
        if not (worth and path.exists()):
            continue  # nothing is lost by another config
        try:
            changed = configs.forbidden_difference(configs.load_config(path), run.config)
        except ValueError as error:
            found.append(f"{path} is not readable as JSON ({error})")
            continue
        there = report.read_report(run.folder / "report.json").get("step", 0)
        if there > run.steps:
            changed.append(f"the run there has {there} steps, this one ends at {run.steps}")
        if changed:
            found.append(f"{run.folder} holds another run:\n  " + "\n  ".join(changed))
    return found


def machine() -> str:
    """The processor of this machine and how many cores it has."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores"


def holder(folder: Path) -> dict[str, Any]:
    """Who holds a run, or held it last: `pid`, `host` and `machine`; {} where nobody did."""
    try:
        return json.loads((folder / HOLDER).read_text())
    except (OSError, ValueError):  # it may be written just now
        return {}


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Holds the run in `folder` while entered; False where another process does. Never waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / HOLDER).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "machine": machine()}, file)
        file.flush()
        yield True  # closing the file frees the lock, and so does the end of the process


def work_through(
    runs: Sequence[GridRun],
    *,
    command: Sequence[str],
    console: Console,
    stop_signal: StopSignal,
    poll_seconds: float = 2.0,
) -> dict[str, str]:
    """Does those of `runs` that nobody has done, and waits for those that others are doing.

    A run that diverges is noted in its workdir. One that fails otherwise is left, the others go on.

    Args:
        command: what the user typed, for each run.json.
        stopper: entered; asked between runs and while waiting.

    Returns:
        Name -> error of the runs that failed here.

    Raises:
        Stopped: a signal came; the state of the run at hand is saved.
    """
    errors: dict[str, str] = {}
    while True:
        held: list[GridRun] = []
        for number, run in enumerate(runs, 1):
            stop_signal.check()
            if run.name in errors or _is_over(run):
                continue
            with claim(run.folder) as mine:
                if not mine:
                    held.append(run)
                elif not _is_over(run):  # another process may just have left it
                    console.line(f"\nrun {number} of {len(runs)}: {run.name}")
                    error = _execute(run, command, console)
                    errors |= {run.name: error} if error else {}
        if not held:
            return errors
        who = sorted({str(holder(run.folder).get("pid", "?")) for run in held})
        console.progress(f"waiting for {len(held)} runs that others do (pid {', '.join(who)}) ...")
        _wait(poll_seconds, stop_signal)


def _execute(run: GridRun, command: Sequence[str], console: Console) -> str:
    """Trains `run`; what went wrong, or ''."""
    try:
        train(run.config, run.folder, command=command)
    except Diverged as error:
        (run.folder / DIVERGED).write_text(json.dumps({"message": str(error)}, indent=2) + "\n")
        console.line(f"{run.name} diverged: {error}")
    except Stopped:
        raise
    except (ValueError, OSError, CheckpointError, WorkdirError) as error:
        console.line(f"{run.name} failed: {error}")
        return str(error)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return f"{type(error).__name__}: {error}"
    finally:
        jax.clear_caches()  # programs and their constants
        gc.collect()
    return ""


def _is_over(run: GridRun) -> bool:
    return is_done(run) or (run.folder / DIVERGED).exists()


def _is_held(folder: Path) -> bool:
    """Whether a process holds the run in `folder`; looks without taking it."""
    try:
        with (folder / HOLDER).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _wait(seconds: float, stop_signal: StopSignal) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stop_signal.check()
        time.sleep(0.1)
