import dataclasses
import json

import numpy as np
import pytest

from jaxcnn.data import DataError, open_data, preprocess
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.pixel_statistics import (
    IMAGENET,
    Statistics,
    check_matches,
    compute_statistics,
    eigen,
    load_statistics,
    save_statistics,
    side_of,
)
from jaxcnn.data.preparation.packing import pack
from jaxcnn.data.sources.source import Source
from jaxcnn.data.train_crops import Sampling
from jaxcnn.files import FileError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 24, 24, 3), np.uint8)


@pytest.fixture
def source(listed, encoded, images):
    return listed([(encoded(image, "PNG"), i % 2) for i, image in enumerate(images)])


def assert_same(one, other):
    assert np.array_equal(one.mean, other.mean)
    assert np.array_equal(one.covariance, other.covariance)
    assert np.array_equal(one.mean_image, other.mean_image)


def test_statistics_are_over_all_pixels(source, images):
    found = compute_statistics(source, side=24, name="test")
    pixels = images.reshape(-1, 3).astype(np.float64)
    assert found.mean == pytest.approx(pixels.mean(0), rel=1e-14)
    assert found.covariance == pytest.approx(np.cov(pixels.T, bias=True), rel=1e-11)
    assert np.array_equal(found.mean_image, images.mean(0).astype(np.float32))
    assert found.mean_image.dtype == np.float32
    assert {k: found.origin[k] for k in ("source", "examples", "unreadable", "side")} == {
        "source": "test",
        "examples": 40,
        "unreadable": 0,
        "side": 24,
    }


def test_statistics_do_not_depend_on_threads_or_order(source, listed):
    found = compute_statistics(source, side=24, threads=1)
    assert_same(found, compute_statistics(source, side=24, threads=5))
    assert_same(found, compute_statistics(listed(source.results[::-1]), side=24, threads=2))


def test_known_eigensystem_is_recovered(listed, encoded):
    """Pixels of N(mean, V diag(std^2) V^T), whole numbers: rounding adds a variance of 1/12."""
    generator = np.random.default_rng(1)
    _, vectors = eigen(IMAGENET)
    deviations, mean = np.array([30.0, 12.0, 5.0]), np.array([140.0, 120.0, 110.0])
    draws = generator.normal(size=(30, 64, 64, 3)) * deviations
    pixels = np.clip(np.round(mean + draws @ vectors.T), 0, 255).astype(np.uint8)
    found = compute_statistics(listed([(encoded(p, "PNG"), 0) for p in pixels]), side=64)
    values, recovered = eigen(found)
    assert found.mean == pytest.approx(mean, abs=0.5)
    assert np.sqrt(values - 1 / 12) == pytest.approx(deviations, rel=0.01)
    assert np.abs((recovered * vectors).sum(0)) == pytest.approx(np.ones(3), abs=1e-3)


def test_squares_are_central(image_folder):
    """As evaluation crops them: of the rescaled image, whatever the image's shape."""
    train = open_data(f"folder:{image_folder}").train
    found = compute_statistics(train, side=32)
    squares = [
        preprocess(train.name(i), scale=32, image_size=32, square=True)[0] for i in range(15)
    ]
    assert np.array_equal(
        found.mean_image, np.mean(squares, 0, dtype=np.float64).astype(np.float32)
    )
    assert found.mean == pytest.approx(np.mean(squares, (0, 1, 2), dtype=np.float64))


def test_corrupt_images_are_left_out_and_counted(listed, source):
    with_gaps = [*source.results, CorruptImage("gone", 1), (b"\xff\xd8 no image", 0)]
    found = compute_statistics(listed(with_gaps), side=24)
    assert_same(found, compute_statistics(source, side=24))
    assert (found.origin["examples"], found.origin["unreadable"]) == (42, 2)
    with pytest.raises(DataError, match="all 3 images of here are corrupt"):
        compute_statistics(listed([CorruptImage("gone", 0)] * 3), side=24, name="here")


