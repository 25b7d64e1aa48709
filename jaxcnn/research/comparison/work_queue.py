"""Trains the missing runs of comparisons, shared by any number of processes.

A process locks a file in the workdir of its run. The operating system frees the lock when the process ends
in any way, and the next process resumes the run. The file system must have `flock`, as every local one does.
In a bucket the lock is a lease, which the next process takes over when nobody renews it.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import gc
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import jax

from jaxcnn import config as configs
from jaxcnn.data.loader import processor_name
from jaxcnn.files import FileError, exists, read_json, write_text, writing
from jaxcnn.paths import Path, is_remote
from jaxcnn.research.comparison.grid import GridRun
from jaxcnn.research.comparison.measures import is_reported
from jaxcnn.training import Diverged, run_files, schema
from jaxcnn.training import run as train
from jaxcnn.training.checkpoint import CheckpointError
from jaxcnn.training.console import Console
from jaxcnn.training.data_record import recorded_digests
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.workdir import WorkdirError, has_begun
from jaxcnn.training.workdir_errors import WorkdirInUse
from jaxcnn.training.workdir_lease import hold_lease

LOCK_FILE, LEASE, DIVERGED = "holder.json", ".queue_lease", "diverged.json"


class RunState(enum.StrEnum):
    """State of a run. WAITING: started, but no process is running it."""

    DONE = "done"
    DIVERGED = "diverged"
    RUNNING = "running"
    WAITING = "waiting"
    TO_DO = "to do"


ENDED = (RunState.DONE, RunState.DIVERGED)


def run_state(run: GridRun) -> RunState:
    """The state of a run, from the files in its workdir."""
    if ended := _how_it_ended(run):
        return ended
    if _is_locked(run.folder):
        return RunState.RUNNING
    return RunState.WAITING if exists(run.folder / "run.json") else RunState.TO_DO


def _how_it_ended(run: GridRun) -> RunState | None:
    """DONE, DIVERGED, or None if the run has not ended. Does not touch the lock, which another process may be
    taking at this moment."""
    if _is_complete(run):
        return RunState.DONE
    return RunState.DIVERGED if exists(run.folder / DIVERGED) else None


def _is_complete(run: GridRun) -> bool:
    """Whether the report has a result of every protocol of the run at its last step."""
    found = run_files.report_or_empty(run.folder / "report.json")
    return found.get("step") == run.steps and all(
        any(is_reported(row, label) for row in found["results"]) for label in protocol_labels(run)
    )


def protocol_labels(run: GridRun) -> list[str]:
    """Labels of the protocols of a run, in the order of its config."""
    image_size = run.config["model"]["image_size"]
    return [protocol.label(image_size) for protocol in schema.run_protocols(run.config)]


def conflicting_workdirs(runs: Sequence[GridRun]) -> list[str]:
    """Workdirs that hold a run of another config, each with the differences. Changes nothing."""
    found = []
    for run in runs:
        path = run.folder / "config.json"
        has_results = has_begun(run.folder) or exists(run.folder / "report.json")
        if not has_results or not exists(path):
            continue  # nothing would be lost
        try:
            saved = schema.read_saved_config(path)
            compared = bool(recorded_digests(run.folder))
        except FileError as error:
            found.append(str(error))
            continue
        if not saved["model"]["num_classes"]:  # as --print_config prints it; taken from the data
            saved["model"]["num_classes"] = run.config["model"]["num_classes"]
        changed = configs.forbidden_difference(saved, run.config, any_place=compared)
        steps = run_files.report_or_empty(run.folder / "report.json").get("step", 0)
        if steps > run.steps:
            changed.append(f"its run has {steps} steps, this one ends at {run.steps}")
        if changed:
            found.append(f"{run.folder} holds another run:\n  " + "\n  ".join(changed))
    return found


def lock_owner(folder: Path) -> dict[str, Any]:
    """`pid`, `host` and `machine` of the process that holds or last held the lock; {} if none did."""
    try:
        return read_json(folder / LOCK_FILE, {"pid?": int, "machine?": str}, advice="")
    except FileError:  # it may be written at this moment
        return {}


@contextlib.contextmanager
def acquire(folder: Path, check_stop: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Locks the run in `folder`; yields False if another process has it. Waits only in a bucket, until the
    holder of the lease renews it or has to count as gone; `check_stop` is called meanwhile.
    """
    path = folder / LOCK_FILE
    if is_remote(folder):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold_lease(folder / LEASE, check_stop))
            except WorkdirInUse:
                yield False
                return
            write_text(path, json.dumps(_this_process()))
            yield True
        return
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_at_once(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with open(descriptor, "a", encoding="utf-8") as file:
        acquired = _try_lock(file, fcntl.LOCK_EX)
        if acquired:
            file.truncate(0)
            json.dump(_this_process(), file)
            file.flush()
        yield acquired  # closing the file frees the lock


def _this_process() -> dict[str, Any]:
    here = f"{processor_name()}, {os.cpu_count()} cores"
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": here}


def _is_locked(folder: Path) -> bool:
    """Whether a process has locked the run in `folder`; in a bucket, or had and was killed."""
    if is_remote(folder):
        return exists(folder / LEASE)
    try:
        with open(folder / LOCK_FILE, encoding="utf-8", opener=_open_at_once) as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _open_at_once(path: str | Path, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)  # a FIFO would wait for its reader


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_queue(
    runs: Sequence[GridRun],
    *,
    command: Sequence[str],
    console: Console,
    stop_signal: StopSignal,
    poll_seconds: float = 2.0,
) -> dict[str, str]:
    """Trains the missing ones of `runs`, and waits for those that other processes train. A run that diverges
    is marked in its workdir.

    Args:
        command: what the user typed, for each run.json.
        stop_signal: entered; checked between runs and while waiting.

    Returns:
        Name -> error of the runs that failed in this process.

    Raises:
        Stopped: a signal came; the state of the current run is saved.
    """
    errors: dict[str, str] = {}
    while True:
        locked: list[GridRun] = []
        for number, run in enumerate(runs, 1):
            stop_signal.check()
            if run.name in errors or _how_it_ended(run):
                continue
            with acquire(run.folder, stop_signal.check) as acquired:
                if not acquired:
                    locked.append(run)
                elif not _how_it_ended(run):  # another process may just have finished it
                    console.line(f"\nrun {number} of {len(runs)}: {run.name}")
                    error = _train(run, command, console)
                    errors |= {run.name: error} if error else {}
        if not locked:
            return errors
        pids = ", ".join(sorted({str(lock_owner(run.folder).get("pid", "?")) for run in locked}))
        console.progress(f"waiting for {len(locked)} runs in other processes (pid {pids}) ...")
        end = time.monotonic() + poll_seconds
        while time.monotonic() < end:
            stop_signal.check()
            time.sleep(0.1)


def _train(run: GridRun, command: Sequence[str], console: Console) -> str:
    """Trains `run`; returns the error, or ''."""
    try:
        train(run.config, run.folder, command=command)
    except Diverged as error:
        write_text(run.folder / DIVERGED, json.dumps({"message": str(error)}, indent=2) + "\n")
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
