"""Measures of finished runs, their means and standard deviations over seeds, and verdicts."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn import config as configs

MEASURES = ("top1", "epochs_to_train_error")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number by which finished runs are compared: `top1`, the final accuracy of the reported protocol in
    percent, or `epochs_to_train_error`, the first epoch at which the training error over the latest epoch is
    at most `threshold`, a fraction."""

    name: str
    threshold: float = 0.0  # not read for top1

    @property
    def is_top1(self) -> bool:
        """Whether it is the accuracy: it needs an evaluation, and higher is better."""
        return self.name == "top1"

    @property
    def title(self) -> str:
        """The title of its column."""
        epochs = f"epochs to {100 * self.threshold:g} % training error"
        return "top-1 (%)" if self.is_top1 else epochs

    def value(
        self, report: Mapping[str, Any], events: Sequence[Mapping[str, Any]], protocol: str
    ) -> float | None:
        """The measure of a finished run, by its report.json, its metrics.jsonl and the label of the reported
        protocol; None if it never reached the threshold."""
        if self.is_top1:
            rows = report["results"]
            return 100.0 * next(r["top1"] for r in rows if is_reported(r, protocol))
        errors = running_train_error(events)
        return next((epoch for epoch, error in errors if error <= self.threshold), None)


def parse_measure(text: str) -> Measure:
    """Parses `top1` or `epochs_to_train_error=0.25`; raises ValueError if it is something else."""
    name, equals, value = text.partition("=")
    if name not in MEASURES:
        hint = configs.did_you_mean(name, MEASURES)
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
    """(epoch, error) at each train event from epoch 1 on. The error is a fraction: the mean over the images
    of the latest epoch, each with the weights at its update. An event holds the mean since the last one."""
    train = [e for e in events if e["kind"] == "train"]
    epochs = np.asarray([0.0, *(e["epoch"] for e in train)])
    errors = np.asarray([1.0 - e["top1"] for e in train])
    wrong = np.concatenate([[0.0], np.cumsum(errors * np.diff(epochs))])  # in epochs of images
    since = wrong - np.interp(epochs - 1.0, epochs, wrong)
    return [(float(t), float(s)) for t, s in zip(epochs, since, strict=True) if t >= 1.0 - 1e-9]


@dataclasses.dataclass(frozen=True)
class SeedSummary:
    """Statistics of the runs of a cell."""

    values: tuple[float, ...]  # the measure of each finished run that has one
    not_reached: int = 0  # runs that finished without reaching the threshold
    diverged: int = 0  # runs whose loss stopped being finite
    missing: int = 0  # runs that are not finished
    # Training error of the last epoch, a fraction, of runs that did not reach the threshold.
    final_errors: tuple[float, ...] = ()

    @property
    def runs(self) -> int:
        """Number of runs that ended, in any way."""
        return len(self.values) + self.not_reached + self.diverged

    @property
    def mean(self) -> float:
        """NaN without values, or if a run did not reach the threshold."""
        known = self.values and not self.not_reached
        return statistics.fmean(self.values) if known else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation (n - 1); NaN below two values."""
        known = len(self.values) > 1 and not self.not_reached
        return statistics.stdev(self.values) if known else math.nan


def best_summary(summaries: Sequence[SeedSummary], higher_is_better: bool) -> int:
    """The index of the best of `summaries` of one variant at several points of a grid.

    The fewest runs that diverged or did not reach the threshold win, then the best mean. If no run reached
    the threshold, the lowest final error wins. The first of equals wins.
    """

    def rank(summary: SeedSummary) -> tuple[int, float]:
        failures = summary.diverged + summary.not_reached + (0 if summary.values else 1)
        mean = statistics.fmean(summary.values or summary.final_errors or (0.0,))
        return failures, -mean if higher_is_better and summary.values else mean

    return min(range(len(summaries)), key=lambda i: rank(summaries[i]))


def verdict(
    variant: str, summary: SeedSummary, baseline: str, base: SeedSummary, measure: Measure
) -> str:
    """A sentence that compares a variant with the baseline: the difference of the means, and whether it
    exceeds the combined standard deviation, the root of the sum of both squares."""
    both = ((variant, summary), (baseline, base))
    for name, one in both:
        if math.isnan(one.mean):
            return (
                f"{variant}: no difference from {baseline} can be given, {name} {why_no_mean(one)}."
            )
    difference = summary.mean - base.mean
    text = f"{variant}: {difference:+.2f}"
    if measure.is_top1:
        words, against = ("higher", "lower"), f"points of top-1 against {baseline}"
    else:
        words, against = ("later", "sooner"), f"epochs against {baseline}"
        against += f" ({summary.mean / base.mean:.2f} times as many)"
    combined = math.hypot(summary.deviation, base.deviation)
    if math.isnan(combined):
        return f"{text} {against}; a single run has no standard deviation."
    clear = abs(difference) > combined
    result = words[0 if difference > 0 else 1] if clear else "no clear difference"
    diverged = ", ".join(f"{name} {why_no_mean(one)}" for name, one in both if one.diverged)
    note = f" ({diverged})" if diverged else ""
    return f"{text} ± {combined:.2f} {against}: {result}{note}."


def why_no_mean(summary: SeedSummary) -> str:
    """Explains why a cell has no mean."""
    if summary.not_reached:
        return f"did not reach the threshold in {summary.not_reached} of {summary.runs} runs"
    if summary.diverged:
        return f"diverged in {summary.diverged} of {summary.runs} runs"
    return "has no finished run"
