"""The batch contract: what TrainLoader promises; and one image file alone."""

import itertools
import logging
import threading

import numpy as np
import pytest

from jaxcnn.data import CorruptImage, DataError, Sampling, TrainLoader, open_data, preprocess
from jaxcnn.data.sampler import RandomStream, permutation

TRAIN = {"seed": 3, "batch_size": 4, "image_size": 24, "sampling": Sampling(scale=(24, 40))}


@pytest.fixture
def folder(image_folder):
    return open_data(f"folder:{image_folder}")


def take(source, count, **changes):
    with TrainLoader(source, **(TRAIN | changes)) as batches:
        return list(itertools.islice(batches, count))


def join(batches):
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert np.array_equal(one[key], other[key]), key


def test_columns(folder):
    batch = take(folder.train, 1)[0]
    assert {key: (column.shape, column.dtype.name) for key, column in batch.items()} == {
        "image": ((4, 24, 24, 3), "uint8"),
        "label": ((4,), "int32"),
        "id": ((4,), "int32"),
        "epoch": ((4,), "int32"),
        "box": ((4, 4), "int32"),
        "mask": ((4,), "bool"),
    }
    assert batch["mask"].all()
    assert (batch["box"][:, 2:] == 24).all()


def test_each_epoch_holds_each_image_once(folder):
    rows = join(take(folder.train, 15))  # 60 rows of 15 images: 4 epochs, batches span them
    for epoch in range(4):
        assert sorted(rows["id"][rows["epoch"] == epoch]) == list(range(15))
    assert np.array_equal(rows["label"], rows["id"] // 5)


def test_pixels_match_their_id(folder):
    """Every row equals its own image decoded alone: nothing is swapped on the way."""
    rows = join(take(folder.train, 4, sampling=Sampling(scale=(24, 24)), image_size=24))
    for image, example_id in zip(rows["image"], rows["id"], strict=True):
        alone = preprocess(folder.train.name(int(example_id)), scale=24, image_size=24)[0]
        # The same image up to the position of the crop along the longer side.
        assert np.abs(image.mean((0, 1)) - alone.mean((0, 1))).max() < 40


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_do_not_depend_on_threads_or_prefetch(folder, threads, prefetch):
    assert_equal(
        take(folder.train, 8, threads=2), take(folder.train, 8, threads=threads, prefetch=prefetch)
    )


@pytest.mark.parametrize("start", [1, 4, 7])
def test_start_step_continues_as_if_never_stopped(folder, start):
    assert_equal(take(folder.train, 9)[start:], take(folder.train, 9 - start, start_step=start))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_get_slices_of_the_global_batch(folder, processes):
    whole = take(folder.train, 8)
    parts = [
        take(folder.train, 8, process_index=h, process_count=processes) for h in range(processes)
    ]
    assert_equal(whole, [join(list(shares)) for shares in zip(*parts, strict=True)])


def test_seeds_and_epochs_differ(folder):
    first, second = join(take(folder.train, 4)), join(take(folder.train, 4, seed=4))
    assert not np.array_equal(first["id"], second["id"])
    rows = join(take(folder.train, 15))
    boxes = [rows["box"][rows["id"] == 2][i].tolist() for i in range(4)]
    assert len({tuple(box) for box in boxes}) > 1


def test_held_out_slice_keeps_ids_and_is_the_same_for_every_seed(image_folder):
    data = open_data(f"folder:{image_folder}", held_out=4)
    again = open_data(f"folder:{image_folder}", held_out=4)
    assert (len(data.train), len(data.held_out)) == (11, 4)
    kept, apart = set(data.train.ids.tolist()), set(data.held_out.ids.tolist())
    assert kept | apart == set(range(15))
    assert not kept & apart
    assert np.array_equal(data.held_out.ids, again.held_out.ids)
    rows = join(take(data.train, 11))  # 44 rows: 4 epochs of 11
    assert {*rows["id"].tolist()} == kept
    assert np.array_equal(rows["label"], rows["id"] // 5)
    assert [sorted(rows["id"][rows["epoch"] == e]) for e in range(4)] == [sorted(kept)] * 4
    nested = open_data(f"folder:{image_folder}", held_out=3)
    assert set(nested.held_out.ids.tolist()) < apart


def test_random_crop_in_square(folder):
    """Their boxes are places in it."""
    rows = join(take(folder.train, 8, sampling=Sampling("random_crop_in_square", (32, 32))))
    seen = set(map(tuple, rows["box"].tolist()))
    assert {side for box in seen for side in box[2:]} == {24}
    assert {place for box in seen for place in box[:2]} == set(range(9))
    for image, box, example_id in zip(rows["image"], rows["box"], rows["id"], strict=True):
        whole = preprocess(folder.train.name(int(example_id)), scale=32, image_size=32, square=True)
        crop = whole[0, box[0] : box[0] + 24, box[1] : box[1] + 24]
        assert np.abs(image.astype(int) - crop).max() <= 1


def test_center_crop_is_the_same_in_each_epoch(folder):
    rows = join(take(folder.train, 8, sampling=Sampling("center_crop", (32, 32))))
    assert set(map(tuple, rows["box"].tolist())) == {(4, 4, 24, 24)}
    for image, example_id in zip(rows["image"], rows["id"], strict=True):
        name = folder.train.name(int(example_id))
        assert np.array_equal(image, preprocess(name, scale=32, image_size=24, square=True)[0])


def test_boxes_of_random_resized_crops_are_in_image_pixels(folder):
    sampling = Sampling(
        "random_resized_crop", interpolation=("bilinear", "area", "nearest", "cubic")
    )
    rows = join(take(folder.train, 15, sampling=sampling))
    sizes = {i: (40 + i % 5, 52 - 3 * (i % 5)) for i in range(15)}
    for example_id, (top, left, tall, wide) in zip(rows["id"], rows["box"], strict=True):
        height, width = sizes[int(example_id)]
        assert min(top, left) >= 0
        assert top + tall <= height
        assert left + wide <= width
        assert 0.06 * height * width < tall * wide <= height * width
    assert len(set(map(tuple, rows["box"].tolist()))) > 50
    assert rows["mask"].all()


def test_small_images_are_enlarged(tmp_path, encoded, smooth_image):
    (tmp_path / "tiny.png").write_bytes(encoded(smooth_image(8, 8), "PNG"))
    assert preprocess(tmp_path / "tiny.png", scale=64, image_size=56).shape == (1, 56, 56, 3)


def spoil(path, content):
    path.write_bytes(content)
    return str(path)


def test_corrupt_image_is_grey_masked_and_logged_once(image_folder, caplog):
    name = spoil(image_folder / "train" / "bee" / "2.jpg", b"\xff\xd8\xff\xe0 no image")
    data = open_data(f"folder:{image_folder}")
    with (
        caplog.at_level(logging.WARNING),
        TrainLoader(data.train, **(TRAIN | {"batch_size": 15})) as batches,
    ):
        for epoch in range(3):
            batch = next(batches)
            assert set(batch["epoch"]) == {epoch}
            row = batch["id"].tolist().index(7)
            assert (batch["image"][row] == 128).all()
            assert batch["label"][row] == 1
            assert batch["mask"].tolist() == [i != row for i in range(15)]
        assert batches.corrupt == [name]
    messages = [record.getMessage() for record in caplog.records if "jaxcnn" in record.name]
    assert len(messages) == 1
    assert name in messages[0]
    assert "truncated JPEG" in messages[0]


def test_missing_file_is_a_corrupt_row(image_folder):
    data = open_data(f"folder:{image_folder}")
    (image_folder / "train" / "bee" / "1.jpg").unlink()
    batch = take(data.train, 1, batch_size=15)[0]
    row = batch["id"].tolist().index(6)
    assert np.array_equal(batch["label"], batch["id"] // 5)
    assert (batch["image"][row] == 128).all()
    assert batch["mask"].tolist() == [i != row for i in range(15)]


def test_too_many_corrupt_images_are_an_error(listed, encoded, smooth_image):
    good = (encoded(smooth_image(30, 30)), 0)
    few = listed([CorruptImage("gone", 1) if i < 9 else good for i in range(40)])
    rows = join(take(few, 5, batch_size=8))
    assert np.array_equal(rows["mask"], rows["id"] >= 9)
    assert np.array_equal(rows["label"], rows["id"] < 9)
    many = listed([CorruptImage("gone", 1) if i % 3 == 0 else good for i in range(40)])
    order = permutation(RandomStream.ORDER, TRAIN["seed"], 0, 40)
    seen, first = np.flatnonzero(order % 3 == 0)[9] + 1, order[order % 3 == 0][0]
    assert seen < 40
    message = rf"10 of the first {seen} images.*more than 1%.*listed#{first}, "
    with pytest.raises(DataError, match=message):
        take(many, 5, batch_size=8)


def test_worker_error_is_raised_in_order_and_stops_the_threads(listed, encoded, smooth_image):
    good = (encoded(smooth_image(30, 30)), 0)
    order = permutation(RandomStream.ORDER, TRAIN["seed"], 0, 20).tolist()
    results = [RuntimeError("the disk is on fire") if i == order[10] else good for i in range(20)]
    batches = TrainLoader(listed(results), **TRAIN, threads=2)
    assert [next(batches)["id"].tolist() for _ in range(2)] == [order[:4], order[4:8]]
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        next(batches)
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(batches)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("jaxcnn-data")]


def test_close_stops_the_threads(folder):
    batches = TrainLoader(folder.train, **TRAIN)
    next(batches)
    assert loader_threads()
    batches.close()
    batches.close()
    assert not loader_threads()
    assert next(batches, None) is None


def test_deleted_iterator_leaves_no_threads(folder):
    batches = TrainLoader(folder.train, **TRAIN)
    next(batches)
    threads = loader_threads()
    del batches
    for thread in threads:
        thread.join(timeout=10)
    assert not loader_threads()


def test_read_ahead_is_bounded(listed, encoded, smooth_image):
    reads = []
    good = (encoded(smooth_image(30, 30)), 0)

    class Counted(listed):
        def read(self, index):
            reads.append(index)
            return super().read(index)

    with TrainLoader(Counted([good] * 20), **(TRAIN | {"prefetch": 1, "threads": 2})) as batches:
        next(batches)
        next(batches)
    assert len(reads) <= 4 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 16}, r"batch_size=16.*only 15 training images.*--config.batch_size=15"),
        ({"batch_size": 3, "process_count": 2}, "batch_size=3 does not split over 2 processes"),
        ({"batch_size": 0}, "batch_size=0"),
        (
            {"sampling": Sampling(scale=(20, 40))},
            r"scale=\(20, 40\) with image_size=24.*scale=\(24, 40\)",
        ),
        (
            {"sampling": Sampling("random_crop_in_square", (20, 20))},
            r"for example scale=\(24, 24\)",
        ),
        ({"sampling": Sampling("random_resized_crop"), "image_size": 0}, "with image_size=0"),
        ({"threads": -1}, "threads=-1"),
    ],
)
def test_impossible_arguments(folder, changes, message):
    with pytest.raises(DataError, match=message):
        TrainLoader(folder.train, **(TRAIN | changes))


