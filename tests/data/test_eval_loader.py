"""What `Pictures` promises to every evaluation: each image once, in order, as the pixels of its cuts."""

import gc
import logging
import threading
import time

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
    with EvalLoader(source, choose, **settings) as pictures:
        return list(pictures)


def only(picture):
    """The pixels of its one cut."""
    (pixels,) = picture.pixels.values()
    return pixels


@pytest.fixture
def evaluation(image_folder):
    return open_data(f"folder:{image_folder}").evaluation


@pytest.fixture
def good(encoded, picture):
    return encoded(picture(30, 30)), 0


def test_every_image_once_and_in_order(evaluation):
    assert [(p.position, p.label, p.size, p.problem) for p in read(evaluation)] == [
        (i, i // 3, (40 + i % 3, 52 - 3 * (i % 3)), "") for i in range(9)
    ]


def test_positions_are_places_in_the_source(image_folder):
    """Of a slice held out they are its own, and `ids` leads from them to the split's."""
    held_out = open_data(f"folder:{image_folder}", held_out=4).held_out
    pictures = read(held_out)
    assert [picture.position for picture in pictures] == [0, 1, 2, 3]
    assert [picture.label for picture in pictures] == (held_out.ids // 5).tolist()


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("ahead", [0, 2, 16])
@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_neither_threads_nor_the_number_ahead_change_anything(
    listed, encoded, picture, size, ahead, threads
):
    results = [(encoded(picture(30 + i, 40 - i, i)), i % 2) for i in range(size)]
    if size > 7:
        results[5] = CorruptImage("gone", 1)
    alone = [read(listed([result]), many, threads=1)[0] for result in results]
    found = read(listed(results), many, threads=threads, ahead=ahead)
    assert [p.position for p in found] == list(range(size))
    for one, other in zip(found, alone, strict=True):
        assert one._replace(position=0, pixels={}) == other._replace(pixels={})
        assert list(one.pixels) == list(other.pixels)
        for cut, pixels in one.pixels.items():
            assert np.array_equal(pixels, other.pixels[cut])


def test_a_centre_cut_equals_preprocess(evaluation):
    for picture in read(evaluation):
        alone = preprocess(evaluation.name(picture.position), scale=32, image_size=24)
        assert alone.shape == (1, 24, 24, 3)
        assert alone.dtype == only(picture).dtype == np.uint8
        assert np.array_equal(only(picture), alone[0])


def test_a_cut_of_the_central_square_equals_preprocess(evaluation):
    """The centre crop of 24 in the square of 32 is at (4, 4)."""
    for picture in read(evaluation, square):
        (cut,) = picture.pixels
        assert cut.in_square(*picture.size) == (4, 4, 24, 24)
        name = evaluation.name(picture.position)
        alone = preprocess(name, scale=32, image_size=24, square=True)[0]
        assert np.array_equal(only(picture), alone)
        whole = preprocess(name, scale=32, image_size=32, square=True)[0]
        assert np.abs(alone.astype(int) - whole[4:28, 4:28]).max() <= 1


def test_each_image_is_read_once_whatever_its_cuts(listed, good):
    source = counted(listed, [good] * 5)
    pictures = read(source, many)
    assert sorted(source.reads) == list(range(5))
    wanted = many(30, 30)
    for picture in pictures:
        assert list(picture.pixels) == list(dict.fromkeys(wanted))
        assert [picture.pixels[cut].shape for cut in wanted] == [(*cut.shape, 3) for cut in wanted]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"\xff\xd8\xff\xe0 no image", "truncated JPEG"),
        (b"hello", "not a readable JPEG, PNG, GIF, BMP or WebP image"),
    ],
)
def test_an_unreadable_image_has_a_problem_and_no_pixels(
    image_folder, evaluation, content, problem
):
    (image_folder / "val" / "cat" / "0.jpg").write_bytes(content)
    pictures = read(evaluation)
    assert pictures[6].problem.startswith(problem)
    assert pictures[6] == EvalImage(6, 2, (0, 0), {}, pictures[6].problem)
    assert [picture.position for picture in pictures if not picture.problem] == [
        *range(6),
        *range(7, 9),
    ]
    assert all(only(picture).shape == (24, 24, 3) for picture in pictures if not picture.problem)
    assert [picture.label for picture in pictures] == [i // 3 for i in range(9)]


def test_a_vanished_file_is_an_unreadable_image(image_folder, evaluation):
    (image_folder / "val" / "bee" / "1.jpg").unlink()
    pictures = read(evaluation)
    assert [picture.label for picture in pictures] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [picture.position for picture in pictures if picture.problem] == [4]
    assert pictures[4].pixels == {}
    assert "No such file" in pictures[4].problem


def test_a_corrupt_image_brings_its_label_where_that_is_known(listed):
    source = listed([CorruptImage("gone", 1), CorruptImage("lost"), (b"no image", 1)])
    assert [(p.label, p.problem) for p in read(source)][:2] == [(1, "gone"), (-1, "lost")]
    assert read(source)[2].label == 1


def test_a_problem_without_a_reason_is_one_too(listed):
    (picture,) = read(listed([CorruptImage("")]))
    assert picture.problem == "no reason given"


def test_a_png_under_a_jpeg_name_is_read(image_folder, evaluation, encoded, picture):
    pixels = picture(32, 32)
    (image_folder / "val" / "ant" / "0.jpg").write_bytes(encoded(pixels, "PNG"))
    found = read(evaluation)[0]
    assert (found.problem, found.size) == ("", (32, 32))
    # Nothing is rescaled, and PNG keeps every bit.
    assert np.array_equal(only(found), pixels[4:28, 4:28])
    assert only(found).std() > 10


def test_stand_in_is_mid_grey(listed):
    (picture,) = read(listed([CorruptImage("gone", 1)]), many)
    found = placeholder_pixels(picture, many)
    assert found._replace(size=(0, 0), pixels={}) == picture
    assert found.size[0] == found.size[1]
    assert list(found.pixels) == list(dict.fromkeys(many(*found.size)))
    assert {(24, 24), (32, 32)} == {cut.shape for cut in found.pixels}
    for cut, pixels in found.pixels.items():
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*cut.shape, 3)
        assert (pixels == 128).all()


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("jaxcnn-data")]


