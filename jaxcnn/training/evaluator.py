"""Evaluation during a run: which protocols are due, and their results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxcnn.data import DataSplits, open_data
from jaxcnn.evaluation import PROTOCOLS, Forward, Protocol, Result, evaluate
from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup
from jaxcnn.training.console import Console
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.metrics_writer import MetricsWriter
from jaxcnn.training.report import result_text
from jaxcnn.training.schedules import Progress, plateau_due
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
    """

    experiment: Experiment
    data: DataSplits
    progress: Progress
    writer: MetricsWriter
    console: Console
    check_stop: Callable[[], None]
    forward: Forward
    process_group: ProcessGroup = SINGLE_PROCESS
    results: dict[tuple[str, str], tuple[int, Result]] = dataclasses.field(default_factory=dict)
    corrupt: set[str] = dataclasses.field(default_factory=set)

    def tasks(self, step: int) -> list[EvalTask]:
        """The evaluations due after `step` updates.

        The first protocol evaluates the held-out images before each save and whenever a plateau rule
        needs it: they choose the best checkpoint and the drops of the learning rate. The reported split
        chooses nothing.
        """
        config, side = self.experiment.config, self.experiment.net.image_size
        rows = run_protocols(config)
        due = [
            EvalTask(row, row.label(side), self.data.eval_split, self.data.evaluation)
            for row in rows
            if self.progress.due(step, row.every_epochs)
        ]
        needed = self.saves(step) or plateau_due(self.experiment.schedule, self.progress, step)
        if self.data.held_out is not None and rows and needed:
            due.append(EvalTask(rows[0], rows[0].label(side), HELD_OUT, self.data.held_out))
        return due

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` updates."""
        return self.progress.due(step, self.experiment.config["checkpoint"]["every_epochs"])

    def evaluate(self, state: TrainState, tasks: Iterable[EvalTask]) -> None:
        """Does `tasks` on `state`."""
        for task in tasks:
            began = time.perf_counter()
            step, result = int(state.step), self._evaluate(state, task)
            self.results[task.label, task.split] = (step, result)
            self.writer.write(
                {
                    "kind": "eval",
                    "step": step,
                    "epoch": self.progress.epoch(step),
                    **dataclasses.asdict(result),
                    "seconds": time.perf_counter() - began,
                }
            )
            self.console.line(f"eval  step {step}  {result_text(dataclasses.asdict(result))}")

    def restore(self, events: Iterable[Mapping[str, Any]], step: int) -> None:
        """Takes over the results that an earlier start wrote for the state after `step` updates."""
        names = [field.name for field in dataclasses.fields(Result)]
        for event in events:
            if event["kind"] == "eval" and event["step"] == step:
                result = Result(**{name: event[name] for name in names})
                self.results[result.protocol, result.split] = (step, result)

    def missing(self, events: Iterable[Mapping[str, Any]], step: int) -> list[EvalTask]:
        """The evaluations due after `step` updates that are not in `events`: a stop came in between."""
        evals = [e for e in events if e["kind"] == "eval" and e["step"] == step]
        done = {(e["protocol"], e["split"]) for e in evals}
        return [t for t in self.tasks(step) if (t.label, t.split) not in done]

    def unreported(self, report: Mapping[str, Any], step: int) -> list[EvalTask]:
        """The final evaluations that neither this run nor `report` has for the state after `step` updates."""
        done = {key for key, (done_at, _) in self.results.items() if done_at == step}
        done |= {(r["protocol"], r["split"]) for r in report["results"] if r["step"] == step}
        tasks = self.tasks(self.progress.total)
        return [t for t in tasks if (t.label, t.split) not in done]

    def held_out_top1(self, step: int, events: Iterable[Mapping[str, Any]] = ()) -> float | None:
        """Top-1 on the held-out images after `step` updates, from this start or from an earlier one that
        wrote `events`; None if they were not evaluated."""
        for (_, split), (done_at, result) in self.results.items():
            if split == HELD_OUT and done_at == step:
                return result.top1
        for event in events:
            if event["kind"] == "eval" and event["split"] == HELD_OUT and event["step"] == step:
                return event["top1"]
        return None

    def _evaluate(self, state: TrainState, task: EvalTask) -> Result:
        evaluation = evaluate(
            self.forward,
            self.experiment.evaluated(state),
            task.source,
            task.protocol,
            split=task.split,
            threads=self.experiment.config["data"]["threads"],
            process_group=self.process_group,
            check_stop=self.check_stop,
            progress=lambda done, total: self.console.progress(
                f"{task.label} of {task.split}: {done:,}/{total:,}"
            ),
        )
        self.corrupt.update(evaluation.corrupt)
        return evaluation.result


def run_protocols(config: Mapping[str, Any]) -> list[Protocol]:
    """The test protocols that the rows of a config's `evals` name."""
    rows = [(row["name"], {k: v for k, v in row.items() if k != "name"}) for row in config["evals"]]
    return [PROTOCOLS[name](**keys) for name, keys in rows]


def open_splits(settings: Mapping[str, Any]) -> DataSplits:
    """The splits that the config's `data` section names.

    Raises:
        DataError: the data is missing or cannot be used; the message says what to do.
    """
    keys = ("source", "data_dir", "held_out", "train_split", "eval_split")
    return open_data(**{key: settings[key] for key in keys})
