"""Whole runs with the papers' augmentation: the same views after a stop and on any number of devices."""

import json
import os
import signal

import numpy as np
import pytest

import jaxcnn
from jaxcnn.cli.train import main
from jaxcnn.data import open_data
from jaxcnn.data import pixel_statistics as figures
from jaxcnn.data.errors import DataError
from jaxcnn.training import Stopped, evaluator, run
from tests.training.runs import (
    arguments,
    assert_same_state,
    config,
    events,
    signalling,
    state_of,
    timeless,
)

# AlexNet's and GoogLeNet's, on the smallest VGG: what is drawn does not depend on the net.
RECIPES = {
    "alexnet": {
        "augment__sampling": "random_crop_in_square",
        "augment__scale": "(40,40)",
        "augment__mean": "per_pixel",
        "augment__pca": "deviation",
        "augment__statistics": "auto",
        "evals": "({'name':'centre','scale':40,'every_epochs':1.0},)",
        "epochs": 2,
    },
    "googlenet": {
        "augment__sampling": "random_resized_crop",
        "augment__interpolation": "('bilinear','area','nearest','cubic')",
        "augment__color_jitter": "(0.5,1.5)",
        "augment__pca": "unit",
        "average__kind": "exponential",
        "epochs": 2,
    },
}


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request):
    return request.param


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp(recipe) / "run"
    run(config(**RECIPES[recipe]), folder)
    return folder


def test_a_stop_goes_on_bit_for_bit(recipe, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signalling(patch, "train", 11)
        with pytest.raises(Stopped):
            run(config(**RECIPES[recipe]), tmp_path)
    assert int(state_of(tmp_path).step) == 11
    run(config(**RECIPES[recipe]), tmp_path)
    assert_same_state(state_of(tmp_path), state_of(finished))
    assert timeless(tmp_path) == timeless(finished)


def test_one_device_agrees(recipe, finished, tmp_path):
    """The other tests run on eight."""
    whole = [e["loss"] for e in events(finished) if e["kind"] == "train"]
    run(config(**RECIPES[recipe], mesh__data=1), tmp_path)
    losses = [e["loss"] for e in events(tmp_path) if e["kind"] == "train"]
    np.testing.assert_allclose(losses, whole, rtol=1e-4)


def test_load_judges_as_the_run_did(recipe, finished, tmp_path):
    """By the same mean, mean image or not, and by the average where there is one."""
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
    settings = RECIPES["alexnet"]
    run(config(**settings | {"epochs": 0}), tmp_path)
    kept = figures.load_statistics(tmp_path / "statistics.npz")
    source = open_data("synthetic:4").train
    expected = figures.compute_statistics(source, side=40)
    np.testing.assert_array_equal(kept.mean_image, expected.mean_image)
    np.testing.assert_array_equal(kept.covariance, expected.covariance)


def test_a_stop_while_statistics_are_computed(tmp_path, monkeypatch, capsys):
    compute = figures.compute_statistics

    def stopped(source, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return compute(source, **settings)

    monkeypatch.setattr(figures, "compute_statistics", stopped)
    typed = [*arguments(**RECIPES["alexnet"]), f"--workdir={tmp_path}"]
    assert main(typed) == 143
    assert "stopped by SIGTERM; nothing was trained yet in" in capsys.readouterr().err
    assert not (tmp_path / "statistics.npz").exists()


def test_statistics_of_another_dataset_are_refused(tmp_path):
    path = tmp_path / "five.npz"
    figures.save_statistics(
        figures.compute_statistics(open_data("synthetic:5").train, side=40), path
    )
    settings = RECIPES["alexnet"] | {"augment__statistics": path}
    with pytest.raises(
        DataError, match=r"of 320 training images, the data have 256.*other classes"
    ):
        run(config(**settings), tmp_path / "run")
    with pytest.raises(DataError, match=r"no statistics file .*: jaxcnn statistics"):
        run(config(**settings | {"augment__statistics": tmp_path / "no.npz"}), tmp_path / "run")


def test_a_mean_image_of_another_side_is_refused(tmp_path):
    path = tmp_path / "small.npz"
    figures.save_statistics(
        figures.compute_statistics(open_data("synthetic:4").train, side=36), path
    )
    with pytest.raises(ValueError, match=r"needs a mean image of side 40.*side 36"):
        run(config(**RECIPES["alexnet"] | {"augment__statistics": path}), tmp_path / "run")
