import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxcnn.data.sampler import RandomStream, permutation, random_bits, train_indices


def take(rows, count):
    return list(itertools.chain.from_iterable(itertools.islice(rows, count)))


def test_random_bits_never_change():
    # The order of published runs depends on these values.
    words = random_bits(RandomStream.ORDER, 0, 0, 0, 2)
    assert words.dtype == np.uint64
    assert [int(word) for word in words] == [15003734204198539638, 13859618513508960101]
    assert permutation(RandomStream.ORDER, 7, 1, 10).tolist() == [5, 4, 3, 6, 2, 9, 1, 7, 8, 0]


def test_random_bits_depend_on_every_argument():
    base = {"stream": RandomStream.CROP, "seed": 1, "epoch": 2, "example_id": 3}
    seen = {tuple(random_bits(**base, count=2))}
    for change in (
        {"stream": RandomStream.ORDER},
        {"seed": 2},
        {"seed": -1},
        {"epoch": 3},
        {"example_id": 2},
    ):
        seen.add(tuple(random_bits(**(base | change), count=2)))
    assert len(seen) == 6


def test_random_bits_do_not_depend_on_other_draws():
    def words(example_id):
        return random_bits(RandomStream.CROP, 1, 2, example_id, 1 + example_id % 6).tolist()

    expected = [words(example_id) for example_id in range(2000)]
    order = np.random.default_rng(0).permutation(2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        got = dict(zip(order, pool.map(words, order), strict=True))
    assert [got[example_id] for example_id in range(2000)] == expected
    # The same values as from a new generator.
    alone = np.random.Philox(key=[1, int(RandomStream.CROP)], counter=[0, 0, 2, 77]).random_raw(6)
    assert random_bits(RandomStream.CROP, 1, 2, 77, 6).tolist() == alone.tolist()


def test_each_epoch_holds_each_example_once_across_batches():
    rows = take(train_indices(10, seed=3, batch_size=4), 15)  # 60 = 6 epochs
    assert [row.epoch for row in rows] == sorted(row.epoch for row in rows)
    orders = []
    for epoch in range(6):
        order = [row.position for row in rows if row.epoch == epoch]
        assert sorted(order) == list(range(10))
        orders.append(tuple(order))
    assert len(set(orders)) == 6


def test_stream_position_gives_epoch_and_example():
    rows = take(train_indices(7, seed=5, batch_size=3), 9)
    for p, row in enumerate(rows):
        assert row.epoch == p // 7
        assert row.position == permutation(RandomStream.ORDER, 5, p // 7, 7)[p % 7]


@pytest.mark.parametrize("start", [1, 2, 5, 1_000_000])
def test_start_step_continues_the_stream(start):
    if start < 10:
        assert (
            take(train_indices(10, seed=3, batch_size=4, start_step=start), 3)
            == take(train_indices(10, seed=3, batch_size=4), start + 3)[-12:]
        )
    else:
        row = take(train_indices(10, seed=3, batch_size=4, start_step=start), 1)[0]
        assert row.epoch == start * 4 // 10


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch(processes):
    whole = list(itertools.islice(train_indices(10, seed=3, batch_size=8), 6))
    parts = [
        itertools.islice(
            train_indices(10, seed=3, batch_size=8, process_index=h, process_count=processes), 6
        )
        for h in range(processes)
    ]
    for rows, *shares in zip(whole, *parts, strict=True):
        assert rows == list(itertools.chain.from_iterable(shares))
