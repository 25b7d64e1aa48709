"""EvalLoader: each image once, in order, as the pixels of its crops."""

import logging
import threading
from concurrent.futures import wait

import numpy as np
import pytest

from jaxcnn.data import (
    CorruptCounter,
    CorruptImage,
    DataError,
    EvalImage,
    EvalLoader,
    ImageFiles,
    open_data,
    placeholder_pixels,
    preprocess,
)
from jaxcnn.data.eval_crops import center_crop, five_crops, inception_crops, whole_image_crop


def centre(height, width):
    return [center_crop(height, width, 32, 24)]


def square(height, width):
    return [center_crop(height, width, 32, 24, square=True)]


def many(height, width):
    return [
        whole_image_crop(height, width, 32),
        *five_crops(height, width, 32, 24),
        *inception_crops(height, width, 40, 24),
    ]


def read(source, choose=centre, **settings):
    with EvalLoader(source, choose, **settings) as images:
        return list(images)


def only(image):
    """The pixels of an image's only crop."""
    (pixels,) = image.pixels.values()
    return pixels


@pytest.fixture
def evaluation(image_folder):
    return open_data(f"folder:{image_folder}").evaluation


@pytest.fixture
def good(encoded, smooth_image):
    return encoded(smooth_image(30, 30)), 0


def test_every_image_once_and_in_order(evaluation):
    assert [(p.position, p.label, p.size, p.problem) for p in read(evaluation)] == [
        (i, i // 3, (40 + i % 3, 52 - 3 * (i % 3)), "") for i in range(9)
    ]


def test_positions_are_indices_in_the_source(image_folder):
    """In a held-out slice too; `ids` maps them to the split."""
    held_out = open_data(f"folder:{image_folder}", held_out=4).held_out
    images = read(held_out)
    assert [image.position for image in images] == [0, 1, 2, 3]
    assert [image.label for image in images] == (held_out.ids // 5).tolist()


@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (3, 2), (8, 16)])
@pytest.mark.parametrize("size", [1, 9])
def test_result_does_not_depend_on_threads_or_prefetch(
    listed, encoded, smooth_image, size, ahead, threads
):
    results = [(encoded(smooth_image(30 + i, 40 - i, i)), i % 2) for i in range(size)]
    if size > 7:
        results[5] = CorruptImage("gone", 1)
    alone = [read(listed([result]), many, threads=1)[0] for result in results]
    found = read(listed(results), many, threads=threads, ahead=ahead)
    assert [p.position for p in found] == list(range(size))
    for one, other in zip(found, alone, strict=True):
        assert one._replace(position=0, pixels={}) == other._replace(pixels={})
        assert list(one.pixels) == list(other.pixels)
        for crop, pixels in one.pixels.items():
            assert np.array_equal(pixels, other.pixels[crop])


def test_centre_crop_equals_preprocess(evaluation):
    for image in read(evaluation):
        alone = preprocess(evaluation.name(image.position), scale=32, image_size=24)
        assert alone.shape == (1, 24, 24, 3)
        assert alone.dtype == only(image).dtype == np.uint8
        assert np.array_equal(only(image), alone[0])


def test_crop_of_the_central_square_equals_preprocess(evaluation):
    """The centre crop of 24 in the square of 32 is at (4, 4)."""
    for image in read(evaluation, square):
        (crop,) = image.pixels
        assert crop.in_square(*image.size) == (4, 4, 24, 24)
        name = evaluation.name(image.position)
        alone = preprocess(name, scale=32, image_size=24, square=True)[0]
        assert np.array_equal(only(image), alone)
        whole = preprocess(name, scale=32, image_size=32, square=True)[0]
        assert np.abs(alone.astype(int) - whole[4:28, 4:28]).max() <= 1


def test_each_image_is_read_once_for_all_its_crops(listed, good):
    source = counted(listed, [good] * 5)
    images = read(source, many)
    assert sorted(source.reads) == list(range(5))
    wanted = many(30, 30)
    for image in images:
        assert list(image.pixels) == list(dict.fromkeys(wanted))
        assert [image.pixels[crop].shape for crop in wanted] == [
            (*crop.shape, 3) for crop in wanted
        ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"\xff\xd8\xff\xe0 no image", "truncated JPEG"),
        (b"hello", "not a readable JPEG, PNG, GIF, BMP or WebP image"),
    ],
)
def test_corrupt_image_has_a_problem_and_no_pixels(image_folder, evaluation, content, problem):
    (image_folder / "val" / "cat" / "0.jpg").write_bytes(content)
    images = read(evaluation)
    assert images[6].problem.startswith(problem)
    assert images[6] == EvalImage(6, 2, (0, 0), {}, images[6].problem)
    assert [image.position for image in images if not image.problem] == [
        *range(6),
        *range(7, 9),
    ]
    assert all(only(image).shape == (24, 24, 3) for image in images if not image.problem)
    assert [image.label for image in images] == [i // 3 for i in range(9)]


def test_missing_file_is_a_corrupt_image(image_folder, evaluation):
    (image_folder / "val" / "bee" / "1.jpg").unlink()
    images = read(evaluation)
    assert [image.label for image in images] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [image.position for image in images if image.problem] == [4]
    assert images[4].pixels == {}
    assert "No such file" in images[4].problem


def test_corrupt_image_keeps_a_known_label(listed):
    source = listed([CorruptImage("gone", 1), CorruptImage("lost"), (b"no image", 1)])
    assert [(p.label, p.problem) for p in read(source)][:2] == [(1, "gone"), (-1, "lost")]
    assert read(source)[2].label == 1


def test_corrupt_image_without_a_reason(listed):
    (image,) = read(listed([CorruptImage("")]))
    assert image.problem == "no reason given"


def test_a_png_under_a_jpeg_name_is_read(image_folder, evaluation, encoded, smooth_image):
    pixels = smooth_image(32, 32)
    (image_folder / "val" / "ant" / "0.jpg").write_bytes(encoded(pixels, "PNG"))
    found = read(evaluation)[0]
    assert (found.problem, found.size) == ("", (32, 32))
    # Nothing is rescaled, and PNG keeps every bit.
    assert np.array_equal(only(found), pixels[4:28, 4:28])
    assert only(found).std() > 10


def test_placeholder_is_mid_grey(listed):
    (image,) = read(listed([CorruptImage("gone", 1)]), many)
    found = placeholder_pixels(image, many)
    assert found._replace(size=(0, 0), pixels={}) == image
    assert found.size[0] == found.size[1]
    assert list(found.pixels) == list(dict.fromkeys(many(*found.size)))
    assert {(24, 24), (32, 32)} == {crop.shape for crop in found.pixels}
    for crop, pixels in found.pixels.items():
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*crop.shape, 3)
        assert (pixels == 128).all()


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("jaxcnn-data")]


