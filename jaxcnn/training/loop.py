"""The training loop: draw, update, log, evaluate, save. One loop for every net; T steps are T updates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from jaxcnn.data import DataError
from jaxcnn.parallel import PeerFailed
from jaxcnn.paths import Path, user_path
from jaxcnn.training import report, run_files
from jaxcnn.training.evaluator import EvalTask
from jaxcnn.training.run_setup import Run, open_run
from jaxcnn.training.signals import Stopped
from jaxcnn.training.step_metrics import StopRequested
from jaxcnn.training.train_state import TrainState

# With several processes, PeerFailed is such an error of another one, which all raise together.
SAVED_FIRST = (Stopped, StopRequested, DataError, OSError, MemoryError, PeerFailed)


def run(
    config: Any,
    workdir: str | Path,
    *,
    command: Sequence[str] = (),
    accept_changed_data: bool = False,
) -> dict[str, Any]:
    """Trains and evaluates `config` in `workdir`; continues an earlier run there.

    Args:
        config: a ConfigDict or nested dicts, resolved or not.
        workdir: created if absent. The same workdir again resumes, and a finished run evaluates the
            protocols that its report lacks.
        command: what the user typed, for run.json.
        accept_changed_data: continue a run although its images changed after its last start.

    Returns:
        The content of report.json.

    Raises:
        ConfigError, DataError, WorkdirError, CheckpointError, WarmStartError: bad input, with what to do.
        Diverged: loss or gradients are no longer finite.
        Stopped: a signal came; the state is saved.
        OSError, MemoryError: reading or writing failed. A note of the error says whether the state is saved.
    """
    opened = open_run(config, user_path(workdir), accept_changed_data=accept_changed_data)
    with opened as this_run:
        state, primary = this_run.restore(), this_run.process_group.run_on_primary
        step, total = int(state.step), this_run.progress.total
        report.announce(this_run, step)
        primary(lambda: report.record_start(this_run, step, command))
        if 0 < step <= total:  # a stop may have come before an evaluation was done
            state = evaluate(this_run, state, this_run.evaluator.missing(step, step))
            this_run.save(state)
        if step < total:
            state = train(this_run, state)
        this_run.save(state)
        known = primary(lambda: run_files.recover_report(this_run.folder / "report.json"))
        missing = this_run.evaluator.missing(total, int(state.step), known["results"])
        this_run.evaluator.evaluate(state, missing)
        this_run.checkpoints.wait()
        best = this_run.checkpoints.best()
        this_run.writer.upload()
        return primary(lambda: report.conclude(this_run, int(state.step), best))


def train(this_run: Run, state: TrainState) -> TrainState:
    """Makes the remaining updates of `state`; evaluates and saves when due."""
    metrics, evaluator, start = this_run.step_metrics, this_run.evaluator, int(state.step)
    with this_run.train_batches(start) as batches, this_run.prefetch(batches) as prefetcher:
        try:
            train_step = this_run.compile_train_step()  # while the first batches are decoded
            metrics.restart_clock()
            for step in range(start + 1, this_run.progress.total + 1):
                epoch = this_run.progress.epoch(step - 1)
                rate = this_run.learning_rate.rate(epoch)
                with metrics.waiting_for_data():
                    batch, controls = prefetcher.next(rate, epoch)
                with jax.transfer_guard("disallow"):  # no hidden transfer to the devices
                    state, sums = train_step(state, batch, controls)
                # Freeing it releases Python's lock, which the data threads want: not in the wait above.
                del batch
                metrics.add(step, rate, sums)
                tasks, saves = evaluator.tasks(step), evaluator.saves(step)
                if tasks or saves:
                    with metrics.paused():
                        state = evaluate(this_run, state, tasks)
                        if saves:
                            this_run.save(state, batches.corrupt)
            metrics.flush()
            this_run.process_group.run_on_all(this_run.writer.check)
        except SAVED_FIRST as error:
            reason = prefetcher.explain(error)
            save_before(reason, this_run, state, batches.corrupt)
            if reason is error:
                raise
            raise reason from None
    return state


def save_before(
    reason: Exception, this_run: Run, state: TrainState, corrupt: Sequence[str]
) -> None:
    """Saves `state` because the run ends with `reason`, which stays the error that is raised, unless the run
    was only asked to stop and its state cannot be saved."""
    try:
        with contextlib.suppress(StopRequested, OSError):
            this_run.step_metrics.flush()
        this_run.save(state, corrupt)
        this_run.checkpoints.wait()
    except Exception as error:
        if isinstance(reason, Stopped):
            raise
        reason.add_note(f"Nor could the state of step {int(state.step)} be saved: {error}")
    else:
        if not isinstance(reason, Stopped):
            reason.add_note(f"The state of step {int(state.step)} is saved")


def evaluate(this_run: Run, state: TrainState, tasks: Iterable[EvalTask]) -> TrainState:
    """Runs `tasks` on `state`; returns the state after the plateau rule, if any, has seen the result."""
    this_run.evaluator.evaluate(state, tasks)
    top1 = this_run.evaluator.held_out_top1(int(state.step))
    state, dropped = this_run.learning_rate.after_evaluation(state, top1)
    if dropped:
        this_run.console.line(dropped)
    return state
