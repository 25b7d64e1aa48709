"""The training loop: draw, update, log, evaluate, save. One loop for every net; T steps are T updates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.data import DataError
from jaxcnn.files import user_path
from jaxcnn.training import report
from jaxcnn.training.evaluator import EvalTask
from jaxcnn.training.run_setup import Run, open_run
from jaxcnn.training.signals import Stopped
from jaxcnn.training.step_metrics import StopRequested
from jaxcnn.training.train_state import TrainState


def run(config: Any, workdir: str | Path, *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Trains and evaluates `config` in `workdir`; continues an earlier run there.

    Args:
        config: a ConfigDict or nested dicts, resolved or not.
        workdir: created if absent. The same workdir again resumes, and a finished run evaluates the
            protocols that its report lacks.
        command: what the user typed, for run.json.

    Returns:
        The content of report.json.

    Raises:
        ConfigError, DataError, WorkdirError, CheckpointError, WarmStartError: bad input, with what to do.
        Diverged: loss or gradients are no longer finite.
        Stopped: a signal came; the state is saved.
    """
    with open_run(config, user_path(workdir)) as parts:
        state, primary = parts.restore(), parts.process_group.run_on_primary
        step, total = int(state.step), parts.progress.total
        report.announce(parts, step)
        primary(lambda: report.record_start(parts, step, command))
        if 0 < step <= total:  # a stop may have come before an evaluation was done
            state = evaluate(parts, state, parts.evaluator.missing(step, step))
            parts.save(state)
        if step < total:
            state = train(parts, state)
        parts.save(state)
        known = primary(lambda: report.read_report(parts.folder / "report.json"))
        missing = parts.evaluator.missing(total, int(state.step), known["results"])
        parts.evaluator.evaluate(state, missing)
        parts.checkpoints.wait()
        best = parts.checkpoints.best()
        return primary(lambda: report.conclude(parts, int(state.step), best))


def train(parts: Run, state: TrainState) -> TrainState:
    """Makes the remaining updates of `state`; evaluates and saves when due."""
    metrics, evaluator, begun = parts.step_metrics, parts.evaluator, int(state.step)
    with parts.train_batches(begun) as batches, parts.prefetch(batches) as prefetcher:
        try:
            train_step = parts.compile_train_step()  # while the first batches are decoded
            metrics.restart_clock()
            for step in range(begun + 1, parts.progress.total + 1):
                epoch = parts.progress.epoch(step - 1)
                rate = parts.learning_rate.rate(epoch)
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
                        state = evaluate(parts, state, tasks)
                        if saves:
                            parts.save(state, batches.corrupt)
            metrics.flush()
        except (Stopped, StopRequested, DataError) as error:
            with contextlib.suppress(StopRequested):
                metrics.flush()
            parts.save(state, batches.corrupt)
            parts.checkpoints.wait()
            prefetcher.explain(error)
            raise
    return state


def evaluate(parts: Run, state: TrainState, tasks: Iterable[EvalTask]) -> TrainState:
    """Runs `tasks` on `state`; returns the state after the plateau rule, if any, has seen the result."""
    parts.evaluator.evaluate(state, tasks)
    top1 = parts.evaluator.held_out_top1(int(state.step))
    state, dropped = parts.learning_rate.after_evaluation(state, top1)
    if dropped:
        parts.console.line(dropped)
    return state
