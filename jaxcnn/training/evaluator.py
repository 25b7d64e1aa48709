"""Evaluation within a run: what is due, done on the state that is about to be saved."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxcnn import data as room
from jaxcnn.evaluation import PROTOCOLS, Forward, Protocol, Result, evaluate
from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup
from jaxcnn.training.builder import Experiment
from jaxcnn.training.learning_rate import evaluations_due
from jaxcnn.training.metrics_writer import Console, MetricsWriter
from jaxcnn.training.progress import Progress
from jaxcnn.training.report import result_text
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
    """Attributes:
    forward: the net's forward passes.
    results: the latest result of each (protocol, split), with the step it is of.
    corrupt: names of images that could not be read.
    """

    experiment: Experiment
    data: room.DataSplits
    pace: Progress
    metrics: MetricsWriter
    console: Console
    check_stop: Callable[[], None]
    forward: Forward
    process_group: ProcessGroup = SINGLE_PROCESS
    results: dict[tuple[str, str], tuple[int, Result]] = dataclasses.field(default_factory=dict)
    corrupt: set[str] = dataclasses.field(default_factory=set)

    def tasks(self, done: int) -> list[EvalTask]:
        """What is due after `done` updates. Held-out images are judged by the first protocol, before
        each save and where a plateau rule looks at them: they choose the best checkpoint and the drops
        of the rate, the reported split chooses nothing."""
        config, side = self.experiment.config, self.experiment.net.image_size
        rows = run_protocols(config)
        due = [
            EvalTask(row, row.label(side), self.data.eval_split, self.data.evaluation)
            for row in rows
            if self.pace.due(done, row.every_epochs)
        ]
        looked_at = self.saves(done) or evaluations_due(self.experiment.schedule, self.pace, done)
        if self.data.held_out is not None and rows and looked_at:
            due.append(EvalTask(rows[0], rows[0].label(side), HELD_OUT, self.data.held_out))
        return due

    def saves(self, done: int) -> bool:
        """Whether a checkpoint is due after `done` updates."""
        return self.pace.due(done, self.experiment.config["checkpoint"]["every_epochs"])

    def evaluate(self, state: TrainState, tasks: Iterable[EvalTask]) -> None:
        """Evaluates `state` by each of `tasks`, writes and prints the results."""
        for task in tasks:
            began = time.perf_counter()
            done, result = int(state.step), self._evaluate(state, task)
            self.results[task.label, task.split] = (done, result)
            self.metrics.write(
                {
                    "kind": "eval",
                    "step": done,
                    "epoch": self.pace.epoch(done),
                    **dataclasses.asdict(result),
                    "seconds": time.perf_counter() - began,
                }
            )
            self.console.line(f"eval  step {done}  {result_text(dataclasses.asdict(result))}")

    def recall(self, events: Iterable[Mapping[str, Any]], done: int) -> None:
        """Takes over what an earlier start found of the state after `done` updates."""
        names = [field.name for field in dataclasses.fields(Result)]
        for event in events:
            if event["kind"] == "eval" and event["step"] == done:
                result = Result(**{name: event[name] for name in names})
                self.results[result.protocol, result.split] = (done, result)

    def missing(self, events: Iterable[Mapping[str, Any]], done: int) -> list[EvalTask]:
        """What was due after `done` updates and is not among `events`: a stop came in between."""
        there = {
            (e["protocol"], e["split"]) for e in events if e["kind"] == "eval" and e["step"] == done
        }
        return [t for t in self.tasks(done) if (t.label, t.split) not in there]

    def best_metric(self, done: int, events: Iterable[Mapping[str, Any]] = ()) -> float | None:
        """Top-1 on the held-out images after `done` updates, where they were judged: in this start, or in
        an earlier one that left `events`."""
        for (_, split), (step, result) in self.results.items():
            if split == HELD_OUT and step == done:
                return result.top1
        for event in events:
            if event["kind"] == "eval" and event["split"] == HELD_OUT and event["step"] == done:
                return event["top1"]
        return None

    def _evaluate(self, state: TrainState, task: EvalTask) -> Result:
        judged = evaluate(
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
        self.corrupt.update(judged.corrupt)
        return judged.result


def run_protocols(config: Mapping[str, Any]) -> list[Protocol]:
    """The test protocols that the rows of a config's `evals` name."""
    rows = [(row["name"], {k: v for k, v in row.items() if k != "name"}) for row in config["evals"]]
    return [PROTOCOLS[name](**keys) for name, keys in rows]


def open_splits(settings: Mapping[str, Any]) -> room.DataSplits:
    """The splits that the config's `data` section names.

    Raises:
        DataError: the data is missing or cannot be used; the message says what to do.
    """
    keys = ("source", "data_dir", "held_out", "train_split", "eval_split")
    return room.open_data(**{key: settings[key] for key in keys})