def test_preprocess_errors(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the image .*none.jpg: No such file"):
        preprocess(tmp_path / "none.jpg", scale=24, image_size=24)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"cannot decode the image .*text.jpg: not a readable JPEG"):
        preprocess(tmp_path / "text.jpg", scale=24, image_size=24)


def test_synthetic_is_fixed_and_differs_by_class_and_split():
    data = open_data("synthetic:4")
    assert (len(data.train), len(data.evaluation), data.class_names[3]) == (256, 64, "class_003")
    again = open_data("synthetic:4")
    assert data.train.read(5) == again.train.read(5)
    assert data.train.read(5)[1] == 1
    assert data.train.read(5)[0] != data.evaluation.read(5)[0]
    assert len(open_data("synthetic").class_names) == 1000


@pytest.mark.parametrize("name", ["", "cifar10", "tfds:", "folder:", "synthetic:1", "synthetic:x"])
def test_unknown_source(name):
    with pytest.raises(DataError, match="expected"):
        open_data(name)


@pytest.mark.parametrize("held_out", [-1, 15, 100])
def test_held_out_must_leave_something(image_folder, held_out):
    with pytest.raises(DataError, match=f"held_out={held_out} but the training split has 15"):
        open_data(f"folder:{image_folder}", held_out=held_out)
