"""What runs are compared by, and the arithmetic of a comparison: means, deviations, verdicts."""

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
    """What a finished run is judged by.

    Attributes:
        name: 'top1', the accuracy of the reported protocol at the end in percent, or
            'epochs_to_train_error', the first epoch at which the error on the training images of the
            latest whole epoch is at most `threshold`.
        threshold: error rate, a fraction; of the second only.
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
        """Of a difference."""
        return "points of top-1" if self.name == "top1" else "epochs"

    def value(
        self, report: Mapping[str, Any], events: Sequence[Mapping[str, Any]], protocol: str
    ) -> float | None:
        """The measure of a finished run; None where it never reached the threshold.

        Args:
            report: report.json's content.
            events: metrics.jsonl's.
            protocol: label of the protocol that is reported.
        """
        if self.name == "top1":
            rows = report["results"]
            return 100.0 * next(r["top1"] for r in rows if is_reported(r, protocol))
        for epoch, error in running_train_error(events):
            if error <= self.threshold:
                return epoch
        return None


def parse_measure(text: str) -> Measure:
    """The measure that `text` names: `top1` or `epochs_to_train_error=0.25`.

    Raises:
        ValueError: an unknown one, or a threshold that is no error rate.
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
    """Whether a result or an evaluation event is of the reported split by `protocol`."""
    return row["protocol"] == protocol and row["split"] != "held_out"


def running_train_error(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(epoch, error) at each train event from epoch 1 on.

    The error is a fraction: the mean over the images of the latest whole epoch, each as the weights
    were when it was trained on. An event is the mean since the one before it.
    """
    train = [e for e in events if e["kind"] == "train"]
    epochs = np.asarray([0.0, *(e["epoch"] for e in train)])
    errors = np.asarray([1.0 - e["top1"] for e in train])
    wrong = np.concatenate([[0.0], np.cumsum(errors * np.diff(epochs))])  # in epochs of images
    since = wrong - np.interp(epochs - 1.0, epochs, wrong)
    return [(float(t), float(s)) for t, s in zip(epochs, since, strict=True) if t >= 1.0 - 1e-9]


@dataclasses.dataclass(frozen=True)
class SeedSummary:
    """The runs of a cell in numbers.

    Attributes:
        values: the measure of each finished run that has one.
        not_reached: runs that finished without reaching the threshold.
        diverged: runs whose loss stopped being finite.
        missing: runs that are not finished.
        ends: training error of the last epoch, a fraction, of the runs that did not reach the threshold.
    """

    values: tuple[float, ...]
    not_reached: int = 0
    diverged: int = 0
    missing: int = 0
    ends: tuple[float, ...] = ()

    @property
    def runs(self) -> int:
        """Runs that came to an end, whichever."""
        return len(self.values) + self.not_reached + self.diverged

    @property
    def mean(self) -> float:
        """NaN where a run did not reach the threshold: there is no such mean."""
        if not self.values or self.not_reached:
            return math.nan
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation with n - 1; NaN below two values."""
        if math.isnan(self.mean) or len(self.values) < 2:
            return math.nan
        return statistics.stdev(self.values)


def best(summaries: Sequence[SeedSummary], higher_is_better: bool) -> int:
    """The position of the best of `summaries`, those of one variant at several points of a grid.

    The mean decides among those without failures. One with runs that diverged or did not reach the
    threshold loses to one with fewer; of those that never did the one that came nearest is the best, and
    of equals the first.
    """

    def rank(summary: SeedSummary) -> tuple[int, float]:
        failures = summary.diverged + summary.not_reached + (0 if summary.values else 1)
        if not summary.values:
            return failures, statistics.fmean(summary.ends) if summary.ends else 0.0
        mean = statistics.fmean(summary.values)
        return failures, -mean if higher_is_better else mean

    return min(range(len(summaries)), key=lambda i: rank(summaries[i]))


def verdict(
    variant: str, summary: SeedSummary, baseline: str, base: SeedSummary, measure: Measure
) -> str:
    """A sentence on a variant against the baseline: the difference of the means, and whether it exceeds
    the combined deviation, the root of the sum of both squares."""
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
        return f"{text} {against}; with a single run there is no deviation to judge it by."
    clear = abs(difference) > combined
    word = ("higher" if difference > 0 else "lower") if measure.name == "top1" else ""
    word = word or ("later" if difference > 0 else "sooner")
    lost = [
        f"{n} {why_no_mean(s)}" for n, s in ((variant, summary), (baseline, base)) if s.diverged
    ]
    note = f" ({', '.join(lost)})" if lost else ""
    return f"{text} ± {combined:.2f} {against}: {word if clear else 'no clear difference'}{note}."


def why_no_mean(summary: SeedSummary) -> str:
    """Why a cell has no mean, in words."""
    if summary.not_reached:
        return f"did not reach the threshold in {summary.not_reached} of {summary.runs} runs"
    if summary.diverged:
        return f"diverged in {summary.diverged} of {summary.runs} runs"
    return "has no finished run"
