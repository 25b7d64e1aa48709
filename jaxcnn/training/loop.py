"""The training loop: draw, update, log, evaluate, save. One loop for every net; T steps are T updates."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.data import DataError, DataSplits
from jaxcnn.parallel import ProcessGroup, check_same, join_process_group
from jaxcnn.training import report, schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.console import Compiler, Console
from jaxcnn.training.evaluator import Evaluator, open_splits
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.metrics_writer import MetricsWriter
from jaxcnn.training.prefetch import Prefetcher, open_train_batches
from jaxcnn.training.run_statistics import obtain_statistics
from jaxcnn.training.schedules import LearningRate, Progress
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.step_metrics import Diverged, StepMetrics, StopRequested
from jaxcnn.training.train_state import TrainState
from jaxcnn.training.warm_start import WarmStart, first_state, read_warm_start
from jaxcnn.training.workdir import check_shared, claim_workdir, has_begun


def run(
    config: Any,
    workdir: str | Path,
    *,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains and evaluates `config` in `workdir`; continues an earlier run there.

    Args:
        config: a ConfigDict or nested dicts, resolved or not.
        workdir: created if absent. The same workdir again resumes, and a finished run does the protocols
            that its report lacks.
        command: what the user typed, for run.json.

    Returns:
        The content of report.json.

    Raises:
        ConfigError, DataError, WorkdirError, CheckpointError, WarmStartError: bad input, with what to do.
        Diverged: loss or gradients are no longer finite.
        Stopped: a signal came; the state is saved.
    """
    config, group, folder = schema.resolve_config(config), join_process_group(), Path(workdir)
    check_same(group, "config", config, "start all of them with the same config and overrides")
    folder = folder.absolute()
    with contextlib.ExitStack() as stack:
        stop_signal = stack.enter_context(StopSignal(process_group=group))
        data = group.run_on_all(lambda: open_splits(config["data"]))
        check_same(group, "data", data.fingerprint(), "give all of them the same files")
        # Built before the statistics are computed, so that errors in the config show at once.
        experiment = build_experiment(with_classes(config, len(data.class_names)))
        begun = group.run_on_primary(lambda: has_begun(folder))
        warm_start = None if begun else group.run_on_all(lambda: read_warm_start(experiment))
        claim = claim_workdir(folder, experiment.config, data.class_names, len(data.train))
        group.run_on_primary(lambda: stack.enter_context(claim))
        check_shared(folder, group)
        if experiment.augment.needs_statistics:
            statistics = obtain_statistics(
                experiment, data, folder, stop_signal.check, begun=begun, process_group=group
            )
            experiment = experiment.with_statistics(statistics)
        launch = {"command": list(command), "xla_flags": os.environ.get("XLA_FLAGS", "")}
        return Run(experiment, data, folder, stop_signal, group).go(launch, warm_start)


