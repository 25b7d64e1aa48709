"""Whole runs with the papers' augmentation: the same batches after a stop and on any number of devices."""

import json
import os
import signal

import numpy as np
import pytest

import jaxcnn
from jaxcnn.cli.main import main
from jaxcnn.data import open_data, pixel_statistics
from jaxcnn.data.errors import DataError
from jaxcnn.files import FileError
from jaxcnn.parallel.mesh import Placement
from jaxcnn.training import Stopped, evaluator, run
from tests.training.runs import (
    arguments,
    assert_same_state,
    config,
    events,
    events_without_times,
    send_sigterm,
    state_of,
)

# AlexNet's and GoogLeNet's augmentation, with the smallest VGG: the draws do not depend on the net.
RECIPES = {
    "alexnet": {
        "augment__sampling": "random_crop_in_square",
        "augment__scale": "(40,40)",
        "augment__mean": "per_pixel",
        "augment__pca": "deviation",
        "augment__statistics": "auto",
        "evals": "({'name':'centre','scale':40,'every_epochs':1.0},)",
    },
    "googlenet": {
        "augment__sampling": "random_resized_crop",
        "augment__interpolation": "('bilinear','area','nearest','cubic')",
        "augment__color_jitter": "(0.5,1.5)",
        "augment__pca": "unit",
        "average__kind": "exponential",
        "average__from_epoch": 0.5,
    },
}


# AlexNet's runs take twenty seconds more; its crops, mean image and lighting have fast tests of their own.
@pytest.fixture(
    scope="module", params=[pytest.param("alexnet", marks=pytest.mark.slow), "googlenet"]
)
def recipe(request):
    return request.param


@pytest.fixture(scope="module")
def finished_with_batches(recipe, tmp_path_factory):
    """(workdir, train batches) of a run of ten steps on one device."""
    folder = tmp_path_factory.mktemp(recipe) / "run"
    with pytest.MonkeyPatch.context() as patch:
        batches = record_batches(patch)
        run(settings_of(recipe), folder)
    return folder, batches


def settings_of(recipe, **changes):
    """Ten steps, eight of them in the first epoch."""
    return config(**RECIPES[recipe] | {"epochs": 1.25, "log__every_steps": 1} | changes)


@pytest.fixture
def finished(finished_with_batches):
    return finished_with_batches[0]


def record_batches(patch):
    """A list that gets each train batch as it goes to the devices."""
    batches, put = [], Placement.put_batch

    def put_batch(self, batch):
        if "id" in batch:
            batches.append({key: np.array(value) for key, value in batch.items()})
        return put(self, batch)

    patch.setattr(Placement, "put_batch", put_batch)
    return batches


def test_a_stopped_run_resumes_to_the_same_bits(recipe, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        send_sigterm(patch, "train", 9)
        with pytest.raises(Stopped):
            run(settings_of(recipe), tmp_path)
    stopped = state_of(tmp_path)
    assert int(stopped.step) == 9
    assert recipe != "googlenet" or int(stopped.average["count"]) == 5
    run(settings_of(recipe), tmp_path)
    assert_same_state(state_of(tmp_path), state_of(finished))
    assert events_without_times(tmp_path) == events_without_times(finished)


def test_eight_devices_take_the_same_batches_as_one(
    recipe, finished_with_batches, tmp_path, monkeypatch
):
    """Ten batches, over an epoch's end, are equal: examples, crops and pixels. The first loss, which depends
    on flips, colour jitter and lighting too, is equal except for the order of its sums; later ones are not
    compared, because training amplifies that."""
    folder, batches = finished_with_batches
    others = record_batches(monkeypatch)
    run(settings_of(recipe, mesh__data=0, evals="()"), tmp_path)
    assert len(others) >= 10  # and one drawn ahead, if the thread was fast enough
    for one, eight in zip(batches[:10], others[:10], strict=True):
        assert one.keys() == eight.keys() >= {"id", "box", "image", "label", "epoch", "mask"}
        for key, values in one.items():
            np.testing.assert_array_equal(values, eight[key])
    one, eight = (events(f)[0] for f in (folder, tmp_path))
    assert one["step"] == eight["step"] == 1
    assert one["loss"] == pytest.approx(eight["loss"], rel=1e-4)


def test_a_loaded_net_has_the_accuracy_that_the_run_reported(recipe, finished, tmp_path):
    """With the same mean or mean image, and the averaged weights where there are some."""
    loaded = jaxcnn.load(finished)
    assert loaded.mean.shape == {"alexnet": (40, 40, 3), "googlenet": (3,)}[recipe]
    data, right = evaluator.open_splits(loaded.config["data"]), 0
    for i in range(len(data.evaluation)):
        encoded, label = data.evaluation.read(i)
        (tmp_path / "x.jpg").write_bytes(encoded)
        view = loaded.preprocess(tmp_path / "x.jpg")
        right += int(loaded.probabilities(view).argmax() == label)
    (row,) = json.loads((finished / "report.json").read_text())["results"]
    assert right == round(row["top1"] * row["n"])


def test_a_run_keeps_the_statistics_that_it_computed(tmp_path):
    run(settings_of("alexnet", epochs=0, evals="()"), tmp_path)
    kept = pixel_statistics.load_statistics(tmp_path / "statistics.npz")
    source = open_data("synthetic:4").train
    expected = pixel_statistics.compute_statistics(source, side=40)
    np.testing.assert_array_equal(kept.mean_image, expected.mean_image)
    np.testing.assert_array_equal(kept.covariance, expected.covariance)


def test_a_stop_while_statistics_are_computed_exits_with_143(tmp_path, monkeypatch, capsys):
    compute = pixel_statistics.compute_statistics

    def stopped(source, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return compute(source, **settings)

    monkeypatch.setattr(pixel_statistics, "compute_statistics", stopped)
    typed = [*arguments(**RECIPES["alexnet"]), f"--workdir={tmp_path}"]
    assert main(["train", *typed]) == 143
    assert "stopped by SIGTERM; nothing was trained yet in" in capsys.readouterr().err
    assert not (tmp_path / "statistics.npz").exists()


def test_statistics_of_another_dataset_are_refused(tmp_path):
    path = tmp_path / "five.npz"
    pixel_statistics.save_statistics(
        pixel_statistics.compute_statistics(open_data("synthetic:5").train, side=40), path
    )
    settings = RECIPES["alexnet"] | {"augment__statistics": path}
    with pytest.raises(
        DataError, match=r"of 320 training images, the data have 256.*other classes"
    ):
        run(config(**settings), tmp_path / "run")
    with pytest.raises(FileError, match=r"is missing; .*: jaxcnn statistics"):
        run(config(**settings | {"augment__statistics": tmp_path / "no.npz"}), tmp_path / "run")


def test_a_mean_image_of_another_side_is_refused(tmp_path):
    path = tmp_path / "small.npz"
    pixel_statistics.save_statistics(
        pixel_statistics.compute_statistics(open_data("synthetic:4").train, side=36), path
    )
    with pytest.raises(ValueError, match=r"needs a mean image of side 40.*side 36"):
        run(config(**RECIPES["alexnet"] | {"augment__statistics": path}), tmp_path / "run")
