"""Figures of runs: hidden layers and distances, score maps, choice of images, figures that are skipped."""

import dataclasses
import functools
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import DataError, EvalImage
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.figures import drawing, run_figures
from jaxcnn.research.figures.chosen_images import evenly_spaced, readable_images
from jaxcnn.research.figures.nearest import (
    HiddenLayer,
    last_hidden_layer,
    nearest_images,
)
from jaxcnn.research.figures.run_figures import FigureRequest, draw_figures
from jaxcnn.research.predict import centre_protocol
from jaxcnn.training.console import Console
from tests.evaluation.small import CLASSES, MEAN, Images, net_and_params, pixels_of
from tests.models.narrow import quick_jit
from tests.research.untrained import few_images, untrained

SHAPES = [(40, 40), (44, 61), (70, 43), (40, 48), (64, 64), (33, 90), (50, 50), (41, 40), (90, 95)]
PER_PIXEL = {"mean": "per_pixel", "sampling": "random_crop_in_square", "statistics": "auto"}
# The run's name: its net, the net's fields, the layer and its values, what it is trained with.
RUNS = {
    "alexnet": ("alexnet", {}, "fc7", 410, {}),
    "vgg": ("vgg", {}, "fc7", 287, PER_PIXEL),
    "googlenet": ("googlenet", {}, "average_pool", 102, {}),
    "cuda": (
        "cuda_convnet",
        {"image_size": 24, "width": 0.2, "remat": True},
        "local4",
        6 * 6 * 6,
        {},
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> its run, on few images of many shapes; made when asked for."""
    folder, runs = tmp_path_factory.mktemp("showing"), {}

    def of(name):
        if name not in runs:
            net, fields, _, _, augment = RUNS[name]
            untrained(folder / name, net, augment=augment, **fields)
            runs[name] = FinishedRun(folder / name, batch_size=8)
            train, evaluation = Images(SHAPES, broken=(1,)), Images(SHAPES[::-1], broken=(3,))
            runs[name].data = few_images(train, evaluation)
        runs[name].console.stream = sys.stdout  # pytest has another one for each test
        return runs[name]

    return of


class LoadedRun(FinishedRun):
    """A run without files and data."""

    def __init__(self, name, **fields):
        net, params = net_and_params(name, **fields)
        self.loaded = SimpleNamespace(net=net, variables={"params": params}, mean=MEAN)
        self.console, self.data, self.folder, self.step = Console(), None, Path(name), 7


@pytest.fixture
def separable():
    """GoogLeNet with a fully connected head and a depthwise first layer."""
    return LoadedRun("googlenet", head="fully_connected", stem="separable")


def shown(function, name, monkeypatch, show):
    """What `function` hands to the drawing function `name`, and the title."""
    seen = []
    monkeypatch.setattr(drawing, f"draw_{name}", lambda rows, title: seen.append((rows, title)))
    function(show)
    return seen[0]


@pytest.mark.parametrize("name", RUNS)
def test_each_net_has_its_last_hidden_layer(name, made):
    run = LoadedRun(name) if name in ("alexnet", "googlenet") else made(name)
    _, _, layer, count, _ = RUNS[name]
    net, params = run.loaded.net, run.loaded.variables["params"]
    assert last_hidden_layer(net) == layer
    classifier = params["fc8" if layer == "fc7" else "fc"]
    assert classifier["kernel"].size == count * CLASSES  # which it reads


@pytest.mark.parametrize(
    "name",
    [
        "vgg",  # with a mean image, the others with three values
        "cuda",
        pytest.param("alexnet", marks=pytest.mark.slow),
        pytest.param("googlenet", marks=pytest.mark.slow),
    ],
)
def test_hidden_values_equal_those_of_each_image_alone(name, made):
    run, (_, _, layer, count, _) = made(name), RUNS[name]
    hidden, loaded = HiddenLayer(run), run.loaded
    assert hidden.layer == layer
    images = list(readable_images(run, run.data.train, centre_protocol(run)))
    assert len(images) == 8  # of nine one is broken
    ((same, values),) = hidden.values(images)
    assert same == images
    assert values.shape == (8, count)
    every = {"capture_intermediates": True, "mutable": ["intermediates"]}
    apply = quick_jit(functools.partial(loaded.net.apply, **every))
    for image, found in zip(images[:3], values, strict=False):
        ((crop, view),) = image.pixels.items()
        mean, scale = loaded.mean, crop.scale
        if mean.ndim == 3:  # a quarter of the net's side larger: the centre crop lies in the middle
            edge = (scale - run.image_size) // 2
            mean = mean[edge : edge + run.image_size, edge : edge + run.image_size]
        (logits, _), seen = apply(
            loaded.variables, jnp.asarray(view[None].astype(np.float32) - mean)
        )
        (expected,) = seen["intermediates"][layer]["__call__"]
        np.testing.assert_allclose(found, expected.ravel(), rtol=1e-4, atol=1e-4)
        # It is what the classifier reads, after the activation.
        classifier = loaded.variables["params"]["fc8" if layer == "fc7" else "fc"]
        kernel = np.asarray(classifier["kernel"]).reshape(-1, CLASSES)
        again = found @ kernel + np.asarray(classifier["bias"])
        np.testing.assert_allclose(again, logits[0], rtol=1e-3, atol=1e-3)
    assert values.min() >= 0
    assert np.ptp(values, axis=0).max() > 1e-3


def test_the_hidden_layer_of_a_fully_connected_head(separable):
    loaded = separable.loaded
    assert last_hidden_layer(loaded.net) == "fc1"
    assert loaded.variables["params"]["fc"]["kernel"].shape == (1, 1, 102, CLASSES)


def test_nearest_images_equal_hand_computed_ones():
    corners = np.array([[0, 0], [3, 4], [0, 1], [6, 8], [0, -1]], np.float32)
    a, b, c, d, e = (EvalImage(i, 0, (1, 1), {}) for i in range(5))
    batches = [([a, b], corners[:2]), ([c, d, e], corners[2:])]
    rows, searched = nearest_images(np.array([[0, 0], [6, 8]], np.float32), batches, 3)
    assert searched == 5
    assert rows[0] == [(0.0, a), (1.0, c), (1.0, e)]  # of equal ones the first
    assert rows[1] == [(0.0, d), (5.0, b), (pytest.approx(85**0.5), c)]
    assert nearest_images(corners[:1], [], 3) == ([[]], 0)


def test_a_training_image_is_nearest_to_itself(made, monkeypatch):
    run = dataclasses.replace(made("vgg"))
    data = made("vgg").data
    run.data = dataclasses.replace(data, evaluation=data.train)
    rows, title = shown(
        run_figures.neighbours, "neighbours", monkeypatch, FigureRequest(run, ids=(10, 12, 18))
    )
    assert [row.title for row in rows] == ["class_000", "class_002", "class_003"]
    for row in rows:
        assert row.distances[0] == pytest.approx(0, abs=1e-6 * row.distances[1])
        np.testing.assert_array_equal(row.nearest[0], row.image)
        assert row.names[0] == row.title
        assert len(row.distances) == 6
        assert 0 < row.distances[1] <= row.distances[2] <= row.distances[5]
    assert "vgg, step 7: val images and the nearest among 8 of 9 training images" in title
    assert "287 values of fc7" in title


def test_neighbours_among_some_training_images(made, monkeypatch):
    show = FigureRequest(made("cuda"), images=9, training_images=3)
    rows, title = shown(run_figures.neighbours, "neighbours", monkeypatch, show)
    assert [row.title for row in rows] == [f"class_{i % 5:03}" for i in (0, 2, 4, 6, 8)]
    # 1, 4 and 7 of nine, and the first of these is broken.
    assert "among 2 of 9 training images" in title
    assert {len(row.nearest) for row in rows} == {2}
    assert rows[0].nearest[0].shape == (24, 24, 3)


def test_guesses_have_the_probabilities_of_the_loaded_run(made, monkeypatch, capsys):
    run = made("vgg")
    rows, title = shown(run_figures.guesses, "guesses", monkeypatch, FigureRequest(run, images=9))
    out = capsys.readouterr().out
    assert out.count("skipped corrupt image") == 1
    assert "image 3: not a readable" in out
    assert title == "vgg, step 7: val images and their most probable classes by centre(40->32)"
    assert [row.title for row in rows] == [f"class_{i % 5:03}" for i in (0, 1, 2, 4, 5, 6, 7, 8)]
    for row in rows:
        expected = np.asarray(run.loaded.probabilities(row.image[None]))[0]
        order = np.argsort(-expected)
        assert row.names == tuple(f"class_{i:03}" for i in order)
        np.testing.assert_allclose(row.probabilities, expected[order], rtol=1e-5)
        assert row.names[row.correct] == row.title


def test_score_map_equals_that_of_the_image_alone(made, monkeypatch):
    run = made("vgg")
    loaded, (scale,) = run.loaded, FigureRequest(run).map_protocol.scales
    rows, title = shown(
        run_figures.score_maps, "score_maps", monkeypatch, FigureRequest(run, ids=(16, 17))
    )
    assert title.endswith(f"most probable class by dense({scale}, no flip)")
    mean = loaded.mean if loaded.mean.ndim == 1 else loaded.mean.mean((0, 1))
    apply = quick_jit(functools.partial(loaded.net.apply, method="score_map"))
    shapes = set()
    for row, original in zip(rows, (6, 7), strict=True):
        height, width = row.image.shape[:2]
        shapes.add(np.sign(height - width))
        assert min(height, width) == scale
        view = jnp.asarray(row.image[None].astype(np.float32) - mean)
        scores, valid = apply(loaded.variables, view, jnp.array([[height, width]], jnp.int32))
        assert valid.all()
        assert min(scores.shape[1:3]) >= 4
        posterior = jax.nn.softmax(scores[0].mean((0, 1)))
        label = int(posterior.argmax())
        assert (row.title, row.name) == (f"class_{original % 5:03}", f"class_{label:03}")
        assert row.probability == pytest.approx(float(posterior[label]), rel=1e-3)
        largest = np.abs(scores).max()
        np.testing.assert_allclose(row.scores, scores[0, ..., label], atol=1e-4 * largest)
        assert tuple(map(len, row.centres)) == scores.shape[1:3]
    assert shapes == {-1, 1}  # a landscape and a portrait


def test_kernels_of_each_net(made, separable, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        drawing,
        "draw_kernels",
        lambda values, towers, title: drawn.update(k=(values, towers, title)),
    )
    expected = {"alexnet": ("conv1", 11, 2), "vgg": ("conv1_1", 3, 1), "googlenet": ("conv1", 7, 1)}
    for name, (layer, side, towers) in {**expected, "cuda": ("conv1", 5, 1)}.items():
        run = made("cuda") if name == "cuda" else LoadedRun(name)
        run_figures.kernels(FigureRequest(run))
        values, seen, title = drawn["k"]
        own = run.loaded.variables["params"][layer]["kernel"]
        np.testing.assert_array_equal(values, own)
        assert seen == towers
        assert title == f"{name}, step 7: the {own.shape[-1]} kernels of {layer}, {side} x {side}"
    with pytest.raises(
        run_figures.FigureSkipped, match="GoogLeNet is depthwise: each kernel has a single colour"
    ):
        run_figures.kernels(FigureRequest(separable))


def test_files_and_skipped_figures(made, separable, tmp_path, capsys):
    show, out = FigureRequest(made("cuda"), images=3), tmp_path / "new" / "figures"
    names = ["kernels", "guesses", "neighbours", "score_maps"]
    paths = list(draw_figures(show, names, out))
    assert [path.name for path in paths] == ["kernels.png", "guesses.png", "neighbours.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    line = "score_maps skipped: this CudaConvNet only takes images of 24 x 24"
    assert line in capsys.readouterr().out
    assert sorted(out.iterdir()) == sorted(paths)
    separable.console = Console()
    assert list(draw_figures(FigureRequest(separable), ["kernels"], out)) == []
    assert "kernels skipped: the first layer of this GoogLeNet is depth" in capsys.readouterr().out
    # Nothing but broken images.
    assert (
        list(draw_figures(FigureRequest(made("cuda"), ids=(13,)), ["guesses", "neighbours"], out))
        == []
    )
    assert capsys.readouterr().out.count("skipped: all images are corrupt") == 2


def test_images_by_id_and_spread_over_the_split(made):
    run = made("vgg")
    assert FigureRequest(run, images=3).chosen.ids.tolist() == [11, 14, 17]
    assert FigureRequest(run, images=100).chosen.ids.tolist() == list(range(10, 19))
    assert FigureRequest(run, ids=(18, 10, 18)).chosen.ids.tolist() == [18, 10, 18]
    with pytest.raises(
        DataError, match=r"no images of val have the ids 9, 19: give ids from 10 to 18"
    ):
        _ = FigureRequest(run, ids=(9, 10, 19)).chosen
    assert evenly_spaced(10, 0).tolist() == list(range(10))
    assert evenly_spaced(10, 4).tolist() == [1, 3, 6, 8]
    assert evenly_spaced(0, 4).tolist() == []


def test_wrong_scale_is_an_error_before_anything_is_drawn(made, tmp_path):
    with pytest.raises(ValueError, match=r"dense at scale 31 is smaller than .* 32 or more"):
        list(
            draw_figures(
                FigureRequest(made("vgg"), scale=31), ["kernels", "score_maps"], tmp_path / "none"
            )
        )
    assert not (tmp_path / "none").exists()
    # One cell is a map too.
    (path,) = draw_figures(
        FigureRequest(made("vgg"), scale=32, ids=(14,)), ["score_maps"], tmp_path
    )
    assert path.exists()
    assert pixels_of(64, 64).shape == made("vgg").data.evaluation.pixels[4].shape
