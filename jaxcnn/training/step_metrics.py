"""Metrics of training steps, read one step late so that the device never waits for the host."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxcnn.training.console import Console, duration
from jaxcnn.training.metrics_writer import MetricsWriter
from jaxcnn.training.schedules import Progress
from jaxcnn.training.watchdog import Watchdog

NO_SUMS = {"loss": 0.0, "top1": 0.0, "top5": 0.0, "n": 0.0}


class Diverged(RuntimeError):
    """Loss or gradients are no longer finite; the step was not applied."""


class StopRequested(Exception):
    """All processes see at the same step that one of them wants to stop (`leave`) or lacks a batch
    (`failed`)."""


class StepMetrics:
    """Takes the sums of each step when it is dispatched, and reads them after the next dispatch."""

    def __init__(
        self, progress: Progress, config: Mapping[str, Any], writer: MetricsWriter, console: Console
    ) -> None:
        self.progress, self.config, self.writer, self.console = progress, config, writer, console
        # Durations of the latest steps, without compilation, evaluation and saves.
        self._step_seconds: collections.deque[float] = collections.deque(maxlen=64)
        self.watchdog = Watchdog(config["log"]["slow_step"])
        self.restore({})

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Continues from the metadata of a checkpoint; {} starts from zero."""
        self.window = MetricWindow(dict(meta.get("window", NO_SUMS)))
        self.began = time.perf_counter() - meta.get("seconds", 0.0)
        self._pending: tuple[int, float, Any] | None = None
        self._last_step = time.perf_counter()

    def meta(self) -> dict[str, Any]:
        """Metadata for a checkpoint, so that a resumed run writes the same events as an uninterrupted one."""
        # A copy, since Orbax writes it in the background.
        return {"seconds": self.seconds(), "window": dict(self.window.sums)}

    def seconds(self) -> float:
        """Wall seconds of the run, summed over its starts."""
        return time.perf_counter() - self.began

    def restart_clock(self) -> None:
        """Restarts the timing of steps: the time so far was not spent in training."""
        self.window = MetricWindow(self.window.sums)
        self._last_step = time.perf_counter()

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time in the block as waiting for a batch."""
        began = time.perf_counter()
        yield
        self.window.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the block (evaluation, saving) from the timing of steps. Reads the last step first."""
        self.flush()
        self.watchdog.pause()
        began = time.perf_counter()
        yield
        self.window.started += time.perf_counter() - began
        self._last_step = time.perf_counter()

    def add(self, step: int, rate: float, sums: Any) -> None:
        """Takes the sums of `step` and reads those of the step before.

        Raises what `flush` raises, for the step before; `step` itself is still pending then.
        """
        pending, self._pending = self._pending, (step, rate, sums)
        self._read(pending)
        now = time.perf_counter()
        self._step_seconds.append(now - self._last_step)
        self._last_step = now
        self.watchdog.feed(statistics.median(self._step_seconds))

    def flush(self) -> None:
        """Reads the pending step; writes its event if one is due.

        Raises:
            Diverged: its loss or gradients are not finite.
            StopRequested: a process asked to stop after it, or had no batch for it, so that it did not count.
        """
        pending, self._pending = self._pending, None
        self._read(pending)

    def _read(self, pending: tuple[int, float, Any] | None) -> None:
        if pending is None:
            return
        step, rate, sums = pending
        sums = {k: float(v) for k, v in jax.device_get(sums).items()}
        if sums["failed"]:
            raise StopRequested
        if not sums["finite"]:
            raise Diverged(self._divergence(step, rate, sums))
        self.window.add(sums)
        median = statistics.median(self._step_seconds) if self._step_seconds else 0.0
        least = median * self.window.steps if self.window.steps < 3 else 0.0
        event = {
            "kind": "train",
            "step": step,
            "epoch": self.progress.epoch(step),
            **self.window.averages(),
            "learning_rate": rate,
            **self.window.speeds(least),
            "seconds": self.seconds(),
        }
        total = self.progress.total
        eta = duration(median * (total - step)) if median else "?"
        self.console.progress(
            f"step {step}/{total}  epoch {event['epoch']:.2f}/{self.progress.epochs:g}  loss "
            f"{event['loss']:.4f}  top-1 {event['top1']:.1%}  lr {rate:.3g}  "
            f"{event['images_per_second']:.0f} images/s  data wait {event['data_wait']:.0%}  ETA {eta}",
            step == total,
        )
        if step == total or step % self.config["log"]["every_steps"] == 0:
            self.writer.write(event)
            self.window = MetricWindow(dict(NO_SUMS))
        if sums["leave"]:
            raise StopRequested

    def _divergence(self, step: int, rate: float, sums: Mapping[str, float]) -> str:
        loss, tenth = sums["loss"] / max(sums["n"], 1), self.config["schedule"]["rate"] / 10
        return (
            f"step {step}: the loss ({loss:g}) or its gradients are not finite, at learning rate "
            f"{rate:g}. The step was not applied.\n"
            f"Try a tenth of the learning rate (--config.schedule.rate={tenth:g}), "
            "--config.model.dtype=float32, or other initial weights, in another --workdir"
        )


@dataclasses.dataclass
class MetricWindow:
    """Sums over the steps since the last train event; images, steps and seconds since the clock started."""

    sums: dict[str, float]
    started: float = dataclasses.field(default_factory=time.perf_counter)
    waited: float = 0.0
    images: float = 0.0
    steps: int = 0

    def add(self, sums: Mapping[str, float]) -> None:
        for key in self.sums:
            self.sums[key] += sums[key]
        self.images += sums["n"]
        self.steps += 1

    def averages(self) -> dict[str, float]:
        """Means over the images."""
        return {key: self.sums[key] / max(self.sums["n"], 1.0) for key in ("loss", "top1", "top5")}

    def speeds(self, least: float) -> dict[str, float]:
        """Images per second, and the share of the time that waited for data.

        `least` is the least time of the steps in seconds: the first step ran before the clock started.
        """
        seconds = max(time.perf_counter() - self.started, least, 1e-9)
        return {
            "images_per_second": self.images / seconds,
            "data_wait": min(self.waited / seconds, 1.0),
        }
