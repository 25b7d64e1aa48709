"""The loop: draw, update, log, evaluate, save. One loop for every net; T steps are T updates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from jaxcnn import data as room
from jaxcnn.malloc_tuning import give_back_freed
from jaxcnn.parallel import ProcessGroup, check_same, join_process_group
from jaxcnn.training import report, schema
from jaxcnn.training.builder import Experiment, assemble, with_classes
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.evaluator import Evaluator, open_splits
from jaxcnn.training.learning_rate import LearningRate
from jaxcnn.training.metrics_writer import Console, MetricsWriter
from jaxcnn.training.prefetch import Prefetcher
from jaxcnn.training.progress import Progress
from jaxcnn.training.run_statistics import obtain, stand_in
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.step_metrics import Diverged, StepMetrics, StopRequested
from jaxcnn.training.train_state import TrainState
from jaxcnn.training.warm_start import WarmStart, first_state, read_warm_start
from jaxcnn.training.workdir import announce, check_shared, conclude, has_begun, prepare
from jaxcnn.training.workdir_lock import lock_workdir


def run(
    config: Any,
    workdir: str | Path,
    *,
    command: Sequence[str] = (),
    set_up: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Trains and evaluates `config` in `workdir`; goes on where an earlier run left.

    Args:
        config: a ConfigDict or nested dicts, resolved or not.
        workdir: made if absent. The same one again resumes, and a finished run does the protocols that
            its report lacks.
        command: what the user typed, for run.json.
        set_up: what was set before JAX started, for run.json.

    Returns:
        report.json's content.

    Raises:
        ConfigError, DataError, WorkdirError, CheckpointError, TransferError: bad input, with what to do.
        Diverged: loss or gradients stopped being finite.
        Stopped: a signal came; the state is saved.
    """
    config, process_group = schema.resolve_config(config), join_process_group()
    check_same(
        process_group, "config", config, "start all of them with the same config and overrides"
    )
    folder = Path(workdir).absolute()
    with contextlib.ExitStack() as stack:
        stop_signal = stack.enter_context(StopSignal(process_group=process_group))
        data = process_group.run_on_all(lambda: open_splits(config["data"]))
        check_same(process_group, "data", data.fingerprint(), "give all of them the same files")
        config = with_classes(config, len(data.class_names))
        # Whatever is wrong with the config is said before statistics take their time.
        experiment = assemble(config, stand_in(config))
        begun = process_group.run_on_primary(lambda: has_begun(folder))
        transfer = None if begun else process_group.run_on_all(lambda: read_warm_start(experiment))
        process_group.run_on_primary(lambda: _claim(folder, config, data, stack))
        check_shared(folder, process_group)
        if experiment.augment.needs_statistics:
            found = obtain(
                experiment,
                data,
                folder,
                stop_signal.check,
                begun=begun,
                process_group=process_group,
            )
            experiment = assemble(config, found)
        said = {"command": list(command), "set_up": dict(set_up)}
        return _Run(experiment, data, folder, stop_signal, process_group).go(said, transfer)


def _claim(
    folder: Path, config: Mapping[str, Any], data: room.DataSplits, stack: contextlib.ExitStack
) -> None:
    stack.enter_context(lock_workdir(folder))
    prepare(folder, config, data.class_names, len(data.train))


