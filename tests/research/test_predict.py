"""Predictions of image files against the loaded net, crop by crop; corrupt and missing files."""

import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn.evaluation import read_protocol
from jaxcnn.research import predict
from jaxcnn.research.evaluate_run import FinishedRun
from tests.evaluation.small import CLASSES, pixels_of
from tests.research.untrained import STEP, untrained

SIZES = [(64, 80), (90, 41), (40, 40), (300, 31)]


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("predicting") / "vgg")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """PNGs, a JPEG among them, of several shapes."""
    folder = tmp_path_factory.mktemp("images")
    names = ["b.png", "a.jpg", "C.PNG", "d.webp"]
    for number, (size, name) in enumerate(zip(SIZES, names, strict=True)):
        options = {"lossless": True} if name.endswith("webp") else {}
        Image.fromarray(pixels_of(*size, seed=number)).save(folder / name, **options)
    (folder / "notes.txt").write_text("no image, and not to be looked at")
    (folder / "inner.png").mkdir()
    return [str(folder / name) for name in names]


def predictions(run, images, text="", top=CLASSES):
    protocol = read_protocol(text, run.image_size) if text else predict.own_protocol(run)
    return list(predict.predict(run, images, protocol, top))


def by_label(prediction):
    assert not prediction.problem
    found = {one.label: one.probability for one in prediction.classes}
    return np.array([found[label] for label in range(CLASSES)])


@pytest.mark.parametrize("mean", ["three values", "an image"])
def test_centre_crop_equals_the_loaded_run(mean, vgg, images, tmp_path):
    folder = vgg
    if mean == "an image":
        augment = {"mean": "per_pixel", "sampling": "random_crop_in_square", "statistics": "auto"}
        folder = untrained(tmp_path / "run", augment=augment)
    loaded = jaxcnn.load(folder)
    assert (loaded.step, loaded.mean.ndim) == (STEP, 3 if mean == "an image" else 1)
    found = predictions(FinishedRun(folder), images)
    assert [one.image for one in found] == images
    for image, one in zip(images, found, strict=True):
        expected = np.asarray(loaded.probabilities(loaded.preprocess(image)))[0]
        np.testing.assert_allclose(by_label(one), expected, rtol=1e-5)
        order = np.argsort(-expected)
        assert [c.label for c in one.classes] == order.tolist()
        assert [c.name for c in one.classes] == [f"class_{label:03}" for label in order]
    assert np.ptp([by_label(one) for one in found], axis=0).max() > 0.02  # images do differ


def test_ten_crops_are_the_mean_of_ten_posteriors(vgg, tmp_path):
    """Of images that need no rescaling, by their own pixels: 37 is 256 / 224 of 32."""
    loaded, run = jaxcnn.load(vgg), FinishedRun(vgg, batch_size=16)
    for height, width in [(37, 50), (62, 37)]:
        pixels, path = pixels_of(height, width), tmp_path / f"{height}.png"
        Image.fromarray(pixels).save(path)
        top, left = (height - 37) // 2, (width - 37) // 2
        corners = [(0, 0), (0, 5), (5, 0), (5, 5), (2, 2)]
        crops = [pixels[top + y : top + y + 32, left + x : left + x + 32] for y, x in corners]
        views = np.stack([*crops, *(crop[:, ::-1] for crop in crops)])
        expected = np.asarray(loaded.probabilities(views), np.float64)
        (one,) = predictions(run, [str(path)], "ten_crops")
        np.testing.assert_allclose(by_label(one), expected.mean(0), rtol=1e-5)
        assert np.abs(expected - expected.mean(0)).max() > 1e-3  # crops do differ


@pytest.mark.parametrize(
    ("text", "count"),
    [("centre", 4), ("dense", 2), pytest.param("multi_crop_dense", 4, marks=pytest.mark.slow)],
)
def test_prediction_does_not_depend_on_other_images(text, count, vgg, images, tmp_path):
    run, broken, images = FinishedRun(vgg), tmp_path / "broken.png", images[:count]
    broken.write_bytes(b"\x89PNG and no more")
    together = predictions(run, [*images, str(broken), *images[::-1], "nosuch"], text)
    for place, image in enumerate(images):
        (alone,) = predictions(run, [image], text)
        for one in (together[place], together[2 * count - place]):
            assert one.image == image
            np.testing.assert_allclose(by_label(one), by_label(alone), rtol=1e-5)
    problems = [one.problem for one in together]
    assert [bool(p) for p in problems] == 2 * ([False] * count + [True])
    assert "PNG" in problems[count]
    assert problems[-1] == "No such file or directory"
    assert together[count].classes == ()


def test_corrupt_images_and_extreme_aspect_ratios(vgg, tmp_path):
    run, empty = FinishedRun(vgg), tmp_path / "empty"
    empty.mkdir()
    found = predictions(run, ["nosuch", str(empty), "nosuch"])
    assert [one.image for one in found] == ["nosuch", str(empty), "nosuch"]
    assert found[1].problem.startswith("a folder without images (JPEG, PNG")
    long = tmp_path / "long.png"
    Image.fromarray(pixels_of(4, 400)).save(long)
    (crop,) = predictions(run, [str(long)])
    assert not crop.problem
    (dense,) = predictions(run, [str(long)], "dense")
    assert "100 to 1" in dense.problem


def test_equal_classes_are_ordered_by_label():
    values = np.log([0.2, 0.3, 0.2, 0.3])
    found = predict.top_classes(values, "abcd", 3)
    assert [(one.label, one.name) for one in found] == [(1, "b"), (3, "d"), (0, "a")]
    assert [one.probability for one in found] == pytest.approx([0.3, 0.3, 0.2])
    assert len(predict.top_classes(values, "abcd", 9)) == 4


def test_folder_is_replaced_by_its_images_by_name(images, tmp_path):
    folder = images[0].removesuffix("/b.png")
    expected = [f"{folder}/{name}" for name in ("C.PNG", "a.jpg", "b.png", "d.webp")]
    assert predict.image_files(["x.jpg", folder, images[1]]) == ["x.jpg", *expected, images[1]]
    assert predict.image_files([str(tmp_path)]) == [str(tmp_path)]


@pytest.mark.parametrize(
    ("text", "count", "rows"),
    [("centre", 1, 1), ("centre", 3, 3), ("centre", 20, 8), ("ten_crops", 1, 8), ("dense", 2, 4)],
)
def test_batches_are_no_larger_than_all_crops(text, count, rows, vgg, images):
    run = FinishedRun(vgg, batch_size=8)
    protocol = read_protocol(text, run.image_size)
    small = predict.with_small_batches(run, protocol, ["nosuch", *[images[0]] * count])
    assert small.batch_size == rows
    assert small.folder == run.folder


def test_default_protocol_is_the_first_of_the_run(vgg, tmp_path):
    assert predict.own_protocol(FinishedRun(vgg)).label(32) == "centre(40->32)"
    rows = ({"name": "dense", "scales": (36, 48)}, {"name": "centre", "scale": 40})
    run = FinishedRun(untrained(tmp_path / "dense", evals=rows))
    assert predict.own_protocol(run).label(32) == "dense(36,48)"
    assert predict.centre_protocol(run).label(32) == "centre(36->32)"
    run = FinishedRun(untrained(tmp_path / "none", evals=()))
    assert predict.own_protocol(run).label(32) == "centre(37->32)"