def test_too_many_corrupt_images_are_an_error(listed, source, caplog):
    results = [CorruptImage("gone", 1) if i % 3 == 0 else r for i, r in enumerate(source.results)]
    with pytest.raises(DataError, match=r"10 of the first 28 images.*more than 1%.*listed#0, "):
        compute_statistics(listed(results), side=24)
    messages = [record.getMessage() for record in caplog.records if "jaxcnn" in record.name]
    assert messages == [f"corrupt image listed#{i}: gone; it is left out" for i in range(0, 28, 3)]


def test_impossible_arguments(listed, source):
    with pytest.raises(DataError, match="side=0: expected 1 or more"):
        compute_statistics(source, side=0)
    with pytest.raises(DataError, match="the source holds no images"):
        compute_statistics(listed([]), side=24)
    with pytest.raises(DataError, match="threads=-1"):
        compute_statistics(source, side=24, threads=-1)


def test_progress_and_stop(source):
    seen = []
    compute_statistics(source, side=24, progress=lambda *at: seen.append(at))
    assert seen == [(32, 40), (40, 40)]

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        compute_statistics(source, side=24, progress=stop)


def test_krizhevskys_statistics():
    """papers.md 1.8: cuda-convnet2's eigen-system, whose deviations by channel are 74.00, 72.00, 77.04."""
    values, vectors = eigen(IMAGENET)
    assert np.sqrt(values) == pytest.approx([121.780061, 37.093889, 19.720833], abs=1e-5)
    assert values == pytest.approx([14830.3833, 1375.9566, 388.9113], abs=1e-3)
    assert np.sqrt(np.diag(IMAGENET.covariance)) == pytest.approx([74.00, 72.00, 77.04], abs=0.005)
    assert vectors[:, 0] == pytest.approx([0.56351045, 0.5761844, 0.59200296])
    assert vectors[:, 1] == pytest.approx([0.71257945, 0.02354167, -0.70119634])
    assert vectors[:, 2] == pytest.approx([-0.41795513, 0.81698062, -0.39731118])
    assert IMAGENET.mean.tolist() == [127.305, 119.715, 104.913]
    assert IMAGENET.mean_image is None


def test_eigen_fixes_order_and_sign():
    rotation = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    covariance = rotation.T @ np.diag([9.0, 4.0, 1.0]) @ rotation
    values, vectors = eigen(Statistics(np.zeros(3), covariance, None, {}))
    assert values == pytest.approx([9, 4, 1])
    # Of two components of the same size the first is made positive.
    assert np.allclose(vectors.T, rotation * np.array([[1], [1], [-1]]))
    # A set of grey images has one component; rounding must not make the others negative.
    values, _ = eigen(Statistics(np.zeros(3), np.full((3, 3), 7.0), None, {}))
    assert values == pytest.approx([21, 0, 0])
    assert (values >= 0).all()


def test_side_of_the_statistics_square():
    assert side_of(Sampling("random_crop_in_square", (256, 256)), 224) == 256
    assert side_of(Sampling("center_crop", (256, 256)), 224) == 256
    assert side_of(Sampling("random_crop", (256, 512)), 224) == 224
    assert side_of(Sampling("random_resized_crop"), 224) == 224


def test_saved_statistics_are_loaded_unchanged(tmp_path, source):
    path = tmp_path / "new" / "statistics.npz"
    found = compute_statistics(source, side=24, name="test")
    save_statistics(found, path)
    again = load_statistics(str(path))
    assert_same(again, found)
    assert again.origin == found.origin
    save_statistics(IMAGENET, path)
    assert np.array_equal(load_statistics(path).covariance, IMAGENET.covariance)
    assert load_statistics(path).mean_image is None
    assert [p.name for p in path.parent.iterdir()] == ["statistics.npz"]