def test_worker_error_is_raised_in_order_and_stops_the_threads(listed, good):
    source = listed([good] * 10 + [RuntimeError("the disk is on fire")] + [good] * 9)
    images = EvalLoader(source, centre, threads=2)
    assert [next(images).position for _ in range(10)] == list(range(10))
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        next(images)
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(images)


def test_error_in_the_choice_of_crops_is_raised(listed, good):
    def choose(height, width):
        raise ZeroDivisionError(f"{height} x {width}")

    with pytest.raises(ZeroDivisionError, match="30 x 30"):
        read(listed([good]), choose)
    assert not loader_threads()


def test_threads_stop_after_the_last_image(evaluation):
    images = EvalLoader(evaluation, centre, threads=2)
    assert loader_threads()
    assert len(list(images)) == 9
    assert not loader_threads()
    assert next(images, None) is None


def test_close_stops_the_threads(evaluation):
    images = EvalLoader(evaluation, centre)
    next(images)
    assert loader_threads()
    images.close()
    images.close()
    assert not loader_threads()
    assert next(images, None) is None


def counted(listed, results):
    """A source that records the images read, in `reads`."""

    class Counted(listed):
        def __init__(self):
            super().__init__(results)
            self.reads = []

        def read(self, index):
            self.reads.append(index)
            return super().read(index)

    return Counted()


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_read_ahead_is_bounded(listed, good, ahead):
    source = counted(listed, [good] * 20)
    with EvalLoader(source, centre, ahead=ahead, threads=4) as images:
        for taken in range(4):
            submitted = max(taken, 1) + ahead
            wait(images._pending)
            assert sorted(source.reads) == list(range(submitted))
            next(images)


def test_impossible_arguments(listed, good):
    with pytest.raises(DataError, match="the source holds no images"):
        EvalLoader(listed([]), centre)
    with pytest.raises(DataError, match=r"threads=-1, ahead=16: expected 0 or more"):
        EvalLoader(listed([good]), centre, threads=-1)
    with pytest.raises(DataError, match=r"threads=0, ahead=-1: expected 0 or more"):
        EvalLoader(listed([good]), centre, ahead=-1)
    assert not loader_threads()


def test_files_without_labels(image_folder, tmp_path):
    paths = [image_folder / "val" / "bee" / "2.jpg", str(tmp_path / "none.jpg"), tmp_path]
    source = ImageFiles(paths)
    assert (len(source), source.ids.tolist()) == (3, [0, 1, 2])
    found, missing, folder = read(source)
    assert (found.label, found.size, found.problem) == (-1, (42, 46), "")
    assert np.array_equal(only(found), preprocess(paths[0], scale=32, image_size=24)[0])
    assert (missing.label, missing.pixels, missing.problem) == (-1, {}, "No such file or directory")
    assert source.name(missing.position) == str(tmp_path / "none.jpg")
    assert folder.problem == "it is a folder, not a regular file"


def note_all(source):
    """Reads a source as evaluation does; returns the names of the corrupt images."""
    corrupt = CorruptCounter(source, "evaluated as mid-grey")
    for image in read(source):
        if image.problem:
            corrupt.note(image.position, image.problem, image.position + 1)
    return corrupt.names


def test_few_corrupt_images_are_logged(listed, good, caplog):
    few = listed([CorruptImage("gone", 1) if i < 9 else good for i in range(40)])
    with caplog.at_level(logging.WARNING):
        assert note_all(few) == [f"listed#{i}" for i in range(9)]
    messages = [record.getMessage() for record in caplog.records if "jaxcnn" in record.name]
    assert messages == [
        f"corrupt image listed#{i}: gone; it is evaluated as mid-grey" for i in range(9)
    ]


def test_corrupt_image_is_recorded_once(listed, good):
    source = listed([good, CorruptImage("gone", 1)])
    corrupt = CorruptCounter(source, "left out")
    for epoch in range(20):
        corrupt.note(1, "gone", 2 * (epoch + 1))
    assert corrupt.names == ["listed#1"]


def test_too_many_corrupt_images_are_an_error(listed, good):
    many = listed([CorruptImage("gone", 1) if i % 3 == 0 else good for i in range(40)])
    with pytest.raises(DataError, match=r"10 of the first 28 images.*more than 1%.*listed#0, "):
        note_all(many)
