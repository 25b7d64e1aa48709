"""TensorFlow's checkpoints of both versions, written by TensorFlow."""

import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxcnn.data.tensorflow import load_tensorflow
from jaxcnn.files import FileError
from jaxcnn.models import build
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.tf_checkpoint import is_tf_checkpoint
from jaxcnn.weights.names.slim import inception_scope
from jaxcnn.weights.read import read_weights
from tests.models.narrow import random_variables
from tests.weights.caffe_writer import values

ARRAYS = {
    "vgg_16/conv1/conv1_1/weights": values(3, 3, 3, 4),
    "vgg_16/conv1/conv1_1/biases": values(4),
    "zeros": np.zeros((40, 50), np.float32),
    "halves": values(2, 3).astype(np.float16),
    "global_step": np.asarray(7),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with v1.ckpt and v2.ckpt."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(ARRAYS, {1: folder / "v1.ckpt", 2: folder / "v2.ckpt"})
    return folder


def save(arrays, prefixes):
    """Writes a checkpoint of each version in `prefixes`."""
    v1 = load_tensorflow().compat.v1
    v1.logging.set_verbosity(v1.logging.ERROR)  # version 1 is deprecated
    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in arrays.items():
            v1.get_variable(name, initializer=array)
        session.run(v1.global_variables_initializer())
        for version, prefix in prefixes.items():
            v1.train.Saver(write_version=version).save(session, str(prefix))


@pytest.mark.parametrize(
    "name", ["v1.ckpt", "v2.ckpt", "v2.ckpt.index", "v2.ckpt.data-00000-of-00001", "v2.ckpt.meta"]
)
def test_a_checkpoint_by_its_prefix_or_by_one_of_its_files(saved, name):
    file = open_weights(saved / name)
    assert file.format == "tf_checkpoint"
    assert file.path.is_file()
    assert set(file.tensors) == set(ARRAYS)
    for key, array in ARRAYS.items():
        tensor = file.tensors[key]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        if name == "v1.ckpt" and key == "halves":
            with pytest.raises(FileError, match="'halves', which cannot be read"):
                tensor.read()  # TensorFlow does not, in version 1
            continue
        np.testing.assert_array_equal(tensor.read(), array)
    weights = file.tensors["vgg_16/conv1/conv1_1/weights"]
    np.testing.assert_array_equal(weights.rows(1, 3), values(3, 3, 3, 4)[1:])


def damaged(saved, tmp_path, name, change):
    """A copy of the checkpoints in which one file is changed, or missing without `change`."""
    folder = shutil.copytree(saved, tmp_path / "copy")
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    return folder


def other_byte(content, at):
    return content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("checkpoint", "name", "change", "problem"),
    [
        ("v2.ckpt", "v2.ckpt.data-00000-of-00001", None, "data-00000-of-00001 cannot be read"),
        ("v2.ckpt", "v2.ckpt.data-00000-of-00001", lambda c: c[:99], "declares"),
        ("v2.ckpt", "v2.ckpt.data-00000-of-00001", lambda c: other_byte(c, 0), "'global_step', which cannot"),
        ("v2.ckpt", "v2.ckpt.index", lambda c: other_byte(c, 20), "is no checkpoint"),
        ("v2.ckpt.index", "v2.ckpt.index", lambda c: c[: len(c) // 2], "is no checkpoint"),
        ("v2.ckpt.index", "v2.ckpt.index", None, "does not exist"),
        ("v1.ckpt", "v1.ckpt", lambda c: other_byte(c, 200), "(is no checkpoint|cannot be read)"),
    ],
)  # fmt: skip
def test_damaged_checkpoints(saved, tmp_path, checkpoint, name, change, problem):
    folder = damaged(saved, tmp_path, name, change)
    with pytest.raises(FileError, match=problem):
        [tensor.read() for tensor in open_weights(folder / checkpoint).tensors.values()]


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "x.ckpt"
    for content in (b"", b"abc", b"0" * 99):
        path.write_bytes(content)
        assert not is_tf_checkpoint(path, content)
    path.write_bytes(b"0" * 99 + bytes.fromhex("57fb808b247547db"))
    with pytest.raises(FileError, match="is no checkpoint"):
        open_weights(path)


@pytest.mark.slow
def test_vgg_of_slim(tmp_path):
    net = build("vgg", column="D", width=1 / 32, image_size=64, num_classes=1000)
    leaves = flatten_dict(random_variables(net)["params"], sep="/")
    arrays = {"vgg_16/mean_rgb": np.zeros(3, np.float32), "global_step": np.asarray(9)}
    for path, leaf in leaves.items():
        layer, kind = path.split("/")
        scope = f"{layer[:5]}/{layer}" if layer.startswith("conv") else layer
        name = {"kernel": "weights", "bias": "biases"}[kind]
        arrays[f"vgg_16/{scope}/{name}"] = np.asarray(leaf)
    save(arrays, {2: tmp_path / "vgg_16.ckpt"})
    with pytest.raises(FileError, match=r"--source=.*slim"):
        read_weights(tmp_path / "vgg_16.ckpt")
    found = read_weights(tmp_path / "vgg_16.ckpt", Choices(source="slim"))
    assert found.net == net
    np.testing.assert_allclose(found.mean, (123.68, 116.78, 103.94), rtol=1e-6)
    assert set(found.origin["dropped"]) == {"vgg_16/mean_rgb", "global_step"}
    for path, leaf in flatten_dict(found.params(), sep="/").items():
        np.testing.assert_array_equal(leaf, leaves[path])


@pytest.mark.slow
def test_inception_of_slim(tmp_path):
    """Names and shapes, and the folding of normalizations without a scale; 1001 outputs."""
    net = build(
        "googlenet",
        width=1 / 8,
        branch5x5=3,
        pool4="2/2",
        lrn=False,
        dropout=0.2,
        conv1_padding="same",
    )
    leaves = flatten_dict(random_variables(net)["params"], sep="/")
    arrays, scales = {}, {}
    for path, leaf in leaves.items():
        layer, kind = path.rsplit("/", 1)
        scope = inception_scope(layer)
        if layer == "fc":
            arrays[f"{scope}/{'weights' if kind == 'kernel' else 'biases'}"] = np.concatenate(
                [leaf[..., :1], leaf], axis=-1
            )
        elif kind == "kernel":
            arrays[f"{scope}/weights"] = np.asarray(leaf)
        else:
            variance = np.linspace(0.5, 2, len(leaf), dtype=np.float32)
            scales[layer] = 1 / np.sqrt(variance + 1e-3)
            arrays[f"{scope}/BatchNorm/beta"] = np.asarray(leaf)
            arrays[f"{scope}/BatchNorm/moving_mean"] = np.zeros_like(leaf)
            arrays[f"{scope}/BatchNorm/moving_variance"] = variance
    assert "InceptionV1/Mixed_5b/Branch_2/Conv2d_0a_3x3/weights" in arrays
    assert "InceptionV1/Mixed_4f/Branch_3/Conv2d_0b_1x1/weights" in arrays
    save(arrays, {1: tmp_path / "inception_v1.ckpt"})
    path = tmp_path / "inception_v1.ckpt"
    found = read_weights(path, Choices(source="slim", drop_background=True))
    assert found.net == net
    for path, leaf in flatten_dict(found.params(), sep="/").items():
        layer, kind = path.rsplit("/", 1)
        scale = scales.get(layer, 1) if kind == "kernel" else 1
        scale = scale / 127.5 if path == "conv1/kernel" else scale
        np.testing.assert_allclose(leaf, np.asarray(leaves[path]) * scale, rtol=1e-5)