def test_load_errors_give_the_command(tmp_path, source):
    path = tmp_path / "s.npz"
    again = r"jaxcnn statistics CONFIG --out=.*s.npz"
    with pytest.raises(FileError, match=rf"s.npz is missing; make it again: {again}"):
        load_statistics(path)
    save_statistics(compute_statistics(source, side=24), path)
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    origin = json.loads(arrays["origin"].item())
    array_file = tmp_path / "array.npy"
    np.save(array_file, np.zeros(3))
    for spoilt in (
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(whole[: len(whole) // 2]),
        lambda: path.write_bytes(b"hello" * 50),
        lambda: path.write_bytes(array_file.read_bytes()),
        lambda: np.savez(path, other=np.zeros(3)),
        lambda: np.savez(path, **(arrays | {"mean": np.zeros(4)})),
        lambda: np.savez(path, **(arrays | {"covariance": np.full((3, 3), np.nan)})),
        lambda: np.savez(path, **(arrays | {"mean_image": np.zeros((8, 8, 3), np.float32)})),
        lambda: np.savez(path, **(arrays | {"origin": np.array("[1]")})),
        lambda: np.savez(path, **(arrays | {"origin": np.array(json.dumps(origin)[:-3])})),
    ):
        spoilt()
        with pytest.raises(
            FileError,
            match=rf"s.npz .*is (not valid|not a readable|cut short).*make it again: {again}",
        ):
            load_statistics(path)


def test_other_images_with_the_same_count_and_classes_are_detected(source):
    found = compute_statistics(source, side=24)
    last = len(source) - 1

    class Changed(Source):
        """The same table, but for the pixels of some images."""

        class_names, ids = source.class_names, source.ids
        name = source.name

        def __len__(self):
            return len(source)

        def read(self, index):
            return source.read(last - index)[0], source.read(index)[1]

    whole = dataclasses.replace(
        open_data("synthetic:4"), train=source, class_names=source.class_names
    )
    check_matches(found, whole, "s.npz")
    other = dataclasses.replace(whole, train=Changed())
    with pytest.raises(DataError, match="they are of other images"):
        check_matches(found, other, "s.npz")


def test_statistics_of_other_data_are_refused(image_folder):
    data = open_data(f"folder:{image_folder}")
    found = compute_statistics(data.train, side=24, name="folder:images")
    check_matches(found, data, "s.npz")
    with pytest.raises(
        DataError, match="they are of 15 training images, the data have 11"
    ) as error:
        check_matches(found, open_data(f"folder:{image_folder}", held_out=4), "s.npz")
    assert "other classes" not in str(error.value)
    assert "(from folder:images)" in str(error.value)
    assert "jaxcnn statistics CONFIG --out=ANOTHER_FILE" in str(error.value)
    with pytest.raises(
        DataError, match=r"15 training images, the data have 256; they are of other classes"
    ):
        check_matches(found, open_data("synthetic:4"), "s.npz")


@pytest.mark.parametrize(
    ("side", "square", "fits"), [(24, True, True), (24, False, True), (32, True, False)]
)
def test_statistics_fit_the_same_images_packed_at_their_side(
    side, square, fits, image_folder, tmp_path
):
    """Packing at S stores the pixels that the statistics are of; other sides are rescaled twice."""
    data = open_data(f"folder:{image_folder}")
    found = compute_statistics(data.train, side=24)
    splits = {"train": data.train, "val": data.evaluation}
    pack(
        splits,
        tmp_path / "packed",
        origin=f"folder:{image_folder}",
        shorter_side=side,
        square=square,
    )
    packed = open_data(f"packed:{tmp_path}/packed")
    of_packed = compute_statistics(packed.train, side=24)
    assert np.array_equal(of_packed.mean_image, found.mean_image) == fits
    if fits:
        check_matches(found, packed, "s.npz")
        check_matches(of_packed, data, "s.npz")
    else:
        with pytest.raises(DataError, match="or of other pixels of these"):
            check_matches(found, packed, "s.npz")
