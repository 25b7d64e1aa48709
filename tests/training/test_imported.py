"""Imported weights as a folder: what is written, that it is read like a run, and damaged ones."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn.data.classes import class_table
from jaxcnn.files import FileError
from jaxcnn.training import stored_run
from jaxcnn.training.imported_run import imported_config, write_imported
from tests.weights.drawn import drawn_weights

FILES = {"weights.safetensors", "config.json", "classes.txt", "origin.json"}


@pytest.fixture(scope="module")
def weights():
    return drawn_weights()


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    return write_imported(tmp_path_factory.mktemp("imported") / "vgg", weights)


def test_a_folder_is_loaded_as_it_was_written(folder, weights):
    assert {path.name for path in folder.iterdir()} == FILES
    loaded = jaxcnn.load(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["params"], weights.params())
    np.testing.assert_array_equal(loaded.mean, weights.mean)
    assert loaded.mean.dtype == np.float32
    assert loaded.classes == weights.classes
    assert loaded.origin == weights.origin
    assert loaded.net == weights.net
    assert loaded.step == 0


def test_features_are_the_layers_that_the_classifier_gets(folder):
    """Softmax of fc7 times fc8 is the net's output; another name is an error that lists the layers."""
    loaded = jaxcnn.load(folder)
    views = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    hidden = loaded.features(views, "fc7")
    assert hidden.min() == 0  # after its ReLU
    fc8 = loaded.variables["params"]["fc8"]
    logits = np.asarray(hidden) @ np.asarray(fc8["kernel"])[0, 0] + np.asarray(fc8["bias"])
    expected = jax.nn.softmax(logits)
    np.testing.assert_allclose(loaded.probabilities(views), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="has no layer 'fc9'; did you mean fc"):
        loaded.features(views, "fc9")


def test_its_own_weights_file_alone_gives_the_same(folder, weights):
    loaded = jaxcnn.load(folder / "weights.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["params"], weights.params())
    np.testing.assert_array_equal(loaded.mean, weights.mean)
    assert (loaded.classes, loaded.net) == (weights.classes, weights.net)
    assert loaded.origin["before"]["file"] == "a.pth"  # where it came from first


def test_arrays_are_views_of_the_mapped_file(folder):
    params = stored_run.find_run(folder).read().params
    for array in jax.tree.leaves(params):
        base = array
        while not isinstance(base, np.memmap):
            base = base.base
        assert not array.flags.writeable


def test_a_mean_image_travels_with_the_weights(tmp_path):
    image = np.random.default_rng(0).uniform(90, 130, (40, 40, 3)).astype(np.float32)
    folder = write_imported(tmp_path / "run", drawn_weights(mean=image))
    loaded = jaxcnn.load(folder)
    np.testing.assert_array_equal(loaded.mean, image)
    assert loaded.config["augment"]["mean"] == "per_pixel"
    assert loaded.config["evals"][0]["scale"] == 40
    np.testing.assert_array_equal(jaxcnn.load(folder / "weights.safetensors").mean, image)


def test_the_config_names_no_training_that_nobody_knows():
    def augment(source, **fields):
        return imported_config(drawn_weights(origin={"source": source}, **fields))["augment"]

    assert augment("torchvision")["sampling"] == "random_resized_crop"
    oxford = augment("oxford", column="D")
    assert oxford["sampling"] == "random_crop"
    assert oxford["scale"] == (37, 73)  # S in [256;512] for images of 32 pixels
    assert (
        augment("oxford", column="A")["sampling"] == "random_resized_crop"
    )  # Oxford published D and E


def test_the_data_of_imagenet_classes_are_imagenet():
    names = tuple(row.wnid for row in class_table())
    config = imported_config(drawn_weights(classes=("background", *names)))
    assert config["data"]["source"] == "tfds:imagenet2012"
    assert imported_config(drawn_weights())["data"]["source"] == "folder:"


def test_nothing_is_written_over_or_left_half_written(tmp_path, weights):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="full exists already; give another folder"):
        write_imported(tmp_path / "full", weights)
    write_imported(tmp_path / "empty", weights)
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES

    def fail():
        raise FileError("vgg.pth", "is cut short", "download it again")

    leaves = dict(weights.leaves)
    last = [*leaves][-1]
    leaves[last] = type(leaves[last])(leaves[last].shape, fail)
    with pytest.raises(FileError, match="cut short"):
        write_imported(tmp_path / "new", type(weights)(**{**vars(weights), "leaves": leaves}))
    assert {path.name for path in tmp_path.iterdir()} == {"full", "empty"}