class Run:
    """One start of a run, and the objects that it consists of."""

    def __init__(
        self,
        experiment: Experiment,
        data: DataSplits,
        folder: Path,
        stop_signal: StopSignal,
        process_group: ProcessGroup,
    ) -> None:
        self.experiment, self.data, self.folder = experiment, data, folder
        self.stop_signal, self.process_group = stop_signal, process_group
        config = experiment.config
        self.progress = Progress(len(data.train), config["batch_size"], config["epochs"])
        self.console = Console(silent=not process_group.is_primary)
        self.compiler = Compiler(self.console)
        self.checkpoints = Checkpoints(
            folder / "checkpoints", config["checkpoint"]["keep"], process_group=process_group
        )
        self.writer = MetricsWriter(folder, config["log"]["tensorboard"], process_group)
        self.learning_rate = LearningRate(experiment.schedule, self.progress, experiment.placement)
        self.step_metrics = StepMetrics(self.progress, config, self.writer, self.console)
        self.evaluator = Evaluator(
            experiment,
            data,
            self.progress,
            self.writer,
            self.console,
            stop_signal.check,
            experiment.forward(compiler=self.compiler),
            process_group,
        )

    def go(self, launch: Mapping[str, Any], warm_start: WarmStart | None) -> dict[str, Any]:
        """Restores or initializes the state, trains, evaluates and reports."""
        primary = self.process_group.run_on_primary
        try:
            state, events, warm_start = self.restore(warm_start)
            step = int(state.step)
            report.announce(self, step, warm_start)
            primary(lambda: report.record_start(self, step, launch, warm_start))
            if (
                0 < step <= self.progress.total
            ):  # a stop may have come before an evaluation was done
                self.evaluator.evaluate(state, self.evaluator.missing(events, step))
                state = self.update_plateau(state, events)
                self.save(state)
            if step < self.progress.total:
                state = self.train(state)
            self.save(state)
            known = primary(lambda: report.read_report(self.folder / "report.json"))
            self.evaluator.evaluate(state, self.evaluator.unreported(known, int(state.step)))
            self.checkpoints.wait()
            best = self.checkpoints.best()
            return primary(lambda: report.conclude(self, int(state.step), best))
        finally:
            self.step_metrics.watchdog.pause()
            self.console.end_progress()
            self.writer.close()
            self.checkpoints.close()

    def restore(
        self, warm_start: WarmStart | None
    ) -> tuple[TrainState, list[dict[str, Any]], WarmStart | None]:
        """(newest whole state, or a fresh one; events up to its step; the warm start that was used)."""
        restored = self.checkpoints.restore(self.experiment.abstract_state())
        if (
            restored is None and warm_start is None
        ):  # also where no checkpoint in the folder is whole
            warm_start = self.process_group.run_on_all(lambda: read_warm_start(self.experiment))
        state, meta = restored or (first_state(self.experiment, warm_start), {})
        self.step_metrics.restore(meta)
        self.learning_rate.restore(state)
        self.evaluator.corrupt.update(meta.get("corrupt", ()))
        events = self.writer.truncate(int(state.step))
        self.evaluator.restore(events, int(state.step))
        return state, events, warm_start

    def train(self, state: TrainState) -> TrainState:
        """Makes the remaining updates of `state`; evaluates and saves whenever that is due."""
        metrics, evaluator, start = self.step_metrics, self.evaluator, int(state.step)
        with (
            self.batches(start) as batches,
            Prefetcher(
                self.experiment, batches, self.stop_signal, self.process_group
            ) as prefetcher,
        ):
            try:  # compiles while the first batches are decoded
                train_step = self.compiler("the train step", self.experiment.lower_train())
                self.process_group.gather(None)  # no update waits for another process's compiler
                metrics.restart_clock()
                for step in range(start + 1, self.progress.total + 1):
                    epoch = self.progress.epoch(step - 1)
                    rate = self.learning_rate.rate(epoch)
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
                            self.gather_corrupt(batches)
                            evaluator.evaluate(state, tasks)
                            state = self.update_plateau(state)
                            if saves:
                                self.save(state)
                metrics.flush()
            except (Stopped, StopRequested, DataError) as error:
                with contextlib.suppress(StopRequested):
                    metrics.flush()
                self.gather_corrupt(batches)
                self.save(state)
                self.checkpoints.wait()
                prefetcher.explain(error)
                raise
            except Diverged as error:
                steps = self.checkpoints.steps()
                kept = f"checkpoint of step {steps[-1]}" if steps else "there is no checkpoint yet"
                raise Diverged(f"{error}\nWhat is left: {kept}") from None
        return state

    def batches(self, start: int) -> Any:
        """The training batches from step `start` on; a context manager."""
        return open_train_batches(self.experiment, self.data.train, start, self.process_group)

    def gather_corrupt(self, batches: Any) -> None:
        """Collects the names of corrupt training images from all processes."""
        for names in self.process_group.gather(list(batches.corrupt)):
            self.evaluator.corrupt.update(names)

    def update_plateau(
        self, state: TrainState, events: Sequence[Mapping[str, Any]] = ()
    ) -> TrainState:
        """`state` after a plateau rule has seen its evaluation, if it has yet to.

        Args:
            events: of earlier starts, the last of which may have ended between the two.
        """
        step = int(state.step)
        if not self.learning_rate.evaluation_due(step):
            return state
        top1 = self.evaluator.held_out_top1(step, events)
        if top1 is None:
            return state
        state, dropped = self.learning_rate.update(state, top1)
        if dropped:
            self.console.line(dropped)
        return state

    def save(self, state: TrainState) -> None:
        meta = {**self.step_metrics.meta(), "corrupt": sorted(self.evaluator.corrupt)}
        self.checkpoints.save(state, meta, best=self.evaluator.held_out_top1(int(state.step)))
