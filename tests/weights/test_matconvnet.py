"""MatConvNet's files, written by scipy."""

import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
import scipy.sparse

from jaxcnn.files import FileError
from jaxcnn.weights.formats import mat5, open_weights
from tests.weights import matconvnet_files as files


def indices(*shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def one_layer(array, times=1):
    return {"layers": files.cells([{"name": "a", "weights": files.cells([array])}] * times)}


ARRAYS = {
    "conv1_1": (indices(3, 3, 3, 4), indices(1, 4)),
    "fc6": (indices(2, 3, 4, 500), indices(500, 1)),
    "fc8": (indices(1, 1, 500, 3, dtype=np.float64), indices(1, 3, dtype=np.float64)),
}
MEAN = np.array([123.68, 116.779, 103.939], np.float32).reshape(1, 1, 3)
LEAVES = ("filters", "biases")
CLASSES = ["n01", "n02", "n03"]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_list_of_layers_gives_arrays_mean_and_classes(old, compressed, tmp_path):
    path = tmp_path / "a.mat"
    files.write(path, files.simple_nn(ARRAYS, MEAN, CLASSES, old), compressed)
    file = open_weights(path)
    assert list(file.tensors) == [f"{name}/{leaf}" for name in ARRAYS for leaf in LEAVES]
    for name, pair in ARRAYS.items():
        for leaf, array in zip(LEAVES, pair, strict=True):
            tensor = file.tensors[f"{name}/{leaf}"]
            assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
            assert tensor.read().flags.c_contiguous
            assert np.array_equal(tensor.read(), array), name
    kernel = file.tensors["fc6/filters"]
    assert np.array_equal(kernel.rows(1, 2), ARRAYS["fc6"][0][1:])
    assert list(file.facts["layers"].items())[:2] == [("conv1_1", "conv"), ("relu_conv1_1", "relu")]
    assert np.array_equal(file.facts["mean"], MEAN.reshape(3))
    assert file.facts["classes"] == tuple(CLASSES)


def test_a_graph_keeps_the_names_of_its_parameters(tmp_path):
    path, image = tmp_path / "a.mat", indices(5, 6, 3)
    arrays = {"conv1_filter": ARRAYS["conv1_1"][0], "conv1_bias": ARRAYS["conv1_1"][1]}
    files.write(path, files.dag_nn(arrays, image))
    file = open_weights(path)
    for name, array in arrays.items():
        assert np.array_equal(file.tensors[name].read(), array)
    assert np.array_equal(file.facts["mean"], image)
    assert file.facts["layers"] == {"conv1": "dagnn.Conv"}


def test_a_net_saved_as_one_variable_and_whole_numbers_in_few_bytes_are_read(tmp_path):
    path = tmp_path / "a.mat"
    files.write(path, {"net": files.simple_nn(ARRAYS, MEAN, CLASSES), "other": np.zeros(3)})
    assert np.array_equal(open_weights(path).tensors["fc6/filters"].read(), ARRAYS["fc6"][0])
    # MATLAB stores the double array [7 8 9] as bytes, which scipy never does.
    files.write(
        path,
        {"layers": files.cells([{"name": "a", "weights": files.cells([np.array([[7.0, 8, 9]])])}])},
        compressed=False,
    )
    content = path.read_bytes()
    number = bytes([9, 0, 0, 0, 24, 0, 0, 0]) + np.array([7.0, 8, 9]).tobytes()
    assert content.count(number) == 1
    small = bytes([2, 0, 3, 0, 7, 8, 9, 0])
    content = _shrunk(content, content.index(number), len(number), small)
    path.write_bytes(content)
    tensor = open_weights(path).tensors["a/filters"]
    assert tensor.dtype == np.float64
    assert np.array_equal(tensor.read(), [[7, 8, 9]])


def _shrunk(content, place, size, small):
    """The file with `size` bytes at `place` replaced, and the lengths of all elements around corrected."""
    sizes = np.frombuffer(content, "<u4").copy()
    for at in range(128 // 4, place // 4, 2):
        start, length = 4 * at + 8, int(sizes[at + 1])
        if sizes[at] == 14 and start <= place < start + length:
            sizes[at + 1] -= size - len(small)
    fixed = sizes.tobytes()
    return fixed[:place] + small + fixed[place + size :]


def test_big_endian_files_are_read(tmp_path):
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"

    def element(kind, content):
        return np.array([kind, len(content)], ">u4").tobytes() + content + bytes(-len(content) % 8)

    def matrix(kind, shape, content, name=b""):
        flags = element(6, np.array([kind, 0], ">u4").tobytes())
        sizes = element(5, np.array(shape, ">i4").tobytes())
        return element(14, flags + sizes + element(1, name) + content)

    def structs(called, **fields):
        names = b"".join(key.encode().ljust(8, b"\0") for key in fields)
        width = np.array([5 | 4 << 16], ">u4").tobytes() + np.array([8], ">i4").tobytes()
        return matrix(2, (1, 1), width + element(1, names) + b"".join(fields.values()), called)

    values = indices(2, 3)
    text = matrix(4, (1, 1), element(16, b"a"))
    array = matrix(7, (2, 3), element(7, values.astype(">f4").tobytes(order="F")))
    path = tmp_path / "a.mat"
    path.write_bytes(head + structs(b"params", name=text, value=array))
    assert np.array_equal(open_weights(path).tensors["a"].read(), values)


def test_files_without_a_net_and_of_other_versions_say_what_to_do(tmp_path):
    path = tmp_path / "a.mat"
    files.write(path, {"x": np.zeros(3)})
    with pytest.raises(FileError, match="without a net of MatConvNet"):
        open_weights(path)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.zeros(3)
    content = path.read_bytes()
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(head + content[128:])
    with pytest.raises(FileError, match=r"7\.3.*save it with -v7"):
        open_weights(path)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(126) + b"IM")
    with pytest.raises(FileError, match="no MATLAB file of version 5 to 7"):
        open_weights(path)


def test_what_weights_do_not_have_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"

    def refused(problem, variables):
        files.write(path, variables)
        with pytest.raises(FileError, match=problem):
            open_weights(path)

    refused("a complex array", {"layers": np.zeros(3, np.complex64)})
    refused("a sparse array", {"layers": scipy.sparse.eye_array(3).tocsc()})
    deep = np.zeros(1)
    for _ in range(20):
        deep = files.cells([deep])
    refused("nested deeper", {"layers": deep})
    refused(
        "has two arrays 'a/filters'",
        one_layer(MEAN, 2),
    )
    refused("mean image of shape", files.simple_nn(ARRAYS, np.zeros((5, 5)), CLASSES))
    refused("mean that is not finite", files.simple_nn(ARRAYS, np.array([1, 1e300, 3]), CLASSES))
    monkeypatch.setattr(mat5, "_MOST_VALUES", 20)
    refused("more values", files.simple_nn(ARRAYS, MEAN, CLASSES))


@pytest.mark.parametrize("kind", [3, 16, 17])
def test_objects_and_function_handles_are_refused(kind, tmp_path):
    path = tmp_path / "a.mat"
    files.write(path, {"layers": np.zeros(3)}, compressed=False)
    content = bytearray(path.read_bytes())
    content[128 + 16] = kind
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"an object|a function handle"):
        open_weights(path)


def test_a_bomb_allocates_nothing(tmp_path):
    path = tmp_path / "a.mat"
    files.write(path, one_layer(np.zeros(2**22)))
    size = path.stat().st_size
    assert size < 2**16
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match="compressed bytes that expand to 33,5"):
            open_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_damaged_or_cut_stream_is_an_error(tmp_path):
    path = tmp_path / "a.mat"
    random = np.random.default_rng(0).normal(size=(30, 30, 3, 40)).astype(np.float32)
    files.write(path, files.simple_nn({"a": (random, indices(1, 40))}, MEAN, CLASSES))
    content = path.read_bytes()
    for cut in (200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(FileError):
            open_weights(path)
    layers = zlib.decompress(content[136:])
    path.write_bytes(content[:128] + _element(15, zlib.compress(layers)[:-1] + b"x"))
    with pytest.raises(FileError, match="damaged compressed"):
        open_weights(path)
    path.write_bytes(content[:128] + _element(15, zlib.compress(layers + bytes(8))))
    with pytest.raises(FileError, match="damaged compressed variable 'layers'"):
        open_weights(path)


def _element(kind, content):
    return np.array([kind, len(content)], "<u4").tobytes() + content
