"""HDF5 files: Keras's four kinds give the same arrays by the same names; others are refused."""

import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from jaxcnn.files import FileError
from jaxcnn.weights.formats import hdf5, keras_zip, open_weights
from tests.weights import keras_files

ARRAYS = keras_files.vgg16()
KINDS = {
    "2016.h5": keras_files.write_keras2016,
    "3.h5": keras_files.write_keras3_h5,
    "3.weights.h5": keras_files.write_weights_h5,
    "3.keras": keras_files.write_keras,
}


def named(file, kind):
    """The arrays of a file by Keras's names."""
    arrays = {name: tensor.read() for name, tensor in file.tensors.items()}
    if kind != "3.weights.h5":
        return arrays
    paths = keras_files.numbered(ARRAYS)
    there = {name: path.split("/")[1] + name[name.index("/") :] for name, path in paths.items()}
    assert list(arrays) == list(there.values())
    return dict(zip(there, arrays.values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("track_order", [False, True])
def test_each_kind_gives_the_arrays_in_the_nets_order_whatever_hdf5s_order(
    kind, track_order, tmp_path
):
    order = list(np.random.default_rng(1).permutation(list(ARRAYS)))
    KINDS[kind](tmp_path / kind, ARRAYS, order, track_order=track_order)
    file = open_weights(tmp_path / kind)
    found = named(file, kind)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array), name
    layers = list(file.facts["layers"])
    assert layers[0] == ("conv2d" if kind == "3.weights.h5" else "block1_conv1")
    assert layers.index("conv2d_10" if kind == "3.weights.h5" else "block5_conv1") == 10
    assert file.facts["left_out"] == (
        ["optimizer_weights/adam/iteration"] if kind == "3.h5" else []
    )


def test_a_net_as_a_layer_of_another_one_gives_its_layers(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"vgg16", b"dense"])
        for name, array in ARRAYS.items():
            file.create_dataset(f"vgg16/{name}:0", data=array)
        file.create_dataset("dense/dense/kernel:0", data=np.zeros((2, 3)))
    found = open_weights(path).tensors
    assert list(found) == [*ARRAYS, "dense/kernel"]


def test_rows_half_precision_big_endian_and_foreign_names_are_read_as_stored(tmp_path):
    path = tmp_path / "a.h5"
    arrays = {
        "conv1_1/weight": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "conv1_1/bias": np.arange(4, dtype=">f4"),
        "scalar": np.float64(3),
        "empty": np.zeros((0, 3), np.float32),
    }
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array
    path.write_bytes(path.read_bytes()[512:])  # so that offsets count from the start of HDF5's part
    file = open_weights(path)
    assert file.facts["dialect"] == "not of Keras"
    assert file.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        tensor = file.tensors[name]
        assert (tensor.shape, tensor.dtype) == (np.shape(array), array.dtype)
        assert np.array_equal(tensor.read(), array), name
    assert np.array_equal(file.tensors["conv1_1/weight"].rows(1, 2), arrays["conv1_1/weight"][1:])


def _external_link(file):
    file["a"] = h5py.ExternalLink("/etc/passwd", "/")


def _soft_link(file):
    file["a"] = h5py.SoftLink("/b")


def _external_storage(file):
    file.create_dataset("a", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def _virtual(file):
    layout = h5py.VirtualLayout((10,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (10,))
    file.create_virtual_dataset("a", layout)


def _never_written(file):
    file.create_dataset("a", (2**40,), "f4")


def _compressed(file):
    file.create_dataset("a", (2**24,), "f4", compression="gzip", chunks=(2**20,), fillvalue=0)


def _texts(file):
    file["a"] = ["text"] * 3


def _compound(file):
    file["a"] = np.zeros(3, [("x", "f4"), ("y", "i4")])


def _enum(file):
    file.create_dataset("a", data=[0, 1], dtype=h5py.enum_dtype({"no": 0, "yes": 1}))


def _no_shape(file):
    file["a"] = h5py.Empty("f4")


def _loop(file):
    file["a/b"] = file.create_group("a")


def _two_names(file):
    file["a"] = np.zeros(1000)
    file["b"] = file["a"]


def _deep(file):
    file.create_group("/".join("a" * 40))


def _named_type(file):
    file["a"] = np.dtype("f4")


def _foreign_layer(file):
    file.attrs["layer_names"] = np.array([b"conv1"])
    file["conv2/kernel:0"] = np.zeros(3)


def _twice(file):
    file.attrs["layer_names"] = np.array([b"a"])
    file["a/b/b_W_1:0"] = file["a/b/kernel:0"] = np.zeros(3)


BAD = {
    _external_link: "link to another file at 'a'",
    _soft_link: "link to another object at 'a'",
    _external_storage: "its data in other files",
    _virtual: "made of other datasets",
    _never_written: "declared with 4,398,046,511,104 bytes and stored with 0",
    _compressed: "in chunks or compressed",
    _texts: "not a plain number",
    _compound: "not a plain number",
    _enum: "not a plain number",
    _no_shape: "without a shape",
    _loop: "in two ways",
    _two_names: "in two ways",
    _deep: "nested deeper than 16",
    _named_type: "a named datatype",
    _foreign_layer: "belongs to no layer",
    _twice: "two arrays 'b/kernel'",
}


@pytest.mark.parametrize(("make", "problem"), BAD.items(), ids=[make.__name__ for make in BAD])
def test_what_is_no_array_in_the_file_is_refused_without_allocating_it(make, problem, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        make(file)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=problem):
            open_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20 + size
    finally:
        tracemalloc.stop()


def test_more_objects_than_weights_have_are_refused(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(60):
            file.create_group(f"{number}")
    assert open_weights(tmp_path / "a.h5").tensors == {}
    monkeypatch.setattr(hdf5, "_MOST_OBJECTS", 50)
    with pytest.raises(FileError, match="more than 50 objects"):
        open_weights(tmp_path / "a.h5")


def test_half_a_file_is_an_error(tmp_path):
    for kind, write in KINDS.items():
        path = tmp_path / kind
        write(path, ARRAYS)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(FileError, match=kind):
            open_weights(path)


def test_a_file_that_changes_after_its_headers_were_read_is_an_error(tmp_path):
    path = tmp_path / "a.h5"
    keras_files.write_keras2016(path, ARRAYS)
    tensor = open_weights(path).tensors["fc1/kernel"]
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(100_000)
    with pytest.raises(FileError, match="changed while it was read"):
        tensor.read()


def test_a_keras_file_that_is_not_as_keras_writes_it_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.keras"

    def refused(problem, **options):
        keras_files.write_keras(path, ARRAYS, **options)
        with pytest.raises(FileError, match=problem):
            open_weights(path)

    refused("'model.weights.h5' compressed", compression=zipfile.ZIP_DEFLATED)
    refused("is not JSON", config="{]")
    refused("config.layers is missing", config='{"config": {}}')
    refused("of a layer that config.json lacks", config='{"config": {"layers": []}}')
    one = '{"class_name": "Conv2D", "config": {"name": "a"}}'
    refused("two layers of one name", config=f'{{"config": {{"layers": [{one}, {one}]}}}}')
    monkeypatch.setattr(keras_zip, "_LARGEST_CONFIG", 100)
    refused("more than a net's")