def test_worker_error_comes_in_order_and_stops_the_threads(listed, good):
    source = listed([good] * 10 + [RuntimeError("the disk is on fire")] + [good] * 9)
    pictures = EvalLoader(source, centre, threads=2)
    assert [next(pictures).position for _ in range(10)] == list(range(10))
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        next(pictures)
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(pictures)


def test_an_error_of_the_choice_of_cuts_comes_out_too(listed, good):
    def choose(height, width):
        raise ZeroDivisionError(f"{height} x {width}")

    with pytest.raises(ZeroDivisionError, match="30 x 30"):
        read(listed([good]), choose)
    assert not loader_threads()


def test_threads_end_at_the_end(evaluation):
    pictures = EvalLoader(evaluation, centre, threads=2)
    assert loader_threads()
    assert len(list(pictures)) == 9
    assert not loader_threads()
    assert next(pictures, None) is None


def test_close_stops_the_threads(evaluation):
    pictures = EvalLoader(evaluation, centre)
    next(pictures)
    assert loader_threads()
    pictures.close()
    pictures.close()
    assert not loader_threads()
    assert next(pictures, None) is None


def test_a_forgotten_iterator_leaves_no_threads(evaluation):
    pictures = EvalLoader(evaluation, centre)
    next(pictures)
    threads = loader_threads()
    assert threads
    del pictures
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
    assert not loader_threads()


def counted(listed, results):
    """A source that notes down the images read, in `reads`."""

    class Counted(listed):
        def __init__(self):
            super().__init__(results)
            self.reads = []

        def read(self, index):
            self.reads.append(index)
            return super().read(index)

    return Counted()


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_no_more_is_read_ahead_than_asked(listed, good, ahead):
    source = counted(listed, [good] * 20)
    with EvalLoader(source, centre, ahead=ahead, threads=4) as pictures:
        for taken in range(4):
            # Those that the threads were given are read before long; others never are.
            given, until = max(taken, 1) + ahead, time.monotonic() + 10
            while len(source.reads) < given and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(0.02)
            assert sorted(source.reads) == list(range(given))
            next(pictures)


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
    assert folder.problem == "Is a directory"


def note_all(source):
    """Reads a source as evaluation does: the names of the images that cannot be read."""
    unreadable = CorruptCounter(source, "judged as mid-grey")
    for picture in read(source):
        if picture.problem:
            unreadable.note(picture.position, picture.problem, picture.position + 1)
    return unreadable.names


def test_few_corrupt_images_are_named(listed, good, caplog):
    few = listed([CorruptImage("gone", 1) if i < 9 else good for i in range(40)])
    with caplog.at_level(logging.WARNING):
        assert note_all(few) == [f"listed#{i}" for i in range(9)]
    messages = [record.getMessage() for record in caplog.records if "jaxcnn" in record.name]
    assert messages == [
        f"corrupt image listed#{i}: gone; it is judged as mid-grey" for i in range(9)
    ]


def test_an_image_that_is_read_again_is_named_once(listed, good):
    source = listed([good, CorruptImage("gone", 1)])
    unreadable = CorruptCounter(source, "left out")
    for epoch in range(20):
        unreadable.note(1, "gone", 2 * (epoch + 1))
    assert unreadable.names == ["listed#1"]


def test_too_many_corrupt_images_are_an_error(listed, good):
    many = listed([CorruptImage("gone", 1) if i % 3 == 0 else good for i in range(40)])
    with pytest.raises(DataError, match=r"10 of the first 28 images.*more than 1%.*listed#0, "):
        note_all(many)
