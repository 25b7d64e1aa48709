"""Measures of runs, means, standard deviations and verdicts, compared with hand-computed values."""

import math

import pytest

from jaxcnn.research.comparison.measures import (
    Measure,
    SeedSummary,
    best_summary,
    parse_measure,
    running_train_error,
    verdict,
)

TOP1, EPOCHS = Measure("top1"), Measure("epochs_to_train_error", 0.25)


def train_events(*points):
    return [{"kind": "train", "epoch": epoch, "top1": 1.0 - error} for epoch, error in points]


def test_the_running_error_is_the_mean_over_the_latest_epoch():
    """Events of half an epoch: at 1.5 the mean of the second and the third; of two thirds: by share."""
    events = train_events((0.5, 0.8), (1.0, 0.6), (1.5, 0.4))
    assert running_train_error(events) == [(1.0, pytest.approx(0.7)), (1.5, pytest.approx(0.5))]
    events = train_events((2 / 3, 0.9), (4 / 3, 0.3))
    # the epoch from 1/3 to 4/3: a third of the time at 0.9, two thirds at 0.3
    assert running_train_error(events) == [(pytest.approx(4 / 3), pytest.approx(0.5))]


def test_less_than_an_epoch_has_no_running_error():
    assert running_train_error(train_events((0.5, 0.1), (0.9, 0.1))) == []


def test_evaluation_events_are_ignored_in_the_running_error():
    events = [*train_events((1.0, 0.5)), {"kind": "eval", "epoch": 1.0, "top1": 1.0}]
    assert running_train_error(events) == [(1.0, pytest.approx(0.5))]


def test_epochs_to_train_error_is_the_first_epoch_at_the_threshold():
    events = train_events((1.0, 0.5), (2.0, 0.25), (3.0, 0.3), (4.0, 0.1))
    assert EPOCHS.value({}, events, "") == 2.0


def test_a_threshold_that_is_never_reached_has_no_epoch():
    assert EPOCHS.value({}, train_events((1.0, 0.5), (2.0, 0.26)), "") is None


def test_top1_is_that_of_the_reported_protocol_in_percent():
    rows = [
        {"protocol": "centre(32->32)", "split": "held_out", "top1": 0.9},
        {"protocol": "centre(40->32)", "split": "val", "top1": 0.8},
        {"protocol": "centre(32->32)", "split": "val", "top1": 0.625},
    ]
    assert TOP1.value({"results": rows}, [], "centre(32->32)") == 62.5


def test_mean_and_deviation():
    """2, 4, 9: mean 5, squares 9 + 1 + 16 over n - 1 = 2, root of 13."""
    summary = SeedSummary((2.0, 4.0, 9.0))
    assert summary.mean == 5.0
    assert summary.deviation == pytest.approx(math.sqrt(13))
    assert summary.runs == 3


def test_one_run_has_no_deviation_and_a_run_that_fails_no_mean():
    assert math.isnan(SeedSummary((2.0,)).deviation)
    assert math.isnan(SeedSummary((2.0, 3.0), not_reached=1).mean)
    assert math.isnan(SeedSummary((), diverged=3).mean)
    # diverged runs are counted; the mean is of the others
    assert (SeedSummary((2.0, 4.0), diverged=1).mean, SeedSummary((2.0, 4.0), diverged=1).runs) == (
        3.0,
        3,
    )


@pytest.mark.parametrize(
    ("summaries", "higher", "position"),
    [
        (
            [SeedSummary((50.0, 52.0)), SeedSummary((55.0, 53.0)), SeedSummary((54.0, 53.0))],
            True,
            1,
        ),
        ([SeedSummary((8.0, 9.0)), SeedSummary((3.0, 4.0))], False, 1),
        # an early epoch of one seed does not outweigh another that never reached the threshold
        ([SeedSummary((1.0,), not_reached=1), SeedSummary((9.0, 9.0))], False, 1),
        ([SeedSummary((99.0, 99.0), diverged=1), SeedSummary((50.0, 50.0, 50.0))], True, 1),
        ([SeedSummary((), not_reached=3), SeedSummary((9.0,), not_reached=2)], False, 1),
        # if no run reaches the threshold, the lowest final error is the best
        (
            [
                SeedSummary((), not_reached=2, final_errors=(0.5, 0.5)),
                SeedSummary((), not_reached=2, final_errors=(0.4, 0.3)),
            ],
            False,
            1,
        ),
        ([SeedSummary((), missing=3), SeedSummary((50.0,), missing=2)], True, 1),
        ([SeedSummary((5.0, 5.0)), SeedSummary((5.0, 5.0))], False, 0),
    ],
)
def test_best_point_of_a_grid(summaries, higher, position):
    assert best_summary(summaries, higher) == position


def test_a_clear_difference_exceeds_the_combined_deviation():
    """Deviations 1 and sqrt(2) combine to sqrt(3) = 1.73; 2 exceeds it, 1.5 does not."""
    base, other = SeedSummary((59.0, 60.0, 61.0)), SeedSummary((57.0, 59.0))
    assert verdict("no LRN", other, "base", base, TOP1) == (
        "no LRN: -2.00 ± 1.73 points of top-1 against base: lower."
    )
    near = SeedSummary((57.5, 59.5))
    assert verdict("no LRN", near, "base", base, TOP1) == (
        "no LRN: -1.50 ± 1.73 points of top-1 against base: no clear difference."
    )


def test_a_difference_of_epochs_says_how_many_times():
    base, other = SeedSummary((2.0, 2.0)), SeedSummary((11.0, 13.0))
    assert verdict("tanh", other, "relu", base, EPOCHS) == (
        "tanh: +10.00 ± 1.41 epochs against relu (6.00 times as many): later."
    )


def test_verdicts_without_a_mean_or_a_deviation():
    base = SeedSummary((2.0, 2.0))
    assert verdict("tanh", SeedSummary((9.0,), not_reached=2), "relu", base, EPOCHS) == (
        "tanh: no difference from relu can be given, tanh did not reach the threshold in 2 of 3 runs."
    )
    assert "relu diverged in 2 of 2 runs" in verdict("x", base, "relu", SeedSummary((), 0, 2), TOP1)
    single = verdict("x", SeedSummary((3.0,)), "base", SeedSummary((1.0,)), TOP1)
    assert single == (
        "x: +2.00 points of top-1 against base; a single run has no standard deviation."
    )


def test_a_verdict_counts_what_diverged():
    text = verdict(
        "x", SeedSummary((50.0, 52.0), diverged=1), "base", SeedSummary((60.0, 62.0)), TOP1
    )
    assert text.endswith("lower (x diverged in 1 of 3 runs).")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top2", "unknown measure 'top2'; did you mean top1"),
        ("top1=3", "takes no value"),
        ("epochs_to_train_error", "between 0 and 1, such as epochs_to_train_error=0.25"),
        ("epochs_to_train_error=25", "between 0 and 1"),
    ],
)
def test_unknown_measures_are_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_measure(text)


def test_measures_are_parsed():
    assert parse_measure("epochs_to_train_error=0.25") == EPOCHS
    assert parse_measure("top1") == TOP1
    assert (TOP1.is_top1, EPOCHS.is_top1) == (True, False)
