"""Opens a run: checks its data and workdir, builds its parts, and restores or initializes its state."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jaxcnn.data import DataSplits, TrainLoader
from jaxcnn.data.sources.packed_check import checked_in_background
from jaxcnn.data.threads import run_in_thread
from jaxcnn.jax_settings import pinned_settings
from jaxcnn.parallel import ProcessGroup, check_same, join_process_group
from jaxcnn.paths import Path
from jaxcnn.preprocessing import make_preprocess
from jaxcnn.training import schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.checkpoint_probe import prove_saving
from jaxcnn.training.console import Compiler, Console
from jaxcnn.training.evaluator import HELD_OUT, Evaluator, open_splits
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.metrics_writer import MetricsWriter
from jaxcnn.training.prefetch import Prefetcher
from jaxcnn.training.run_statistics import obtain_statistics
from jaxcnn.training.schedules import LearningRate, Progress
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.step_metrics import Diverged, StepMetrics
from jaxcnn.training.train_state import TrainState
from jaxcnn.training.warm_start import WarmStart, first_state, read_warm_start
from jaxcnn.training.workdir import check_shared, claim_workdir, has_begun
from jaxcnn.training.workdir_lease import Lease
from jaxcnn.training.workdir_lock import check_workdir_name, lock_workdir


class Run:
    """One start of a run, and the objects that it consists of."""

    def __init__(
        self,
        experiment: Experiment,
        data: DataSplits,
        folder: Path,
        stop_signal: StopSignal,
        process_group: ProcessGroup,
        warm_start: WarmStart | None = None,
        claim: Mapping[str, Any] = MappingProxyType({}),
        lease: Lease | None = None,
    ) -> None:
        self.experiment, self.data, self.folder = experiment, data, folder
        self.stop_signal, self.process_group = stop_signal, process_group
        self.claim = claim  # what `claim_workdir` found
        self.warm_start = warm_start  # what a fresh state takes from another run
        config = experiment.config
        self.progress = Progress(len(data.train), config["batch_size"], config["epochs"])
        self.console = Console(silent=not process_group.is_primary)
        self.compiler = Compiler(self.console)
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            config["checkpoint"]["keep"],
            process_group=process_group,
            images=claim.get("data", {}).get("train", ""),
            confirm=lease.confirm if lease else lambda: None,
        )
        log = config["log"]
        self.writer = MetricsWriter(
            folder,
            log["tensorboard"],
            process_group,
            upload_seconds=log["upload_seconds"],
            lease=lease,
        )
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
            images=_images(claim, data),
        )

    def restore(self) -> TrainState:
        """The newest complete state, or a fresh one. Metrics and results continue from it."""
        restored = self.checkpoints.restore(self.experiment.abstract_state())
        # Also if the folder of checkpoints holds no complete one.
        if restored is None and self.warm_start is None:
            self.warm_start = self.process_group.run_on_all(
                lambda: read_warm_start(self.experiment)
            )
        state, meta = restored or (first_state(self.experiment, self.warm_start), {})
        self.step_metrics.restore(meta)
        self.learning_rate.restore(state)
        self.evaluator.corrupt.update(meta.get("corrupt", ()))
        self.evaluator.restore(self.writer.truncate(int(state.step)), int(state.step))
        return state

    def train_batches(self, start: int) -> contextlib.AbstractContextManager[Any]:
        """This process's share of the training batches from step `start` on."""
        config = self.experiment.config
        return TrainLoader(
            self.data.train,
            seed=config["data"]["seed"],
            batch_size=config["batch_size"],
            image_size=self.experiment.net.image_size,
            sampling=self.experiment.augment,
            start_step=start,
            process_index=self.process_group.index,
            process_count=self.process_group.count,
            threads=config["data"]["threads"],
            prefetch=config["data"]["prefetch"],
            readers=config["data"]["readers"],
        )

    def prefetch(self, batches: Any) -> Prefetcher:
        """Puts `batches` on the devices ahead of their updates."""
        return Prefetcher(
            self.experiment, batches, self.stop_signal, self.process_group, self.writer.check
        )

    def compile_train_step(self) -> Any:
        """(state, batch, controls) -> (state, sums), compiled."""
        step = self.compiler("the train step", self.experiment.lower_train())
        self.process_group.gather(None)  # no update waits for another process's compiler
        return step

    def save(self, state: TrainState, corrupt: Iterable[str] = ()) -> None:
        """Saves `state`, after the metrics that it claims. All processes must call it.

        Args:
            corrupt: names of the corrupt training images that this process has met.
        """
        for names in self.process_group.gather(list(corrupt)):
            self.evaluator.corrupt.update(names)
        self.writer.upload()
        meta = {**self.step_metrics.meta(), "corrupt": sorted(self.evaluator.corrupt)}
        self.checkpoints.save(state, meta, best=self.evaluator.held_out_top1(int(state.step)))

    def close(self, kind: Any, reason: BaseException | None, trace: Any) -> None:
        """Closes everything. `reason`, why the run ends early, stays the error that is raised, and errors of
        closing become notes of it; but a stop whose state cannot be saved is an error."""
        del kind, trace
        self.step_metrics.watchdog.pause()
        self.console.end_progress()
        raised = None
        for close, saves in ((self.writer.close, False), (self.checkpoints.close, True)):
            try:
                close()
            except Exception as error:
                first = raised or (None if saves and isinstance(reason, Stopped) else reason)
                if first is None:
                    raised = error
                else:
                    first.add_note(f"At the end of the run: {error}")
        if raised is not None:
            raise raised


