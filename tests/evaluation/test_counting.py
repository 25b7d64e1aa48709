"""Counting: ranks and ties by hand (papers.md section 6, T1), masks, and the count against the split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.evaluation import count_batch, evaluate, ranks

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "label", "rank"),
    [
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 1, 0),
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 2, 1),
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 4, 4),  # fifth: still in the top 5
        ([0.1, 0.9, 0.3, 0.2, 0.0, -1.0], 5, 5),  # sixth
        ([0.5, 0.5, 0.5], 0, 0),  # ties go to the lower index, as argmax has it
        ([0.5, 0.5, 0.5], 2, 2),
        ([NAN, NAN, NAN], 0, 3),  # a broken net is never right
        ([NAN, 1.0, 0.0], 1, 1),
    ],
)
def test_ranks_by_hand(scores, label, rank):
    assert ranks(jnp.array([scores]), jnp.array([label])).tolist() == [rank]


def test_ranks_agree_with_argmax_and_sorting():
    scores = jax.random.normal(jax.random.key(0), (64, 20)).round(1)  # rounded: full of ties
    labels = jax.random.randint(jax.random.key(1), (64,), 0, 20)
    order = np.argsort(-np.asarray(scores), axis=1, kind="stable")
    expected = [order[i].tolist().index(int(labels[i])) for i in range(64)]
    assert ranks(scores, labels).tolist() == expected
    assert ((ranks(scores, labels) == 0) == (scores.argmax(1) == labels)).all()


def test_masked_rows_and_unreadable_labels():
    logits = jnp.eye(6) * 3
    labels = jnp.array([0, 1, 0, 0, -1, 5])
    mask = jnp.array([True, True, True, False, True, False])
    counts = count_batch(logits, labels, mask)
    assert {k: int(v) for k, v in counts.items() if k != "loss"} == {"n": 4, "top1": 2, "top5": 3}
    assert all(counts[k].dtype == jnp.int32 for k in ("n", "top1", "top5"))


def batch(labels, mask):
    return {"label": jnp.array(labels), "mask": jnp.array(mask)}


def step(params, batch):
    return count_batch(
        jnp.tile(params[None, :], (len(batch["label"]), 1)), batch["label"], batch["mask"]
    )


def test_rates_are_of_the_whole_split():
    batches = [batch([0, 1], [True, True]), batch([0, 7], [True, False])]
    result = evaluate(
        step, jnp.array([2.0, 1.0]), batches, protocol="centre", split="val", expected=3
    )
    assert (result.n, result.top1, result.top5) == (3, 2 / 3, 1.0)
    expected = -np.log(np.exp([2.0, 1.0, 2.0]) / (np.exp(2) + np.exp(1))).mean()
    assert result.loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("expected", [2, 4, 50_000])
def test_another_count_than_the_split_is_an_error(expected):
    batches = [batch([0, 1], [True, True]), batch([0, 1], [True, False])]
    with pytest.raises(RuntimeError, match=rf"counted 3 images of split val, which has {expected}"):
        evaluate(
            step, jnp.array([2.0, 1.0]), batches, protocol="centre", split="val", expected=expected
        )


def test_it_can_be_left_early():
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    with pytest.raises(Stop):
        evaluate(
            step,
            jnp.ones(2),
            [batch([0], [True])],
            protocol="c",
            split="v",
            expected=1,
            check_stop=stop,
        )
