"""Counts finished steps, a step late, and says what they came to."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxcnn.training.metrics_writer import Console, MetricsWriter, duration
from jaxcnn.training.progress import Progress
from jaxcnn.training.watchdog import Watchdog

TRAIN_SUMS = ("loss", "top1", "top5", "n")


class Diverged(RuntimeError):
    """Loss or gradients stopped being finite; nothing of that step was kept."""


class StopRequested(Exception):
    """All processes see at the same step that one of them asks to stop (`leave`) or cannot go on
    (`failed`)."""


class StepMetrics:
    """Takes the sums of each step as it is dispatched and reads them once the next one is, so that the
    device never waits for the host."""

    def __init__(
        self, pace: Progress, config: Mapping[str, Any], metrics: MetricsWriter, console: Console
    ) -> None:
        self.pace, self.config, self.metrics, self.console = pace, config, metrics, console
        self.clock = Clock()
        self.watchdog = Watchdog(config["log"]["slow_step"])
        self.go_on({})

    def go_on(self, meta: Mapping[str, Any]) -> None:
        """Goes on from what `meta` of an earlier start kept."""
        self.window = MetricWindow(meta.get("window"))
        self.began = time.perf_counter() - meta.get("seconds", 0.0)
        self._pending: tuple[int, float, Any] | None = None
        self._last_step = time.perf_counter()

    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run writes the very events of another."""
        # a copy: Orbax writes it in the background
        return {"seconds": self.seconds(), "window": dict(self.window.sums)}

    def seconds(self) -> float:
        """Wall seconds of the run, over all its starts."""
        return time.perf_counter() - self.began

    def restart(self) -> None:
        """Starts the clock of rates: what went before was no training."""
        self.window.restart()
        self._last_step = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        began = time.perf_counter()
        yield
        self.window.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Around evaluation and saving, which no rate holds. The last step is counted first."""
        self.flush()
        self.watchdog.rest()
        began = time.perf_counter()
        yield
        self.window.started += time.perf_counter() - began
        self._last_step = time.perf_counter()

    def put(self, done: int, rate: float, sums: Any) -> None:
        """Takes the sums of step `done`, counts the step before; for what it raises see `flush`. Step
        `done` is done all the same, and is still to be counted."""
        before, self._pending = self._pending, (done, rate, sums)
        self._count(before)
        now = time.perf_counter()
        self.clock.add(now - self._last_step)
        self._last_step = now
        self.watchdog.feed(self.clock.median())

    def flush(self) -> None:
        """Counts the step that was put last; writes its event where one is due.

        Raises:
            Diverged: its loss or gradients are not finite.
            Called: a process asked all to stop after it, or had no batch for it, so that it did not count.
        """
        last, self._pending = self._pending, None
        self._count(last)

    def _count(self, step: tuple[int, float, Any] | None) -> None:
        if step is None:
            return
        done, rate, sums = step
        sums = {k: float(v) for k, v in jax.device_get(sums).items()}
        if sums["failed"]:
            raise StopRequested
        if not sums["finite"]:
            raise Diverged(self._divergence(done, rate, sums))
        self.window.add(sums)
        least = self.clock.median() * self.window.steps if self.window.steps < 3 else 0.0
        event = self.window.event(done, self.pace.epoch(done), rate, self.seconds(), least)
        last = done == self.pace.total
        eta = self.clock.eta(self.pace.total - done)
        self.console.progress(progress_text(event, self.pace.total, self.pace.epochs, eta), last)
        if last or done % self.config["log"]["every_steps"] == 0:
            self.metrics.write(event)
            self.window = MetricWindow()
        if sums["leave"]:
            raise StopRequested

    def _divergence(self, done: int, rate: float, sums: Mapping[str, float]) -> str:
        loss, tenth = sums["loss"] / max(sums["n"], 1), self.config["schedule"]["rate"] / 10
        return (
            f"step {done}: the loss ({loss:g}) or its gradients are not finite, at learning rate "
            f"{rate:g}. Nothing of that step was kept.\n"
            f"Try a tenth of the rate (--config.schedule.rate={tenth:g}), "
            "--config.model.dtype=float32, or another start, in another --workdir"
        )


class MetricWindow:
    """Sums over the steps since the last train event. Saved with the state, so that a resumed run
    writes the very events of an undisturbed one."""

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self.sums = dict(sums) if sums else dict.fromkeys(TRAIN_SUMS, 0.0)
        self.restart()

    def restart(self) -> None:
        """Starts the clock of rates anew; the sums stay."""
        self.started = time.perf_counter()
        self.waited = 0.0
        self.images = 0.0
        self.steps = 0

    def add(self, sums: Mapping[str, float]) -> None:
        for key in TRAIN_SUMS:
            self.sums[key] += sums[key]
        self.images += sums["n"]
        self.steps += 1

    def event(
        self, step: int, epoch: float, rate: float, total_seconds: float, least: float
    ) -> dict[str, Any]:
        """The train event of this window.

        Args:
            least: seconds that its steps take at least; of the few steps of a short window the first
                ran before the window began.
        """
        seconds = max(time.perf_counter() - self.started, least, 1e-9)
        n = max(self.sums["n"], 1.0)
        return {
            "kind": "train",
            "step": step,
            "epoch": epoch,
            "loss": self.sums["loss"] / n,
            "top1": self.sums["top1"] / n,
            "top5": self.sums["top5"] / n,
            "learning_rate": rate,
            "images_per_second": self.images / seconds,
            "data_wait": min(self.waited / seconds, 1.0),
            "seconds": total_seconds,
        }


class Clock:
    """Seconds a step, as the median of the latest: what the ETA is made of. Compilation, evaluation
    and saves are not in it."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def add(self, seconds: float) -> None:
        self._seconds = [*self._seconds[-63:], seconds]

    def median(self) -> float:
        return statistics.median(self._seconds) if self._seconds else 0.0

    def eta(self, steps_left: int) -> str:
        return duration(self.median() * steps_left) if self._seconds else "?"


def progress_text(event: Mapping[str, Any], total: int, epochs: float, eta: str) -> str:
    return (
        f"step {event['step']}/{total}  epoch {event['epoch']:.2f}/{epochs:g}  loss {event['loss']:.4f}  "
        f"top-1 {event['top1']:.1%}  lr {event['learning_rate']:.3g}  "
        f"{event['images_per_second']:.0f} images/s  data wait {event['data_wait']:.0%}  ETA {eta}"
    )