def _images(claim: Mapping[str, Any], data: DataSplits) -> dict[str, str]:
    """Digests of the images by split."""
    digests = claim.get("data", {})
    uses = {data.eval_split: "evaluation", HELD_OUT: "train"}
    return {split: digests[use] for split, use in uses.items() if use in digests}


@contextlib.contextmanager
def open_run(config: Any, folder: Path, *, accept_changed_data: bool = False) -> Iterator[Run]:
    """The run of `config` in `folder`, which stays locked to the end of the block; raises as `loop.run`."""
    check_workdir_name(folder)
    config, group = schema.resolve_config(config), join_process_group()
    check_same(group, "config", config, "start all of them with the same config and overrides")
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned_settings())
        stop_signal = stack.enter_context(StopSignal(process_group=group))
        # First, because nothing is worth computing for a folder that cannot be written.
        leases: list[Lease | None] = []
        locking = lock_workdir(folder, stop_signal.check)
        group.run_on_primary(lambda: leases.append(stack.enter_context(locking)))
        check_shared(folder, group)
        data = group.run_on_all(lambda: open_splits(config["data"], stop_signal.check))
        # Built before anything is computed, so that errors in the config show at once.
        experiment = build_experiment(with_classes(config, len(data.class_names)))
        prove_saving(folder, experiment.placement.replicated, group)
        fingerprint = group.run_on_all(lambda: run_in_thread(data.fingerprint, stop_signal.check))
        check_same(group, "data", fingerprint, "give all of them the same files")
        begun = group.run_on_primary(
            lambda: run_in_thread(lambda: has_begun(folder), stop_signal.check)
        )
        warm_start = None if begun else group.run_on_all(lambda: read_warm_start(experiment))
        claim = group.run_on_primary(
            lambda: claim_workdir(
                folder,
                experiment.config,
                data,
                accept_changed_data=accept_changed_data,
                check_stop=stop_signal.check,
            )
        )
        if experiment.augment.needs_statistics:
            statistics = obtain_statistics(
                experiment, data, folder, group, stop_signal.check, begun=begun
            )
            preprocess = make_preprocess(experiment.augment, statistics)
            experiment = dataclasses.replace(experiment, device_preprocess=preprocess)
        sources = data.train, data.held_out, data.evaluation
        stack.enter_context(checked_in_background(sources, group.index, group.count))
        lease = leases[0] if leases else None
        run = Run(experiment, data, folder, stop_signal, group, warm_start, claim, lease)
        stack.push(run.close)
        try:
            yield run
        except Diverged as error:
            steps = run.checkpoints.steps()
            kept = f"checkpoint of step {steps[-1]}" if steps else "there is no checkpoint yet"
            raise Diverged(f"{error}\nWhat is left: {kept}") from None