def flip_a_bit(path, at=-9):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def change_json(path, *keys, value):
    whole = json.loads(path.read_text())
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(whole))


DAMAGE = {
    "no weights": (
        lambda f: (f / "weights.safetensors").unlink(),
        "weights.safetensors cannot be read (No such file",
    ),
    "a bit": (lambda f: flip_a_bit(f / "weights.safetensors"), "has other bytes than were written"),
    "half a file": (
        lambda f: (f / "weights.safetensors").write_bytes(
            (f / "weights.safetensors").read_bytes()[:-4]
        ),
        "weights.safetensors has",
    ),
    "another net": (
        lambda f: change_json(f / "config.json", "model", "column", value="B"),
        "conv1_2/kernel: missing, expected",
    ),
    "another width": (
        lambda f: change_json(f / "config.json", "model", "width", value=0.2),
        "conv1_1/kernel: [3, 3, 3, 4], expected [3, 3, 3, 13]",
    ),
    "another mean": (
        lambda f: change_json(
            f / "config.json", "augment", "mean", value=[123.675, 116.28, 103.54]
        ),
        "was written for another mean than the folder has; import",
    ),
    "another size of images": (
        lambda f: change_json(f / "config.json", "model", "image_size", value=33),
        "was written for another net than",
    ),
    "other names": (
        lambda f: (f / "classes.txt").write_text("".join(f"c{i}\n" for i in range(5))),
        "was written for another classes than",
    ),
    "no origin": (lambda f: (f / "origin.json").unlink(), "origin.json is missing; import"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no classes": (lambda f: (f / "classes.txt").unlink(), "classes.txt is missing; import"),
    "too few classes": (
        lambda f: (f / "classes.txt").write_text("class_000\n"),
        "has 1 names for the 5 classes of the net; import",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(folder, tmp_path, damage):
    copy = shutil.copytree(folder, tmp_path / "copy")
    change, said = DAMAGE[damage]
    change(copy)
    with pytest.raises(FileError) as caught:
        jaxcnn.load(copy)
    assert said in str(caught.value)


def test_choices_are_for_weights_files(folder):
    with pytest.raises(FileError, match="is not a weights file; leave --source"):
        jaxcnn.load(folder, source="oxford")


@pytest.mark.slow
def test_flipped_bits_give_an_error_or_the_same_weights(folder, weights, tmp_path):
    """Of config.json, settings of the data may change, and of origin.json its text: no result."""
    rng = np.random.default_rng(0)
    copy, outcomes = shutil.copytree(folder, tmp_path / "copy"), {"error": 0, "same": 0}
    for name in np.repeat(sorted(FILES), 60):
        path = copy / name
        whole = path.read_bytes()
        # Of the weights file, its header as often as its arrays.
        end = len(whole) if name != "weights.safetensors" or rng.random() < 0.5 else 6000
        data = bytearray(whole)
        data[rng.integers(end)] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            loaded = jaxcnn.load(copy)
        except FileError:
            outcomes["error"] += 1
        else:
            outcomes["same"] += 1
            jax.tree.map(
                np.testing.assert_array_equal, loaded.variables["params"], weights.params()
            )
            np.testing.assert_array_equal(loaded.mean, weights.mean)
            assert (loaded.classes, loaded.net) == (weights.classes, weights.net)
        path.write_bytes(whole)
    print(outcomes)
    assert outcomes["error"] > outcomes["same"]
