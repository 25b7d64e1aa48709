"""Evaluation during a run: which protocols are due, and their results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxcnn.data import DataSplits, open_data
from jaxcnn.data.threads import run_in_thread
from jaxcnn.evaluation import Forward, Protocol, Result, evaluate
from jaxcnn.parallel import ProcessGroup
from jaxcnn.training.console import Console
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.metrics_writer import MetricsWriter
from jaxcnn.training.report import result_text
from jaxcnn.training.schedules import Progress, plateau_due
from jaxcnn.training.schema import run_protocols
from jaxcnn.training.train_state import TrainState

HELD_OUT = "held_out"


@dataclasses.dataclass(frozen=True)
class EvalTask:
    """One protocol on one split."""

    protocol: Protocol
    label: str
    split: str
    source: Any


@dataclasses.dataclass
class Evaluator:
    """Evaluates states of a run; writes and prints the results.

    Attributes:
        forward: the net's forward passes.
        results: the latest (step, result) of each (protocol, split).
        corrupt: names of corrupt images.
        images: digests of the images by split.
        restored: what of `results` an earlier start logged.
    """

    experiment: Experiment
    data: DataSplits
    progress: Progress
    writer: MetricsWriter
    console: Console
    check_stop: Callable[[], None]
    forward: Forward
    process_group: ProcessGroup
    results: dict[tuple[str, str], tuple[int, Result]] = dataclasses.field(default_factory=dict)
    corrupt: set[str] = dataclasses.field(default_factory=set)
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    restored: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    def tasks(self, step: int) -> list[EvalTask]:
        """The evaluations due after `step` updates. The first protocol evaluates the held-out images before
        each save, to choose the best checkpoint, and whenever a plateau rule needs it."""
        side = self.experiment.net.image_size
        protocols = run_protocols(self.experiment.config)
        due = [
            EvalTask(p, p.label(side), self.data.eval_split, self.data.evaluation)
            for p in protocols
            if self.progress.due(step, p.every_epochs)
        ]
        needed = self.saves(step) or plateau_due(self.experiment.schedule, self.progress, step)
        if self.data.held_out is not None and protocols and needed:
            first = protocols[0]
            due.append(EvalTask(first, first.label(side), HELD_OUT, self.data.held_out))
        return due

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` updates."""
        return self.progress.due(step, self.experiment.config["checkpoint"]["every_epochs"])

    def evaluate(self, state: TrainState, tasks: Iterable[EvalTask]) -> None:
        """Runs `tasks` on `state`."""
        for task in tasks:
            began, step = time.perf_counter(), int(state.step)
            result = self._evaluate(state, task)
            self.results[task.label, task.split] = (step, result)
            self.restored.discard((task.label, task.split))
            row = dataclasses.asdict(result)
            event = {"kind": "eval", "step": step, "epoch": self.progress.epoch(step), **row}
            self.writer.write({**event, "seconds": time.perf_counter() - began})
            self.console.line(f"eval  step {step}  {result_text(row)}")
        self.process_group.run_on_all(self.writer.check)

    def restore(self, events: Iterable[Mapping[str, Any]], step: int) -> None:
        """Restores the results that an earlier start logged for the state after `step` updates."""
        names = [field.name for field in dataclasses.fields(Result)]
        for event in events:
            if event["kind"] == "eval" and event["step"] == step and self.is_current(event):
                result = Result(**{name: event[name] for name in names if name in event})
                self.results[result.protocol, result.split] = (step, result)
                self.restored.add((result.protocol, result.split))

    def missing(
        self, due: int, step: int, reported: Iterable[Mapping[str, Any]] = ()
    ) -> list[EvalTask]:
        """The evaluations due after `due` updates that neither this run nor the rows `reported` of a report
        have for the state after `step` updates."""
        done = {key for key, (done_at, _) in self.results.items() if done_at == step}
        now = (row for row in reported if row["step"] == step and self.is_current(row))
        done |= {(row["protocol"], row["split"]) for row in now}
        return [task for task in self.tasks(due) if (task.label, task.split) not in done]

    def is_current(self, row: Mapping[str, Any]) -> bool:
        """Whether a result is of the images that its split has now. Earlier versions kept no digest."""
        sources = {self.data.eval_split: self.data.evaluation, HELD_OUT: self.data.held_out}
        source, own = sources.get(row["split"]), self.images.get(row["split"], "")
        return source is None or (
            row["n"] == len(source) and row.get("images", "") in ("", own or row.get("images", ""))
        )

    def held_out_top1(self, step: int) -> float | None:
        """Top-1 on the held-out images after `step` updates; None if they were not evaluated."""
        for (_, split), (done_at, result) in self.results.items():
            if split == HELD_OUT and done_at == step:
                return result.top1
        return None

    def _evaluate(self, state: TrainState, task: EvalTask) -> Result:
        evaluation = evaluate(
            self.forward,
            self.experiment.evaluated(state),
            task.source,
            task.protocol,
            split=task.split,
            threads=self.experiment.config["data"]["threads"],
            readers=self.experiment.config["data"]["readers"],
            process_group=self.process_group,
            check_stop=self.check_stop,
            progress=lambda done, total: self.console.progress(
                f"{task.label} of {task.split}: {done:,}/{total:,}"
            ),
        )
        self.corrupt.update(evaluation.corrupt)
        images = self.images.get(task.split, "")
        return dataclasses.replace(evaluation.result, images=images)


def open_splits(
    settings: Mapping[str, Any],
    check_stop: Callable[[], None] = lambda: None,
    classes: tuple[str, ...] = (),
) -> DataSplits:
    """The splits that the config's `data` section names.

    Args:
        classes: of a trained net that is evaluated, as in `open_data`.
        check_stop: called now and then until they are open, since their disk may hang; raises to leave.

    Raises:
        DataError: the data is missing or cannot be used; the message says what to do.
    """
    keys = (
        "source", "data_dir", "held_out", "train_split", "eval_split", "image_key", "label_key",
        "cache_dir", "cache_gb",
    )  # fmt: skip
    chosen = {key: settings[key] for key in keys}
    if classes:  # a finished run, also on a machine without the folder of the one that trained it
        chosen["cache_dir"] = ""
    return run_in_thread(lambda: open_data(**chosen, classes=classes), check_stop)
