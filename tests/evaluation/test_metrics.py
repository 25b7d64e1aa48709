"""Ranks and ties worked out by hand (papers.md section 6, T1), unknown labels, counts against the split."""

import jax
import numpy as np
import pytest

from jaxcnn.evaluation import Tally, ranks

NAN = float("nan")


@pytest.mark.parametrize("function", [ranks, jax.jit(ranks)], ids=["host", "device"])
@pytest.mark.parametrize(
    ("scores", "label", "rank"),
    [
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 1, 0),
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 2, 1),
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 4, 4),  # fifth: still in the top 5
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 5, 5),  # sixth
        ([0.5, 0.5, 0.5], 0, 0),  # ties go to the lower index, as in argmax
        ([0.5, 0.5, 0.5], 2, 2),
        ([NAN, NAN, NAN], 0, 3),  # a broken net is never right
        ([NAN, 1.0, 0.0], 1, 1),
    ],
)
def test_ranks_by_hand(scores, label, rank, function):
    assert function(np.float32([scores]), np.array([label])).tolist() == [rank]


def test_ranks_agree_with_argmax_and_sorting():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(64, 20)).astype(np.float32).round(1)  # rounded: many ties
    labels = generator.integers(0, 20, 64)
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = [order[i].tolist().index(labels[i]) for i in range(64)]
    assert ranks(scores, labels).tolist() == expected
    assert jax.jit(ranks)(scores, labels).tolist() == expected
    assert ((ranks(scores, labels) == 0) == (scores.argmax(1) == labels)).all()


def test_unknown_labels_count_as_wrong():
    tally = Tally()
    tally.add(
        np.full((6, 6), 0.1, np.float32) + np.eye(6, dtype=np.float32) * 0.4,
        np.array([0, 1, 0, 5, -1, -1]),
    )
    # Row 2 has class 2 first, row 4 and 5 have no label; label 0 of row 2 ties with others: second.
    assert (tally.n, tally.top1, tally.top5) == (6, 2, 3)


def test_top5_counts_the_fifth_class_and_not_the_sixth():
    posteriors = np.array([[0.25, 0.22, 0.19, 0.15, 0.12, 0.07]] * 6, np.float32)
    tally = Tally()
    tally.add(posteriors, np.arange(6))
    assert (tally.n, tally.top1, tally.top5) == (6, 1, 5)


def test_result_of_a_split():
    tally, posteriors = Tally(), np.exp([2, 1], dtype=np.float32) / (np.exp(2) + np.exp(1))
    for label in (0, 1, 0):
        tally.add(posteriors.astype(np.float32)[None], np.array([label]))
    result = tally.result("centre", "val", 3)
    assert (result.n, result.top1, result.top5) == (3, 2 / 3, 1.0)
    expected = -np.log(np.exp([2.0, 1.0, 2.0]) / (np.exp(2) + np.exp(1))).mean()
    assert result.loss == pytest.approx(expected, rel=1e-6)


def test_totals_do_not_depend_on_order_or_processes():
    generator = np.random.default_rng(0)
    values, labels = generator.random((50, 6), np.float32), generator.integers(0, 6, 50)
    whole, backwards, halves = Tally(), Tally(), [Tally(), Tally()]
    whole.add(values, labels)
    for i in range(49, -1, -1):
        backwards.add(values[i : i + 1], labels[i : i + 1])
        halves[i % 2].add(values[i : i + 1], labels[i : i + 1])
    assert backwards.totals() == whole.totals()
    merged = Tally.from_totals([half.totals() for half in halves])
    assert merged.totals()[:3] == whole.totals()[:3]
    assert merged.totals()[3] == pytest.approx(whole.totals()[3], rel=1e-15)


@pytest.mark.parametrize("expected", [2, 4, 50_000])
def test_wrong_number_of_images_is_an_error(expected):
    tally = Tally()
    tally.add(np.zeros((3, 2), np.float32), np.array([0, 1, 0]))
    with pytest.raises(RuntimeError, match=rf"counted 3 images of split val, which has {expected}"):
        tally.result("centre", "val", expected)
