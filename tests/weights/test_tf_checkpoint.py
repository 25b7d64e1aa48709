"""TensorFlow's checkpoints of both versions, written by TensorFlow."""

import shutil

import numpy as np
import pytest

from jaxcnn.data.tensorflow import load_tensorflow
from jaxcnn.files import FileError
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.tf_checkpoint import is_tf_checkpoint
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
    v1 = load_tensorflow().compat.v1
    folder = tmp_path_factory.mktemp("checkpoints")
    v1.logging.set_verbosity(v1.logging.ERROR)  # version 1 is deprecated
    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in ARRAYS.items():
            v1.get_variable(name, initializer=array)
        session.run(v1.global_variables_initializer())
        for version, name in ((v1.train.SaverDef.V1, "v1.ckpt"), (v1.train.SaverDef.V2, "v2.ckpt")):
            v1.train.Saver(write_version=version).save(session, str(folder / name))
    return folder


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
