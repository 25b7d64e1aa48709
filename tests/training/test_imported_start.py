"""Initial weights from imported weights: the same as from the run they come from, and what must be said."""

import json

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn.training import run, stages
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.imported_run import write_imported
from jaxcnn.training.warm_start import WarmStartError, _without_absent_heads, read_warm_start
from jaxcnn.weights.net_weights import Leaf
from tests.research.untrained import untrained
from tests.training.runs import assert_same_state, config
from tests.weights.drawn import MEAN, drawn_weights

TEXT = f"({', '.join(map(str, MEAN))})"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run with weights, the same weights as an imported folder, and the file in it."""
    folder = tmp_path_factory.mktemp("start")
    trained = untrained(
        folder / "run", classes=4, width=0.0625, augment={"mean": tuple(MEAN.tolist())}
    )
    params = jaxcnn.load(trained).variables["params"]
    made = drawn_weights(classes=tuple(f"c{i}" for i in range(4)), width=0.0625)
    for path, leaf in made.leaves.items():
        layer, name = path.split("/")
        array = np.asarray(params[layer][name])
        made.leaves[path] = Leaf(leaf.shape, lambda array=array: array)
    imported = write_imported(folder / "imported", made)
    return {"run": trained, "folder": imported, "file": imported / "weights.safetensors"}


def experiment(source, layers=(), classes=4, **changes):
    changes = {"init__from_run": source, "init__layers": layers, "augment__mean": TEXT} | changes
    return build_experiment(with_classes(config(**changes), classes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": ("conv1_1", "conv2_1", "fc6")},
        {"data__source": "synthetic:6", "classes": 6},
    ],
)
def test_folder_and_file_start_as_the_run_does(places, changes):
    """The same layers, bit for bit, and the same classifier at random for other classes."""
    of_run, *others = (
        read_warm_start(experiment(places[place], **changes)) for place in ("run", "folder", "file")
    )
    assert of_run.arrays
    assert ("fc8" in of_run.resized) == ("classes" in changes)
    for other in others:
        assert_same_state(other.arrays, of_run.arrays)
        assert other.arrays.keys() == of_run.arrays.keys()
        assert (other.kept, other.new, other.resized) == (of_run.kept, of_run.new, of_run.resized)


def test_a_stage_of_a_chain_starts_from_imported_weights(places, tmp_path):
    path = tmp_path / "chain.py"
    path.write_text(
        "from configs import vgg_a\n"
        "get_config = vgg_a.get_config\n"
        "def get_chain():\n"
        f"    return ({{'name': 'first', 'overrides': {{'init.from_run': {str(places['file'])!r}}}}},\n"
        "            {'name': 'second', 'start': 'first'})\n"
    )
    first, second = stages.read_chain(str(path), tmp_path / "runs", {})
    assert first.config["init"]["from_run"] == str(places["file"])
    assert second.config["init"]["from_run"] == str(tmp_path / "runs" / "first")
    assert stages.unmet(first, (first, second), ["first"]) == ""


def test_another_mean_is_an_error_that_names_the_key(places):
    for mean in ("(123.68,116.779,103.939)", TEXT):
        assert read_warm_start(experiment(places["folder"], augment__mean=mean))
    with pytest.raises(WarmStartError) as caught:
        read_warm_start(experiment(places["folder"], augment__mean="(127.5,127.5,127.5)"))
    assert 'set --config.augment.mean="(123.675, 116.28, 103.53)"' in str(caught.value)
    # Without the first layer nothing depends on the mean.
    other = {"augment__mean": "(127.5,127.5,127.5)", "layers": ("conv2_1",)}
    assert not read_warm_start(experiment(places["folder"], **other)).notes


def test_what_differs_is_said(places):
    def notes(place, **changes):
        return [text for _, text in read_warm_start(experiment(places[place], **changes)).notes]

    assert notes("folder") == notes("run") == []
    (said,) = notes("folder", augment__mean="(124,116.28,103.53)")
    assert "(123.675, 116.28, 103.53), this run subtracts (124, 116.28, 103.53)" in said
    (said,) = notes("folder", augment__mean="rgb", augment__statistics="auto")
    assert (
        "this run subtracts the mean of its own images; to keep theirs: --config.augment.mean="
        in said
    )
    (said,) = notes("run", augment__mean="(127.5,127.5,127.5)")  # of a run, its user chose both
    assert "this run subtracts (127.5, 127.5, 127.5)" in said
    (said,) = notes("folder", model__dropout=0.25)
    assert said == "not the same as that of the weights: dropout=0.5 there, 0.25 here"


@pytest.mark.slow
def test_a_run_keeps_the_mean_image_and_records_the_origin(tmp_path, capsys):
    image = np.random.default_rng(0).uniform(90, 130, (40, 40, 3)).astype(np.float32)
    made = drawn_weights(mean=image, classes=tuple("abcd"), width=0.0625)
    folder = write_imported(tmp_path / "imported", made)
    keep = {
        "augment__mean": "per_pixel",
        "augment__statistics": folder / "statistics.npz",
        "augment__sampling": "random_crop_in_square",
        "augment__scale": "(40,40)",
        "evals": "()",
    }
    assert not read_warm_start(experiment(folder, **keep)).notes
    (note,) = read_warm_start(experiment(folder, **keep | {"augment__statistics": "auto"})).notes
    assert f"--config.augment.statistics={folder / 'statistics.npz'}" in note[1]
    run(config(init__from_run=folder, epochs=0, **keep), tmp_path / "run")
    assert f"start    {folder} (drawn): every layer" in capsys.readouterr().out
    (begun,) = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    found = begun["started_from"]
    assert found["origin"] == {"file": "a.pth", "source": "torchvision", "title": "drawn"}
    assert found["kept"]
    assert not found["new"]
    loaded = jaxcnn.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.mean, image)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["params"], made.params())


def test_auxiliary_heads_that_weights_lack_are_left_out():
    """Of GoogLeNet, most programs publish none; a module that is there must be whole."""
    chosen = ["conv1", "aux_4a/conv", "aux_4a/fc1", "aux_4d/conv"]
    saved = {"conv1/kernel": 0, "aux_4d/conv/kernel": 0}
    assert _without_absent_heads(chosen, saved) == ["conv1", "aux_4d/conv"]


@pytest.mark.parametrize(
    ("source", "said"),
    [("nothing.pth", "holds no run"), ("notes.txt", "is no weights file that jaxcnn reads")],
)
def test_what_cannot_be_read_is_named(tmp_path, source, said):
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(WarmStartError, match=said):
        read_warm_start(experiment(tmp_path / source))
