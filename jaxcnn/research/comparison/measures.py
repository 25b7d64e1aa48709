"""Measures of finished runs, their means and standard deviations over seeds, and verdicts."""

from __future__ import annotations

import dataclasses
import difflib
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEASURES = ("top1", "epochs_to_train_error")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number by which finished runs are compared.

    Attributes:
        name: 'top1', the final accuracy of the reported protocol in percent, or 'epochs_to_train_error',
            the first epoch at which the training error over the latest epoch is at most `threshold`.
        threshold: error rate, a fraction; only for the second.
    """

    name: str
    threshold: float = math.nan

    @property
    def needs_evaluation(self) -> bool:
        return self.name == "top1"

    @property
    def higher_is_better(self) -> bool:
        return self.name == "top1"

    @property
    def title(self) -> str:
        if self.name == "top1":
            return "top-1 (%)"
        return f"epochs to {100 * self.threshold:g} % training error"

    @property
    def unit(self) -> str:
        """Unit of a difference."""
        return "points of top-1" if self.name == "top1" else "epochs"

    def value(
        self, report: Mapping[str, Any], events: Sequence[Mapping[str, Any]], protocol: str
    ) -> float | None:
        """The measure of a finished run; None if it never reached the threshold.

        Args:
            report: content of report.json.
            events: content of metrics.jsonl.
            protocol: label of the reported protocol.
        """
        if self.name == "top1":
            rows = report["results"]
            return 100.0 * next(r["top1"] for r in rows if is_reported(r, protocol))
        for epoch, error in running_train_error(events):
            if error <= self.threshold:
                return epoch
        return None


def parse_measure(text: str) -> Measure:
    """Parses `top1` or `epochs_to_train_error=0.25`.

    Raises:
        ValueError: an unknown measure, or a threshold that is not an error rate.
    """
    name, equals, value = text.partition("=")
    if name not in MEASURES:
        near = difflib.get_close_matches(name, MEASURES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown measure {name!r}{hint} (valid: {', '.join(MEASURES)})")
    if name == "top1":
        if equals:
            raise ValueError(f"measure top1 takes no value, got {text!r}")
        return Measure(name)
    try:
        threshold = float(value)
    except ValueError:
        threshold = math.nan
    if not 0 < threshold < 1:
        raise ValueError(
            f"measure {name} needs an error rate between 0 and 1, such as {name}=0.25; got {text!r}"
        )
    return Measure(name, threshold)


def is_reported(row: Mapping[str, Any], protocol: str) -> bool:
    """Whether a result or evaluation event is of `protocol` on the reported split."""
    return row["protocol"] == protocol and row["split"] != "held_out"


def running_train_error(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(epoch, error) at each train event from epoch 1 on.

    The error is a fraction: the mean over the images of the latest epoch, each with the weights at its
    update. Each event holds the mean since the previous one.
    """
    train = [e for e in events if e["kind"] == "train"]
    epochs = np.asarray([0.0, *(e["epoch"] for e in train)])
    errors = np.asarray([1.0 - e["top1"] for e in train])
    wrong = np.concatenate([[0.0], np.cumsum(errors * np.diff(epochs))])  # in epochs of images
    since = wrong - np.interp(epochs - 1.0, epochs, wrong)
    return [(float(t), float(s)) for t, s in zip(epochs, since, strict=True) if t >= 1.0 - 1e-9]


@dataclasses.dataclass(frozen=True)
class SeedSummary:
    """Statistics of the runs of a cell.

    Attributes:
        values: the measure of each finished run that has one.
        not_reached: runs that finished without reaching the threshold.
        diverged: runs whose loss stopped being finite.
        missing: runs that are not finished.
        final_errors: training error of the last epoch, a fraction, of runs that did not reach the threshold.
    """

    values: tuple[float, ...]
    not_reached: int = 0
    diverged: int = 0
    missing: int = 0
    final_errors: tuple[float, ...] = ()

    @property
    def runs(self) -> int:
        """Number of runs that ended, in any way."""
        return len(self.values) + self.not_reached + self.diverged

    @property
    def mean(self) -> float:
        """NaN if a run did not reach the threshold."""
        if not self.values or self.not_reached:
            return math.nan
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation (n - 1); NaN below two values."""
        if math.isnan(self.mean) or len(self.values) < 2:
            return math.nan
        return statistics.stdev(self.values)


def best_summary(summaries: Sequence[SeedSummary], higher_is_better: bool) -> int:
    """The index of the best of `summaries` of one variant at several points of a grid.

    The fewest runs that diverged or did not reach the threshold win, then the best mean. If no run reached
    the threshold, the lowest final error wins. The first of equals wins.
    """

    def rank(summary: SeedSummary) -> tuple[int, float]:
        failures = summary.diverged + summary.not_reached + (0 if summary.values else 1)
        if not summary.values:
            return failures, statistics.fmean(summary.final_errors) if summary.final_errors else 0.0
        mean = statistics.fmean(summary.values)
        return failures, -mean if higher_is_better else mean

    return min(range(len(summaries)), key=lambda i: rank(summaries[i]))


def verdict(
    variant: str, summary: SeedSummary, baseline: str, base: SeedSummary, measure: Measure
) -> str:
    """A sentence that compares a variant with the baseline: the difference of the means, and whether it
    exceeds the combined standard deviation, the root of the sum of both squares."""
    for name, one in ((variant, summary), (baseline, base)):
        if math.isnan(one.mean):
            return (
                f"{variant}: no difference from {baseline} can be given, {name} {why_no_mean(one)}."
            )
    difference = summary.mean - base.mean
    text = f"{variant}: {difference:+.2f}"
    ratio = summary.mean / base.mean if not measure.higher_is_better else math.nan
    times = "" if math.isnan(ratio) else f" ({ratio:.2f} times as many)"
    against = f"{measure.unit} against {baseline}{times}"
    combined = math.hypot(summary.deviation, base.deviation)
    if math.isnan(combined):
        return f"{text} {against}; a single run has no standard deviation."
    clear = abs(difference) > combined
    word = ("higher" if difference > 0 else "lower") if measure.name == "top1" else ""
    word = word or ("later" if difference > 0 else "sooner")
    lost = [
        f"{n} {why_no_mean(s)}" for n, s in ((variant, summary), (baseline, base)) if s.diverged
    ]
    note = f" ({', '.join(lost)})" if lost else ""
    return f"{text} ± {combined:.2f} {against}: {word if clear else 'no clear difference'}{note}."


def why_no_mean(summary: SeedSummary) -> str:
    """Explains why a cell has no mean."""
    if summary.not_reached:
        return f"did not reach the threshold in {summary.not_reached} of {summary.runs} runs"
    if summary.diverged:
        return f"diverged in {summary.diverged} of {summary.runs} runs"
    return "has no finished run"