class _Run:
    def __init__(
        self,
        experiment: Experiment,
        data: room.DataSplits,
        folder: Path,
        stop_signal: StopSignal,
        process_group: ProcessGroup,
    ) -> None:
        self.experiment, self.data, self.folder, self.stop_signal = (
            experiment,
            data,
            folder,
            stop_signal,
        )
        self.process_group = process_group
        self.config = experiment.config
        self.pace = Progress(len(data.train), self.config["batch_size"], self.config["epochs"])
        self.console = Console(silent=not process_group.is_primary)
        keep = self.config["checkpoint"]["keep"]
        self.checkpoints = Checkpoints(folder / "checkpoints", keep, process_group=process_group)
        self.metrics = MetricsWriter(folder, self.config["log"]["tensorboard"], process_group)
        self.rates = LearningRate(experiment.schedule, self.pace, experiment.placement)
        self.recorder = StepMetrics(self.pace, self.config, self.metrics, self.console)
        self.compile_seconds = 0.0
        self.judge = Evaluator(
            experiment,
            data,
            self.pace,
            self.metrics,
            self.console,
            stop_signal.check,
            experiment.forward(compiler=self._compile),
            process_group,
        )

    def go(self, said: Mapping[str, Any], transfer: WarmStart | None) -> dict[str, Any]:
        """Restores or starts, trains, judges, reports."""
        try:
            restored = self.checkpoints.restore(self.experiment.abstract_state())
            if restored is None:  # also where the folder's checkpoints are none of them whole
                transfer = transfer or self.process_group.run_on_all(
                    lambda: read_warm_start(self.experiment)
                )
            state, meta = restored or (first_state(self.experiment, transfer), {})
            start = int(state.step)
            self.recorder.go_on(meta)
            self.rates.go_on(state)
            self.judge.corrupt.update(meta.get("corrupt", ()))
            events = self.metrics.cut_back(start)
            self.judge.recall(events, start)
            self._announce(said, start, transfer)
            if 0 < start <= self.pace.total:
                self.judge.evaluate(state, self.judge.missing(events, start))
                state = self._look(state, events)
                self._save(state)  # with what the held-out images say of it
            if start < self.pace.total:
                state = self._train(state, start)
            self._save(state)
            self._finish(state)
            best = self.checkpoints.best()
            return self.process_group.run_on_primary(lambda: self._conclude(int(state.step), best))
        finally:
            self.recorder.watchdog.rest()
            self.console.end_place()
            self.metrics.close()
            self.checkpoints.close()

    def _announce(self, said: Mapping[str, Any], start: int, transfer: WarmStart | None) -> None:
        announce(self.console, self.experiment, self.data, self.pace, self.folder, start, transfer)
        begun = partial(
            report.add_start,
            self.folder / "run.json",
            {**said, "step": start, "seed": self.config["seed"], "examples": self.pace.examples},
            {
                "plan": self.experiment.plan.name,
                "mesh": dict(self.experiment.placement.mesh.shape),
                "compiler_options": dict(self.experiment.compiler_options),
                **({"started_from": transfer.record()} if transfer else {}),
            },
        )
        self.process_group.run_on_primary(begun)

    def _conclude(self, step: int, best: Mapping[str, Any] | None) -> dict[str, Any]:
        return conclude(
            self.console,
            self.judge,
            self.folder,
            step,
            self.recorder.seconds(),
            self.compile_seconds,
            best,
        )

    def _finish(self, state: TrainState) -> None:
        """The protocols that neither this run nor the report has done on the final state."""
        known = self.process_group.run_on_primary(
            lambda: report.read_report(self.folder / "report.json")
        )
        done = {key for key, (step, _) in self.judge.results.items() if step == int(state.step)}
        done |= {
            (r["protocol"], r["split"]) for r in known["results"] if r["step"] == int(state.step)
        }
        self.judge.evaluate(
            state, [t for t in self.judge.tasks(self.pace.total) if (t.label, t.split) not in done]
        )
        self.checkpoints.wait()

    def _train(self, state: TrainState, start: int) -> TrainState:
        recorder = self.recorder
        with (
            self._batches(start) as batches,
            Prefetcher(self.experiment, batches, self.stop_signal, self.process_group) as feed,
        ):
            try:
                # while the first batches are decoded
                step = self._compile(
                    "the train step",
                    self.experiment.lower_train(),
                )
                self.process_group.gather(None)  # compilers differ; no update waits for another's
                recorder.restart()
                for done in range(start + 1, self.pace.total + 1):
                    epoch = self.pace.epoch(done - 1)
                    rate = self.rates.rate(epoch)
                    with recorder.waiting():
                        batch, controls = feed.next(rate, epoch)
                    with jax.transfer_guard("disallow"):  # nothing goes to the devices unseen
                        state, sums = step(state, batch, controls)
                    # To free it hands over Python's lock, which the data's threads want: not in what waits.
                    del batch
                    recorder.put(done, rate, sums)
                    tasks, saves = self.judge.tasks(done), self.judge.saves(done)
                    if tasks or saves:
                        with recorder.pause():
                            self._note_corrupt(batches)
                            self.judge.evaluate(state, tasks)
                            state = self._look(state)
                            if saves:
                                self._save(state)
                recorder.flush()
            except (Stopped, StopRequested, room.DataError) as error:
                with contextlib.suppress(StopRequested):
                    recorder.flush()
                self._note_corrupt(batches)
                self._save(state)
                self.checkpoints.wait()
                feed.explain(error)
                raise
            except Diverged as error:
                steps = self.checkpoints.steps()
                kept = f"checkpoint of step {steps[-1]}" if steps else "there is no checkpoint yet"
                raise Diverged(f"{error}\nWhat is left: {kept}") from None
        return state

    def _note_corrupt(self, batches: Any) -> None:
        for names in self.process_group.gather(list(batches.corrupt)):
            self.judge.corrupt.update(names)

    def _look(self, state: TrainState, events: Sequence[Mapping[str, Any]] = ()) -> TrainState:
        """The state once a plateau rule has seen what the held-out images say of it, where that is due.

        Args:
            events: of earlier starts, the last of which may have ended between the two.
        """
        step = int(state.step)
        top1 = self.judge.best_metric(step, events) if self.rates.due(step) else None
        if top1 is None:
            return state
        state, dropped = self.rates.judged(state, top1)
        if dropped:
            self.console.line(dropped)
        return state

    def _batches(self, start: int) -> Any:
        settings = self.config["data"]
        return room.TrainLoader(
            self.data.train,
            seed=settings["seed"],
            batch_size=self.config["batch_size"],
            image_size=self.experiment.net.image_size,
            sampling=self.experiment.augment,
            start_step=start,
            process_index=self.process_group.index,
            process_count=self.process_group.count,
            threads=settings["threads"],
            prefetch=settings["prefetch"],
        )

    def _save(self, state: TrainState) -> None:
        meta = {**self.recorder.meta(), "corrupt": sorted(self.judge.corrupt)}
        self.checkpoints.save(state, meta, best=self.judge.best_metric(int(state.step)))

    def _compile(self, what: str, lowered: Any) -> Any:
        """The compiled program, timed apart so that neither rates nor the ETA hold it."""
        self.console.progress(f"compiling {what} ...", last=True)
        began = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - began
        give_back_freed()
        self.compile_seconds += seconds
        self.console.line(f"compiled {what} in {seconds:.1f} s")
        return compiled
